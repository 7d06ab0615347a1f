"""Events as rows and rows as events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import msgspec
from flag_analytics.errors import BadBatch
from flag_analytics.events import EventKind, FlagEvaluationEvent, as_reason
from flag_analytics.frozen import FrozenEvent

from .schema import KIND_CODES, KINDS

__all__ = ["ALL_COLUMNS", "PLAIN_COLUMNS", "as_rows", "event_from", "from_micros", "id_bytes", "micros"]

PLAIN_COLUMNS: tuple[str, ...] = (
    "event_id",
    "timestamp",
    "received_at",
    "kind",
    "flag_key",
    "reason",
    "variant",
    "targeting_key",
    "evaluation_duration_ms",
    "value",
    "context_attributes",
)
"""What every event has."""
_FURTHER = ("sample_rate", "error_type", "error_message", "flag_version", "flag_set_id", "provider_name")
ALL_COLUMNS: tuple[str, ...] = PLAIN_COLUMNS + _FURTHER

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_decode = msgspec.json.Decoder().decode


def micros(moment: datetime) -> int:
    """Return a time as whole microseconds since the Unix epoch, exactly (a float's seconds are not exact)."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def from_micros(count: int) -> datetime:
    """Return the UTC time that many microseconds after the Unix epoch."""
    return _EPOCH + timedelta(microseconds=count)


def id_bytes(event_id: str) -> bytes:
    """Return the 16 bytes of a UUID in text form."""
    return bytes.fromhex(event_id.replace("-", ""))


def as_rows(
    events: Sequence[FrozenEvent], event_id: Callable[[str], Any]
) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Return the columns a batch needs and its rows, ids in the form that ``event_id`` gives them.

    A column costs its share of every insert even where it is null (measured on SQLite: 17 columns take 1.7 times as
    long as 11), so a batch in which nobody uses the further ones leaves them out.

    Raises:
        BadBatch: an id is not a UUID.
    """
    rows = []
    plain = True
    epoch = _EPOCH
    try:
        for event in events:
            since = event.timestamp - epoch  # ``micros``, without the call: this loop is what a batch costs here
            rows.append(
                (
                    event_id(event.event_id),
                    (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds,
                    int(event.received_at * 1_000_000),
                    KIND_CODES[event.kind],
                    event.flag_key,
                    event.reason,
                    event.variant,
                    event.targeting_key,
                    event.evaluation_duration_ms,
                    event.value_json.decode(),
                    event.context_json.decode(),
                )
            )
            plain = (
                plain
                and event.sample_rate == 1.0
                and event.error_type is event.error_message is event.flag_version is None
                and event.flag_set_id is event.provider_name is None
            )
    except ValueError:
        raise BadBatch("an event's id is not a UUID: expected 32 hexadecimal digits", code="event_id") from None
    if plain:
        return PLAIN_COLUMNS, rows
    return ALL_COLUMNS, [row + _further(event) for row, event in zip(rows, events, strict=True)]


def _further(event: FrozenEvent) -> tuple[Any, ...]:
    return (
        event.sample_rate,
        event.error_type,
        event.error_message,
        event.flag_version,
        event.flag_set_id,
        event.provider_name,
    )


def event_from(row: Iterable[Any]) -> FlagEvaluationEvent:
    """Return the event of a row whose columns are ``ALL_COLUMNS``."""
    (
        event_id,
        timestamp,
        _,
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
        event_id=event_id,
        error_type=error_type,
        error_message=error_message,
        flag_version=flag_version,
        flag_set_id=flag_set_id,
        provider_name=provider_name,
        kind=cast("EventKind", KINDS[kind]),
        sample_rate=sample_rate,
    )
