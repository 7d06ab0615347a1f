"""``Freezer``: makes one immutable, bounded ``FrozenEvent`` of any event, once, at acceptance."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import msgspec
import uuid_utils

from .canonical import KINDS, MAX_EVENT_BYTES, MAX_INT, MAX_KEY_CHARS, MIN_INT, OVERHEAD_BYTES, Canonicaliser
from .errors import EventError
from .events import EvaluationReason, EventKind, FlagEvaluationEvent, made_last, new_event_id
from .frozen import FrozenEvent

__all__ = ["Freezer", "event_like"]

_PLAIN_REASONS: dict[str, str] = {reason: reason.value for reason in EvaluationReason}
_PAST = timedelta(days=30)
_AHEAD = timedelta(minutes=5)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EVALUATION: EventKind = "evaluation"
_ID_CHARS = 36
_check_uuid = uuid_utils.UUID
"""Raises ValueError; with the length checked, what is left is the hyphenated form."""
_TRACEPARENT_CHARS = 55
_BACKSLASH = ord("\\")

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
        self._lock = threading.RLock()
        self._changes: Counter[str] = Counter()
        self._horizon = (0.0, 0.0, _EPOCH, _EPOCH)

    def after_fork_in_child(self) -> None:
        self._lock = threading.RLock()
        self._changes = Counter()

    def changes(self) -> dict[str, int]:
        """Return how many changes were made since the start, by kind."""
        with self._lock:
            return dict(self._changes)

    def freeze(self, event: Any) -> FrozenEvent:
        """Return the canonical form of ``event``: ours, a frozen one, or any object with the same attributes.

        A mapping of its fields is an event as well. Never raises for anything an event can hold.

        Raises:
            EventError: it has no ``flag_key`` at all, so that it is something else than an event.
        """
        try:
            if event.__class__ is FlagEvaluationEvent:
                frozen = self._freeze_plain(_fields_of(event))
            elif event.__class__ is FrozenEvent:
                return event
            else:
                frozen = self._freeze_plain(_foreign_fields_of(event))
            if frozen is not None:
                return frozen
        except Exception:
            pass  # whatever a hostile value raises there, the normaliser takes apart piece by piece
        return self._freeze_any(event)

    def _freeze_plain(self, fields: tuple[Any, ...]) -> FrozenEvent | None:  # noqa: C901 - one straight line
        """Return the canonical form of an event's fields if nothing needs to be changed for it, else None.

        Plain text, a flat context of scalars, a UTC time: the common case. Whatever does not fit goes through
        ``Canonicaliser``.

        This is the caller's cost of every recorded event. What looks roundabout here was measured: one ``astuple`` is
        cheaper than sixteen attributes, one f-string than three sums, a byte's ``in`` than a search for an escape.
        """
        (
            timestamp,
            flag_key,
            value,
            reason,
            variant,
            targeting_key,
            context,
            duration,
            event_id,
            error_type,
            error_message,
            flag_version,
            flag_set_id,
            provider_name,
            kind,
            sample_rate,
        ) = fields
        if reason.__class__ is EvaluationReason:
            reason = _PLAIN_REASONS[reason]
        if (
            flag_key.__class__ is not str
            or reason.__class__ is not str
            or not (variant is None or variant.__class__ is str)
            or not (targeting_key is None or targeting_key.__class__ is str)
            or event_id.__class__ is not str
            or len(event_id) != _ID_CHARS
            or timestamp.__class__ is not datetime
            or timestamp.tzinfo is not UTC
            or duration.__class__ is not float
            or not 0.0 <= duration < math.inf
            or sample_rate != 1.0
            or not reason
        ):
            return None
        if event_id is not made_last[0]:
            _check_uuid(event_id)
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
                if not (extra is None or extra.__class__ is str):
                    return None
            if kind.__class__ is not str or kind not in KINDS:
                return None
            text = f"{text}{error_type}{error_message}{flag_version}{flag_set_id}{provider_name}"
        if len(text) > MAX_KEY_CHARS or "\0" in text or not (text.isascii() or text.isprintable()):
            return None
        # A backslash in JSON may be an escaped NUL.
        if value is True:
            value_json = b"true"
        elif value is False:
            value_json = b"false"
        else:
            if not _is_plain(value):
                return None
            value_json = _encode(value)
            if _BACKSLASH in value_json:
                return None
        context_json = b"{}"
        if context:
            if context.__class__ is not dict:
                return None
            for name, attribute in context.items():
                if name.__class__ is not str or (attribute.__class__ is not str and not _is_plain(attribute)):
                    return None
            context_json = _encode(context)
            if _BACKSLASH in context_json:
                return None
        size = OVERHEAD_BYTES + len(text) + len(value_json) + len(context_json)
        if size > MAX_EVENT_BYTES:
            return None
        traceparent = None if self._traceparent is None else self._traceparent()
        received_at = self._clock()
        since, until, oldest, newest = self._horizon
        if not since <= received_at < until:
            _, _, oldest, newest = self._new_horizon(received_at)
        if not oldest <= timestamp <= newest:
            self._count(Counter(clock_skew=1))
        return FrozenEvent(
            timestamp,
            flag_key,
            value_json,
            reason,
            variant,
            targeting_key,
            context_json,
            duration,
            event_id,
            error_type,
            error_message,
            flag_version,
            flag_set_id,
            provider_name,
            kind,
            1.0,
            received_at,
            size,
            traceparent,
        )

    def _freeze_any(self, event: Any) -> FrozenEvent:
        event = event_like(event)
        received_at = self._clock()
        normaliser = Canonicaliser()
        frozen = normaliser.event(event, received_at, self._current_traceparent())
        _, _, oldest, newest = self._new_horizon(received_at)
        if not oldest <= frozen.timestamp <= newest:
            normaliser.changes["clock_skew"] += 1
        self._count(normaliser.changes)
        return frozen

    def _current_traceparent(self) -> str | None:
        try:
            return None if self._traceparent is None else self._traceparent()
        except Exception:
            return None  # an event is worth more than what it could have been linked to

    def _new_horizon(self, now: float) -> tuple[float, float, datetime, datetime]:
        """Return (valid from, until, oldest, newest): made anew each second, since making it costs more than asking."""
        moment = _EPOCH + timedelta(seconds=now)
        self._horizon = (now, now + 1.0, moment - _PAST, moment + _AHEAD)
        return self._horizon

    def _count(self, changes: Counter[str]) -> None:
        if changes:
            with self._lock:
                self._changes.update(changes)


def _checked(traceparent: Callable[[], Any]) -> Callable[[], str | None]:
    """Return a function that returns what ``traceparent`` does if that has the form of W3C's, else None."""

    def current() -> str | None:
        found = traceparent()
        return found if found.__class__ is str and len(found) <= _TRACEPARENT_CHARS and found.isascii() else None

    return current


