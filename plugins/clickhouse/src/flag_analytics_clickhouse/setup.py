"""Sets the tables up: migrations that may run twice and at once, and the retention that the options ask for."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from .connecting import Running
from .errors import SchemaTooNew
from .options import ClickHouseOptions
from .schema import DAY_MICROS, Tables

__all__ = ["DDL_SETTINGS", "PRUNED_BEFORE", "kept_since", "note", "read_state", "set_up"]

DDL_SETTINGS = {"alter_sync": "2", "mutations_sync": "2"}
"""Statements that change tables return when the change is made on every replica."""

PRUNED_BEFORE = "pruned_before"
"""Under this name: the time in microseconds before which events were removed, and are only in the rollups."""

_RETENTION = {"": "retention_days", "_counts": "rollup_retention_days", "_sketches": "rollup_retention_days"}
_NEVER = "never"

Rows = Callable[[str], Awaitable[Sequence[tuple[Any, ...]]]]
"""Returns the rows of a query."""


async def read_state(rows: Rows, tables: Tables) -> dict[str, str]:
    """Return what is known of the tables, by name; raise what ``rows`` raises, also where there are none."""
    sql = f"SELECT name, argMax(value, at) FROM {tables.state} GROUP BY name"
    return {name: value for name, value in await rows(sql)}  # noqa: C416 - rows are tuples of any length


async def set_up(connection: Running, options: ClickHouseOptions) -> None:
    """Create the tables, or bring them to the version of this release, and set their retention.

    Each statement may run again, in several processes at once: a start that was cut off goes on with the next one.

    Raises:
        SchemaTooNew: a later release made the tables.
    """
    tables = Tables.of(options)
    if not options.create_tables:
        _check_version(await read_state(connection.rows, tables), tables)
        return
    await connection.run(tables.create_database(), settings={"database": "default"})
    for statement in tables.create_state():
        await connection.run(statement, settings=DDL_SETTINGS)
    state = await read_state(connection.rows, tables)
    _check_version(state, tables)
    await _migrate(connection, tables, state)
    if state.get("window") != str(tables.window):
        for suffix in _RETENTION:
            await connection.run(tables.remember(suffix), settings=DDL_SETTINGS)
        await note(connection, tables, "window", str(tables.window))
    await _keep(connection, options, state)


async def _migrate(connection: Running, tables: Tables, state: Mapping[str, str]) -> None:
    done = int(state.get("schema", "0"))
    for version, statements in enumerate(tables.migrations(), start=1):
        if version > done:
            for statement in statements:
                await connection.run(statement, settings=DDL_SETTINGS)
            await note(connection, tables, "schema", str(version))


async def _keep(connection: Running, options: ClickHouseOptions, state: Mapping[str, str]) -> None:
    """Have rows go after as many days as the options say."""
    tables = Tables.of(options)
    for suffix, option in _RETENTION.items():
        days: int | None = getattr(options, option)
        name, wanted = f"kept{suffix}", _NEVER if days is None else str(days)
        if state.get(name, _NEVER) != wanted:
            if not suffix and (lost := kept_since(state)) is not None:
                await note(connection, tables, PRUNED_BEFORE, str(lost))
            await connection.run(tables.keep(suffix, days), settings=DDL_SETTINGS)
            await note(connection, tables, name, wanted)


def kept_since(state: Mapping[str, str]) -> int | None:
    """Return the start of the first day whose events are all there, in microseconds; None if none were removed."""
    removed = [int(state[PRUNED_BEFORE])] if PRUNED_BEFORE in state else []
    days = state.get("kept", _NEVER)
    if days != _NEVER:
        removed.append(time.time_ns() // 1_000 - int(days) * DAY_MICROS)
    return -(-max(removed) // DAY_MICROS) * DAY_MICROS if removed else None


def _check_version(state: dict[str, str], tables: Tables) -> None:
    """Raise ``SchemaTooNew`` where the tables are of a later version than this release knows."""
    known, found = len(tables.migrations()), int(state.get("schema", "0"))
    if found > known:
        raise SchemaTooNew(
            f"the tables have version {found} and this release knows {known}: update flag-analytics-clickhouse"
        )


async def note(connection: Running, tables: Tables, name: str, value: str) -> None:
    """Note something about the tables under a name."""
    sql = f"INSERT INTO {tables.state} SELECT {{name:String}}, {{value:String}}, {{at:Int64}}"
    await connection.run(sql, {"name": name, "value": value, "at": time.time_ns() // 1_000})
