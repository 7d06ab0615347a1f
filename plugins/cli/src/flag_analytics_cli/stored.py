"""Reports of what a backend has stored, and of files that are only read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flag_analytics.aggregator import AnalyticsAggregator
from flag_analytics.errors import SourceError
from flag_analytics.pipeline import open_pipeline
from flag_analytics.protocols import Window

from .figures import Report, gather
from .importing import EventFile, ImportReport, read_file, say_bad_lines, say_unused_columns
from .settings import DATABASE_FILE, chosen_plan, is_embedded, keeps_events
from .tallies import TallySource
from .terminal import note
from .wording import counted

__all__ = ["file_report", "stored_report"]


def stored_report(config: Path | None, flags: Sequence[str], window_seconds: float | None) -> Report:
    """Return the report of what the configured backends have stored.

    Raises:
        SourceError: none of them outlives a command and can be asked.
    """
    plan = chosen_plan(config)
    if not keeps_events(plan):
        raise SourceError(
            "no backend is configured that keeps events after the process that recorded them: add one, such as "
            "[collectors.database], or report on a file with --file FILE"
        )
    if is_embedded(plan) and not Path(DATABASE_FILE).exists():
        # To ask a database that is not there would create it.
        note("nothing is stored here yet: try `flag-analytics demo`, or `flag-analytics import FILE`")
        return asyncio.run(_ask(_tallies(window_seconds), flags, window_seconds))

    async def ask() -> Report:
        async with open_pipeline(plan) as pipeline:
            return await gather(pipeline.aggregator, flags, window_seconds)

    return asyncio.run(ask())


def file_report(
    file: EventFile, flags: Sequence[str], window_seconds: float | None, *, strict: bool = False
) -> tuple[Report, int]:
    """Return the report of a file, and how many of its lines are no events. Nothing is stored.

    Raises:
        OSError, FileError: the file cannot be read.
    """
    source = _tallies(window_seconds)
    outcome = ImportReport()
    try:
        read_file(file, source.record, outcome, strict=strict)
    finally:
        say_bad_lines(file.name, outcome)
    say_unused_columns(file.name, outcome)
    return asyncio.run(_ask(source, flags, window_seconds)), outcome.bad_lines


def _tallies(window_seconds: float | None) -> TallySource:
    now = datetime.now(UTC)
    return TallySource(Window(None if window_seconds is None else now - timedelta(seconds=window_seconds), now))


async def _ask(source: TallySource, flags: Sequence[str], window_seconds: float | None) -> Report:
    end = source.window.end
    aggregator = AnalyticsAggregator(source, clock=lambda: end)
    future = await aggregator.count_future()
    if future:
        note(f"dated in the future, and so in no window yet: {counted(future, 'event')}", "yellow")
    return await gather(aggregator, flags, window_seconds, end)
