"""GO Feature Flag's exports: JSON Lines, CSV without a header, Parquet, and the body of its webhook.

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

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .fields import FieldError, object_of

__all__ = ["CSV_HEADER", "PROVIDER", "adapt", "header_of", "unpack"]

PROVIDER = "GO Feature Flag"
CSV_HEADER = ("kind", "contextKind", "userKey", "creationDate", "key", "variation", "value", "default", "source")
"""The columns of its default CSV template; releases before 1.0 write no source."""


def header_of(cells: Sequence[str]) -> tuple[str, ...] | None:
    """Return the names of the columns where a first row is one of its CSV, which has no header."""
    if len(cells) in {8, 9} and cells[0] in {"feature", "tracking"} and cells[3].isdigit():
        return CSV_HEADER[: len(cells)]
    return None


def unpack(document: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """Return the events in the body of a webhook."""
    events = document["events"]
    if not isinstance(events, list) or not all(isinstance(event, Mapping) for event in events):
        raise FieldError("events is not a list of JSON objects")
    return events


def adapt(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an event."""
    tracking = record.get("kind") == "tracking"
    failed = record.get("default") is True or record.get("default") == "true"
    context = object_of("metadata", record.get("evaluationContext" if tracking else "metadata"))
    context |= {name: record[name] for name in ("contextKind", "source") if record.get(name)}
    cached = record.get("source") == "PROVIDER_CACHE"
    return {
        "timestamp": record.get("creationDate"),
        "flag_key": record.get("key"),
        "value": record.get("trackingEventDetails" if tracking else "value"),
        "reason": "ERROR" if failed else "CACHED" if cached else None,
        "variant": record.get("variation"),
        "targeting_key": record.get("userKey"),
        "context_attributes": context,
        "error_type": "GENERAL" if failed else None,
        "flag_version": record.get("version"),
        "kind": "outcome" if tracking else "evaluation",
    }
