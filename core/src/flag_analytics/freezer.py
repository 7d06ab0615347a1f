"""``Freezer``: makes one immutable, bounded ``FrozenEvent`` of any event, once, at acceptance."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import msgspec
import uuid_utils

from .canonical import (
    KINDS,
    MAX_EVENT_BYTES,
    MAX_INT,
    MAX_KEY_CHARS,
    MIN_INT,
    OVERHEAD_BYTES,
    Canonicaliser,
    ForeignError,
    call,
)
from .errors import EventError
from .events import EvaluationReason, EventKind, FlagEvaluationEvent, made_last, new_event_id
from .frozen import FrozenEvent
from .processes import new_rlock

__all__ = ["Freezer", "event_like"]

_PLAIN_REASONS: dict[str, str] = {reason: reason.value for reason in EvaluationReason}
_PAST = timedelta(days=30)
_AHEAD = timedelta(minutes=5)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EVALUATION: EventKind = "evaluation"
_ID_CHARS = 36
_TRACEPARENT_CHARS = 55
_BACKSLASH = ord("\\")
_INFINITY = math.inf
_ALL: float = FlagEvaluationEvent.__struct_defaults__[-1]
_MOST_PLAIN = 64
_LONGEST_PLAIN = 1_024
"""Larger contexts take the careful way, which bounds the time they take."""

_OURS: dict[str, Any] = dict.fromkeys(FlagEvaluationEvent.__struct_fields__[9:-2]) | {
    "kind": _EVALUATION,
    "sample_rate": _ALL,
}
"""What other libraries' events need not have, with its default."""
_FIELDS: tuple[str, ...] = FlagEvaluationEvent.__struct_fields__
_fields_of: Callable[[Any], tuple[Any, ...]] = msgspec.structs.astuple
_encode = msgspec.json.Encoder().encode


class Freezer:
    """Makes frozen events and counts what it had to change; safe from any thread.

    Args:
        clock: Wall-clock seconds since the epoch.
        traceparent: Returns the current trace context, where a sink wants it kept with the event.
    """

    def __init__(
        self, clock: Callable[[], float] = time.time, traceparent: Callable[[], str | None] | None = None
    ) -> None:
        self._clock = clock
        self._traceparent = None if traceparent is None else _checked(traceparent)
        # Re-entrant, since a signal handler or finaliser that runs while it is held may record an event.
        self._lock = new_rlock()
        self._changes: Counter[str] = Counter()
        self._horizon = (0.0, 0.0, _EPOCH, _EPOCH)

    def after_fork_in_child(self) -> None:
        self._lock = new_rlock()
        self._changes = Counter()

    def changes(self) -> dict[str, int]:
        """Return how many changes were made since the start, by kind."""
        with self._lock:
            return dict(self._changes)

    def freeze(self, event: Any) -> FrozenEvent:  # noqa: C901 - one straight line
        """Return the canonical form of ``event``: ours, a frozen one, or any object with the same attributes.

        A mapping of its fields is an event as well. Never raises for anything an event can hold.

        The common case is decided here: plain text, a flat and small context of scalars, a UTC time. Whatever does not
        fit goes through ``Canonicaliser``. This is the caller's cost of every recorded event, and was measured: one
        ``astuple`` is cheaper than sixteen attributes, one f-string than three sums, a byte's ``in`` than a search for
        an escape.

        Raises:
            EventError: it has no ``flag_key`` at all, so that it is something else than an event.
        """
        try:
            if type(event) is FlagEvaluationEvent:
                fields = _fields_of(event)
            elif type(event) is FrozenEvent:
                return event
            else:
                fields = call(_foreign_fields_of, event)
            (
                timestamp, flag_key, value, reason, variant, targeting_key, context, duration, event_id, error_type,
                error_message, flag_version, flag_set_id, provider_name, kind, sample_rate,
            ) = fields  # fmt: skip
            if type(reason) is EvaluationReason:
                reason = _PLAIN_REASONS[reason]
            elif type(reason) is not str or not 0 < len(reason) <= MAX_KEY_CHARS:
                return self._freeze_any(event)
            if (
                type(flag_key) is not str
                or len(flag_key) > MAX_KEY_CHARS
                or (variant is not None and (type(variant) is not str or len(variant) > MAX_KEY_CHARS))
                or (
                    targeting_key is not None and (type(targeting_key) is not str or len(targeting_key) > MAX_KEY_CHARS)
                )
                or type(timestamp) is not datetime
                or timestamp.tzinfo is not UTC
                or type(duration) is not float
                or not 0.0 <= duration < _INFINITY
                or not (sample_rate is _ALL or (type(sample_rate) is float and sample_rate == 1.0))
                or not (event_id is made_last[0] or _is_id(event_id))
            ):
                return self._freeze_any(event)
            text = f"{flag_key}{reason}{variant}{targeting_key}"
            if not (
                error_type is None
                and provider_name is None
                and flag_version is None
                and error_message is None
                and flag_set_id is None
                and kind is _EVALUATION
            ):
                for extra in (error_type, error_message, flag_version, flag_set_id, provider_name):
                    if extra is not None and (type(extra) is not str or len(extra) > MAX_KEY_CHARS):
                        return self._freeze_any(event)
                if type(kind) is not str or kind not in KINDS:
                    return self._freeze_any(event)
                text = f"{text}{error_type}{error_message}{flag_version}{flag_set_id}{provider_name}"
            if "\0" in text or not (text.isascii() or text.isprintable()):
                return self._freeze_any(event)
            # A backslash in JSON may be an escaped NUL.
            if value is True:
                value_json = b"true"
            elif value is False:
                value_json = b"false"
            else:
                if not _is_plain(value):
                    return self._freeze_any(event)
                value_json = _encode(value)
                if _BACKSLASH in value_json:
                    return self._freeze_any(event)
            size = OVERHEAD_BYTES + len(text) + len(value_json)
            context_json = b"{}"
            if type(context) is not dict or len(context) > _MOST_PLAIN:
                return self._freeze_any(event)
            if context:
                for name in context:
                    if type(name) is not str or len(name) > _LONGEST_PLAIN:
                        return self._freeze_any(event)
                    attribute = context[name]
                    if (type(attribute) is not str or len(attribute) > _LONGEST_PLAIN) and not _is_plain(attribute):
                        return self._freeze_any(event)
                context_json = _encode(context)
                size += len(context_json)
                if _BACKSLASH in context_json or size > MAX_EVENT_BYTES:
                    return self._freeze_any(event)
            traceparent = None if self._traceparent is None else self._traceparent()
            received_at = self._clock()
            since, until, oldest, newest = self._horizon
            if not (oldest <= timestamp <= newest and since <= received_at < until):
                self._count_skew(timestamp, received_at)
            return FrozenEvent(
                timestamp, flag_key, value_json, reason, variant, targeting_key, context_json, duration, event_id,
                error_type, error_message, flag_version, flag_set_id, provider_name,
                kind,  # pyright: ignore[reportArgumentType] - it is one of KINDS
                1.0, received_at, size, traceparent
            )  # fmt: skip
        except Exception:
            return self._freeze_any(event)  # takes apart piece by piece what raised

    def _freeze_any(self, event: Any) -> FrozenEvent:
        event = event_like(event)
        received_at = self._clock()
        canonicaliser = Canonicaliser()
        frozen = canonicaliser.event(event, received_at, self._current_traceparent())
        self._count(canonicaliser.changes)
        self._count_skew(frozen.timestamp, received_at)
        return frozen

    def _current_traceparent(self) -> str | None:
        try:
            return None if self._traceparent is None else self._traceparent()
        except Exception:
            return None  # an event is worth more than what it could have been linked to

    def _count_skew(self, timestamp: datetime, now: float) -> None:
        moment = _EPOCH + timedelta(seconds=now)
        oldest, newest = moment - _PAST, moment + _AHEAD
        # Made anew each second, since to make it costs more than to compare.
        self._horizon = (now, now + 1.0, oldest, newest)
        if not oldest <= timestamp <= newest:
            self._count(Counter(clock_skew=1))

    def _count(self, changes: Counter[str]) -> None:
        if changes:
            with self._lock:
                self._changes.update(changes)


