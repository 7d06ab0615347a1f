"""Taking over a table made by litestar-flags: every row, under its own id.

The old table is renamed, so that nothing can be added to it, and events can be stored in the new one at once. Its rows
are moved in pages, each in one transaction; once it is empty, it is dropped. Interrupted anywhere, it goes on from
there.
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
from sqlalchemy import Column, Connection, DateTime, MetaData, Table, inspect, select
from sqlalchemy.types import NullType

from .rows import as_rows
from .schema import Tables
from .writers.any_driver import insert_once

__all__ = ["PAGE_ROWS", "looks_like_litestar_flags", "move_next_page"]

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


def move_next_page(connection: Connection, tables: Tables, family: str) -> bool:
    """Move the next rows, in the caller's transaction; drop the old table and return False when there are no more."""
    if not inspect(connection).has_table(tables.adopted_table, schema=tables.schema):
        return False  # another worker was quicker
    old = _old_table(tables)
    page = connection.execute(select(old).order_by(old.c.id).limit(PAGE_ROWS)).mappings().all()
    if not page:
        old.drop(connection)
        return False
    freezer = Freezer()
    columns, rows = as_rows([_event(row, freezer) for row in page], str)
    connection.execute(insert_once(tables.events, family), [dict(zip(columns, row, strict=True)) for row in rows])
    connection.execute(old.delete().where(old.c.id <= page[-1]["id"]))
    return True


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
