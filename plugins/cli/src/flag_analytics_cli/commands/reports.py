"""``report``, ``series``, ``tail`` and ``export``: questions to a backend, or to a file alone."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import attrs
from cyclopts import Parameter
from flag_analytics.errors import FlagAnalyticsError

from ..choices import EventsFormat, ExportTable, ReportFormat, SeriesFormat, SortOrder
from ..file_errors import FileError
from ..parameters import OK, PROBLEM, Config, FileOptions, SourceOptions, Switch, UsageError
from ..selection import SelectionOptions
from ..terminal import note, results, say
from ..visible import visible
from ..windows import parse_window
from ..wording import counted

if TYPE_CHECKING:
    from flag_analytics.events import FlagEvaluationEvent

    from ..figures import Report
    from ..selection import Selection
    from ..series import Series
    from ..stored import Answers, Place
    from ..tallies import Needs

__all__ = ["export_events", "report", "series", "tail"]

_FILE = FileOptions()
_SOURCE = SourceOptions()
_SELECTION = SelectionOptions()
_MOST_CHARTS = 12
T = TypeVar("T")
Follow = Annotated[bool, Parameter(name=["--follow", "-f"], negative=())]


def report(
    *flags: str,
    selected: SelectionOptions = _SELECTION,
    group_by: str | None = None,
    expect: str | None = None,
    outcome: str | None = None,
    control: str | None = None,
    sort: SortOrder | None = None,
    top: int | None = None,
    fast: Switch = False,
    format: ReportFormat = "table",  # noqa: A002 - it is the option's name
    output: Path | None = None,
    source: SourceOptions = _SOURCE,
    options: FileOptions = _FILE,
) -> int:
    """Show the metrics of flags: all of them, or some.

    Args:
        flags: The keys of flags; without any, all that have events in the window.
        group_by: Figures by variant, reason, flag_version, environment or context.NAME.
        expect: The planned share of each variant's users, as control=50,treatment=50: says whether they match.
        outcome: What users did after their first exposure, such as purchase, by variant: for the flags that are named.
        control: The variant that the others are compared with; by default control, off, default or the first by name.
        sort: The order of flags: by name, users, events, errors or last-seen.
        top: The most flags.
        fast: Answer from rollups where the collector keeps them, and say within which bounds.
        format: A table for people; json has every figure, csv a line for each variant of each flag, html one page
            with charts.
        output: The file to write; by default standard output.
    """
    from ..arms import parse_expected
    from ..reporting import write_report

    if top is not None and top < 1:
        raise UsageError(f"--top {top} is too few: expected at least 1")
    try:
        expected = None if expect is None else parse_expected(expect)
    except ValueError as error:
        raise UsageError(f"--expect {error}") from None
    if expected is not None and group_by is not None:
        raise UsageError("--expect is about a whole flag: name a group with --where NAME=VALUE, without --group-by")
    selection = attrs.evolve(selected.selection(), fast=fast and source.file is None)
    if outcome is None and control is not None:
        raise UsageError("--control is about an outcome: add --outcome NAME")
    if outcome is not None:
        if not flags:
            raise UsageError(f"--outcome needs a flag: flag-analytics report FLAG --outcome {outcome}")
        if group_by is not None or sort or top or output or format not in {"table", "json"}:
            raise UsageError(
                "--outcome is a table or --format json, without --group-by, --sort, --top and --output: leave them out"
            )
        place = _place(source, options, flags)
        return _outcomes(place, selection, flags, outcome, control, expected, as_json=format == "json")

    async def question(answers: Answers) -> tuple[Report, dict[str, Series]]:
        from ..figures import gather
        from ..stored import say_future

        await say_future(answers)
        found = await gather(
            answers.aggregator, flags, selection, group_by=group_by, expected=expected, sort=sort, top=top
        )
        charts = await _charts(answers, found, selection) if format == "html" else {}
        return found, charts

    place = _place(source, options, flags)
    needs = _needs(group_by, "variant" if format == "html" else None, exposures=expected is not None)
    (figures, charts), bad_lines = _ask(place, selection, question, needs)
    write_report(figures, format, output, charts)
    for missing in figures.missing:
        close = difflib.get_close_matches(missing, figures.known, n=1)
        hint = f": did you mean {visible(close[0])}?" if close else ""
        note(f"no evaluations of {visible(missing)} in the window{hint}")
    return OK if figures.is_sound and not bad_lines else PROBLEM


def series(
    flag: str,
    /,
    *,
    step: str | None = None,
    selected: SelectionOptions = _SELECTION,
    group_by: str | None = None,
    fast: Switch = False,
    format: SeriesFormat = "table",  # noqa: A002 - it is the option's name
    source: SourceOptions = _SOURCE,
    options: FileOptions = _FILE,
) -> int:
    """Show the events of a flag step by step.

    Args:
        flag: The key of the flag.
        step: The length of a step: 30s, 15m, 1h, 1d; by default one that makes about forty.
        group_by: A series for each variant, reason, flag_version, environment or context.NAME.
        fast: Answer from rollups where the collector keeps them: in steps of whole hours, without users.
        format: A plot for people, csv or json.
    """
    from ..series import find_series, write_series

    try:
        seconds = None if step is None else parse_window(step)
    except ValueError as error:
        raise UsageError(f"--step: {error}") from None
    if step is not None and seconds is None:
        raise UsageError("--step all is no length: expected for example 1h")
    selection = attrs.evolve(selected.selection(), fast=fast and source.file is None)

    async def question(answers: Answers) -> Series:
        return await find_series(answers.aggregator, flag, selection, seconds, group_by)

    place = _place(source, options, (flag,))
    found, bad_lines = _ask(place, selection, question, _needs(group_by, steps=True))
    write_series(found, format)
    return OK if found.groups and not bad_lines else PROBLEM


def tail(
    *flags: str,
    lines: int = 20,
    follow: Follow = False,
    selected: SelectionOptions = _SELECTION,
    format: Annotated[str, Parameter(name="--format")] = "table",  # noqa: A002 - it is the option's name
    collector: str | None = None,
    config: Config = None,
) -> int:
    """Show the newest events, a line for each.

    Args:
        flags: The keys of flags; without any, all.
        lines: The most events.
        follow: Go on with each new event, until interrupted.
        format: table for people, or jsonl.
        collector: Ask this one of the configured collectors.
        config: A configuration file.
    """
    if format not in {"table", "jsonl"}:
        raise UsageError(f"--format {format}: expected table or jsonl")
    if lines < 1:
        raise UsageError(f"--lines {lines} is too few: expected at least 1")
    selection = selected.selection()

    async def question(answers: Answers) -> None:
        from ..tailing import tail as tail_events

        await tail_events(answers, flags, selection, lines, follow=follow, as_json=format == "jsonl")

    _ask(_place(SourceOptions(collector=collector, config=config), _FILE, flags), selection, question)
    return OK


def export_events(
    *flags: str,
    table: ExportTable = "events",
    selected: SelectionOptions = _SELECTION,
    format: EventsFormat = "csv",  # noqa: A002 - it is the option's name
    output: Path | None = None,
    source: SourceOptions = _SOURCE,
    options: FileOptions = _FILE,
) -> int:
    """Write events, or the assignment table that experiment tools read: who saw which variant first, and when.

    Args:
        flags: The keys of flags; without any, all.
        table: The events, or for each user and flag the first exposure.
        format: csv, jsonl or parquet. Cells are as they are: a spreadsheet may take some for formulas.
        output: The file to write; by default standard output.
    """
    from ..exporting import ASSIGNMENT_COLUMNS, Assignments, event_row, writing
    from ..stored import each_event

    selection = selected.selection()
    assignments = Assignments()
    place = _place(source, options, flags)
    rows = 0
    with writing(format, ASSIGNMENT_COLUMNS if table == "assignments" else None, output) as write:

        def write_event(event: FlagEvaluationEvent) -> None:
            nonlocal rows
            write(event_row(event))
            rows += 1

        bad_lines = each_event(place, flags, selection, assignments.add if table == "assignments" else write_event)
        for row in assignments.rows():
            write(row)
            rows += 1
    if output is not None:
        noun = "event" if table == "events" else "assignment"
        say(results(), f"{counted(rows, noun)} written to {visible(str(output))}")
    return PROBLEM if bad_lines else OK


def _outcomes(
    place: Place,
    selection: Selection,
    flags: Sequence[str],
    outcome: str,
    control: str | None,
    expected: Mapping[str, float] | None,
    *,
    as_json: bool,
) -> int:
    from ..outcome_report import OutcomeFigures, gather_outcomes, write_outcomes
    from ..tallies import Needs

    async def question(answers: Answers) -> list[OutcomeFigures]:
        return await gather_outcomes(answers.aggregator, flags, outcome, selection, control=control, expected=expected)

    figures, bad_lines = _ask(place, selection, question, Needs(outcomes=True))
    write_outcomes(figures, as_json=as_json)
    variants = [one for each in figures for one in each.outcomes.variants.values()]
    if variants and not any(one.converted_users for one in variants):
        note(
            f"no user has the outcome {visible(outcome)}: `flag-analytics report --kind outcome` lists those there are"
        )
    return OK if not bad_lines and not any(one.doubts for one in figures) else PROBLEM


async def _charts(answers: Answers, found: Report, selection: Selection) -> dict[str, Series]:
    from ..series import find_series

    keys = dict.fromkeys(flag.flag_key for flag in found.flags[:_MOST_CHARTS] if flag.metrics.total_evaluations)
    # At the same time: a file is read once for all of them.
    asked = (find_series(answers.aggregator, key, selection, None, "variant") for key in keys)
    return dict(zip(keys, await asyncio.gather(*asked), strict=True))


def _needs(*dimensions: str | None, exposures: bool = False, steps: bool = False) -> Needs:
    from flag_analytics.sources import Grouping

    from ..tallies import Needs

    try:
        groups = frozenset(Grouping(dimension).by for dimension in dimensions if dimension is not None)
    except ValueError as error:
        raise UsageError(str(error).replace("group_by is", "--group-by", 1)) from None
    return Needs(exposures=exposures, groups=groups, steps=steps)


def _place(source: SourceOptions, options: FileOptions, flags: Sequence[str]) -> Place:
    from ..stored import Place

    if source.file is None:
        if options.is_set:
            raise UsageError("--map, --flag-key, --strict and the like are about a file: add --file FILE")
        return Place(source.config, source.collector)
    if source.collector is not None:
        raise UsageError("--collector names where to read, and so does --file: give one of the two")
    event_file = options.event_file(source.file, fallback_key=flags[0] if len(flags) == 1 else None)
    return Place(file=event_file, strict=options.strict)


def _ask(
    place: Place, selection: Selection, question: Callable[[Answers], Awaitable[T]], needs: Needs | None = None
) -> tuple[T, int]:
    from ..stored import ask

    try:
        return ask(place, selection, question, needs)
    except ValueError as error:
        if isinstance(error, FileError | FlagAnalyticsError):
            raise
        raise UsageError(str(error)) from None  # a dimension or a step that the question does not have
