"""Events as columns of a table, and back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import msgspec
from flag_analytics.errors import BadBatch
from flag_analytics.events import EventKind, FlagEvaluationEvent, as_reason
from flag_analytics.frozen import FrozenEvent
from flag_analytics.sources import NO_VALUE

from .schema import ALL_COLUMNS, KINDS

__all__ = [
    "EVENT_COLUMNS",
    "as_columns",
    "by_partition",
    "environment_of",
    "event_from",
    "from_micros",
    "micros",
    "unfit",
]

EVENT_COLUMNS = tuple(name for name in ALL_COLUMNS if name not in {"batch_id", "received_at", "environment"})
"""The columns that make an event, in the order in which ``event_from`` takes them."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ID_DIGITS = 32
_UNFIT = "no row can be made of an event"
_KIND_CODES = {kind: code for code, kind in enumerate(KINDS)}
_TEXT: frozenset[type] = frozenset({str})
_OPTIONAL_TEXT: frozenset[type] = frozenset({str, type(None)})
_NUMBER: frozenset[type] = frozenset({float, int})
_FITTING: dict[str, frozenset[type]] = {
    "event_id": _TEXT,
    "timestamp": frozenset({datetime}),
    "received_at": _NUMBER,
    "kind": _TEXT,
    "flag_key": _TEXT,
    "reason": _TEXT,
    "variant": _OPTIONAL_TEXT,
    "targeting_key": _OPTIONAL_TEXT,
    "evaluation_duration_ms": _NUMBER,
    "value_json": frozenset({bytes}),
    "context_json": frozenset({bytes}),
    "sample_rate": _NUMBER,
    **dict.fromkeys(("error_type", "error_message", "flag_version", "flag_set_id", "provider_name"), _OPTIONAL_TEXT),
}
"""The exact types of an event's fields: an object may pass for text and be none."""
_AS_THEY_ARE = (
    "flag_key",
    "reason",
    "variant",
    "targeting_key",
    "error_type",
    "error_message",
    "flag_version",
    "flag_set_id",
    "provider_name",
)
_NUMBERS = ("evaluation_duration_ms", "sample_rate")

_decode = msgspec.json.Decoder().decode


class _Context(msgspec.Struct):
    environment: msgspec.Raw = msgspec.Raw(b"null")


_decode_context = msgspec.json.Decoder(_Context).decode
_decode_text = msgspec.json.Decoder(str).decode


def micros(moment: datetime) -> int:
    """Return a time as whole microseconds since the Unix epoch, exactly."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def from_micros(count: int) -> datetime:
    """Return the UTC time that many microseconds after the Unix epoch."""
    return _EPOCH + timedelta(microseconds=count)


def environment_of(context_json: bytes) -> str:
    """Return the environment of an event as groups show it."""
    if b'"environment"' not in context_json:
        return NO_VALUE
    raw = bytes(_decode_context(context_json).environment)
    if raw == b"null":
        return NO_VALUE
    return _decode_text(raw) if raw.startswith(b'"') else raw.decode()


def as_columns(events: Sequence[FrozenEvent], batch_id: str) -> dict[str, list[Any]]:
    """Return the rows of events, by column.

    Raises:
        BadBatch: a row cannot be made of an event, such as one whose id is not a UUID.
    """
    try:
        columns: dict[str, list[Any]] = {
            "event_id": [_id_number(event.event_id) for event in events],
            "batch_id": [batch_id] * len(events),
            "timestamp": [micros(event.timestamp) for event in events],
            "received_at": [int(event.received_at * 1_000_000) for event in events],
            "kind": [_KIND_CODES[event.kind] for event in events],
            "value": [event.value_json.decode() for event in events],
            "context_attributes": [event.context_json.decode() for event in events],
            "environment": [environment_of(event.context_json) for event in events],
        }
        for name in _NUMBERS:
            columns[name] = [getattr(event, name) for event in events]
        for name in _AS_THEY_ARE:
            columns[name] = [getattr(event, name) for event in events]
        for name in (*_NUMBERS, *_AS_THEY_ARE):
            if not _FITTING[name].issuperset(set(map(type, columns[name]))):
                raise unfit(events) or BadBatch(_UNFIT, code=name)
    except BadBatch:
        raise
    except Exception as error:
        raise unfit(events) or BadBatch(_UNFIT, code=type(error).__name__) from None
    return {name: columns[name] for name in ALL_COLUMNS}


def by_partition(events: Sequence[FrozenEvent]) -> Mapping[str, tuple[FrozenEvent, ...]]:
    """Return events by the month they are in, which is a partition of the table or a part of one."""
    months: defaultdict[str, list[FrozenEvent]] = defaultdict(list)
    for event in events:
        moment = event.timestamp
        months[f"{moment.year:04}{moment.month:02}" if 2000 <= moment.year < 2100 else "0"].append(event)
    return {month: tuple(some) for month, some in sorted(months.items())}


def unfit(events: Iterable[FrozenEvent]) -> BadBatch | None:
    """Return the refusal of those events that no row can be made of; None without any."""
    refused = {event.event_id: reason for event in events if (reason := _unfit_field(event))}
    return BadBatch(_UNFIT, refused=refused) if refused else None


def _unfit_field(event: FrozenEvent) -> str:
    """Return the name of the field that no row can hold, or an empty text."""
    for name, types in _FITTING.items():
        if type(getattr(event, name)) not in types:
            return name
    try:
        _id_number(event.event_id)
        micros(event.timestamp)
        int(event.received_at * 1_000_000)
        event.value_json.decode()
        event.context_json.decode()
        environment_of(event.context_json)
        for name in _AS_THEY_ARE:
            (getattr(event, name) or "").encode()
    except Exception as error:
        return type(error).__name__
    return "" if event.kind in _KIND_CODES else "kind"


def _id_number(event_id: str) -> int:
    digits = event_id.replace("-", "")
    if len(digits) != _ID_DIGITS:
        raise ValueError("not a UUID")
    return int(digits, 16)


def event_from(row: Iterable[Any]) -> FlagEvaluationEvent:
    """Return the event of a row whose columns are ``EVENT_COLUMNS``."""
    (
        event_id,
        timestamp,
        kind,
        flag_key,
        reason,
        variant,
        targeting_key,
        duration,
        value,
        context,
        sample_rate,
        error_type,
        error_message,
        flag_version,
        flag_set_id,
        provider_name,
    ) = row
    return FlagEvaluationEvent(
        from_micros(timestamp),
        flag_key,
        _decode(value),
        as_reason(reason),
        variant,
        targeting_key,
        _decode(context),
        duration,
        event_id=str(event_id),
        error_type=error_type,
        error_message=error_message,
        flag_version=flag_version,
        flag_set_id=flag_set_id,
        provider_name=provider_name,
        kind=cast("EventKind", kind),
        sample_rate=sample_rate,
    )
