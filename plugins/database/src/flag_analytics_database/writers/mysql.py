"""MySQL and MariaDB: one statement for a whole batch, over asyncmy or aiomysql alike."""

from __future__ import annotations

from typing import Any

from flag_analytics.frozen import FrozenEvent
from sqlalchemy.ext.asyncio import AsyncConnection

from ..rows import ALL_COLUMNS, IMPORT_COLUMNS, PLAIN_COLUMNS, as_rows
from ..schema import Tables

__all__ = ["ValuesWriter"]


class ValuesWriter:
    """``INSERT … VALUES (…), (…) ON DUPLICATE KEY UPDATE event_id = event_id``.

    Never ``INSERT IGNORE``, which also turns errors into warnings and would cut a long text silently. The ids travel
    as hexadecimal text, since not every version of every driver can bind bytes.
    """

    def __init__(self, tables: Tables) -> None:
        self._table = f"`{tables.schema}`.`{tables.name}`" if tables.schema else f"`{tables.name}`"
        self._heads = {
            columns: f"INSERT INTO {self._table} ({', '.join(f'`{column}`' for column in columns)}) VALUES "  # noqa: S608 - checked identifiers
            for columns in (PLAIN_COLUMNS, ALL_COLUMNS, IMPORT_COLUMNS)
        }
        self._values = {
            columns: f"(UNHEX(%s){', %s' * (len(columns) - 1)})"
            for columns in (PLAIN_COLUMNS, ALL_COLUMNS, IMPORT_COLUMNS)
        }

    async def write(self, connection: AsyncConnection, events: tuple[FrozenEvent, ...]) -> None:
        columns, rows = as_rows(events, _hexadecimal)
        raw: Any = (await connection.get_raw_connection()).driver_connection
        # One statement that commits itself: one round trip, and no transaction that an error could leave open.
        await raw.autocommit(True)
        await self._store(raw, columns, rows, " ON DUPLICATE KEY UPDATE event_id = event_id")

    async def insert(self, connection: AsyncConnection, events: tuple[FrozenEvent, ...], import_id: int) -> None:
        columns, rows = as_rows(events, _hexadecimal, import_id)
        raw: Any = (await connection.get_raw_connection()).driver_connection
        await self._store(raw, columns, rows, "")

    async def _store(self, raw: Any, columns: tuple[str, ...], rows: list[tuple[Any, ...]], on_conflict: str) -> None:
        # Two writers that insert the same ids in different orders would wait for each other.
        rows.sort(key=_by_id)
        statement = self._heads[columns] + ", ".join([self._values[columns]] * len(rows)) + on_conflict
        async with raw.cursor() as cursor:
            await cursor.execute(statement, [value for row in rows for value in row])


def _hexadecimal(event_id: str) -> str:
    digits = event_id.replace("-", "")
    if len(digits) != 32:  # UNHEX of anything else would be null
        raise ValueError("not a UUID")
    int(digits, 16)
    return digits


def _by_id(row: tuple[Any, ...]) -> str:
    return str(row[0])
