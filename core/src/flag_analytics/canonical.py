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
type               a value JSON has no form for became its type's name; a key without a text of its own: none
long_key           over 190 characters: its first 173, ``~`` and 16 hexadecimal digits of its SHA-256
long_text          an error message over 2,000 characters was cut
number             NaN and infinities became null (a duration: 0.0), integers over 64 bit became text
depth              nested deeper than 8: null
size               over 64 KiB or 4,000 values: a value became null; context attributes were cut to equal shares
event_id           not a UUID: the UUIDv5 of its text, so that the same id stays the same event; no text: a new one
kind, sample_rate  outside the allowed values: ``evaluation``, 1.0
unreadable         an attribute could not be read at all: its default
=================  ==================================================================================

Keys (``targeting_key``, ``variant`` and the other fields of text) keep their identity whatever their type is:

=====================================  ====================================================================
a key that is                          is stored as
=====================================  ====================================================================
text; a member of an enumeration       itself; its value
True, False                            ``true``, ``false``: the same keys as these texts
an integer, a float, a Decimal         its digits: ``5``, ``1.5``; ``0`` is a key, too
bytes                                  hexadecimal digits
a tuple, list, set or mapping          its JSON: ``["tenant",5]``
of a type with a text of its own       that text (``str()`` is called once): UUIDs, paths, addresses, proxies
any other object                       nothing: it is anonymous, and counted as ``type``
=====================================  ====================================================================

The type of an object is what ``type()`` says, since ``__class__`` can be made to say anything. Of subclasses of
built-in types the content itself is read, without their methods. Code of the application runs only to iterate over
mappings and sets of its own, to convert times and numbers, and for the text of a key; whatever it raises is counted.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import uuid
from array import array
from collections import Counter, deque
from collections.abc import Callable, Mapping, ValuesView
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
    "MAX_VALUES",
    "OVERHEAD_BYTES",
    "canonical_key",
    "canonical_member_name",
]

MAX_KEY_CHARS = 190
"""Longest flag key, variant, targeting key: what an indexed utf8mb4 column of every database can hold."""
MAX_EVENT_BYTES = 65_536
MAX_VALUES = 4_000
"""The most values that are looked at in a value, and in a context; names and text count as two, containers as 12."""
MAX_TEXT_CHARS = 2_000
MAX_DEPTH = 8