def _checked(traceparent: Callable[[], Any]) -> Callable[[], str | None]:
    """Return a function that returns what ``traceparent`` does if that has the form of W3C's, else None."""

    def current() -> str | None:
        found = traceparent()
        return found if type(found) is str and len(found) <= _TRACEPARENT_CHARS and found.isascii() else None

    return current


def event_like(event: Any) -> Any:
    """Return what has an event's fields as attributes: the object itself, or one with the members of a mapping.

    Raises:
        EventError: there is no ``flag_key``.
    """
    try:
        if call(hasattr, event, "flag_key"):
            return event
    except ForeignError:
        return event  # it is there, and cannot be read: it counts as unreadable
    try:
        fields = call(_members_of, event)
    except ForeignError:
        fields = None
    if fields is not None:
        return SimpleNamespace(**fields)
    raise EventError("not an event: expected FlagEvaluationEvent, or an object or a mapping with flag_key and the like")


def _members_of(event: Any) -> dict[str, Any] | None:
    """Return the fields of a mapping, None where it is not one of an event's."""
    if not (issubclass(type(event), Mapping) and "flag_key" in event):
        return None
    return {name: event[name] for name in _FIELDS if name in event}


def _foreign_fields_of(event: Any) -> tuple[Any, ...]:
    """Return the fields of an object of another class, which has the reference's eight and perhaps some of ours."""
    reason = event.reason
    return (
        event.timestamp,
        event.flag_key,
        event.value,
        str.__str__(reason) if issubclass(type(reason), str) else reason,  # of another enumeration's member, its value
        event.variant,
        event.targeting_key,
        event.context_attributes,
        event.evaluation_duration_ms,
        getattr(event, "event_id", None) or new_event_id(),
        *(getattr(event, name, default) for name, default in _OURS.items()),
    )


def _is_id(event_id: Any) -> bool:
    """Return whether this is a UUID in its usual form; may raise where it is none."""
    return type(event_id) is str and len(event_id) == _ID_CHARS and bool(uuid_utils.UUID(event_id))


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind is str:
        return len(value) <= _LONGEST_PLAIN
    if kind is bool or value is None:
        return True
    if kind is int:
        return bool(MIN_INT <= value <= MAX_INT)
    if kind is float:
        return bool(math.isfinite(value))
    return False
