"""PostgreSQL over asyncpg: binary COPY, and an insert that skips what is there where COPY meets a known id."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from flag_analytics.errors import SinkUnavailable
from flag_analytics.frozen import FrozenEvent
from sqlalchemy.ext.asyncio import AsyncConnection

from ..counting import CELL_COLUMNS, KEY_COLUMNS, Cell, count
from ..rows import ALL_COLUMNS, PLAIN_COLUMNS, as_rows
from ..schema import Tables

__all__ = ["CopyWriter"]

_ID_IS_KNOWN = "23505"
_TYPE_HAS_CHANGED = ("22P03", "08P01")
"""Too many or too few bytes for a column that was changed since this connection looked at the table."""
_by_id = itemgetter(0)
_TYPES = {
    "event_id": "uuid",
    "timestamp": "int8",
    "received_at": "int8",
    "kind": "int2",
    "evaluation_duration_ms": "float8",
    "sample_rate": "float8",
}
_TIMESTAMP = PLAIN_COLUMNS.index("timestamp")
_FEW = 200
"""A batch with its counts is one statement up to so many events: one round trip in place of four, and slower rows."""
_JSON = frozenset({"value", "context_attributes"})


class CopyWriter:
    """One ``COPY`` for each batch, which is its own transaction: a single round trip.

    ``COPY`` has no conflict clause: where an id is stored already (an earlier attempt was committed and its answer
    lost, or two events share an id) the whole batch is refused, and is stored by ``INSERT … ON CONFLICT`` instead.
    """

    def __init__(self, tables: Tables) -> None:
        self._table = tables.name
        self._schema = tables.schema
        # On a partitioned table the time is a part of the key. An id is made with its event: it has one time only.
        target = ", ".join(column.name for column in tables.events.primary_key)
        self._add = _adding(tables, "SELECT * FROM unnest({arrays})", 1)
        self._at_once = {columns: _storing(tables, columns) for columns in (PLAIN_COLUMNS, ALL_COLUMNS)}
        self._inserts = {columns: _insert(tables, columns, target) for columns in (PLAIN_COLUMNS, ALL_COLUMNS)}

    async def write(self, connection: AsyncConnection, events: tuple[FrozenEvent, ...]) -> None:
        columns, rows = as_rows(events, str)
        raw: Any = (await connection.get_raw_connection()).driver_connection
        try:
            await raw.copy_records_to_table(self._table, records=rows, columns=columns, schema_name=self._schema)
        except Exception as error:
            if getattr(error, "sqlstate", None) not in {_ID_IS_KNOWN, *_TYPE_HAS_CHANGED}:
                raise
            # Two writers that insert the same ids in different orders would wait for each other.
            rows.sort(key=_by_id)
            await raw.execute(self._inserts[columns], *map(list, zip(*rows, strict=True)))

    async def write_new(self, connection: AsyncConnection, events: tuple[FrozenEvent, ...]) -> None:
        columns, rows = as_rows(events, str)
        cells = count(events, [row[_TIMESTAMP] for row in rows])
        raw: Any = (await connection.get_raw_connection()).driver_connection
        if cells and len(rows) <= _FEW:
            rows.sort(key=_by_id)
            arrays = (list(column) for part in (rows, cells) for column in zip(*part, strict=True))
            await raw.execute(self._at_once[columns], *arrays)
            return
        transaction = raw.transaction()
        await transaction.start()
        try:
            await self._copy(raw, columns, rows)
            await self._add_to(raw, cells)
        except Exception:  # a cancelled one is not asked to roll back: a silent server would not answer
            with contextlib.suppress(Exception):
                await transaction.rollback()
            raise
        await transaction.commit()

    async def insert(self, connection: AsyncConnection, events: tuple[FrozenEvent, ...], import_id: int | None) -> None:
        columns, rows = as_rows(events, str, import_id)
        await self._copy((await connection.get_raw_connection()).driver_connection, columns, rows)

    async def add(self, connection: AsyncConnection, cells: Sequence[Cell]) -> None:
        await self._add_to((await connection.get_raw_connection()).driver_connection, cells)

    async def _copy(self, raw: Any, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
        # Two writers that insert the same ids in different orders would wait for each other.
        rows.sort(key=_by_id)
        try:
            await raw.copy_records_to_table(self._table, records=rows, columns=columns, schema_name=self._schema)
        except Exception as error:
            if getattr(error, "sqlstate", None) in _TYPE_HAS_CHANGED:
                raise SinkUnavailable("a column has changed: a new connection is needed", code="schema") from None
            raise

    async def _add_to(self, raw: Any, cells: Sequence[Cell]) -> None:
        if cells:
            await raw.execute(self._add, *map(list, zip(*cells, strict=True)))


def _insert(tables: Tables, columns: tuple[str, ...], target: str) -> str:
    return f"{_inserting(tables, columns)} ON CONFLICT ({target}) DO NOTHING"


def _inserting(tables: Tables, columns: tuple[str, ...]) -> str:
    table = f'"{tables.schema}"."{tables.name}"' if tables.schema else f'"{tables.name}"'
    names = ", ".join(f'"{column}"' for column in columns)
    values = ", ".join(f'"{column}"::json' if column in _JSON else f'"{column}"' for column in columns)
    arrays = ", ".join(f"${number}::{_TYPES.get(column, 'text')}[]" for number, column in enumerate(columns, 1))
    return f"INSERT INTO {table} ({names}) SELECT {values} FROM unnest({arrays}) AS given ({names})"  # noqa: S608 - checked identifiers


def _storing(tables: Tables, columns: tuple[str, ...]) -> str:
    """Return the statement for a batch and its counts, which locks cells once all events are stored."""
    source = "SELECT * FROM unnest({arrays}) WHERE (SELECT count(*) FROM stored) > 0"
    return f"WITH stored AS ({_inserting(tables, columns)} RETURNING 1) {_adding(tables, source, len(columns) + 1)}"


def _adding(tables: Tables, source: str, first: int) -> str:
    table = f'"{tables.schema}"."{tables.counts.name}"' if tables.schema else f'"{tables.counts.name}"'
    names, keys = ", ".join(CELL_COLUMNS), ", ".join(KEY_COLUMNS)
    arrays = ", ".join(
        f"${number}::{'text' if name in KEY_COLUMNS[1:] else 'int8'}[]"
        for number, name in enumerate(CELL_COLUMNS, first)
    )
    sums = ", ".join(f"{name} = counts.{name} + excluded.{name}" for name in CELL_COLUMNS[len(KEY_COLUMNS) : -2])
    return (
        f"INSERT INTO {table} AS counts ({names}) {source.format(arrays=arrays)} "
        f"ON CONFLICT ({keys}) DO UPDATE SET {sums}, "
        "first_event = least(counts.first_event, excluded.first_event), "
        "last_event = greatest(counts.last_event, excluded.last_event)"
    )
