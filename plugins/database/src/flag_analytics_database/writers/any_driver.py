"""Any other driver that SQLAlchemy knows for these databases: its own insert, with the same guarantees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flag_analytics.frozen import FrozenEvent
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from ..count_statements import adding, as_parameters
from ..counting import Cell, count
from ..rows import as_rows
from ..schema import Tables

__all__ = ["CoreWriter", "insert_once"]


class CoreWriter:
    """SQLAlchemy's insert of many rows in one transaction, skipping ids that are there."""

    def __init__(self, tables: Tables, family: str) -> None:
        self._statement = insert_once(tables.events, family)
        self._insert = tables.events.insert()
        self._add = adding(tables, family)

    async def write(self, connection: AsyncConnection, events: tuple[FrozenEvent, ...]) -> None:
        columns, rows = as_rows(events, str)
        await connection.execute(self._statement, [dict(zip(columns, row, strict=True)) for row in rows])
        await connection.commit()

    async def write_new(self, connection: AsyncConnection, events: tuple[FrozenEvent, ...]) -> None:
        await self.insert(connection, events, None)
        await self.add(connection, count(events))
        await connection.commit()

    async def insert(self, connection: AsyncConnection, events: tuple[FrozenEvent, ...], import_id: int | None) -> None:
        columns, rows = as_rows(events, str, import_id)
        rows.sort(key=lambda row: str(row[0]))
        await connection.execute(self._insert, [dict(zip(columns, row, strict=True)) for row in rows])

    async def add(self, connection: AsyncConnection, cells: Sequence[Cell]) -> None:
        if cells:
            await connection.execute(self._add, as_parameters(cells))


def insert_once(table: Any, family: str) -> Any:
    """Return an insert into ``table`` that leaves a row alone whose key is there already."""
    key = [column.name for column in table.primary_key]
    if family == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing(index_elements=key)
    if family == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing(index_elements=key)
    return mysql.insert(table).on_duplicate_key_update({key[0]: table.c[key[0]]})
