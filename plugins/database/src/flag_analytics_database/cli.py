"""``flag-analytics db upgrade`` and ``flag-analytics prune``: what operators do to the tables.

Imported by the command line only, which brings cyclopts. SQLAlchemy is imported when a command runs.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
from cyclopts import App, Parameter
from flag_analytics.config import Plan
from flag_analytics.errors import FlagAnalyticsError

from .names import DEFAULT_TABLE
from .options import DatabaseOptions

if TYPE_CHECKING:
    from .store import DatabaseStore

__all__ = ["add_commands"]

_FINE, _PROBLEM, _WRONG_USAGE = range(3)
_DAY_SECONDS = 86_400.0

_Url = Annotated[
    str | None,
    Parameter(name=["--connection-string", "--url"], help="The database, instead of the configured ones."),
]
_Config = Annotated[
    Path | None,
    Parameter(
        name="--config", env_var="FLAG_ANALYTICS_CONFIG", help="A configuration file, instead of the usual places."
    ),
]
_Table = Annotated[str, Parameter(name="--table", help="The table's name, with --connection-string.")]
_Schema = Annotated[str | None, Parameter(name="--schema", help="The table's schema, with --connection-string.")]
_Days = Annotated[
    float | None,
    Parameter(
        name="--days", help="Remove events older than this many days; by default each database's retention_days."
    ),
]


def add_commands(app: Any, read_plan: Callable[[Path | None], Plan]) -> None:
    """Add the commands to a cyclopts ``App``; they work with the databases of the plan that ``read_plan`` finds."""

    def upgrade(
        *,
        connection_string: _Url = None,
        config: _Config = None,
        table: _Table = DEFAULT_TABLE,
        schema: _Schema = None,
    ) -> int:
        """Create the tables, or bring them to the newest version; a table made by litestar-flags is taken over.

        Every row is kept. It can be interrupted and run again.
        """
        return _for_each(_upgrade, lambda: _chosen(read_plan, connection_string, config, table, schema))

    def prune(
        *,
        days: _Days = None,
        connection_string: _Url = None,
        config: _Config = None,
        table: _Table = DEFAULT_TABLE,
        schema: _Schema = None,
    ) -> int:
        """Remove old events from the configured databases, a small batch at a time."""
        if days is not None and not days > 0:
            sys.stderr.write("--days must be a number above 0\n")
            return _WRONG_USAGE
        return _for_each(
            lambda store: _prune(store, days), lambda: _chosen(read_plan, connection_string, config, table, schema)
        )

    db = App(name="db", help="Look after the tables of the database collector.")
    db.command(upgrade)
    app.command(db)
    app.command(prune)


async def _upgrade(store: DatabaseStore) -> str:
    from .setup import VERSION, State

    found = await store.upgrade()
    if found is State.READY:
        return f"is at version {VERSION} already"
    return f"brought to version {VERSION} (was: {found.value})"


async def _prune(store: DatabaseStore, days: float | None) -> str:
    kept = days if days is not None else store.options.retention_days
    if kept is None:
        return "kept everything: give --days, or set retention_days"
    if store.is_missing_file():
        return "nothing is stored here yet"
    gone = await store.prune(datetime.now(UTC) - timedelta(days=kept))
    return f"removed {gone:,} rows older than {kept:g} days"


def _for_each(
    work: Callable[[DatabaseStore], Awaitable[str]], choose: Callable[[], list[tuple[str, DatabaseOptions]]]
) -> int:
    """Do the work on each chosen database, say what came of it, and return the command's exit code."""
    try:
        databases = choose()
    except (FlagAnalyticsError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return _PROBLEM
    if not databases:
        sys.stderr.write("no database collector is configured: add [collectors.database] or give --connection-string\n")
        return _PROBLEM
    code = _FINE
    for name, options in databases:
        try:
            sys.stdout.write(f"{name}: {asyncio.run(_on_store(options, work))}\n")
        except (FlagAnalyticsError, ValueError) as error:
            sys.stderr.write(f"{name}: {error}\n")
            code = _PROBLEM
    return code


def _chosen(
    read_plan: Callable[[Path | None], Plan],
    connection_string: str | None,
    config: Path | None,
    table: str,
    schema: str | None,
) -> list[tuple[str, DatabaseOptions]]:
    """Return the databases to work on, by name."""
    if connection_string is not None:
        return [("database", DatabaseOptions(connection_string=connection_string, table=table, schema=schema))]
    return [(sink.name, sink.options) for sink in read_plan(config).sinks if isinstance(sink.options, DatabaseOptions)]


async def _on_store(options: DatabaseOptions, work: Callable[[DatabaseStore], Awaitable[str]]) -> str:
    from .store import DatabaseStore

    # An operator waits as long as it takes.
    store = DatabaseStore(attrs.evolve(options, query_timeout_seconds=_DAY_SECONDS))
    try:
        return await work(store)
    finally:
        await store.close_reading()
