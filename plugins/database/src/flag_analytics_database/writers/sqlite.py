"""SQLite: one prepared statement for all rows of a batch, on the driver's own connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from flag_analytics.normal_form import FrozenEvent
from sqlalchemy.ext.asyncio import AsyncConnection

from ..rows import ALL_COLUMNS, PLAIN_COLUMNS, as_rows, id_bytes
from ..schema import Tables

if TYPE_CHECKING:
    import aiosqlite

__all__ = ["ExecuteManyWriter"]


class ExecuteManyWriter:
    """``INSERT … ON CONFLICT (event_id) DO NOTHING`` with a target: a bare one would skip on any constraint."""

    def __init__(self, tables: Tables) -> None:
        schema = f'"{tables.schema}".' if tables.schema else ""
        self._statements = {
            columns: (
                f'INSERT INTO {schema}"{tables.name}" ({", ".join(columns)}) '  # noqa: S608 - checked identifiers
                f"VALUES ({', '.join('?' * len(columns))}) ON CONFLICT (event_id) DO NOTHING"
            )
            for columns in (PLAIN_COLUMNS, ALL_COLUMNS)
        }

    async def write(self, connection: AsyncConnection, events: tuple[FrozenEvent, ...]) -> None:
        columns, rows = as_rows(events, id_bytes)
        raw = cast("aiosqlite.Connection", (await connection.get_raw_connection()).driver_connection)
        try:
            # Takes the write lock at once: a transaction that starts by reading may be refused when it comes to write.
            await raw.execute("BEGIN IMMEDIATE")
            await raw.executemany(self._statements[columns], rows)
            await raw.commit()
        except BaseException:
            await raw.rollback()
            raise
