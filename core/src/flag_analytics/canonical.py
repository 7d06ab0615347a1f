"""The canonical form of an event: any Python value in, one immutable and bounded ``FrozenEvent`` out.

An event is frozen once, when it is accepted: value and context become JSON bytes there, so that nothing the caller
does afterwards can change what is stored. Every change that had to be made is counted by kind.

=================  ==================================================================================
kind               what was changed
=================  ==================================================================================
naive_timestamp    a time without a zone was taken as UTC
timestamp          something that is not a time became the time of acceptance
clock_skew         (kept as it is) dated over 30 days ago or over 5 minutes ahead
text               NUL or lone surrogates became U+FFFD
type               not text where text belongs, or a value JSON has no form for: its type's name
long_key           over 190 characters: its first 173, ``~`` and 16 hexadecimal digits of its SHA-256
long_text          an error message over 2,000 characters was cut
number             NaN and infinities became null (a duration: 0.0), integers over 64 bit became text
depth              nested deeper than 8: null
size               over 64 KiB: a value became null; context attributes were cut to equal shares of the room
event_id           not a UUID: the UUIDv5 of its text, so that the same id stays the same event; no text: a new one
kind, sample_rate  outside the allowed values: ``evaluation``, 1.0
unreadable         an attribute could not be read at all: its default
=================  ==================================================================================
"""

from __future__ import annotations

import hashlib
import itertools
import math
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from enum import Enum
from typing import Any, TypeVar, cast

import msgspec
import uuid_utils

from .events import EventKind, new_event_id
from .frozen import FrozenEvent

__all__ = [
    "MAX_EVENT_BYTES",
    "MAX_KEY_CHARS",
    "canonical_key",
    "canonical_member_name",
]

MAX_KEY_CHARS = 190
"""Longest flag key, variant, targeting key: what an indexed utf8mb4 column of every database can hold."""
MAX_EVENT_BYTES = 65_536
MAX_TEXT_CHARS = 2_000
MAX_DEPTH = 8

