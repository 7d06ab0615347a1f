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

__all__ = [
    "ALL_COLUMNS",
    "IMPORT_COLUMNS",
    "PLAIN_COLUMNS",
    "as_rows",
    "event_from",
    "from_micros",
    "id_bytes",
    "micros",
    "unfit",
]

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
"""The columns that every event has a value for."""
_FURTHER = ("sample_rate", "error_type", "error_message", "flag_version", "flag_set_id", "provider_name")
ALL_COLUMNS: tuple[str, ...] = PLAIN_COLUMNS + _FURTHER
IMPORT_COLUMNS: tuple[str, ...] = (*ALL_COLUMNS, "import_id")

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
"""The exact types that every driver can bind: an object may pass for text and be none."""
_CHECKED_PLAIN = tuple(
    map(PLAIN_COLUMNS.index, ("flag_key", "reason", "variant", "targeting_key", "evaluation_duration_ms"))
)
_CHECKED = (*_CHECKED_PLAIN, *range(len(PLAIN_COLUMNS), len(ALL_COLUMNS)))
"""The columns that a row takes from an event as they are."""

_UNFIT = "no row can be made of an event"
_ID_DIGITS = 32
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
    """Return the 16 bytes of a UUID in text form.

    Raises:
        ValueError: it is another text.
    """
    digits = event_id.replace("-", "")
    if len(digits) != _ID_DIGITS:
        raise ValueError("not a UUID")
    return bytes.fromhex(digits)


def as_rows(
    events: Sequence[FrozenEvent], event_id: Callable[[str], Any], import_id: int | None = None
) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Return the columns a batch needs and its rows, ids in the form that ``event_id`` gives them.

    A column costs its share of every insert even where it is null (measured on SQLite: 17 columns take 1.7 times as
    long as 11), so a batch that has only defaults in the further ones leaves them out.

    Raises:
        BadBatch: a row cannot be made of an event, such as one whose id is not a UUID.
    """
    rows: list[tuple[Any, ...]] = []
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
    except Exception as error:
        raise unfit(events) or BadBatch(_UNFIT, code=type(error).__name__) from None
    columns = PLAIN_COLUMNS
    if not plain or import_id is not None:
        columns, rows = ALL_COLUMNS, [row + _further(event) for row, event in zip(rows, events, strict=True)]
    for index in _CHECKED if columns is ALL_COLUMNS else _CHECKED_PLAIN:
        if not _FITTING[columns[index]].issuperset({type(row[index]) for row in rows}):
            raise unfit(events) or BadBatch(_UNFIT, code=columns[index])  # some drivers store the text of any object
    if import_id is not None:
        return IMPORT_COLUMNS, [(*row, import_id) for row in rows]
    return columns, rows


def unfit(events: Iterable[FrozenEvent]) -> BadBatch | None:
    """Return the refusal of those events that no row can be made of, or that no driver can bind; None without any."""
    refused = {event.event_id: reason for event in events if (reason := _unfit_field(event))}
    return BadBatch(_UNFIT, refused=refused) if refused else None


def _unfit_field(event: FrozenEvent) -> str:
    """Return the name of the field that no row can hold, or an empty text."""
    for name, types in _FITTING.items():
        if type(getattr(event, name)) not in types:
            return name
    try:
        id_bytes(event.event_id)
        micros(event.timestamp)
        int(event.received_at * 1_000_000)
        event.value_json.decode()
        event.context_json.decode()
    except Exception as error:
        return type(error).__name__
    return "" if event.kind in KIND_CODES else "kind"


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
