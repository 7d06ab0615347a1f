"""Sets the tables up: migrations that may run twice and at once, and the retention that the options ask for."""

from __future__ import annotations

import time

from .connecting import Running
from .errors import SchemaTooNew
from .options import ClickHouseOptions
from .schema import Tables

__all__ = ["DDL_SETTINGS", "read_state", "set_up"]

DDL_SETTINGS = {"alter_sync": "2", "mutations_sync": "2"}
"""Statements that change tables return when the change is made on every replica."""

_RETENTION = {"": "retention_days", "_counts": "rollup_retention_days", "_sketches": "rollup_retention_days"}
_NEVER = "never"


async def read_state(connection: Running, tables: Tables) -> dict[str, str]:
    """Return what is known of the tables, by name; raise what the client raises, also where there are none."""
    sql = f"SELECT name, argMax(value, at) FROM {tables.state} GROUP BY name"  # noqa: S608 - names are checked
    return {name: value for name, value in await connection.rows(sql)}  # noqa: C416 - rows are tuples of any length


async def set_up(connection: Running, options: ClickHouseOptions) -> None:
    """Create the tables, or bring them to the version of this release, and set their retention.

    Each statement may run again, in several processes at once: a start that was cut off goes on with the next one.

    Raises:
        SchemaTooNew: a later release made the tables.
    """
    tables = Tables.of(options)
    if not options.create_tables:
        check_version(await read_state(connection, tables), tables)
        return
    await connection.run(tables.create_database(), settings={"database": "default"})
    migrations = tables.migrations()
    for statement in migrations[0][: 2 if tables.cluster else 1]:
        await connection.run(statement, settings=DDL_SETTINGS)
    state = await read_state(connection, tables)
    check_version(state, tables)
    done = int(state.get("schema", "0"))
    for version, statements in enumerate(migrations, start=1):
        if version > done:
            for statement in statements:
                await connection.run(statement, settings=DDL_SETTINGS)
            await _note(connection, tables, "schema", str(version))
            await _note(connection, tables, "window", str(tables.window))
            state["window"] = str(tables.window)
    if state.get("window") != str(tables.window):
        for suffix in _RETENTION:
            await connection.run(tables.remember(suffix), settings=DDL_SETTINGS)
        await _note(connection, tables, "window", str(tables.window))
    for suffix, option in _RETENTION.items():
        days: int | None = getattr(options, option)
        name, wanted = f"kept{suffix}", _NEVER if days is None else str(days)
        if state.get(name, _NEVER) != wanted:
            await connection.run(tables.keep(suffix, days), settings=DDL_SETTINGS)
            await _note(connection, tables, name, wanted)


def check_version(state: dict[str, str], tables: Tables) -> None:
    """Raise ``SchemaTooNew`` where the tables are of a later version than this release knows."""
    known, found = len(tables.migrations()), int(state.get("schema", "0"))
    if found > known:
        raise SchemaTooNew(
            f"the tables have version {found} and this release knows {known}: update flag-analytics-clickhouse"
        )


async def _note(connection: Running, tables: Tables, name: str, value: str) -> None:
    sql = f"INSERT INTO {tables.state} SELECT {{name:String}}, {{value:String}}, {{at:Int64}}"
    await connection.run(sql, {"name": name, "value": value, "at": time.time_ns() // 1_000})
