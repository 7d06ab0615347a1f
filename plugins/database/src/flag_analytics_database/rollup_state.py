"""How far the rollups of a set of tables go, by name in the table of their state; times in microseconds.

Counts are kept of everything that is written from the moment on when the row ``counted_since`` exists: by every
writer, whatever its own option ``rollups`` says, since counts that some of the writers keep would be too small.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from .counting import HOUR
from .schema import PRUNED_BEFORE, Tables
from .writers.any_driver import insert_once

__all__ = [
    "COUNTED_SINCE",
    "EVER",
    "NEVER",
    "PRUNED_BEFORE",
    "REBUILT_AT",
    "ROLLUPS_PRUNED_BEFORE",
    "SETTLING",
    "SWITCHED_ON_AT",
    "change_state",
    "counted_now",
    "drop_state",
    "follow",
    "is_complete",
    "is_counted",
    "keep_from_the_start",
    "least_hour",
    "read_state",
    "set_state",
    "state_query",
]

COUNTED_SINCE = "counted_since"
"""The counts are complete from this hour on: ``EVER`` for all time, ``NEVER`` before any was completed."""
SWITCHED_ON_AT = "switched_on_at"
"""When counts began to be kept in a table that may have held events; until a writer has made them complete."""
REBUILT_AT = "rebuilt_at"
"""The hours from here on are done in the rebuild that is under way, or was interrupted."""
SETTLING = "settling"
"""The rebuild that is under way began when every writer kept counts: it makes them complete for good."""
ROLLUPS_PRUNED_BEFORE = "rollups_pruned_before"
"""Counts and sketches before this hour have been removed."""

EVER = -(2**62)
NEVER = 2**62


def state_query(tables: Tables) -> Any:
    """Return the statement for (name, value) of each; no row where no rollups are kept."""
    columns = tables.rollup_state.c
    return select(columns.name, columns.value)


async def read_state(connection: AsyncConnection, tables: Tables) -> dict[str, int]:
    """Return the values by name, read in the caller's transaction; empty where no rollups are kept."""
    return await connection.run_sync(_state, tables)


def _state(connection: Connection, tables: Tables) -> dict[str, int]:
    return {row.name: int(row.value) for row in connection.execute(state_query(tables))}


def counted_now(connection: Connection, tables: Tables) -> bool:
    """``is_counted`` over a synchronous connection."""
    return COUNTED_SINCE in _state(connection, tables)


async def is_counted(connection: AsyncConnection, tables: Tables) -> bool:
    """Return whether counts are kept, in the caller's transaction."""
    return COUNTED_SINCE in await read_state(connection, tables)


def least_hour(state: Mapping[str, int]) -> int:
    """Return the first hour whose events are all there: counts of those before it cannot be made anew."""
    pruned = state.get(PRUNED_BEFORE, EVER)
    return max(-(-pruned // HOUR) * HOUR if pruned > EVER else EVER, state.get(ROLLUPS_PRUNED_BEFORE, EVER))


def is_complete(state: Mapping[str, int]) -> bool:
    """Return whether the counts know every event that is stored, but for those that rollups are not kept of."""
    return state.get(COUNTED_SINCE, NEVER) <= least_hour(state)


async def follow(connection: AsyncConnection, tables: Tables, family: str, *, switch_on: bool) -> dict[str, int]:
    """Return the state, which is empty if no counts are to be kept; ``switch_on`` lets them be. Ends the transaction.

    The connection commits its statements itself, or begins a transaction here.
    """
    state = await read_state(connection, tables)
    if COUNTED_SINCE not in state and switch_on:
        state |= {COUNTED_SINCE: NEVER, SWITCHED_ON_AT: _now()}
        await connection.execute(insert_once(tables.rollup_state, family).values(_rows(state)))
        await connection.commit()
    await connection.rollback()
    return state if COUNTED_SINCE in state else {}


def keep_from_the_start(connection: Connection, tables: Tables, family: str) -> None:
    """Let counts be kept in tables that are just being made, within the caller's transaction."""
    connection.execute(insert_once(tables.rollup_state, family).values(_rows({COUNTED_SINCE: EVER})))


async def set_state(connection: AsyncConnection, tables: Tables, family: str, name: str, value: int) -> None:
    """Set a value, in the caller's transaction."""
    state = tables.rollup_state
    await connection.execute(insert_once(state, family).values(_rows({name: value})))
    await connection.execute(update(state).where(state.c.name == name).values(value=value))


async def change_state(connection: AsyncConnection, tables: Tables, name: str, before: int, after: int) -> bool:
    """Change a value, in the caller's transaction, and return True if it is still what it was ``before``."""
    columns = tables.rollup_state.c
    is_it = (columns.name == name, columns.value == before)
    return bool((await connection.execute(update(tables.rollup_state).where(*is_it).values(value=after))).rowcount)


async def drop_state(connection: AsyncConnection, tables: Tables, *names: str) -> None:
    """Remove values, in the caller's transaction."""
    await connection.execute(delete(tables.rollup_state).where(tables.rollup_state.c.name.in_(names)))


def _rows(state: Mapping[str, int]) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in state.items()]


def _now() -> int:
    return int(time.time() * 1_000_000)
