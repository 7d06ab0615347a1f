"""Events as columns of a table, and back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter
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
_MICROSECOND = timedelta(microseconds=1)
_ID_CHARACTERS, _ID_DIGITS = 36, 32
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
_TEXTS = (
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
_AS_THEY_ARE = {name: attrgetter(name) for name in (*_TEXTS, "evaluation_duration_ms", "sample_rate")}
"""How columns are taken from an event that hold its fields as they are."""

_timestamp = attrgetter("timestamp")
_decode = msgspec.json.Decoder().decode


class _Context(msgspec.Struct):
    environment: Any = None


class _RawContext(msgspec.Struct):
    environment: msgspec.Raw


_decode_context = msgspec.json.Decoder(_Context).decode
_decode_raw = msgspec.json.Decoder(_RawContext).decode


def micros(moment: datetime) -> int:
    """Return a time as whole microseconds since the Unix epoch, exactly."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def from_micros(count: int) -> datetime:
    """Return the UTC time that many microseconds after the Unix epoch."""
    return _EPOCH + count * _MICROSECOND


def environment_of(context_json: bytes) -> str:
    """Return the environment of an event as groups show it."""
    environment = _decode_context(context_json).environment
    return environment if type(environment) is str else _shown(environment, context_json)


def _shown(environment: Any, context_json: bytes) -> str:
    return NO_VALUE if environment is None else bytes(_decode_raw(context_json).environment).decode()


def as_columns(events: Sequence[FrozenEvent], batch_id: str) -> dict[str, list[Any]]:
    """Return the rows of events, by column.

    Raises:
        BadBatch: a row cannot be made of an event, such as one whose id is not a UUID.
    """
    try:
        columns: dict[str, list[Any]] = {name: [*map(field, events)] for name, field in _AS_THEY_ARE.items()}
        # What follows takes several passes, which is faster than one: this is what a batch costs here.
        columns |= {
            "event_id": _id_numbers([event.event_id for event in events]),
            "batch_id": [batch_id] * len(events),
            "timestamp": _micros_of([event.timestamp for event in events]),
            "received_at": [int(event.received_at * 1_000_000) for event in events],
            "kind": [_KIND_CODES[event.kind] for event in events],
            "value": [event.value_json for event in events],
            "context_attributes": [event.context_json for event in events],
            "environment": _environments([event.context_json for event in events]),
        }
        for name in ("value", "context_attributes"):
            b"\n".join(columns[name]).decode()  # each is UTF-8, and sent as it is
        for name in _AS_THEY_ARE:
            if not _FITTING[name].issuperset(set(map(type, columns[name]))):
                raise unfit(events) or BadBatch(_UNFIT, code=name)
    except BadBatch:
        raise
    except Exception as error:
        raise unfit(events) or BadBatch(_UNFIT, code=type(error).__name__) from None
    return {name: columns[name] for name in ALL_COLUMNS}


def by_partition(events: Sequence[FrozenEvent]) -> Mapping[str, tuple[FrozenEvent, ...]]:
    """Return events by the month they are in, which is a partition of the table or a part of one."""
    if not events:
        return {}
    months: defaultdict[str, list[FrozenEvent]] = defaultdict(list)
    first, last = min(map(_timestamp, events)), max(map(_timestamp, events))
    if _month_of(first) == _month_of(last) and first.year == last.year:  # as nearly always
        return {_month_of(first): tuple(events)}
    for event in events:
        months[_month_of(event.timestamp)].append(event)
    return {month: tuple(some) for month, some in sorted(months.items())}


def _month_of(moment: datetime) -> str:
    return f"{moment.year:04}{moment.month:02}" if 2000 <= moment.year < 2100 else "0"


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
        for name in _TEXTS:
            (getattr(event, name) or "").encode()
    except Exception as error:
        return type(error).__name__
    return "" if event.kind in _KIND_CODES else "kind"


def _micros_of(moments: Sequence[datetime]) -> list[int]:
    """Return ``micros`` of each, without its call."""
    spans = [moment - _EPOCH for moment in moments]
    return [(span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds for span in spans]


def _environments(contexts: Sequence[bytes]) -> list[str]:
    """Return ``environment_of`` each context."""
    found = [context.environment for context in map(_decode_context, contexts)]
    if {*map(type, found)} == {str}:
        return found
    return [
        environment if type(environment) is str else _shown(environment, context)
        for environment, context in zip(found, contexts, strict=True)
    ]


def _id_numbers(event_ids: Sequence[str]) -> list[int]:
    if {*map(len, event_ids)} != {_ID_CHARACTERS}:
        return [*map(_id_number, event_ids)]
    return [int(event_id.replace("-", ""), 16) for event_id in event_ids]


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
