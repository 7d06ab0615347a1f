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

from .fields import FieldError, Fields, object_of, text_of

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


def adapt(record: Mapping[str, Any]) -> Fields:
    """Return the fields of an event."""
    get = record.get
    tracking = get("kind") == "tracking"
    failed = get("default") is True or get("default") == "true"
    source = get("source")
    extra = get("evaluationContext") if tracking else get("metadata")
    context = object_of("metadata", extra) if extra else {}
    for name in ("contextKind", "source"):
        if found := get(name):
            context[name] = found
    others: dict[str, Any] = {"kind": "outcome"} if tracking else {}
    if failed:
        others["error_type"] = "GENERAL"
    if version := get("version"):
        others["flag_version"] = text_of("version", version)
    return Fields(
        get("creationDate"),
        get("key"),
        get("trackingEventDetails") if tracking else get("value"),
        "ERROR" if failed else "CACHED" if source == "PROVIDER_CACHE" else None,
        get("variation"),
        get("userKey"),
        context,
        others,
    )
