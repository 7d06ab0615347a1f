"""Taking over a table made by litestar-flags: every row, under its own id.

The old table is renamed, so that nothing can be added to it, and events can be stored in the new one at once. Its rows
are moved in pages, each in one transaction; once it is empty, it is dropped. Interrupted anywhere, it goes on from
there.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from flag_analytics.errors import BadBatch
from flag_analytics.events import FlagEvaluationEvent, as_reason
from flag_analytics.freezer import Freezer
from flag_analytics.frozen import FrozenEvent
from flag_analytics.reports import DeadLetter
from sqlalchemy import Column, Connection, DateTime, MetaData, Table, inspect, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import NullType

from .count_statements import adding, as_parameters
from .counting import count
from .dead_letters import letter_row
from .errors import delivery_error
from .rollup_state import counted_now
from .rows import as_rows
from .schema import Tables
from .writers.any_driver import insert_once

__all__ = ["PAGE_ROWS", "looks_like_litestar_flags", "move_next_page"]

PAGE_ROWS = 2_000
_MOST_JSON_BYTES = 8 * 2**20
"""Half of what MySQL's MEDIUMTEXT holds, and below what its servers take in one packet."""

logger = logging.getLogger("flag_analytics.database")

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


def move_next_page(connection: Connection, tables: Tables, family: str, most_rows: int | None = None) -> bool:
    """Move the next rows, in the caller's transaction; drop the old table and return False when there are no more."""
    if not inspect(connection).has_table(tables.adopted_table, schema=tables.schema):
        return False  # another worker was quicker
    old = _old_table(tables)
    page = connection.execute(select(old).order_by(old.c.id).limit(most_rows or PAGE_ROWS)).mappings().all()
    if not page:
        old.drop(connection)
        return False
    freezer = Freezer()
    changed: list[str] = []
    events = [_event(row, freezer, changed) for row in page]
    if changed:
        logger.warning("%d rows of litestar-flags had to be changed to be taken over", len(changed))
    try:
        with connection.begin_nested():
            _insert(connection, tables, family, events)
    except DBAPIError as error:
        if not isinstance(delivery_error(error), BadBatch):
            raise
        _insert_one_by_one(connection, tables, family, events)
    connection.execute(old.delete().where(old.c.id <= page[-1]["id"]))
    return True


def _insert(connection: Connection, tables: Tables, family: str, events: Sequence[FrozenEvent]) -> None:
    column = tables.events.c.event_id
    known = set(connection.scalars(select(column).where(column.in_([event.event_id for event in events]))))
    new = [event for event in events if event.event_id not in known]
    if not new:
        return
    columns, rows = as_rows(new, str)
    connection.execute(tables.events.insert(), [dict(zip(columns, row, strict=True)) for row in rows])
    if counted_now(connection, tables):
        connection.execute(adding(tables, family), as_parameters(count(new)))


def _insert_one_by_one(connection: Connection, tables: Tables, family: str, events: Sequence[FrozenEvent]) -> None:
    """Store what the database takes; what it refuses (too wide for an index) becomes a dead letter."""
    for event in events:
        try:
            with connection.begin_nested():
                _insert(connection, tables, family, [event])
        except DBAPIError as error:
            refusal = delivery_error(error)
            if not isinstance(refusal, BadBatch):
                raise
            letter = DeadLetter("database", event, "BadBatch", refusal.code, "litestar-flags", time.time())
            connection.execute(insert_once(tables.dead_letters, family), [letter_row(letter)])
            logger.warning("a row of litestar-flags was refused (%s): it is a dead letter", refusal.code)


def _old_table(tables: Tables) -> Table:
    """Return the columns that are read. Ids and JSON come as the driver gives them: their types differ by database."""
    times = {name: Column(name, DateTime(timezone=True)) for name in ("timestamp", "created_at")}
    columns = [times.get(name, Column(name, NullType())) for name in sorted(_THEIR_COLUMNS)]
    return Table(tables.adopted_table, MetaData(schema=tables.schema), *columns)


def _event(row: Mapping[Any, Any], freezer: Freezer, changed: list[str]) -> FrozenEvent:
    """Return the event of a row, with value and context as they are, however large; note its id if it differs."""
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
    frozen = freezer.freeze(event)
    kept = msgspec.structs.replace(
        frozen,
        received_at=_utc(row["created_at"]).timestamp(),
        value_json=_unchanged(event.value, frozen.value_json),
        context_json=_unchanged(event.context_attributes, frozen.context_json),
    )
    if kept.thaw() != event:
        changed.append(event.event_id)
    return kept


def _unchanged(value: Any, normal: bytes) -> bytes:
    """Return JSON of a stored value as it is, where every database and reader takes it; else in canonical form."""
    if msgspec.json.decode(normal) == value:
        return normal
    try:
        data = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        readable = msgspec.json.decode(data) == value
    except (ValueError, RecursionError, msgspec.DecodeError):
        return normal
    return data if readable and len(data) <= _MOST_JSON_BYTES and b"\\u0000" not in data else normal


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