OVERHEAD_BYTES = 640
"""What a frozen event weighs beside its text and JSON: the struct, its headers, a datetime and an id."""
MAX_INT = 2**63 - 1
MIN_INT = -(2**63)
KINDS = frozenset({"evaluation", "exposure", "outcome"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ID_NAMESPACE = uuid.UUID("9d1f2a34-7c52-5f7e-9a53-0a4c8f4f5b6e")

_MAX_CUT_ATTRIBUTES = 1_000
_LEAST_SHARE = 24
_MAX_CUT_ROOM = 4 * MAX_EVENT_BYTES
_MAX_ID_BITS = 256
_ID_TYPES = frozenset({uuid.UUID, uuid_utils.UUID})

_encode = msgspec.json.Encoder().encode
_T = TypeVar("_T")


def canonical_key(key: Any) -> str:
    """Return the form under which a key is stored, so that a question about a flag finds what was recorded of it."""
    if key.__class__ is str and len(key) <= MAX_KEY_CHARS and key.isprintable():
        return key
    return Canonicaliser().key(key) or ""


def canonical_member_name(key: Any) -> str:
    """Return the name under which a member of a context or value is stored whose key in Python is ``key``."""
    if key.__class__ is str and key.isprintable():
        return key
    try:
        return Canonicaliser().member_name(key)
    except _TooLargeError:
        return ""  # nothing is stored under such a name


class _TooLargeError(Exception):
    """A value cannot fit an event, whatever the rest of it is."""


class Canonicaliser:
    """Takes one event apart with all care and no hurry, counting each change by its kind."""

    def __init__(self) -> None:
        self.changes: Counter[str] = Counter()
        self._room = MAX_EVENT_BYTES
        """How many more values and characters can fit the JSON being made: each takes a byte at least."""

    def event(self, event: Any, received_at: float, traceparent: str | None) -> FrozenEvent:
        value_json = self._field(event, "value", self.value_json)
        context_json = self._field(event, "context_attributes", self.context_json)
        if context_json != b"{}" and len(value_json) + len(context_json) > MAX_EVENT_BYTES:
            self.changes["size"] += 1
            context_json = b"{}"
        flag_key = self._field(event, "flag_key", self.key) or ""
        reason = self._field(event, "reason", self.key) or "UNKNOWN"
        error_message = self._field(event, "error_message", self.message)
        variant, targeting_key, error_type, flag_version, flag_set_id, provider_name = (
            self._field(event, name, self.key)
            for name in ("variant", "targeting_key", "error_type", "flag_version", "flag_set_id", "provider_name")
        )
        texts = (
            flag_key, reason, variant, targeting_key, error_type, error_message, flag_version, flag_set_id,
            provider_name,
        )  # fmt: skip
        weight = sum(len(text.encode()) for text in texts if text)
        return FrozenEvent(
            self._field(event, "timestamp", lambda moment: self.timestamp(moment, received_at)),
            flag_key,
            value_json,
            reason,
            variant,
            targeting_key,
            context_json,
            self._field(event, "evaluation_duration_ms", self.duration),
            self._field(event, "event_id", self.event_id),
            error_type,
            error_message,
            flag_version,
            flag_set_id,
            provider_name,
            self._field(event, "kind", self.kind),
            self._field(event, "sample_rate", self.sample_rate),
            received_at,
            OVERHEAD_BYTES + weight + len(value_json) + len(context_json),
            traceparent,
        )

    def _field(self, event: Any, name: str, normalise: Callable[[Any], _T]) -> _T:
        """Return a field in canonical form; None stands for one that is missing, or breaks whoever looks at it."""
        try:
            return normalise(getattr(event, name, None))
        except Exception:
            self.changes["unreadable"] += 1
            return normalise(None)

    def timestamp(self, moment: Any, received_at: float) -> datetime:
        try:
            if isinstance(moment, str):
                moment = datetime.fromisoformat(moment)
            if isinstance(moment, datetime):
                if moment.tzinfo is None or moment.utcoffset() is None:
                    self.changes["naive_timestamp"] += 1
                    moment = moment.replace(tzinfo=UTC)
                # A subclass (pandas, freezegun) would not travel: take a plain datetime of the same moment.
                utc = moment.astimezone(UTC)
                return datetime.combine(utc.date(), utc.time(), UTC)
        except Exception:
            pass  # counted below, as anything else that is no time
        self.changes["timestamp"] += 1
        return _EPOCH + timedelta(seconds=received_at)

    def key(self, text: Any) -> str | None:
        """Return text that every backend can index: clean and at most 190 characters long."""
        clean = self.text(text)
        if clean is None or len(clean) <= MAX_KEY_CHARS:
            return clean
        self.changes["long_key"] += 1
        digest = hashlib.sha256(clean.encode()).hexdigest()[:16]
        return f"{clean[: MAX_KEY_CHARS - 17]}~{digest}"

    def message(self, text: Any) -> str | None:
        clean = self.text(text)
        if clean is None or len(clean) <= MAX_TEXT_CHARS:
            return clean
        self.changes["long_text"] += 1
        return clean[:MAX_TEXT_CHARS]

    def text(self, text: Any) -> str | None:
        if text is None:
            return None
        if not isinstance(text, str):
            if isinstance(text, Enum):
                return self.text(text.value)
            if type(text) in _ID_TYPES or (type(text) is int and text.bit_length() < _MAX_ID_BITS):
                return str(text)  # an id that an SDK did not turn into text
            return self._type_name(text)
        plain = str.__str__(text)  # a subclass may override anything: str itself knows the characters
        if "\0" in plain:
            self.changes["text"] += 1
            plain = plain.replace("\0", "\ufffd")
        if not plain.isascii() and not _is_utf8(plain):
            self.changes["text"] += 1
            plain = plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return plain

    def duration(self, duration: Any) -> float:
        try:
            number = float(duration or 0.0)
        except Exception:
            self.changes["type"] += 1
            return 0.0
        if not math.isfinite(number):
            self.changes["number"] += 1
            return 0.0
        return number

    def kind(self, kind: Any) -> EventKind:
        if kind is None:
            return "evaluation"
        plain = str.__str__(kind) if isinstance(kind, str) else ""
        if plain in KINDS:
            return cast("EventKind", plain)
        self.changes["kind"] += 1
        return "evaluation"

    def sample_rate(self, rate: Any) -> float:
        if rate is None:
            return 1.0
        if isinstance(rate, int | float) and 0.0 < rate <= 1.0:
            return float(rate)
        self.changes["sample_rate"] += 1
        return 1.0

    def event_id(self, event_id: Any) -> str:
        if event_id is None:
            return new_event_id()
        if not (isinstance(event_id, str) or type(event_id) in _ID_TYPES or type(event_id) is int):
            # The name of its type would be one id for all such events, and they would be stored once.
            self.changes["event_id"] += 1
            return new_event_id()
        text = self.text(event_id)
        if not text:
            return new_event_id()
        try:
            return str(uuid.UUID(text))
        except ValueError:
            self.changes["event_id"] += 1
            return str(uuid.uuid5(_ID_NAMESPACE, text))

    def value_json(self, value: Any) -> bytes:
        return self._json(value, b"null")

    def context_json(self, context: Any) -> bytes:
        if context is None:
            return b"{}"
        if not isinstance(context, Mapping):
            self.changes["type"] += 1
            return b"{}"
        data = self._json(context, b"")
        if not data:
            data = self._shortened(context)
        return data if data.startswith(b"{") else b"{}"  # a mapping that cannot be read is the name of its type

    def _shortened(self, context: Mapping[Any, Any]) -> bytes:
        """Return a context that is too large with each of its attributes cut to an equal share of the room."""
        try:
            share = MAX_EVENT_BYTES // (2 * max(1, len(context)))
            attributes = {}
            left = _MAX_CUT_ROOM  # for all of them: each may be a list of many, and the same one
            for key, value in itertools.islice(context.items(), _MAX_CUT_ATTRIBUTES):
                if left <= 0:
                    break
                self._room = given = min(left, max(MAX_KEY_CHARS, 4 * share))
                name = self.member_name(key)
                if len(name) <= MAX_KEY_CHARS:
                    attributes[name] = self._cut(value, max(share, _LEAST_SHARE))
                left -= given - max(0, self._room)
            data = _encode(attributes)
        except Exception:
            return b"{}"
        return data if len(data) <= MAX_EVENT_BYTES else b"{}"

    def _cut(self, value: Any, share: int) -> Any:
        try:
            normal = self.value(value[: share - 2] if type(value) is str else value, MAX_DEPTH - 1)
            while isinstance(normal, str) and len(_encode(normal)) > share:
                normal = normal[: len(normal) // 2]
            return normal if len(_encode(normal)) <= share else None
        except _TooLargeError:
            return None

    def _json(self, value: Any, fallback: bytes) -> bytes:
        self._room = MAX_EVENT_BYTES
        try:
            data = _encode(self.value(value, MAX_DEPTH))
        except _TooLargeError:
            data = b""
        if 0 < len(data) <= MAX_EVENT_BYTES:
            return data
        self.changes["size"] += 1
        return fallback

    def _take_room(self, size: int) -> None:
        # A few lists inside each other can stand for more values than there are atoms: stop while it is still quick.
        self._room -= size
        if self._room < 0:
            raise _TooLargeError

    def value(self, value: Any, depth: int) -> Any:
        """Return what JSON can hold of any value; ``depth`` levels of nesting are left."""
        self._take_room(1)
        try:
            return self._value(value, depth)
        except _TooLargeError:
            raise
        except Exception:
            return self._type_name(value)

    def _value(self, value: Any, depth: int) -> Any:
        if value is None or value is True or value is False:
            return value
        if isinstance(value, Enum):
            return self.value(value.value, depth)
        if isinstance(value, str):
            self._take_room(str.__len__(value))
            return self.text(value)
        if isinstance(value, int):
            return self._int(int(value))
        if isinstance(value, float):
            if math.isfinite(value):
                return float(value)
            self.changes["number"] += 1
            return None
        if isinstance(value, bytes | bytearray):
            self._take_room(len(value))
            return msgspec.to_builtins(value)
        if isinstance(value, datetime | date | time_of_day | timedelta | Decimal):
            return msgspec.to_builtins(value)
        if type(value) in _ID_TYPES:
            return str(value)
        return self._container(value, depth)

    def _container(self, value: Any, depth: int) -> Any:
        if not isinstance(value, Mapping | list | tuple | AbstractSet):
            return self._type_name(value)
        if depth == 0:
            self.changes["depth"] += 1
            return None
        if isinstance(value, Mapping):
            # Another thread may be changing it: a plain dict's items are copied in one step.
            items = list(value.items()) if type(value) is dict else value.items()
            return {self.member_name(key): self.value(item, depth - 1) for key, item in items}
        if type(value) in {set, frozenset}:  # in an order that does not change from one process to the next
            return sorted((self.value(item, depth - 1) for item in list(value)), key=_encode)
        return [self.value(item, depth - 1) for item in value]

    def member_name(self, key: Any) -> str:
        if isinstance(key, str):
            self._take_room(str.__len__(key))
            return self.text(key) or ""
        if type(key) in {int, float}:
            return str(key) if abs(key) < MAX_INT else self._type_name(key)
        return self.text(key) or ""

    def _int(self, number: int) -> int | str:
        if MIN_INT <= number <= MAX_INT:
            return number
        self.changes["number"] += 1
        # str() of an int is refused beyond sys.int_info.default_max_str_digits (4,300): give its size instead.
        return str(number) if number.bit_length() < 8_192 else f"int of {number.bit_length()} bits"

    def _type_name(self, value: Any) -> str:
        self.changes["type"] += 1
        # From type itself: a metaclass may have made a trap of the name.
        return f"<{type.__dict__['__name__'].__get__(type(value))}>"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
