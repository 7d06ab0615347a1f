"""Refused events as rows of a table of their own, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from flag_analytics.events import FlagEvaluationEvent, as_reason
from flag_analytics.freezer import Freezer
from flag_analytics.reports import DeadLetter

from .schema import LETTER_COLUMNS, Tables

__all__ = ["letter_columns", "letter_from", "newest_letters"]

_MICROSECONDS = 1_000_000


def letter_columns(letters: Sequence[DeadLetter]) -> dict[str, list[Any]]:
    """Return the rows of dead letters, by column."""
    rows = [_row(letter) for letter in letters]
    return {name: [row[name] for row in rows] for name in LETTER_COLUMNS}


def _row(letter: DeadLetter) -> dict[str, Any]:
    event = letter.event
    fields = msgspec.structs.asdict(event) | {"value": event.value, "context_attributes": event.context_attributes}
    for name in ("value_json", "context_json", "size"):
        fields.pop(name)
    fields["timestamp"] = event.timestamp.isoformat()
    try:
        event_id = int(event.event_id.replace("-", ""), 16)
    except ValueError:
        event_id = 0
    return {
        "event_id": event_id,
        "at": int(letter.at * _MICROSECONDS),
        "sink": letter.sink,
        "error": letter.error,
        "code": letter.code,
        "batch_id": letter.batch_id,
        "targeting_key": _ascii(event.targeting_key or ""),
        # Plain ASCII: whatever was refused about the event's own characters, these are stored.
        "event": json.dumps(fields, ensure_ascii=True, separators=(",", ":"), default=str),
    }


def _ascii(text: Any) -> str:
    return str(text).encode("utf-8", "backslashreplace").decode()


def newest_letters(tables: Tables) -> str:
    """Return the query for the newest ``{limit}`` dead letters, each event's latest."""
    return (
        f"SELECT sink, event, error, code, batch_id, at FROM {tables.dead_letters} "
        "ORDER BY at DESC, event_id DESC LIMIT 1 BY event LIMIT {limit:UInt64}"
    )


def letter_from(row: tuple[Any, ...]) -> DeadLetter:
    """Return the dead letter of a row of ``newest_letters``."""
    sink, text, error, code, batch_id, micros = row
    fields = json.loads(text)
    at = micros / _MICROSECONDS
    received_at, traceparent = fields.pop("received_at", at), fields.pop("traceparent", None)
    moment, reason = datetime.fromisoformat(fields.pop("timestamp")), as_reason(fields.pop("reason"))
    event = FlagEvaluationEvent(timestamp=moment, reason=reason, **fields)
    frozen = msgspec.structs.replace(Freezer().freeze(event), received_at=received_at, traceparent=traceparent)
    return DeadLetter(sink, frozen, error, code, batch_id, at)
