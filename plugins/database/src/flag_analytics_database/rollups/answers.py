"""``RolledUpSource``: answers from counts and summaries where that was asked for, or where the events are gone.

The time of a question falls into pieces. Whole days come from summaries, as few as possible; a day without a fresh one,
and the hours at both ends, from the counts of hours; what is less than an hour from the events. Users and durations of
what no summary covers come from the events as well, unless these were removed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import attrs
from flag_analytics.errors import SourceError
from flag_analytics.metrics import (
    MILLION,
    canonical_filter,
    check_percentiles,
    group_steps,
    step_count,
    step_length,
    time_step,
)
from flag_analytics.outcomes import Outcomes
from flag_analytics.sources import (
    EXACT,
    PARTS,
    Accuracy,
    EventFilter,
    Exposures,
    FlagActivity,
    FlagSummary,
    Grouping,
    TimeStep,
    Window,
)
from sqlalchemy import union_all

from ..counting import DAY, HOUR
from ..rollup_state import COUNTED_SINCE, EVER, NEVER, PRUNED_BEFORE, ROLLUPS_PRUNED_BEFORE, state_query
from ..rows import from_micros, micros
from ..source import DatabaseSource
from .measured import cells_of_rows, count_events, measure
from .questions import can_count, cell_filter, has_long_environment
from .spans import DAYS_OF_SPANS, Span, ceil, cover, floor
from .stored import (
    DURATIONS,
    EARLIEST,
    USERS,
    VARIANT_USERS,
    counted_query,
    days_query,
    earliest_query,
    hourly_query,
    spans_query,
    steps_of_counts_query,
    summary_of,
)
from .summary import Cell, Figures, WindowSummary
from .users import can_sketch

__all__ = ["RolledUpSource"]

_MEASURED = frozenset({"users", "variant_users", "latency"})
_MOST_READ = 2_000
"""The most events of all such flags together."""
_MOST_SPANS = 100
"""In one statement: SQLite takes 500 parts of a union."""
_NOTHING = WindowSummary({}, None, None, None)
T = TypeVar("T")


@attrs.frozen
class _Time:
    """The time of a question, as far as it can be answered: from ``start`` to ``end``, excluded."""

    start: int
    end: int
    pruned_before: int

    @property
    def has_whole_day(self) -> bool:
        """Whether any summary can be of use."""
        return self.days[0] < self.days[1]

    @property
    def days(self) -> tuple[int, int]:
        """The start of its first whole day, and the end of its last."""
        first = ceil(self.start, DAY)
        return first, max(first, floor(self.end, DAY))


@attrs.frozen
class _Plan:
    """How a question is answered.

    Attributes:
        time: Its time, where it is answered from rollups; None for one that is answered from the events.
        complete: From when on an answer from rollups is complete.
        of_events: From when on an answer from the events is.
    """

    time: _Time | None
    complete: Accuracy = EXACT
    of_events: Accuracy = EXACT

    @property
    def is_whole(self) -> bool:
        """Whether no event of the window was removed."""
        return self.of_events == EXACT


class _TooManyEvents(Exception):  # noqa: N818 - it is no error
    """More events are in no summary than are worth reading one by one."""


class _Parts(defaultdict[str, list[WindowSummary]]):
    """The pieces of the answer by flag."""

    def __init__(self) -> None:
        super().__init__(list)

    def merged(self) -> dict[str, WindowSummary]:
        whole = {key: WindowSummary.merged(some) for key, some in self.items()}
        return {key: summary for key, summary in sorted(whole.items()) if summary.cells}


@attrs.frozen(eq=False)
class RolledUpSource:
    """An ``EventSource`` that takes ``accuracy="fast"``; see ``EventSource``.

    Attributes:
        raw: Answers from the events.
        few_events: A flag with fewer events is answered from these, which is exact.
        most_measured: The most events outside of summaries, in one piece of the time, that are read for an answer.
    """

    any_loop: ClassVar[bool] = True
    rolls_up: ClassVar[bool] = True

    raw: DatabaseSource
    few_events: int = 1_000
    most_measured: int = 100_000

    # --- the questions

    async def summarise(
        self,
        flag_keys: Sequence[str],
        window: Window,
        *,
        parts: frozenset[str] = PARTS,
        percentiles: Sequence[float] = (),
        where: EventFilter | None = None,
        group_by: Grouping | None = None,
        accuracy: str = "exact",
    ) -> Mapping[str, FlagSummary]:
        """Return a summary for each flag that has events in the window."""
        asked: dict[str, Any] = {
            "parts": parts,
            "percentiles": check_percentiles(percentiles),
            "where": where,
            "group_by": group_by,
        }
        where = canonical_filter(where)
        plain = cell_filter(where) is None and group_by is None
        measured = parts & _MEASURED if plain and can_sketch() else frozenset[str]()
        plan = await self._plan(window, accuracy, where, group_by, unit=DAY if measured else HOUR)
        time = plan.time
        # Only the events tell these parts, or tell them as fast.
        if time is not None and plan.is_whole and parts & _MEASURED and (not measured or not time.has_whole_day):
            time = None
        found: Mapping[str, WindowSummary] | None = None
        few: list[str] = []
        if time is not None:
            few = await self._flags_with_few_events(flag_keys, time) if plan.is_whole and measured else []
            others = sorted(set(flag_keys) - set(few))
            try:
                found = _passing(await self._collect(others, time, measured) if others else {}, where, group_by)
            except _TooManyEvents:  # the database is faster with these, unless they are not all there
                if not plan.is_whole:
                    found = await self._collect(others, time, frozenset())
        if found is None:
            few = list(flag_keys)
        exact = await self.raw.summarise(few, window, **asked) if few else {}
        complete = plan.of_events if found is None else plan.complete
        answers = {key: _answer(one, parts, percentiles, group_by, complete) for key, one in (found or {}).items()}
        if complete == EXACT:
            return {**answers, **exact}
        nothing = dict.fromkeys(flag_keys, FlagSummary(accuracy=complete))
        return {**nothing, **answers, **{key: _saying(one, complete) for key, one in exact.items()}}

    async def list_flags(
        self, window: Window, *, where: EventFilter | None = None, accuracy: str = "exact"
    ) -> Sequence[FlagActivity]:
        """Return every flag with events in the window, by key."""
        where = canonical_filter(where)
        plan = await self._plan(window, accuracy, where)
        found = None
        if plan.time is not None:
            found = _passing(await self._collect(None, plan.time, frozenset()), where)
        if found is None:
            exact = await self.raw.list_flags(window, where=where)
            return exact if plan.is_whole else [_saying(one, plan.of_events) for one in exact]
        return [one.activity(key, plan.complete) for key, one in found.items()]

    async def count_steps(
        self,
        flag_key: str,
        window: Window,
        step_seconds: float,
        *,
        where: EventFilter | None = None,
        group_by: Grouping | None = None,
        accuracy: str = "exact",
    ) -> Mapping[int, TimeStep]:
        """Return, by number, the steps of the window that have events; from counts without their users.

        Raises:
            SourceError: events in the window were removed, and the steps are not whole hours.
        """
        where = canonical_filter(where)
        plan = await self._plan(window, accuracy, where, group_by)
        length = step_length(step_seconds)
        step = length // timedelta(microseconds=1)
        assert window.start is not None
        start = micros(window.start)
        by_hour = step % HOUR == 0 and start % HOUR == 0
        if plan.time is not None and not by_hour and not plan.is_whole:
            raise _by_the_hour(plan.time.pruned_before, "steps of whole hours, from the start of an hour")
        found = None
        if plan.time is not None and by_hour:
            last = max(0, step_count(window, length) - 1)
            names = _told_apart(where, group_by)
            cells = await self._cells_by_step(flag_key, plan.time, start, step, last, names)
            whole = {number: attrs.evolve(_NOTHING, cells=some) for number, some in cells.items()}
            found = _passing(whole, where, group_by)
        if found is None:
            exact = await self.raw.count_steps(flag_key, window, step_seconds, where=where, group_by=group_by)
            if plan.is_whole:
                return exact
            told = {number: _saying(one, plan.of_events) for number, one in exact.items()}
            return {**_incomplete_steps(window, length, plan.of_events), **told}
        said = attrs.evolve(plan.complete, missing=frozenset({"users"}))

        def steps(by_number: Mapping[int, WindowSummary]) -> dict[int, TimeStep]:
            answers = {}
            for number, summary in sorted(by_number.items()):
                one = summary.whole
                answers[number] = time_step(
                    window,
                    length,
                    number,
                    count=round(one.weight / MILLION),
                    errors=round(one.error_weight / MILLION),
                    estimated=one.weight != one.events * MILLION,
                    accuracy=said,
                )
            return answers

        incomplete = _incomplete_steps(window, length, said)
        if group_by is None:
            return {**incomplete, **steps(found)}
        groups = {name: steps(some) for name, some in _grouped(found, group_by).items()}
        return {**incomplete, **group_steps(window, step_seconds, groups)}

    async def get_exposures(self, flag_key: str, window: Window, *, where: EventFilter | None = None) -> Exposures:
        """Return users by the variant that they saw first, always from the events."""
        found = await self.raw.get_exposures(flag_key, window, where=where)
        return attrs.evolve(found, accuracy=await self._accuracy_of_events(window))

    async def get_outcomes(
        self, flag_key: str, metric: str, window: Window, *, where: EventFilter | None = None
    ) -> Outcomes:
        """Return what the flag's users did, always from the events."""
        found = await self.raw.get_outcomes(flag_key, metric, window, where=where)
        return attrs.evolve(found, accuracy=await self._accuracy_of_events(window))

    async def count_future(self, now: datetime) -> int:
        """Return how many stored events are dated after ``now``."""
        return await self.raw.count_future(now)

    # --- what to answer from

    async def _accuracy_of_events(self, window: Window) -> Accuracy:
        """Return how exact an answer from the events is: it leaves out those that were removed."""
        rows = await self.raw.ask(state_query(self.raw.tables))
        return _of_events(window, {name: int(value) for name, value in rows})

    async def _plan(
        self,
        window: Window,
        accuracy: str,
        where: EventFilter,
        group_by: Grouping | None = None,
        *,
        unit: int = HOUR,
    ) -> _Plan:
        """Return how to answer a question.

        Where events were removed, a window that begins within a unit begins with the next one, and says so: with the
        next day where users or durations are asked for, with the next hour otherwise.
        """
        rows = await self.raw.ask(union_all(state_query(self.raw.tables), earliest_query(self.raw.tables)))
        state = {name: int(value) for name, value in rows if value is not None}
        pruned_before = state.get(PRUNED_BEFORE, EVER)
        start = _start(window)
        end = micros(window.end) + 1  # the end belongs to the window
        of_events = _of_events(window, state)
        is_whole = of_events == EXACT
        if is_whole and accuracy != "fast":
            return _Plan(None)
        # Of what was removed, and then left the rollups too, nothing tells any more.
        begin = start if is_whole else max(start, state.get(ROLLUPS_PRUNED_BEFORE, EVER))
        if state.get(COUNTED_SINCE, NEVER) > begin or not can_count(where, group_by):
            return _Plan(None, of_events=of_events)
        if begin == start:
            start = begin = max(start, floor(state.get(EARLIEST, end), DAY))
        first = begin
        if start < pruned_before:
            if end < pruned_before and (end - 1) % HOUR == 0:
                end -= 1
            if end < pruned_before and end % HOUR:
                raise _by_the_hour(pruned_before, "a window that ends with an hour")
            first = ceil(begin, unit if ceil(begin, unit) < floor(end, unit) else HOUR)
        complete = EXACT if first == start else Accuracy(complete_since=from_micros(first))
        return _Plan(_Time(first, max(first, end), pruned_before), complete, of_events)

    async def _flags_with_few_events(self, flag_keys: Sequence[str], time: _Time) -> list[str]:
        start, end = floor(time.start, DAY), ceil(time.end, DAY)
        rows = await self.raw.ask(counted_query(self.raw.tables, self.raw.family, start, end, flag_keys))
        few: list[str] = []
        read = 0
        for key, events in sorted(rows, key=lambda row: (int(row[1]), row[0])):
            read += int(events)
            if events >= self.few_events or read > _MOST_READ:
                break
            few.append(key)
        return few

    async def _collect(
        self, flag_keys: Collection[str] | None, time: _Time, measured: frozenset[str]
    ) -> dict[str, WindowSummary]:
        """Return the summaries of flags, by default of all, with the parts of ``measured``, which the others lack."""
        parts = _Parts()
        first, last = time.days
        spans = await self._spans(first, last)
        gaps, late, experiments = await self._add_spans(parts, spans, flag_keys, time, measured)
        edges = [(time.start, time.end)] if first == last else [(time.start, first), (last, time.end)]
        pieces = [(start, end, flag_keys) for start, end in edges]
        pieces += _in_a_row(gaps)
        for start, end, keys in pieces:
            is_there = start >= time.pruned_before
            await self._add_piece(parts, start, end, keys, measured if is_there else frozenset(), experiments)
        for day, expected in sorted(late.items()):
            await self._add_piece(parts, day, day + DAY, set(expected), measured, experiments, expected)
        return parts.merged()

    async def _spans(self, first: int, last: int) -> list[Span]:
        """Return the spans of these days; of a very long time only those with events: one may be of the year 1."""
        spans = cover(first, last)
        if len(spans) <= _MOST_SPANS:
            return spans
        rows = await self.raw.ask(days_query(self.raw.tables, self.raw.family, first, last))
        starts = {(floor(int(day), days * DAY), days) for (day,) in rows for days in DAYS_OF_SPANS}
        return [span for span in spans if (span.start, span.days) in starts]

    async def _add_spans(
        self,
        parts: _Parts,
        spans: Sequence[Span],
        flag_keys: Collection[str] | None,
        time: _Time,
        measured: frozenset[str],
    ) -> tuple[dict[int, set[str]], dict[int, dict[str, int]], set[str]]:
        """Add the summaries of these spans.

        Returns:
            The flags without a summary by day; those with one that late events are not in yet, whose counts are left
            out, with the number of these events; and those with users by variant.
        """
        blobs = {part for part in (USERS, VARIANT_USERS) if part in measured}
        blobs |= {DURATIONS} if "latency" in measured else set()
        gaps: defaultdict[int, set[str]] = defaultdict(set)
        late: defaultdict[int, dict[str, int]] = defaultdict(dict)
        experiments: set[str] = set()
        pending: dict[Span, Collection[str] | None] = dict.fromkeys(spans, flag_keys)
        while pending:
            by_start = {span.start: span for span in pending}
            rows: list[Any] = []
            for keys, some in _by_keys(pending):
                for place in range(0, len(some), _MOST_SPANS):
                    together = some[place : place + _MOST_SPANS]
                    rows += await self.raw.ask(
                        spans_query(self.raw.tables, self.raw.family, together, keys, blobs, time.pruned_before)
                    )
            halves: defaultdict[Span, set[str]] = defaultdict(set)
            for start, key, events, of_summary, *packed in rows:
                span = by_start[int(start)]
                if of_summary is None:
                    for half in span.halves:
                        halves[half].add(key)
                    if not span.halves:
                        gaps[span.start].add(key)
                    continue
                summary = summary_of(*packed)
                if int(of_summary) != int(events):
                    late[span.start][key] = int(events) - int(of_summary)
                    summary = attrs.evolve(summary, cells={})
                parts[key].append(summary)
                if summary.variant_users is not None:
                    experiments.add(key)
            pending = dict(halves)
        return gaps, late, experiments

    async def _add_piece(
        self,
        parts: _Parts,
        start: int,
        end: int,
        flag_keys: Collection[str] | None,
        measured: frozenset[str],
        experiments: Collection[str],
        late: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Add what no summary covers: counts, and the parts that are measured from the events.

        ``late`` tells how many events of a flag its summary does not have.
        """
        if start >= end:
            return
        cells = await self._cells(start, end, flag_keys)
        if not cells:
            return
        if measured and sum(one.events for of_flag in cells.values() for one in of_flag.values()) > self.most_measured:
            raise _TooManyEvents
        seen: dict[str, WindowSummary] = {}
        if measured:
            found = await measure(self.raw.ask, self.raw.tables, self.raw.family, start, end, flag_keys, experiments)
            seen = {key: one.with_late(late.get(key, count), count) for key, (count, one) in found.items()}
        otherwise = WindowSummary() if measured else _NOTHING
        for key, of_flag in cells.items():
            parts[key].append(attrs.evolve(seen.get(key, otherwise), cells=of_flag))

    async def _cells(self, start: int, end: int, flag_keys: Collection[str] | None) -> dict[str, dict[Cell, Figures]]:
        """Return counts by flag: of whole hours as they were counted, of less from the events."""
        tables, family = self.raw.tables, self.raw.family
        first, last = ceil(start, HOUR), floor(end, HOUR)
        found = []
        if first < last:
            found.append(
                cells_of_rows(await self.raw.ask(hourly_query(tables, family, range(first, last, HOUR), flag_keys)))
            )
        pieces = [(start, first), (last, end)] if first <= last else [(start, end)]
        for begin, stop in pieces:
            if begin < stop:
                found.append(await count_events(self.raw.ask, tables, family, begin, stop, flag_keys))
        whole = _Parts()
        for piece in found:
            for key, cells in piece.items():
                whole[key].append(attrs.evolve(_NOTHING, cells=cells))
        return {key: dict(summary.cells) for key, summary in whole.merged().items()}

    async def _cells_by_step(
        self, flag_key: str, time: _Time, start: int, step: int, last: int, names: frozenset[str]
    ) -> dict[int, dict[Cell, Figures]]:
        tables, family = self.raw.tables, self.raw.family
        begin = max(start, time.start)
        hours = range(begin, max(begin, floor(time.end, HOUR)), HOUR)
        steps: defaultdict[int, dict[Cell, Figures]] = defaultdict(dict)
        for number, *row in await self.raw.ask(
            steps_of_counts_query(tables, family, flag_key, hours, start, step, names)
        ):
            steps[min(int(number), last)] |= _added(steps[min(int(number), last)], cells_of_rows([(flag_key, *row)]))
        if hours.stop < time.end:  # the last hour, as far as the window goes
            found = await count_events(self.raw.ask, tables, family, hours.stop, time.end, [flag_key])
            number = min((hours.stop - start) // step, last)
            steps[number] |= _added(steps[number], found)
        return steps


def _start(window: Window) -> int:
    return EVER if window.start is None else micros(window.start)


def _of_events(window: Window, state: Mapping[str, int]) -> Accuracy:
    """Return how exact an answer from the events is: it leaves out those that were removed."""
    before = state.get(PRUNED_BEFORE, EVER)
    return EXACT if _start(window) >= before else Accuracy(complete_since=from_micros(before))


def _passing(
    found: Mapping[T, WindowSummary], where: EventFilter, group_by: Grouping | None = None
) -> Mapping[T, WindowSummary] | None:
    """Return the counts that pass a filter; None if only the events tell which do, or which group they are in."""
    by_environment = bool(where.required_context()) or (group_by is not None and group_by.by == "environment")
    if by_environment and any(has_long_environment(one.cells) for one in found.values()):
        return None
    wanted = cell_filter(where)
    passing = found if wanted is None else {key: one.only(wanted) for key, one in found.items()}
    return {key: one for key, one in passing.items() if one.cells}


def _answer(
    whole: WindowSummary,
    parts: frozenset[str],
    percentiles: Sequence[float],
    group_by: Grouping | None,
    complete: Accuracy,
) -> FlagSummary:
    if group_by is None:
        return whole.summary(parts, percentiles, complete)
    groups = whole.grouped(group_by)
    return FlagSummary(groups={name: one.summary(parts, percentiles, complete) for name, one in groups.items()})


def _saying(answer: Any, complete: Accuracy) -> Any:
    """Return an answer from the events, and its groups, with the time from when on there are events."""
    said = attrs.evolve(answer, accuracy=complete)
    groups = {name: _saying(group, complete) for name, group in getattr(answer, "groups", {}).items()}
    return attrs.evolve(said, groups=groups) if groups else said


def _incomplete_steps(window: Window, length: timedelta, said: Accuracy) -> dict[int, TimeStep]:
    """Return the steps before the time from when on the answer is complete: none is taken for one without events."""
    steps: dict[int, TimeStep] = {}
    if said.complete_since is not None:
        for number in range(step_count(window, length)):
            step = time_step(window, length, number, accuracy=said)
            if step.start >= said.complete_since:
                break
            steps[number] = step
    return steps


def _by_the_hour(pruned_before: int, expected: str) -> SourceError:
    since = from_micros(pruned_before).isoformat()
    return SourceError(f"events before {since} were removed and are counted by the hour: ask for {expected}")


def _told_apart(where: EventFilter, group_by: Grouping | None) -> frozenset[str]:
    """Return the fields of a cell by which its events pass or are grouped."""
    names = {*where.required_texts(), *where.required_context(), *([] if group_by is None else [group_by.by])}
    return frozenset(names)


def _added(cells: Mapping[Cell, Figures], found: Mapping[str, Mapping[Cell, Figures]]) -> dict[Cell, Figures]:
    """Return the cells that were found, each with what was known of it before."""
    return {
        cell: figures if cell not in cells else cells[cell].plus(figures)
        for some in found.values()
        for cell, figures in some.items()
    }


def _by_keys(pending: Mapping[Span, Collection[str] | None]) -> Iterable[tuple[Collection[str] | None, list[Span]]]:
    """Return the spans by the flags that they are looked up for."""
    together: defaultdict[Any, list[Span]] = defaultdict(list)
    for span, keys in pending.items():
        together[None if keys is None else frozenset(keys)].append(span)
    yield from together.items()


def _in_a_row(gaps: Mapping[int, set[str]]) -> list[tuple[int, int, Collection[str] | None]]:
    """Return the days as pieces of time: days in a row that lack summaries of the same flags are one."""
    pieces: list[tuple[int, int, Collection[str] | None]] = []
    for day, keys in sorted(gaps.items()):
        if pieces and pieces[-1][1:] == (day, keys):
            pieces[-1] = (pieces[-1][0], day + DAY, keys)
        else:
            pieces.append((day, day + DAY, keys))
    return pieces


def _grouped(whole: Mapping[int, WindowSummary], group_by: Grouping) -> dict[str, dict[int, WindowSummary]]:
    """Return the steps by group; which groups are the largest is decided over all steps together."""
    names = WindowSummary.merged(whole.values()).grouped(group_by)
    of_cell = {cell: name for name, group in names.items() for cell in group.cells}
    groups: defaultdict[str, defaultdict[int, dict[Cell, Figures]]] = defaultdict(lambda: defaultdict(dict))
    for number, summary in whole.items():
        for cell, figures in summary.cells.items():
            groups[of_cell[cell]][number][cell] = figures
    return {
        name: {number: WindowSummary(cells, None, None, None) for number, cells in steps.items()}
        for name, steps in groups.items()
    }
