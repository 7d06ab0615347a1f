"""How far the rollups of a set of tables go, by name in the table of their state; times in microseconds.

Counts are kept of everything that is written from the moment on when the row ``counted_since`` exists: by every
writer, whatever its own option ``rollups`` says, since counts that some of the writers keep would be too small.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Connection, Executable, select
from sqlalchemy.ext.asyncio import AsyncConnection

from .schema import Tables
from .writers.any_driver import insert_once

__all__ = [
    "COUNTED_SINCE",
    "EVER",
    "NEVER",
    "SWITCHED_ON_AT",
    "counted_now",
    "follow",
    "is_counted",
    "keep_from_the_start",
    "read_state",
]

COUNTED_SINCE = "counted_since"
"""The counts are complete from this hour on: ``EVER`` for all time, ``NEVER`` before any was completed."""
SWITCHED_ON_AT = "switched_on_at"
"""When counts began to be kept in a table that held events, or could have held some."""

EVER = -(2**62)
NEVER = 2**62


def _state_query(tables: Tables) -> Executable:
    return select(tables.rollup_state.c.name, tables.rollup_state.c.value)


async def read_state(connection: AsyncConnection, tables: Tables) -> dict[str, int]:
    """Return the values by name, read in the caller's transaction; empty where no rollups are kept."""
    return {row.name: int(row.value) for row in await connection.execute(_state_query(tables))}


def counted_now(connection: Connection, tables: Tables) -> bool:
    """``is_counted`` over a synchronous connection."""
    return COUNTED_SINCE in {row.name for row in connection.execute(_state_query(tables))}


async def is_counted(connection: AsyncConnection, tables: Tables) -> bool:
    """Return whether counts are kept, in the caller's transaction."""
    return await connection.run_sync(counted_now, tables)


async def follow(connection: AsyncConnection, tables: Tables, family: str, *, switch_on: bool) -> bool:
    """Return whether counts are to be kept; with ``switch_on`` they are from now on. Ends the transaction."""
    kept = await is_counted(connection, tables)
    if not kept and switch_on:
        await connection.execute(_switching_on(tables, family, NEVER))
        await connection.commit()
    await connection.rollback()
    return kept or switch_on


def keep_from_the_start(connection: Connection, tables: Tables, family: str) -> None:
    """Let counts be kept in tables that are just being made, within the caller's transaction."""
    connection.execute(_switching_on(tables, family, EVER))


def _switching_on(tables: Tables, family: str, counted_since: int) -> Any:
    now = int(time.time() * 1_000_000)
    values = {COUNTED_SINCE: counted_since, SWITCHED_ON_AT: now}
    return insert_once(tables.rollup_state, family).values(
        [{"name": name, "value": value} for name, value in values.items()]
    )