OVERHEAD_BYTES = 640
"""What a frozen event weighs beside its text and JSON: the struct, its headers, a datetime and an id."""
MAX_INT = 2**63 - 1
MIN_INT = -(2**63)
KINDS = frozenset({"evaluation", "exposure", "outcome"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ID_NAMESPACE = uuid.UUID("9d1f2a34-7c52-5f7e-9a53-0a4c8f4f5b6e")

_MAX_READ_CHARS = 8_192
"""How much of a key is looked at: longer ones are told apart by that much and their length."""
_MAX_READ_BYTES = 4_000
_MAX_PARSED_CHARS = 64
"""No time, number or UUID needs more."""
_MAX_DECIMAL_BITS = 8_192
_MAX_HASHED_BITS = 65_536
_MAX_DECIMAL_BYTES = 4_096
_UNCOMMON = 12
"""How many values one counts as that takes about as long: a container, an enumeration's member, a date."""
_LEAST_SHARE = 24
_MAX_CUT_ATTRIBUTES = 300
_TIME_TYPES = (datetime, date, time_of_day, timedelta)
_BYTES_TYPES = (bytes, bytearray)
_SETS = (set, frozenset)
_SEQUENCES: tuple[Any, ...] = (list, tuple, deque, array, *_SETS)
_BUILT_IN = (dict, *_SEQUENCES)

_encode = msgspec.json.Encoder().encode
_T = TypeVar("_T")


def canonical_key(key: Any) -> str:
    """Return the form under which a key is stored, so that a question about a flag finds what was recorded of it."""
    if type(key) is str and len(key) <= MAX_KEY_CHARS and key.isprintable():
        return key
    return Canonicaliser().key(key) or ""


def canonical_member_name(key: Any) -> str:
    """Return the name under which a member of a context or value is stored whose key in Python is ``key``."""
    if type(key) is str and key.isprintable():
        return key
    try:
        return Canonicaliser().member_name(key)
    except _TooLargeError:
        return ""  # nothing is stored under such a name


class _TooLargeError(Exception):
    """A value cannot fit an event, or takes too long to look at, whatever the rest of it is."""


class ForeignError(Exception):
    """Code of the application raised something."""


def call(function: Callable[..., _T], *args: Any) -> _T:
    """Call code of the application, which may raise anything: SystemExit and KeyboardInterrupt, too.

    Raises:
        ForeignError: it did.
    """
    try:
        return function(*args)
    except BaseException:
        raise ForeignError from None


class Canonicaliser:
    """Takes one event apart with all care, counting each change by its kind, with bounded work for any value."""

    def __init__(self) -> None:
        self.changes: Counter[str] = Counter()
        self._room = MAX_EVENT_BYTES
        """How many more characters can fit the JSON being made."""
        self._left = MAX_VALUES
        """How many more values are looked at for it."""
        self._of_key = False

    def event(self, event: Any, received_at: float, traceparent: str | None) -> FrozenEvent:
        value_json = self._field(event, "value", self.value_json)
        room = MAX_EVENT_BYTES + len(b"{}") - len(value_json)
        context_json = self._field(event, "context_attributes", lambda context: self.context_json(context, room))
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
            self._field(event, "timestamp", lambda moment: self.timestamp(moment, received_at)), flag_key, value_json,
            reason, variant, targeting_key, context_json, self._field(event, "evaluation_duration_ms", self.duration),
            self._field(event, "event_id", self.event_id), error_type, error_message, flag_version, flag_set_id,
            provider_name, self._field(event, "kind", self.kind), self._field(event, "sample_rate", self.sample_rate),
            received_at, OVERHEAD_BYTES + weight + len(value_json) + len(context_json), traceparent
        )  # fmt: skip

    def _field(self, event: Any, name: str, canonical: Callable[[Any], _T]) -> _T:
        """Return a field in canonical form; None stands for one that is missing, or cannot be read."""
        try:
            return canonical(call(getattr, event, name, None))
        except Exception:
            self.changes["unreadable"] += 1
            return canonical(None)

    # --- times and numbers

    def timestamp(self, moment: Any, received_at: float) -> datetime:
        try:
            if issubclass(type(moment), str) and str.__len__(moment) <= _MAX_PARSED_CHARS:
                moment = datetime.fromisoformat(str.__str__(moment))
            if issubclass(type(moment), datetime):
                return call(self._utc, moment)
        except Exception:
            pass  # counted below, as anything else that is no time
        self.changes["timestamp"] += 1
        return _EPOCH + timedelta(seconds=received_at)

    def _utc(self, moment: datetime) -> datetime:
        naive = moment.tzinfo is None or moment.utcoffset() is None
        # A subclass (pandas, freezegun) would not travel: take a plain datetime of the same moment.
        utc = moment.replace(tzinfo=UTC) if naive else moment.astimezone(UTC)
        plain = datetime.combine(utc.date(), utc.time(), UTC)
        self.changes.update({"naive_timestamp": 1} if naive else {})
        return plain

    def duration(self, duration: Any) -> float:
        try:
            number = 0.0 if duration is None else _number(duration)
        except Exception:
            self.changes["type"] += 1
            return 0.0
        if not math.isfinite(number):
            self.changes["number"] += 1
            return 0.0
        return number

    def sample_rate(self, rate: Any) -> float:
        if rate is None:
            return 1.0
        number = _number(rate) if issubclass(type(rate), (int, float)) else 0.0
        if 0.0 < number <= 1.0:
            return number
        self.changes["sample_rate"] += 1
        return 1.0

    def kind(self, kind: Any) -> EventKind:
        if kind is None:
            return "evaluation"
        plain = str.__str__(kind) if issubclass(type(kind), str) else ""
        if plain in KINDS:
            return cast("EventKind", plain)
        self.changes["kind"] += 1
        return "evaluation"

    # --- text

    def key(self, key: Any) -> str | None:
        """Return text that every backend can index: clean and at most 190 characters long; None for no key."""
        text = self._text_of(key)
        if text is None:
            return None
        clean = self._clean(text[:_MAX_READ_CHARS])
        if len(clean) <= MAX_KEY_CHARS:
            return clean
        self.changes["long_key"] += 1
        digest = hashlib.sha256(clean.encode())
        if len(text) > _MAX_READ_CHARS:
            digest.update(b"%d" % len(text))
        return f"{clean[: MAX_KEY_CHARS - 17]}~{digest.hexdigest()[:16]}"

    def message(self, text: Any) -> str | None:
        plain = self._text_of(text)
        if plain is None:
            return None
        if len(plain) > MAX_TEXT_CHARS:
            self.changes["long_text"] += 1
        return self._clean(plain[:MAX_TEXT_CHARS])

    def event_id(self, event_id: Any) -> str:
        if event_id is None:
            return new_event_id()
        kind = type(event_id)
        if not (issubclass(kind, str) or kind is int or _is_uuid(kind)):
            # The text of its type may be one id for all such events, and they would be stored once.
            self.changes["event_id"] += 1
            return new_event_id()
        text = self._text_of(event_id)
        if not text:
            return new_event_id()
        try:
            if len(text) <= _MAX_PARSED_CHARS:
                return str(uuid.UUID(text))
        except ValueError:
            pass  # counted below
        self.changes["event_id"] += 1
        return str(uuid.uuid5(_ID_NAMESPACE, self.key(text) or ""))

    def _text_of(self, key: Any) -> str | None:
        """Return the text that tells a key from others, whatever its type is; None for none."""
        kind = type(key)
        if key is None or kind is str:
            return cast("str | None", key)
        if issubclass(kind, str):
            return str.__str__(key)  # a subclass may override anything: str itself knows the characters
        if kind is bool:
            return "true" if key else "false"
        if issubclass(kind, Enum):
            return self._text_of(_value_of(key))
        try:
            text = self._text_of_other(key, kind)
        except Exception:
            text = None
        if text is None:
            self.changes["type"] += 1
        return text

    def _text_of_other(self, key: Any, kind: type) -> str | None:
        if issubclass(kind, int):
            number = int.__int__(key)
            # str() of an int takes quadratic time, and is refused beyond 4,300 digits.
            bits = number.bit_length()
            if bits <= _MAX_DECIMAL_BITS:
                return str(number)
            return f"int of {bits} bits, {hash(number):x}" if bits <= _MAX_HASHED_BITS else None
        if issubclass(kind, float):
            return repr(float.__float__(key))
        if issubclass(kind, _BYTES_TYPES):
            content = _bytes_of(key, kind)
            more = len(content) - _MAX_READ_BYTES
            return content[:_MAX_READ_BYTES].hex() + (f" and {more} bytes" if more > 0 else "")
        if kind is Decimal and not _is_short_decimal(key):
            return None
        if not _is_container(kind):
            return _own_text(key, kind)
        self._room, self._left, self._of_key = MAX_EVENT_BYTES, MAX_VALUES, True
        try:
            return _encode(self.value(key, MAX_DEPTH)).decode()
        finally:
            self._of_key = False

    def _clean(self, text: str) -> str:
        if "\0" in text:
            self.changes["text"] += 1
            text = text.replace("\0", "\ufffd")
        if not text.isascii() and not _is_utf8(text):
            self.changes["text"] += 1
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return text

    # --- JSON

    def value_json(self, value: Any) -> bytes:
        data = self._json(value, MAX_EVENT_BYTES)
        if data is None:
            self.changes["size"] += 1
        return data or b"null"

    def context_json(self, context: Any, room: int = MAX_EVENT_BYTES) -> bytes:
        """Return a context as a JSON object of at most ``room`` bytes, or ``{}``."""
        if context is None:
            return b"{}"
        kind = type(context)
        if not call(issubclass, kind, Mapping):
            self.changes["type"] += 1
            return b"{}"
        data = self._json(context, room)
        if data is None:
            self.changes["size"] += 1
            data = self._shortened(context, kind, room)
        return data if data.startswith(b"{") else b"{}"  # a mapping that cannot be read is the name of its type

    def _json(self, value: Any, room: int) -> bytes | None:
        """Return a value as JSON of at most ``room`` bytes; None where it is larger, or has too many values."""
        self._room, self._left = room, MAX_VALUES
        try:
            data = _encode(self.value(value, MAX_DEPTH))
        except _TooLargeError:
            return None
        return data if len(data) <= room else None

    def _shortened(self, context: Any, kind: type, room: int) -> bytes:
        """Return a context that is too large with each of its attributes cut to an equal share of the room."""
        left = MAX_VALUES
        attributes: dict[str, Any] = {}
        try:
            items = _items_of(context, kind, _MAX_CUT_ATTRIBUTES)
            share = room // (2 * max(1, len(items)))
            for waiting, (key, value) in zip(range(len(items), 0, -1), items, strict=True):
                self._room, self._left = max(MAX_KEY_CHARS, 4 * share), left // waiting
                given = self._left
                name = self.member_name(key)
                if len(name) <= MAX_KEY_CHARS:
                    attributes[name] = self._cut(value, max(share, _LEAST_SHARE))
                left -= given - max(0, self._left)
            data = _encode(attributes)
        except Exception:
            return b"{}"
        return data if len(data) <= room else b"{}"

    def _cut(self, value: Any, share: int) -> Any:
        try:
            kept = self.value(value[: share - 2] if type(value) is str else value, MAX_DEPTH - 1)
            while type(kept) is str and len(_encode(kept)) > share:
                kept = kept[: len(kept) // 2]
            return kept if len(_encode(kept)) <= share else None
        except _TooLargeError:
            return None

    def _take(self, values: int, characters: int = 0) -> None:
        # A few lists inside each other can stand for more values than there are atoms: stop while it is still quick.
        self._left -= values
        self._room -= characters
        if self._left < 0 or self._room < 0:
            raise _TooLargeError

    def value(self, value: Any, depth: int) -> Any:
        """Return what JSON can hold of any value; ``depth`` levels of nesting are left."""
        kind = type(value)
        if kind is str:
            self._take(1, len(value))
            return value if value.isascii() and "\0" not in value else self._clean(value)
        if value is None or kind is bool:
            return value
        if kind is int:
            return self._int(value)
        if kind is float:
            return self._float(value)
        self._take(_UNCOMMON)
        try:
            if kind is dict or kind is list:
                return self._container(value, kind, depth)
            return self._uncommon(value, kind, depth)
        except _TooLargeError:
            raise
        except Exception:
            return self._stand_in(value, kind)

    def _uncommon(self, value: Any, kind: type, depth: int) -> Any:
        if issubclass(kind, Enum):
            return self.value(_value_of(value), depth)
        if issubclass(kind, str):
            return self.value(str.__str__(value), depth)
        if issubclass(kind, int):
            return self._int(int.__int__(value))
        if issubclass(kind, float):
            return self._float(float.__float__(value))
        if issubclass(kind, _BYTES_TYPES):
            content = _bytes_of(value, kind)
            self._take(0, len(content))
            return msgspec.to_builtins(content)
        if issubclass(kind, _TIME_TYPES):
            return call(msgspec.to_builtins, value)
        if _is_uuid(kind) or (kind is Decimal and _is_short_decimal(value)):
            return str(value)
        return self._container(value, kind, depth) if _is_container(kind) else self._stand_in(value, kind)

    def _container(self, value: Any, kind: type, depth: int) -> Any:
        if depth == 0:
            self.changes["depth"] += 1
            return None
        cost = 1 if issubclass(kind, _BUILT_IN) else _UNCOMMON // 2
        most = self._left // cost + 1  # one more than there may be
        if issubclass(kind, dict) or call(issubclass, kind, Mapping):
            pairs = _items_of(value, kind, most)
            self._take(cost * len(pairs))
            return {self.member_name(key): self.value(item, depth - 1) for key, item in pairs}
        items: list[Any] = _members_of(value, kind, most)
        self._take(cost * len(items))
        members = [
            self.value(item, depth - 1) if type(item) is not int or not MIN_INT <= item <= MAX_INT else item
            for item in items
        ]
        # A set in an order that does not change from one process to the next.
        return sorted(members, key=_encode) if issubclass(kind, _SETS) else members

    def member_name(self, key: Any) -> str:
        kind = type(key)
        if kind is str:
            self._take(2, len(key))
            return key if key.isascii() and "\0" not in key else self._clean(key)
        if key is None:
            return ""
        text = self._text_of(key)
        if text is None:
            return _name_of(kind)
        self._take(2, len(text))
        return self._clean(text)

    def _int(self, number: int) -> int | str:
        if MIN_INT <= number <= MAX_INT:
            return number
        self.changes["number"] += 1
        bits = number.bit_length()
        return str(number) if bits <= _MAX_DECIMAL_BITS else f"int of {bits} bits"

    def _float(self, number: float) -> float | None:
        if math.isfinite(number):
            return number
        self.changes["number"] += 1
        return None

    def _stand_in(self, value: Any, kind: type) -> str:
        """Return the text for what JSON has no form for: in a key its own if it has one, else its type's name."""
        text = _own_text(value, kind) if self._of_key else None
        if text is not None:
            self._take(0, len(text))
            return self._clean(text)
        self.changes["type"] += 1
        return _name_of(kind)


def _is_uuid(kind: type) -> bool:
    return kind is uuid.UUID or kind is uuid_utils.UUID


def _is_container(kind: type) -> bool:
    return issubclass(kind, _BUILT_IN) or call(issubclass, kind, (Mapping, AbstractSet, ValuesView))


def _is_short_decimal(number: Decimal) -> bool:
    return number.__sizeof__() <= _MAX_DECIMAL_BYTES


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _name_of(kind: type) -> str:
    # From type itself: a metaclass may have made a trap of the name.
    return f"<{type.__dict__['__name__'].__get__(kind)[:MAX_KEY_CHARS]}>"


def _value_of(member: Enum) -> Any:
    # From object itself: the enumeration may have replaced the property.
    return object.__getattribute__(member, "_value_")


def _number(value: Any) -> float:
    """Return a number as a float.

    Raises:
        Exception: it is none, or one that no float can hold.
    """
    kind = type(value)
    if issubclass(kind, int):
        return float(int.__int__(value))
    if issubclass(kind, float):
        return float.__float__(value)
    if issubclass(kind, str):
        value = str.__str__(value)
        if len(value) > _MAX_PARSED_CHARS:
            raise ValueError
    if issubclass(kind, (complex, *_BYTES_TYPES)) or (kind is Decimal and not _is_short_decimal(value)):
        raise ValueError
    return call(float, value)


def _bytes_of(value: Any, kind: type) -> bytes | bytearray:
    base = bytes if issubclass(kind, bytes) else bytearray
    return base.__getitem__(value, slice(None))


def _items_of(value: Any, kind: type, limit: int) -> list[tuple[Any, Any]]:
    """Return the first items of a mapping; those of a dict in one step, since another thread may be changing it."""
    if issubclass(kind, dict):
        return list(itertools.islice(dict.items(value), limit))
    return call(lambda: [(key, item) for key, item in itertools.islice(value.items(), limit)])


def _members_of(value: Any, kind: type, limit: int) -> list[Any]:
    for base in _SEQUENCES:
        if issubclass(kind, base):
            return list(itertools.islice(base.__iter__(value), limit))
    return call(lambda: list(itertools.islice(value, limit)))


def _own_text(value: Any, kind: type) -> str | None:
    """Return what ``str()`` says of an object; None where that is no more than its type and its address.

    Raises:
        ForeignError: it raised.
    """
    own = type.__getattribute__
    if own(kind, "__str__") is object.__str__ and own(kind, "__repr__") is object.__repr__:
        return None
    text = str.__str__(call(str, value))
    beginning = text[:_MAX_READ_CHARS].lower()
    return None if f"{id(value):x}" in beginning or f"{id(value)}" in beginning else text
