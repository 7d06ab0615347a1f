"""``flag-analytics clickhouse``: what operators do to the tables. Imported by the command line only."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import attrs
from cyclopts import App, CycloptsError, Parameter
from flag_analytics.config.plan import Plan
from flag_analytics.errors import FlagAnalyticsError

from .options import ClickHouseOptions

if TYPE_CHECKING:
    from .store import ClickHouseStore

__all__ = ["add_commands"]

_DAY_SECONDS = 86_400.0
_MOST_DAYS = 36_500.0

_Config = Annotated[
    Path | None,
    Parameter(
        name="--config", env_var="FLAG_ANALYTICS_CONFIG", help="A configuration file, instead of the usual places."
    ),
]
_Days = Annotated[
    float | None,
    Parameter(
        name="--days",
        help="Remove events older than this many days instead of retention_days; the rollups keep their figures.",
    ),
]
_DryRun = Annotated[
    bool, Parameter(name="--dry-run", negative=(), help="Remove nothing: say how many rows it would be.")
]
_Form = Literal["table", "json"]
_Format = Annotated[_Form, Parameter(name="--format", help="Lines for people, or json.")]

_Work = Callable[["ClickHouseStore"], Awaitable[tuple[str, Mapping[str, Any]]]]
"""Does something to a store; returns it in words, and in figures by name."""


def add_commands(app: Any, read_plan: Callable[[Path | None], Plan]) -> None:
    """Add the commands to a cyclopts ``App``; they work with the servers of the plan that ``read_plan`` finds."""

    def upgrade(*, config: _Config = None, format: _Format = "table") -> int:  # noqa: A002 - it is the option's name
        """Create the tables, or bring them to the newest version. It can be interrupted and run again."""
        return _for_each(read_plan(config), _upgrade, format, create_tables=True)

    def prune(
        *,
        days: _Days = None,
        dry_run: _DryRun = False,
        config: _Config = None,
        format: _Format = "table",  # noqa: A002 - it is the option's name
    ) -> int:
        """Remove old events at once, where retention_days would in its own time."""
        if days is not None and not 0 < days <= _MOST_DAYS:
            raise CycloptsError(
                msg=f"--days {days:g} is out of range: expected a number above 0, and at most {_MOST_DAYS:,.0f}"
            )
        return _for_each(read_plan(config), lambda store: _prune(store, days, dry_run), format)

    commands = App(name="clickhouse", help="Look after the tables of the ClickHouse collector.")
    commands.command(upgrade)
    commands.command(prune)
    app.command(commands)


async def _upgrade(store: ClickHouseStore) -> tuple[str, Mapping[str, Any]]:
    await store.ask("SELECT 1")
    version = len(store.tables.migrations())
    return f"is at version {version}", {"version": version}


async def _prune(store: ClickHouseStore, days: float | None, dry_run: bool) -> tuple[str, Mapping[str, Any]]:
    figure, done = ("would_remove", "would remove") if dry_run else ("removed", "removed")
    kept = days if days is not None else store.options.retention_days
    if kept is None:
        return "kept everything: give --days, or set retention_days", {figure: 0, "older_than_days": None}
    before = datetime.now(UTC) - timedelta(days=kept)
    count = await (store.count_older(before) if dry_run else store.prune(before))
    rows = "row" if count == 1 else "rows"
    age = "1 day" if kept == 1 else f"{kept:g} days"
    return f"{done} {count:,} {rows} older than {age}", {figure: count, "older_than_days": kept}


def _for_each(plan: Plan, work: _Work, form: _Form, **changes: Any) -> int:
    """Do the work on each configured server, say what came of it, and return the command's exit code.

    Raises:
        FlagAnalyticsError: none is configured, or it could not be done on some of them; the message names each.
    """
    sinks = [(sink.name, sink.options) for sink in plan.sinks if isinstance(sink.options, ClickHouseOptions)]
    if not sinks:
        raise FlagAnalyticsError("no ClickHouse collector is configured: add [collectors.clickhouse]")
    lines: list[dict[str, Any]] = []
    problems: list[str] = []
    for name, options in sinks:
        try:
            words, figures = asyncio.run(_on_store(attrs.evolve(options, **changes), work))
        except FlagAnalyticsError as error:
            lines.append({"name": name, "problem": str(error)})
            problems.append(f"{name}: {error}")
            continue
        lines.append({"name": name, **figures, "problem": None})
        if form == "table":
            sys.stdout.write(f"{name}: {words}\n")
    if form == "json":
        json.dump({"servers": lines}, sys.stdout, indent=2)
        sys.stdout.write("\n")
    if problems:
        raise FlagAnalyticsError("; ".join(problems))
    return 0


async def _on_store(options: ClickHouseOptions, work: _Work) -> tuple[str, Mapping[str, Any]]:
    from .store import ClickHouseStore

    # An operator waits as long as it takes.
    store = ClickHouseStore(attrs.evolve(options, query_timeout_seconds=_DAY_SECONDS))
    try:
        return await work(store)
    finally:
        await store.close()
