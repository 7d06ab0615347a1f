"""MySQL and MariaDB: one statement for a whole batch, over asyncmy or aiomysql alike."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from flag_analytics.frozen import FrozenEvent
from sqlalchemy.ext.asyncio import AsyncConnection

from ..counting import CELL_COLUMNS, KEY_COLUMNS, Cell, count
from ..rows import ALL_COLUMNS, IMPORT_COLUMNS, PLAIN_COLUMNS, as_rows
from ..schema import Tables

__all__ = ["ValuesWriter"]

_CELL = f"({', '.join(['%s'] * len(CELL_COLUMNS))})"


class ValuesWriter:
    """``INSERT … VALUES (…), (…) ON DUPLICATE KEY UPDATE event_id = event_id``.

    Never ``INSERT IGNORE``, which also turns errors into warnings and would cut a long text silently. The ids travel
    as hexadecimal text, since not every version of every driver can bind bytes.
    """

    def __init__(self, tables: Tables) -> None:
        self._table = f"`{tables.schema}`.`{tables.name}`" if tables.schema else f"`{tables.name}`"
        counts = f"`{tables.schema}`.`{tables.counts.name}`" if tables.schema else f"`{tables.counts.name}`"
        self._add = f"INSERT INTO {counts} ({', '.join(CELL_COLUMNS)}) VALUES "  # noqa: S608 - checked identifiers
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

    async def write_new(self, connection: AsyncConnection, events: tuple[FrozenEvent, ...]) -> None:
        raw: Any = (await connection.get_raw_connection()).driver_connection
        await raw.autocommit(False)
        try:
            await self.insert(connection, events, None)
            await self.add(connection, count(events))
        except Exception:  # a cancelled one is not asked to roll back: a silent server would not answer
            with contextlib.suppress(Exception):
                await raw.rollback()
            raise
        await raw.commit()

    async def insert(self, connection: AsyncConnection, events: tuple[FrozenEvent, ...], import_id: int | None) -> None:
        columns, rows = as_rows(events, _hexadecimal, import_id)
        raw: Any = (await connection.get_raw_connection()).driver_connection
        await self._store(raw, columns, rows, "")

    async def add(self, connection: AsyncConnection, cells: Sequence[Cell]) -> None:
        if not cells:
            return
        is_mariadb = getattr(connection.dialect, "is_mariadb", False)  # which alone knows VALUES() for good
        raw: Any = (await connection.get_raw_connection()).driver_connection
        rows = ", ".join([_CELL] * len(cells))
        statement = f"{self._add}{rows}{'' if is_mariadb else ' AS given'} ON DUPLICATE KEY UPDATE {_sums(is_mariadb)}"
        async with raw.cursor() as cursor:
            await cursor.execute(statement, [value for cell in cells for value in cell])

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


@lru_cache
def _sums(is_mariadb: bool) -> str:
    def given(name: str) -> str:
        return f"VALUES({name})" if is_mariadb else f"given.{name}"

    sums = [f"{name} = {name} + {given(name)}" for name in CELL_COLUMNS[len(KEY_COLUMNS) : -2]]
    sums.append(f"first_event = least(first_event, {given('first_event')})")
    sums.append(f"last_event = greatest(last_event, {given('last_event')})")
    return ", ".join(sums)


def _by_id(row: tuple[Any, ...]) -> str:
    return str(row[0])
