"""Our own JSON Lines: one ``FlagEvaluationEvent.to_dict()`` on each line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from flag_analytics.errors import EventError
from flag_analytics.events import FlagEvaluationEvent

from .csv_rows import FIELDS
from .fields import KINDS, FieldError, duration_of, event_id_of, sample_rate_of, timestamp_of
from .lines import BadLine, Line, LineReader

__all__ = ["Fields", "keep_unused", "read_json_lines", "read_objects"]

Fields = dict[str, Any]
_KNOWN = frozenset({*FIELDS, "dead_letter"})
"""What is under ``dead_letter`` says why an event was refused, and is no part of it."""
_MOST_UNUSED = 50
_LONGEST_UNUSED = 80
_decode = msgspec.json.Decoder().decode
_OPTIONAL_TEXTS = (
    "variant",
    "targeting_key",
    "event_id",
    "error_type",
    "error_message",
    "flag_version",
    "flag_set_id",
    "provider_name",
)


def read_json_lines(
    lines: LineReader, flag_key: str | None = None, unused_keys: set[str] | None = None
) -> Iterator[FlagEvaluationEvent | BadLine]:
    """Return the events of a file of our own; ``flag_key`` is for those that have none.

    Args:
        unused_keys: Takes the keys that events have no field for.
    """

    def event_of(line: Line, fields: Fields) -> FlagEvaluationEvent:
        if unused_keys is not None:
            keep_unused(fields, _KNOWN, unused_keys)
        if flag_key is not None:
            fields.setdefault("flag_key", flag_key)
        return _event_of(line, fields)

    return read_objects(lines, event_of)


def keep_unused(fields: Fields, known: frozenset[str], unused: set[str]) -> None:
    """Add the keys that are not known, as long as there are few, and of each no more than people would read."""
    for key in fields.keys() - known:
        if len(unused) < _MOST_UNUSED:
            unused.add(key[:_LONGEST_UNUSED])


def read_objects(
    lines: LineReader, event_of: Callable[[Line, Fields], FlagEvaluationEvent]
) -> Iterator[FlagEvaluationEvent | BadLine]:
    """Return what ``event_of`` makes of the JSON object on each line; blank lines are passed over."""
    for line in lines:
        if isinstance(line, BadLine):
            yield line
            continue
        if not line.text or line.text.isspace():
            continue
        try:
            fields = _decode(line.text)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            yield BadLine(line.number, line.number, "is not JSON")
            continue
        try:
            if not isinstance(fields, dict):
                raise FieldError("is not a JSON object")
            yield event_of(line, fields)
        except (FieldError, EventError) as problem:
            yield BadLine(line.number, line.number, str(problem))


def _event_of(line: Line, fields: Fields) -> FlagEvaluationEvent:
    flag_key = fields.get("flag_key")
    if not isinstance(flag_key, str) or not flag_key:
        raise FieldError("flag_key is missing or not text")
    fields["timestamp"] = timestamp = timestamp_of(fields.get("timestamp"))
    fields["reason"] = fields.get("reason") or "UNKNOWN"
    if not isinstance(fields["reason"], str):
        raise FieldError("reason is not text")
    fields.setdefault("value", None)
    if fields.get("context_attributes") is None:
        fields["context_attributes"] = {}
    elif not isinstance(fields["context_attributes"], dict):
        raise FieldError("context_attributes is not a JSON object")
    for name in _OPTIONAL_TEXTS:
        if not isinstance(fields.get(name), str | None):
            raise FieldError(f"{name} is not text")
    if not fields.get("event_id"):
        fields["event_id"] = event_id_of(timestamp, line.number, line.text, flag_key)
    fields["evaluation_duration_ms"] = duration_of(fields.get("evaluation_duration_ms") or 0.0)
    fields["sample_rate"] = sample_rate_of(fields.get("sample_rate", 1.0))
    if fields.setdefault("kind", "evaluation") not in KINDS:
        raise FieldError(f"kind is none of {', '.join(KINDS)}")
    return FlagEvaluationEvent.from_dict(fields)
