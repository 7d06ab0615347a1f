"""Reports of what a backend has stored, and of files that are only read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
from flag_analytics.aggregator import AnalyticsAggregator
from flag_analytics.config.plan import Plan, PlannedSink
from flag_analytics.errors import SourceError
from flag_analytics.pipeline import Pipeline, open_pipeline
from flag_analytics.registry import default_registry
from flag_analytics.sources import EventSource, Window

from .figures import Report, gather
from .importing import EventFile, ImportReport, read_file, say_left_out
from .settings import DATABASE_FILE, chosen_plan, is_embedded, is_lasting, missing_file
from .tallies import TallySource
from .terminal import note
from .visible import visible
from .wording import counted

__all__ = ["file_report", "stored_report"]


def stored_report(
    config: Path | None, flags: Sequence[str], window_seconds: float | None, collector: str | None = None
) -> Report:
    """Return the report of what a configured backend has stored, and say which one where there are several.

    Args:
        collector: The backend's name in configuration; by default the first that outlives a process and can be asked.

    Raises:
        SourceError: there is no such backend.
    """
    plan = chosen_plan(config)
    lasting = _lasting_collectors(plan, collector)
    if is_embedded(plan) and not Path(DATABASE_FILE).exists():
        # To ask a database that is not there would create it.
        note("nothing is stored here yet: try `flag-analytics demo`, or `flag-analytics import FILE`")
        return asyncio.run(_ask(_tallies(window_seconds), flags, window_seconds))

    several = sum(sink.role == "collector" for sink in plan.sinks) > 1

    async def ask() -> Report:
        # Only who may be asked is opened: exporters have nothing to do here.
        async with open_pipeline(attrs.evolve(plan, sinks=lasting, processors=())) as pipeline:
            name, source = _askable(pipeline)
            missing = missing_file(next(sink for sink in lasting if sink.name == name))
            if missing is not None:
                # To ask a database that is not there would create it, and hide that its name is wrong.
                raise SourceError(
                    f"{name}: there is no database {missing}: expected the file that an application or "
                    "`flag-analytics import` has made; is the path in its connection_string right?"
                )
            if several:
                note(f"from {visible(name)}")
            return await gather(AnalyticsAggregator(source), flags, window_seconds)

    return asyncio.run(ask())


def _lasting_collectors(plan: Plan, wanted: str | None) -> tuple[PlannedSink, ...]:
    """Return the collectors that outlive a process, or the wanted one alone."""
    collectors = tuple(sink for sink in plan.sinks if sink.role == "collector")
    if wanted is not None:
        names = ", ".join(sink.name for sink in collectors) or "none"
        collectors = tuple(sink for sink in collectors if sink.name == wanted)
        if not collectors:
            raise SourceError(f"--collector {wanted}: no collector of this name is configured; configured are: {names}")
    lasting = tuple(filter(is_lasting, collectors))
    if not lasting:
        raise SourceError(
            f"--collector {wanted}: it keeps no events after the process that recorded them"
            if wanted is not None
            else "no backend is configured that keeps events after the process that recorded them: add one, such as "
            "[collectors.database], or report on a file with --file FILE"
        )
    return lasting


def _askable(pipeline: Pipeline) -> tuple[str, EventSource]:
    """Return the first collector that can be asked about its events."""
    for name, collector in pipeline.collectors.items():
        try:
            return name, default_registry().event_source_for(collector)
        except SourceError:
            continue
    raise SourceError(
        f"{', '.join(pipeline.collectors)} cannot be asked about events: expected a collector that can, such as "
        "[collectors.database]"
    )


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
        say_left_out(file, outcome)
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