def event_like(event: Any) -> Any:
    """Return what has an event's fields as attributes: the object itself, or one with the members of a mapping.

    Raises:
        EventError: there is no ``flag_key``.
    """
    try:
        if hasattr(event, "flag_key"):
            return event
    except Exception:
        return event  # it is there, and breaks whoever reads it: it counts as unreadable
    try:
        if isinstance(event, Mapping) and "flag_key" in event:
            return SimpleNamespace(**{name: event[name] for name in _FIELDS if name in event})
    except Exception:
        pass  # a mapping that cannot be read is no event either
    raise EventError("not an event: expected FlagEvaluationEvent, or an object or a mapping with flag_key and the like")


def _foreign_fields_of(event: Any) -> tuple[Any, ...]:
    """Return the fields of an object of another class, which has the reference's eight and perhaps some of ours."""
    reason = event.reason
    return (
        event.timestamp,
        event.flag_key,
        event.value,
        str.__str__(reason) if isinstance(reason, str) else reason,  # of another enumeration's member, its value
        event.variant,
        event.targeting_key,
        event.context_attributes,
        event.evaluation_duration_ms,
        getattr(event, "event_id", None) or new_event_id(),
        getattr(event, "error_type", None),
        getattr(event, "error_message", None),
        getattr(event, "flag_version", None),
        getattr(event, "flag_set_id", None),
        getattr(event, "provider_name", None),
        getattr(event, "kind", _EVALUATION),
        getattr(event, "sample_rate", 1.0),
    )


def _is_plain(value: Any) -> bool:
    kind = value.__class__
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return bool(MIN_INT <= value <= MAX_INT)
    if kind is float:
        return bool(math.isfinite(value))
    return False
