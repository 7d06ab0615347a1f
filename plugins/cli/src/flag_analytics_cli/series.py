"""``flag-analytics series``: the events of a flag step by step, drawn in the terminal or as a table for programs."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import attrs
from flag_analytics.aggregator import AnalyticsAggregator
from flag_analytics.canonical import canonical_key
from flag_analytics.sources import Accuracy, TimeStep
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .choices import SeriesFormat
from .layout import Trimmed, accuracy_lines, bar, least_accuracy
from .selection import Selection
from .terminal import can_draw, print_json, results
from .visible import cell, visible

__all__ = ["Series", "find_series", "write_series"]

_STEPS = (60, 300, 900, 3_600, 21_600, 86_400, 604_800, 2_592_000)
_USUAL_STEPS = 40
_MOST_SHOWN = 12
_ALL = ""
_NOT_DRAWN = frozenset({"users"})


@attrs.frozen
class Series:
    """The steps of one flag.

    Attributes:
        flag_key: The flag.
        step_seconds: The length of a step.
        groups: The steps of each group, the largest first; one group without a name where none were asked for.
    """

    flag_key: str
    step_seconds: float
    groups: Mapping[str, Sequence[TimeStep]]

    @property
    def times(self) -> Sequence[TimeStep]:
        return next(iter(self.groups.values()), ())

    @property
    def accuracy(self) -> Accuracy:
        """The least of all steps; those without events have none of their own."""
        return least_accuracy(step.accuracy for steps in self.groups.values() for step in steps)

    @property
    def is_grouped(self) -> bool:
        return _ALL not in self.groups


async def find_series(
    aggregator: AnalyticsAggregator,
    flag_key: str,
    selection: Selection,
    step_seconds: float | None,
    group_by: str | None = None,
) -> Series:
    """Return the steps of a flag; of all time those from its first event to its last.

    Args:
        aggregator: Answers the question.
        flag_key: The flag.
        selection: The window and the events in it.
        step_seconds: The length of a step; by default one that makes about forty.
        group_by: The dimension of groups.
    """
    window_seconds, scope = selection.window_seconds, selection.scope
    until = selection.until
    if window_seconds is None:
        activity = await aggregator.list_flags(None, **scope)
        found = [flag for flag in activity if flag.flag_key == canonical_key(flag_key)]
        if not found:
            return Series(flag_key, step_seconds or _STEPS[0], {})
        span = found[0].last_seen - found[0].first_seen
        step_seconds = step_seconds or _step_for(span.total_seconds())
        start = _floor(found[0].first_seen, step_seconds)
        # To the end of the step of the last event, or to now.
        until = min(until, _floor(found[0].last_seen, step_seconds) + timedelta(seconds=step_seconds))
        window_seconds = (until - start).total_seconds()
    step_seconds = step_seconds or _step_for(window_seconds)
    if selection.fast:  # rollups count by the hour
        start = _floor(until - timedelta(seconds=window_seconds), step_seconds)
        window_seconds = (until - start).total_seconds()
    scope["until"] = until
    if group_by is None:
        steps = await aggregator.get_time_series(flag_key, window_seconds, step_seconds, **scope)
        return Series(flag_key, step_seconds, {_ALL: steps} if any(step.count for step in steps) else {})
    groups = await aggregator.get_time_series(flag_key, window_seconds, step_seconds, group_by=group_by, **scope)
    largest = sorted(groups.items(), key=lambda group: (-sum(step.count for step in group[1]), group[0]))
    return Series(flag_key, step_seconds, dict(largest))


def _step_for(seconds: float) -> float:
    return next((step for step in _STEPS if seconds / step <= _USUAL_STEPS), max(_STEPS[-1], seconds / _USUAL_STEPS))


def _floor(moment: datetime, step_seconds: float) -> datetime:
    """Return the beginning of the step of a moment, where steps begin with the day or divide it."""
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    step = timedelta(seconds=step_seconds)
    return day if step >= timedelta(days=1) else day + (moment - day) // step * step


def write_series(series: Series, form: SeriesFormat) -> None:
    """Write the steps to standard output."""
    if form == "json":
        print_json(_document(series))
    elif form == "csv":
        _write_csv(series)
    else:
        _draw(results(), series)


def _document(series: Series) -> dict[str, Any]:
    groups = [
        {**({"group": name} if series.is_grouped else {}), "steps": [_step(step) for step in steps]}
        for name, steps in series.groups.items()
    ]
    return {
        "flag_key": series.flag_key,
        "step_seconds": series.step_seconds,
        "accuracy": series.accuracy.to_dict(),
        "series": groups,
    }


def _step(step: TimeStep) -> dict[str, Any]:
    fields: dict[str, Any] = {
        name: getattr(step, name) for name in ("count", "errors", "unique_users", "estimated", "unfinished")
    }
    if "users" in step.accuracy.missing:
        fields["unique_users"] = None
    return {"start": step.start.isoformat(), "end": step.end.isoformat(), **fields}


def _write_csv(series: Series) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    names = ("start", "end", "count", "errors", "unique_users", "estimated", "unfinished")
    writer.writerow(("flag_key", "group", *names))
    for group, steps in series.groups.items():
        for step in steps:
            figures = _step(step)
            writer.writerow([cell(series.flag_key), cell(group), *(figures[name] for name in names)])


def _draw(console: Console, series: Series) -> None:
    console.print(Text(visible(series.flag_key), "bold"))
    if not series.groups:
        console.print(Text("  No evaluations in the window.", "dim"))
        return
    names = list(series.groups)[:_MOST_SHOWN] if series.is_grouped else [_ALL]
    form = "%Y-%m-%d %H:%M" if series.step_seconds >= 60 else "%Y-%m-%d %H:%M:%S"
    room = (console.width - 2 - len(f"{series.times[0].start:{form}}")) // len(names)
    widths = max(4, min(40, room - 13))
    most = max(step.count for name in names for step in series.groups[name]) or 1
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("UTC", no_wrap=True, min_width=len(f"{series.times[0].start:{form}}"))
    for name in names:
        table.add_column(visible(name) or "Events", justify="right", no_wrap=True, overflow="ellipsis")
        table.add_column("", no_wrap=True, width=widths)
    for number, time in enumerate(series.times):
        row = [Text(f"{time.start:{form}}")]
        for name in names:
            step = series.groups[name][number]
            drawn = bar(step.count / most, widths, can_draw(console)) if step.count else ""
            row += [Text(f"{step.count:,}"), Text(f"{drawn} (so far)" if step.unfinished else drawn, "cyan")]
        table.add_row(*row)
    console.print(Trimmed(table))
    for line in accuracy_lines([series.accuracy], without=_NOT_DRAWN):
        console.print(Text(line, "yellow"))
    if len(series.groups) > len(names):
        console.print(Text(f"and {len(series.groups) - len(names):,} more groups", "dim"))
