"""Refused events as rows of a table of their own, and back."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import msgspec
from flag_analytics.events import FlagEvaluationEvent, as_reason
from flag_analytics.freezer import Freezer
from flag_analytics.reports import DeadLetter

__all__ = ["letter_from", "letter_row"]

_MICROSECONDS = 1_000_000


def letter_row(letter: DeadLetter) -> dict[str, Any]:
    """Return the row of a dead letter, by column."""
    event = letter.event
    fields = msgspec.structs.asdict(event) | {"value": event.value, "context_attributes": event.context_attributes}
    for name in ("value_json", "context_json", "size"):
        fields.pop(name)
    fields["timestamp"] = event.timestamp.isoformat()
    return {
        "event_id": event.event_id,
        "at": int(letter.at * _MICROSECONDS),
        "sink": letter.sink,
        "error": letter.error,
        "code": letter.code,
        "batch_id": letter.batch_id,
        # Plain ASCII: whatever the database refused about the event's own characters, it takes these.
        "event": json.dumps(fields, ensure_ascii=True, separators=(",", ":")),
    }


def letter_from(row: Any) -> DeadLetter:
    """Return the dead letter of a row that ``letter_row`` made."""
    fields = json.loads(row.event)
    at = row.at / _MICROSECONDS
    received_at, traceparent = fields.pop("received_at", at), fields.pop("traceparent", None)
    moment, reason = datetime.fromisoformat(fields.pop("timestamp")), as_reason(fields.pop("reason"))
    event = FlagEvaluationEvent(timestamp=moment, reason=reason, **fields)
    frozen = msgspec.structs.replace(Freezer().freeze(event), received_at=received_at, traceparent=traceparent)
    return DeadLetter(row.sink, frozen, row.error, row.code, row.batch_id, at)
