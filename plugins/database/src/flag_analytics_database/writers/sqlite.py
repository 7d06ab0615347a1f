"""SQLite: one statement for all rows of a batch, on the driver's own connection.

Measured beside it, per event in batches of 500 (raw drivers, same table and indexes): ``executemany`` between ``BEGIN``
and ``COMMIT`` 4.8 µs, this 3.7. Beside a thread that computes ``executemany`` takes 3 s for one batch and this 8 ms:
``sqlite3`` lets go of the interpreter for each step of a statement, and waits for it (5 ms, where another thread
computes) after each. The statement commits itself, so that the driver's thread is asked once instead of three times
and SQLite keeps no journal for the statement alone (1.2 µs). Wider pages, ``WITHOUT ROWID`` and narrower indexes gained
nothing; a table without any key or index would take 2.9 µs.

With counts there are several statements in a transaction. They are one call in the driver's thread: asked four times,
a batch of 100 took 0.3 ms more. And they are ``OR ROLLBACK``: a statement that may end alone has a journal of its own.
Together with that, counts add 1.2 µs to an event. Counted by triggers, row by row, they added 4 µs.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, cast

from flag_analytics.frozen import FrozenEvent
from sqlalchemy.ext.asyncio import AsyncConnection

from ..counting import CELL_COLUMNS, KEY_COLUMNS, Cell, count
from ..errors import IdsKnown
from ..rows import ALL_COLUMNS, IMPORT_COLUMNS, PLAIN_COLUMNS, as_rows, id_bytes
from ..schema import Tables
from ..sqlite_threads import in_its_thread

if TYPE_CHECKING:
    import aiosqlite

__all__ = ["MOST_ROWS", "OneStatementWriter"]

_TIMESTAMP = PLAIN_COLUMNS.index("timestamp")
_Statement = tuple[str, list[object]]

MOST_ROWS = 1_024
"""In one statement: prepared, it takes 1.5 KB for each row, and SQLite binds at most 32,766 values."""


class OneStatementWriter:
    """``INSERT … VALUES … ON CONFLICT (event_id) DO NOTHING`` with a target: a bare one would skip on any constraint.

    The connection must be in autocommit mode.
    """

    def __init__(self, tables: Tables) -> None:
        schema = f'"{tables.schema}".' if tables.schema else ""
        self._table = f'{schema}"{tables.name}"'
        self._counts = f'{schema}"{tables.counts.name}"'
        self._statements = {
            (columns, 2**power): self._insert(columns, 2**power)
            for columns in (PLAIN_COLUMNS, ALL_COLUMNS, IMPORT_COLUMNS)
            for power in range(MOST_ROWS.bit_length())
        }
        self._additions = {size: self._adding(size) for size in map(_size_for, range(1, MOST_ROWS + 1))}

    def _insert(self, columns: tuple[str, ...], count: int) -> str:
        row = f"({', '.join('?' * len(columns))})"
        return (
            f"INSERT OR ROLLBACK INTO {self._table} ({', '.join(columns)}) "  # noqa: S608 - checked identifiers
            f"VALUES {', '.join([row] * count)} ON CONFLICT (event_id) DO NOTHING"
        )

    async def write(self, connection: AsyncConnection, events: tuple[FrozenEvent, ...]) -> None:
        columns, rows = as_rows(events, id_bytes)
        raw = cast("aiosqlite.Connection", (await connection.get_raw_connection()).driver_connection)
        if len(rows) <= MOST_ROWS:
            await self._store_in_parts(raw, columns, rows)
            return
        try:
            # Takes the write lock at once: a transaction that starts by reading may be refused when it comes to write.
            await raw.execute("BEGIN IMMEDIATE")
            await self._store_in_parts(raw, columns, rows)
            await raw.commit()
        except BaseException:
            await raw.rollback()
            raise

    async def write_new(self, connection: AsyncConnection, events: tuple[FrozenEvent, ...]) -> None:
        columns, rows = as_rows(events, id_bytes)
        cells = count(events, [row[_TIMESTAMP] for row in rows])
        inserts, additions = list(self._inserts(columns, rows)), list(self._additions_of(cells))

        def store(connection: sqlite3.Connection) -> None:
            try:
                connection.execute("BEGIN IMMEDIATE")
                if sum(connection.execute(*insert).rowcount for insert in inserts) < len(rows):
                    raise IdsKnown
                for addition in additions:
                    connection.execute(*addition)
                connection.commit()
            except BaseException:
                connection.rollback()
                raise

        await in_its_thread((await connection.get_raw_connection()).driver_connection, store)

    async def insert(self, connection: AsyncConnection, events: tuple[FrozenEvent, ...], import_id: int | None) -> None:
        columns, rows = as_rows(events, id_bytes, import_id)
        raw = cast("aiosqlite.Connection", (await connection.get_raw_connection()).driver_connection)
        await self._store_in_parts(raw, columns, rows)

    async def add(self, connection: AsyncConnection, cells: Sequence[Cell]) -> None:
        raw = cast("aiosqlite.Connection", (await connection.get_raw_connection()).driver_connection)
        for addition in self._additions_of(cells):
            await raw.execute(*addition)

    async def _store_in_parts(
        self, raw: aiosqlite.Connection, columns: tuple[str, ...], rows: list[tuple[object, ...]]
    ) -> None:
        for insert in self._inserts(columns, rows):
            await raw.execute(*insert)

    def _inserts(self, columns: tuple[str, ...], rows: list[tuple[object, ...]]) -> Iterator[_Statement]:
        """Yield the statements for these rows, with their values."""
        for start in range(0, len(rows), MOST_ROWS):
            some = rows[start : start + MOST_ROWS]
            # Statements of few sizes are prepared, and kept by the driver. The last row fills the gap: it conflicts
            # with itself.
            size = 1 << (len(some) - 1).bit_length()
            some += some[-1:] * (size - len(some))
            yield self._statements[columns, size], list(chain.from_iterable(some))

    def _additions_of(self, cells: Sequence[Cell]) -> Iterator[_Statement]:
        """Yield the statements for these cells, with their values; the last one fills the gap with nothing."""
        for start in range(0, len(cells), MOST_ROWS):
            some = list(cells[start : start + MOST_ROWS])
            size = _size_for(len(some))
            nothing = (*some[-1][: len(KEY_COLUMNS)], 0, 0, 0, 0, *some[-1][-2:])
            some += [nothing] * (size - len(some))
            yield self._additions[size], list(chain.from_iterable(some))

    def _adding(self, count: int) -> str:
        row = f"({', '.join('?' * len(CELL_COLUMNS))})"
        sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in CELL_COLUMNS[len(KEY_COLUMNS) : -2])
        return (
            f"INSERT OR ROLLBACK INTO {self._counts} ({', '.join(CELL_COLUMNS)}) "  # noqa: S608 - checked identifiers
            f"VALUES {', '.join([row] * count)} ON CONFLICT ({', '.join(KEY_COLUMNS)}) DO UPDATE SET {sums}, "
            "first_event = min(first_event, excluded.first_event), last_event = max(last_event, excluded.last_event)"
        )


def _size_for(count: int) -> int:
    """Return the next number of three binary digits and zeros: few sizes, and none that is much larger."""
    step = 1 << max(0, (count - 1).bit_length() - 3)
    return -(-count // step) * step
