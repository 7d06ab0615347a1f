"""GO Feature Flag's exports in JSON Lines (its file, S3, … exporters with ``format: json``).

===================  =============================================================================================
GO Feature Flag      event
===================  =============================================================================================
``key``              ``flag_key``
``variation``        ``variant``
``value``            ``value``
``userKey``          ``targeting_key``
``creationDate``     ``timestamp``: seconds since the epoch in what it writes, milliseconds in what it documents;
                     told apart by size
``default``          true is a failed evaluation: reason ``ERROR``, error type ``GENERAL``
``source``           ``PROVIDER_CACHE`` is the reason ``CACHED``, any other no reason; kept as a context attribute
``version``          ``flag_version``
``contextKind``      context attribute
``metadata``         context attributes
===================  =============================================================================================

A line of kind ``tracking`` is an ``outcome``: its value is ``trackingEventDetails``, its context attributes those of
``evaluationContext``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flag_analytics.events import EvaluationReason, FlagEvaluationEvent

from .fields import FieldError, event_id_of, timestamp_of
from .json_lines import Fields, keep_unused, read_objects
from .lines import BadLine, Line, LineReader

__all__ = ["looks_like_goff", "read_goff"]

_PROVIDER = "GO Feature Flag"
_KNOWN = frozenset(
    {
        *("key", "variation", "value", "userKey", "creationDate", "default", "source", "version", "contextKind"),
        *("metadata", "kind", "trackingEventDetails", "evaluationContext"),
    }
)


def looks_like_goff(fields: Any) -> bool:
    """Return whether a decoded line has the fields that only GO Feature Flag's have."""
    return isinstance(fields, dict) and "creationDate" in fields and "key" in fields and "userKey" in fields


def read_goff(
    lines: LineReader, flag_key: str | None = None, unused_keys: set[str] | None = None
) -> Iterator[FlagEvaluationEvent | BadLine]:
    """Return the events of an export; ``flag_key`` is for lines that have none.

    Args:
        unused_keys: Takes the keys that are not among those above.
    """

    def event_of(line: Line, fields: Fields) -> FlagEvaluationEvent:
        if unused_keys is not None:
            keep_unused(fields, _KNOWN, unused_keys)
        return _event_of(line, fields, flag_key)

    return read_objects(lines, event_of)


def _event_of(line: Line, fields: Fields, flag_key: str | None) -> FlagEvaluationEvent:
    key = fields.get("key") or flag_key
    if not isinstance(key, str) or not key:
        raise FieldError("key is missing or not text")
    if "creationDate" not in fields:
        raise FieldError("creationDate is missing")
    timestamp = timestamp_of(fields["creationDate"])
    tracking = fields.get("kind") == "tracking"
    failed = fields.get("default") is True
    attributes = {
        **_object(fields, "evaluationContext" if tracking else "metadata"),
        **{name: fields[name] for name in ("contextKind", "source") if fields.get(name)},
    }
    return FlagEvaluationEvent(
        timestamp,
        key,
        fields.get("trackingEventDetails") if tracking else fields.get("value"),
        _reason(fields, failed),
        _text(fields, "variation"),
        _text(fields, "userKey"),
        attributes,
        event_id=event_id_of(timestamp, line.number, line.text, key),
        error_type="GENERAL" if failed else None,
        flag_version=_text(fields, "version"),
        provider_name=_PROVIDER,
        kind="outcome" if tracking else "evaluation",
    )


def _reason(fields: Fields, failed: bool) -> EvaluationReason:
    if failed:
        return EvaluationReason.ERROR
    return EvaluationReason.CACHED if fields.get("source") == "PROVIDER_CACHE" else EvaluationReason.UNKNOWN


def _text(fields: Fields, name: str) -> str | None:
    value = fields.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)  # versions and user keys are numbers in some exports
    if not isinstance(value, str):
        raise FieldError(f"{name} is not text")
    return value


def _object(fields: Fields, name: str) -> dict[str, Any]:
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise FieldError(f"{name} is not a JSON object")
    return value
