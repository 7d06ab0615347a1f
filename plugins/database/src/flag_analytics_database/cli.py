"""``flag-analytics db …`` and ``flag-analytics prune``: what operators do to the tables.

Imported by the command line only, which brings cyclopts. SQLAlchemy is imported when a command runs. What goes wrong is
raised, for the command line to say it as it says everything, once every database was worked on.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import attrs
from cyclopts import App, CycloptsError, Parameter
from flag_analytics.config.plan import Plan
from flag_analytics.errors import FlagAnalyticsError

from .names import DEFAULT_TABLE
from .options import DatabaseOptions

if TYPE_CHECKING:
    from .rebuilding import Rebuilt
    from .store import DatabaseStore

__all__ = ["add_commands"]

_FINE = 0
_TELL_EVERY_SECONDS = 1.0
_UPGRADE_FIGURES = ("version", "before")
_PRUNE_FIGURES = ("removed", "older_than_days")
_REBUILD_FIGURES = ("corrected", "since")
_DRY_FIGURES = ("would_remove", "older_than_days")
_DAY_SECONDS = 86_400.0
_MOST_DAYS = 36_500.0

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
_Since = Annotated[
    datetime | None,
    Parameter(name="--since", help="Only the hours from this time on (UTC unless it says otherwise), as 2026-03-01."),
]
_DryRun = Annotated[
    bool, Parameter(name="--dry-run", negative=(), help="Remove nothing: say how many rows it would be.")
]
_Form = Literal["table", "json"]
_Format = Annotated[_Form, Parameter(name="--format", help="Lines for people, or json.")]


@attrs.frozen
class _Target:
    """A database to work on. ``named``: the user named it; otherwise it is the default one."""

    name: str
    options: DatabaseOptions
    named: bool


@attrs.frozen
class _Done:
    """What was done to a database: in words, and in figures by name."""

    words: str
    figures: Mapping[str, Any]


_Work = Callable[["DatabaseStore", _Target], Awaitable[_Done]]
_ReadPlan = Callable[[Path | None], Plan]


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class _Databases:
    """The databases to work on, and in which form to say what came of it."""

    connection_string: _Url = None
    config: _Config = None
    table: _Table = DEFAULT_TABLE
    schema: _Schema = None
    format: _Format = "table"

    def for_each(self, read_plan: _ReadPlan, work: _Work, figures: tuple[str, ...]) -> int:
        """Do the work on each database, say what came of it, and return the command's exit code.

        Args:
            read_plan: Finds the configuration.
            work: What to do.
            figures: The names of what ``work`` returns, which are null in JSON where it failed.

        Raises:
            FlagAnalyticsError: it could not be done on some of them; the message names each.
        """
        lines: list[dict[str, Any]] = []
        problems: list[str] = []
        for target in self._targets(read_plan):
            line: dict[str, Any] = {"name": target.name, **dict.fromkeys(figures), "problem": None}
            try:
                done = asyncio.run(_on_store(target, work))
            except (FlagAnalyticsError, ValueError) as error:
                line["problem"] = str(error)
                problems.append(f"{target.name}: {error}")
            else:
                line.update(done.figures)
                if self.format == "table":
                    sys.stdout.write(f"{target.name}: {done.words}\n")
            lines.append(line)
        if self.format == "json":
            json.dump({"databases": lines}, sys.stdout, indent=2)
            sys.stdout.write("\n")
        if problems:
            raise FlagAnalyticsError("; ".join(problems))
        return _FINE

    def _targets(self, read_plan: _ReadPlan) -> list[_Target]:
        """Return the databases to work on.

        Raises:
            CycloptsError: the command line names one in a way that makes no sense.
            FlagAnalyticsError: there is none, its driver is missing, or the configuration is wrong.
        """
        if self.connection_string is not None:
            try:
                options = DatabaseOptions(
                    connection_string=self.connection_string, table=self.table, schema=self.schema
                )
            except ValueError as error:
                raise CycloptsError(msg=str(error)) from None
            return [_Target("database", options, named=True)]
        if self.table != DEFAULT_TABLE or self.schema is not None:
            raise CycloptsError(msg="--table and --schema are about the database that --url names: add --url URL")
        targets = [
            _Target(sink.name, sink.options, named="connection_string" in sink.explicit)
            for sink in read_plan(self.config).sinks
            if isinstance(sink.options, DatabaseOptions)
        ]
        if not targets:
            raise FlagAnalyticsError(
                "no database collector is configured: add [collectors.database], or give --url URL"
            )
        return targets


_CONFIGURED = _Databases()


def add_commands(app: Any, read_plan: _ReadPlan) -> None:
    """Add the commands to a cyclopts ``App``; they work with the databases of the plan that ``read_plan`` finds."""

    def upgrade(databases: _Databases = _CONFIGURED) -> int:
        """Create the tables, or bring them to the newest version; a table made by litestar-flags is taken over.

        Every row is kept. It can be interrupted and run again.
        """
        return databases.for_each(read_plan, _upgrade, _UPGRADE_FIGURES)

    def prune(
        *,
        days: _Days = None,
        dry_run: _DryRun = False,
        databases: _Databases = _CONFIGURED,
    ) -> int:
        """Remove old events from the configured databases, a small batch at a time."""
        if days is not None and not 0 < days <= _MOST_DAYS:
            raise CycloptsError(
                msg=f"--days {days:g} is out of range: expected a number above 0, and at most {_MOST_DAYS:,.0f}"
            )
        figures = _DRY_FIGURES if dry_run else _PRUNE_FIGURES
        return databases.for_each(read_plan, lambda store, target: _prune(store, target, days, dry_run), figures)

    def rebuild(
        *,
        since: _Since = None,
        databases: _Databases = _CONFIGURED,
    ) -> int:
        """Count the stored events anew, beside the writing; counts are kept from now on if they were not.

        It can be interrupted, and goes on from there when it is run again.
        """
        return databases.for_each(read_plan, lambda store, target: _rebuild(store, target, since), _REBUILD_FIGURES)

    def compact(databases: _Databases = _CONFIGURED) -> int:
        """Make the summaries of finished days that fast answers are from, as is done beside the writing too."""
        return databases.for_each(read_plan, _compact, ("summaries",))

    def drop(databases: _Databases = _CONFIGURED) -> int:
        """Remove the rollups, and keep none any more; take the option rollups out of the configuration first."""
        return databases.for_each(read_plan, _drop, ("dropped",))

    db = App(name="db", help="Look after the tables of the database collector.")
    db.command(upgrade)
    rollup = App(name="rollup", help="Look after the rollups: counts and sketches of events.")
    rollup.command(rebuild)
    rollup.command(compact)
    rollup.command(drop)
    db.command(rollup)
    app.command(db)
    app.command(prune)


async def _upgrade(store: DatabaseStore, _: _Target) -> _Done:
    from .setup import VERSION, State

    found = await store.upgrade()
    figures = {"version": VERSION, "before": found.value}
    if found is State.READY:
        return _Done(f"is at version {VERSION} already", figures)
    return _Done(f"brought to version {VERSION} (was: {found.value})", figures)


async def _rebuild(store: DatabaseStore, target: _Target, since: datetime | None) -> _Done:
    from .rollup_state import NEVER
    from .rows import from_micros

    _refuse_missing_file(store)
    told = time.monotonic()

    def tell(rebuilt: Rebuilt) -> None:
        nonlocal told
        if not rebuilt.done and rebuilt.since < NEVER and time.monotonic() >= told + _TELL_EVERY_SECONDS:
            told = time.monotonic()
            sys.stderr.write(f"{target.name}: counted back to {from_micros(rebuilt.since):%Y-%m-%d %H:%M} UTC\n")

    first = since.replace(tzinfo=UTC) if since is not None and since.tzinfo is None else since
    corrected = await store.rebuild_counts(first, tell)
    cells = "count was missing or wrong" if corrected == 1 else "counts were missing or wrong"
    words = f"counted the events{'' if first is None else f' since {first:%Y-%m-%d %H:%M %Z}'}: {corrected:,} {cells}"
    return _Done(words, {"corrected": corrected, "since": None if first is None else first.isoformat()})


async def _compact(store: DatabaseStore, target: _Target) -> _Done:
    _refuse_missing_file(store)
    made, told = 0, time.monotonic()
    while some := await store.compact():
        made += some
        if time.monotonic() >= told + _TELL_EVERY_SECONDS:
            told = time.monotonic()
            sys.stderr.write(f"{target.name}: {made:,} summaries made\n")
    return _Done(f"made {made:,} {'summary' if made == 1 else 'summaries'}", {"summaries": made})


async def _drop(store: DatabaseStore, target: _Target) -> _Done:
    _refuse_missing_file(store)
    await store.drop_rollups()
    again = ", until the next writer: take rollups = true out of the configuration" if target.options.rollups else ""
    return _Done(f"removed the rollups{again}", {"dropped": True})


def _refuse_missing_file(store: DatabaseStore) -> None:
    if store.is_missing_file():
        raise FlagAnalyticsError(
            f"there is no database {store.engines.url.database}: expected the file that an application or "
            "`flag-analytics import` has made; is the path in its connection_string right?"
        )


async def _prune(store: DatabaseStore, target: _Target, days: float | None, dry_run: bool) -> _Done:
    figure = (_DRY_FIGURES if dry_run else _PRUNE_FIGURES)[0]
    kept = days if days is not None else target.options.retention_days
    if store.is_missing_file():
        if target.named:
            _refuse_missing_file(store)
        return _Done("nothing is stored here yet", {figure: 0, "older_than_days": kept})
    if kept is None:
        return _Done("kept everything: give --days, or set retention_days", {figure: 0, "older_than_days": None})
    before = datetime.now(UTC) - timedelta(days=kept)
    count = await (store.count_older(before) if dry_run else store.prune(before))
    rows = "row" if count == 1 else "rows"
    age = "1 day" if kept == 1 else f"{kept:g} days"
    done = "would remove" if dry_run else "removed"
    return _Done(f"{done} {count:,} {rows} older than {age}", {figure: count, "older_than_days": kept})


async def _on_store(target: _Target, work: _Work) -> _Done:
    from .store import DatabaseStore

    # An operator waits as long as it takes.
    store = DatabaseStore(attrs.evolve(target.options, query_timeout_seconds=_DAY_SECONDS))
    try:
        return await work(store, target)
    finally:
        await store.close_reading()
