"""Taking over a table made by litestar-flags, row by row and idempotently.

The old table is renamed, so that nothing can be added to it; its rows are copied in pages, each row under its old id;
once every id is found in the new table, the old one is dropped. Interrupted anywhere, it goes on from where it was.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from flag_analytics.events import FlagEvaluationEvent, as_reason
from flag_analytics.normal_form import Freezer, FrozenEvent
from sqlalchemy import Column, Connection, DateTime, MetaData, Table, exists, func, inspect, select
from sqlalchemy.types import NullType

from .errors import SchemaOutdated
from .rows import ALL_COLUMNS, as_rows
from .schema import Tables
from .writers.any_driver import insert_once

__all__ = ["PAGE_ROWS", "copy_next_page", "drop_when_complete", "looks_like_litestar_flags"]

PAGE_ROWS = 2_000

_THEIR_COLUMNS = frozenset(
    {
        "id",
        "timestamp",
        "flag_key",
        "value",
        "reason",
        "variant",
        "targeting_key",
        "context_attributes",
        "evaluation_duration_ms",
        "created_at",
    }
)


def looks_like_litestar_flags(columns: Collection[str]) -> bool:
    """Return whether a table with these columns is litestar-flags' own."""
    return set(columns) >= _THEIR_COLUMNS and "event_id" not in columns


def copy_next_page(connection: Connection, tables: Tables, family: str, after: Any) -> Any:
    """Copy the rows that follow the id ``after``; return the last one's id, or None when there are no more."""
    old = _old_table(tables)
    query = select(old).order_by(old.c.id).limit(PAGE_ROWS)
    if after is not None:
        query = query.where(old.c.id > after)
    page = connection.execute(query).mappings().all()
    if not page:
        return None
    freezer = Freezer()
    events = [_event(row, freezer) for row in page]
    columns, rows = as_rows(events, str)
    named = [dict(zip(columns, row, strict=True)) for row in rows]
    assert set(columns) <= set(ALL_COLUMNS)
    connection.execute(insert_once(tables.events, family), named)
    return page[-1]["id"]


def drop_when_complete(connection: Connection, tables: Tables) -> None:
    """Drop the old table if each of its ids is in the new one.

    Raises:
        SchemaOutdated: some are not; the old table stays as it is.
    """
    if not inspect(connection).has_table(tables.adopted_table, schema=tables.schema):
        return  # another worker was quicker
    old = _old_table(tables)
    taken_over = exists(select(tables.events.c.event_id).where(tables.events.c.event_id == old.c.id))
    missing = connection.execute(select(func.count()).select_from(old).where(~taken_over)).scalar_one()
    if missing:
        raise SchemaOutdated(f"{missing} rows of table {tables.adopted_table} are not taken over yet: run it again")
    old.drop(connection)


def _old_table(tables: Tables) -> Table:
    """Return the columns that are read. Ids and JSON come as the driver gives them: their types differ by database."""
    times = {name: Column(name, DateTime(timezone=True)) for name in ("timestamp", "created_at")}
    columns = [times.get(name, Column(name, NullType())) for name in sorted(_THEIR_COLUMNS)]
    return Table(tables.adopted_table, MetaData(schema=tables.schema), *columns)


def _event(row: Mapping[Any, Any], freezer: Freezer) -> FrozenEvent:
    event = FlagEvaluationEvent(
        _utc(row["timestamp"]),
        row["flag_key"],
        _value(row["value"]),
        as_reason(row["reason"]),
        row["variant"],
        row["targeting_key"],
        _decoded(row["context_attributes"]) or {},
        row["evaluation_duration_ms"] or 0.0,
        event_id=_id(row["id"]),
    )
    return msgspec.structs.replace(freezer.freeze(event), received_at=_utc(row["created_at"]).timestamp())


def _value(stored: Any) -> Any:
    """Return the evaluated value: litestar-flags keeps a dict as it is and wraps anything else in ``{"value": …}``."""
    stored = _decoded(stored)
    if isinstance(stored, dict) and stored.keys() == {"value"}:
        return stored["value"]
    return stored


def _decoded(stored: Any) -> Any:
    """Return JSON that the driver may or may not have decoded; at the top there is never a plain string."""
    return json.loads(stored) if isinstance(stored, str | bytes) else stored


def _id(stored: Any) -> str:
    if isinstance(stored, bytes | bytearray | memoryview):
        return str(uuid.UUID(bytes=bytes(stored)))
    return str(stored if isinstance(stored, uuid.UUID) else uuid.UUID(str(stored)))


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
