"""``Rollups``: answers from hourly counts and daily sketches, and from events where these have none.

Counts are exact: whole hours come from them, and an hour that the window cuts comes from events, unless all that
happened in it is in the window. Users and latencies of whole days come from sketches, those of days that the window
cuts from events, into the same sketches. The smallest flags are asked of events alone: for them these are as fast, and
exact.

Where events were removed, by retention or by pruning, nothing tells where a window cuts an hour. At its start what is
cut is left out, and the answer says since when it is complete; an hour at its end is taken whole, within a bound.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import attrs
from flag_analytics.metrics import DEFAULT_VARIANT, MILLION, time_step, weighted_percentile
from flag_analytics.sources import (
    OTHER_GROUP,
    Accuracy,
    EventFilter,
    FlagActivity,
    FlagSummary,
    Grouping,
    TimeStep,
    Window,
)

from .answers import Draft
from .cutting import Cut, Span
from .fast_queries import ZONES, can_count, can_group, count_steps_query, counts_query, sketches_query
from .queries import GROUPS, Query, activity_query, steps_query, summary_query
from .rows import from_micros, micros
from .schema import BUCKET_RATIO, HOUR_MICROS, Tables

__all__ = ["LATENCY_BOUND", "USERS_BOUND", "Rollups"]

USERS_BOUND = 0.0082
"""Two standard errors of ``uniqCombined64(16)``: 2 * 1.04 / sqrt(2 ** 16)."""
LATENCY_BOUND = 0.0101
"""The middle of a bucket is off by 1 % at most, and so is what lies between two middles."""
RAW_EVENTS = 300_000
"""Flags that together have at most so many events in a window are asked of events."""
_SKETCHED = frozenset({"users", "latency"})
_SHORTEST = 2 * HOUR_MICROS

Summaries = Mapping[str, FlagSummary]


@attrs.frozen
class Rollups:
    """Fast answers over one set of tables.

    Attributes:
        ask: Runs one statement.
        tables: The tables.
        from_events: Returns summaries from events.
    """

    ask: Callable[[Query], Awaitable[Sequence[Any]]]
    tables: Tables
    from_events: Callable[..., Awaitable[Summaries]]

    async def summarise(
        self,
        flag_keys: Sequence[str],
        window: Window,
        parts: frozenset[str],
        percentiles: Sequence[float],
        where: EventFilter,
        group_by: Grouping | None,
        kept: int | None,
    ) -> Summaries | None:
        """Return a summary for each flag; None where events alone can tell. ``kept``: events before it were removed."""
        if not can_count(where) or not can_group(group_by) or not _is_long(window, kept):
            return None
        further = parts & {"users", "variant_users", *({"latency"} if percentiles else ())}
        plain = where == EventFilter() and group_by is None
        rows = await self._counts(flag_keys, window, where, parts, group_by)
        cut = Cut.of(window, kept, rows, by_day=plain and bool(further & _SKETCHED))
        events, sampled = _totals(rows)
        has_events = kept is None or (window.start is not None and micros(window.start) >= kept)
        small = _smallest(events, RAW_EVENTS) if further and has_events else []
        large = sorted(events.keys() - set(small))
        # Weights of users are in no sketch, and neither are filters and groups.
        unsketched = {key: further & (_SKETCHED & {"users"} if plain else _SKETCHED) for key in large}
        unsketched = {key: some for key, some in unsketched.items() if some and (key in sampled or not plain)}
        asked_of_events = sorted(unsketched) if has_events else []
        parts_of_events = frozenset[str]().union(*unsketched.values())
        of_small, edges, sketches, of_large = await asyncio.gather(
            self._of_events(small, window, parts, percentiles, where, group_by),
            self._edges(large, cut, parts, where, group_by),
            self._sketches(large if plain and further & _SKETCHED and cut.has_days else [], cut, percentiles),
            self._of_events(asked_of_events, window, parts_of_events, percentiles, where, group_by),
        )
        counted = [row for row in rows if row[0] not in cut.left_out]
        # A flag of which only what is left out is known has figures of nothing, which say so.
        drafts = _drafts([*counted, *edges], large, parts, group_by)
        found = {**of_small}
        for key, groups in drafts.items():
            lost = frozenset[str]() if has_events else unsketched.get(key, frozenset())
            lost |= frozenset[str]() if cut.has_days else further & _SKETCHED
            missing = further & {"variant_users"} | lost
            sketched = sketches.get(key, _Sketch()).only(further - unsketched.get(key, frozenset()))
            crossovers = {"crossover_users"} if "variant_users" in missing else set[str]()
            accuracy = cut.accuracy(sketched.bounds, frozenset(missing | crossovers))
            exact = of_large.get(key, FlagSummary())
            named = {
                group: attrs.evolve(
                    draft.summary(),
                    accuracy=accuracy,
                    **_people(exact if group_by is None else exact.groups.get(group, FlagSummary())),
                    **sketched.figures,
                )
                for group, draft in groups.items()
            }
            if not named and cut.since is None:
                continue
            found[key] = (
                named.get("", FlagSummary(accuracy=accuracy))
                if group_by is None
                else FlagSummary(groups=named, accuracy=accuracy)
            )
        return found

    async def _counts(self, flag_keys: Sequence[str] | None, *asked: Any) -> list[Sequence[Any]]:
        """Return rows of ``counts_query`` with the names of zones, and of variants as figures show them."""
        rows = await self.ask(counts_query(self.tables, flag_keys, *asked))
        return [
            (ZONES[zone], flag_key, group, variant or DEFAULT_VARIANT, *figures)
            for zone, flag_key, group, variant, *figures in rows
        ]

    async def _of_events(self, keys: Sequence[str], *asked: Any) -> Summaries:
        return await self.from_events(keys, *asked) if keys else {}

    async def _edges(
        self,
        keys: Sequence[str],
        cut: Cut,
        parts: frozenset[str],
        where: EventFilter,
        group_by: Grouping | None,
    ) -> list[Sequence[Any]]:
        """Return counts of events, as rows of ``counts_query``, for the hours that the window cuts."""
        if not keys:
            return []
        counted = parts & {"variants", "reasons"}
        answers = await asyncio.gather(
            *(
                self.ask(
                    summary_query(self.tables, keys, _window(span), counted, (), where, group_by, every_group=True)
                )
                for span in cut.spans
            )
        )
        return [
            ("edge", flag_key, group, variant, reason, count, first, weight, further, first)
            for rows in answers
            for _, flag_key, group, variant, reason, count, first, weight, further, *_ in rows
        ]

    async def _sketches(self, keys: Sequence[str], cut: Cut, percentiles: Sequence[float]) -> dict[str, _Sketch]:
        if not keys:
            return {}
        rows = await self.ask(sketches_query(self.tables, keys, cut.days, cut.day_spans, percentiles))
        return {flag_key: _Sketch.of(people, whole, near, percentiles) for flag_key, people, whole, near in rows}

    async def list_flags(self, window: Window, where: EventFilter, kept: int | None) -> Sequence[FlagActivity] | None:
        """Return every flag with events in the window, by key; None where events alone can tell."""
        if not can_count(where) or not _is_long(window, kept):
            return None
        rows = await self._counts(None, window, where, frozenset(), None)
        cut = Cut.of(window, kept, rows, by_day=False)
        edges = await asyncio.gather(
            *(self.ask(activity_query(self.tables, _window(span), where)) for span in cut.spans)
        )
        accuracy = cut.accuracy({}, frozenset())
        cells: defaultdict[str, list[tuple[int, int, int, int]]] = defaultdict(list)
        for zone, key, _, _, _, many, first, weight, _, last in rows:
            if zone not in cut.left_out:
                cells[key].append((many, weight, first, last))
            elif zone in {"first", "early"} and cut.since is not None:
                cells[key].append((0, 0, first, last))  # of which nothing is left but that there was something
        for key, many, weight, first, last in (row for some in edges for row in some):
            cells[key].append((many, weight, first, last))
        return [_activity(key, some, accuracy) for key, some in sorted(cells.items())]

    async def count_steps(
        self,
        flag_key: str,
        window: Window,
        length: int,
        last: int,
        where: EventFilter,
        group_by: Grouping | None,
        kept: int | None,
    ) -> Mapping[int, TimeStep] | None:
        """Return the steps that have events, by number; None where events alone can tell: steps of no whole hours."""
        assert window.start is not None
        whole_hours = micros(window.start) % HOUR_MICROS == 0 and length % HOUR_MICROS == 0
        if not can_count(where) or not can_group(group_by) or not whole_hours or not _is_long(window, kept):
            return None
        asked = (self.tables, flag_key, window, length, last, where, group_by)
        rows = await self.ask(count_steps_query(*asked))
        end = micros(window.end)
        last_hour = end - end % HOUR_MICROS
        beyond = 0.0
        cells: defaultdict[str, defaultdict[int, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0, 0]))
        edges: list[Sequence[Any]] = []
        if any(is_last and last_time > end for _, is_last, *_, last_time in rows):
            if kept is None or last_hour >= kept:
                query = steps_query(*asked, since=last_hour, every_group=True)
                edges = [
                    (number, 0, group, count, errors, weight, 0)
                    for number, group, count, errors, _, weight in await self.ask(query)
                ]
                rows = [row for row in rows if not row[1]]
            else:
                cut = sum(many for _, is_last, _, many, *_ in rows if is_last)
                beyond = cut / sum(many for _, _, _, many, *_ in rows)
        for number, _, group, *figures, _ in [*rows, *edges]:
            cell = cells[group][number]
            cell[:] = [one + more for one, more in zip(cell, figures, strict=True)]
        if group_by is not None:
            cells = _largest_cells(cells, group_by.most)
        bounds = {"count": beyond, "errors": beyond} if beyond else {}
        accuracy = Accuracy(bounds, frozenset({"users"}))
        bounds_of = {
            number: time_step(window, from_micros(length) - from_micros(0), number)
            for number in sorted({number for some in cells.values() for number in some})
        }
        steps: dict[int, dict[str, TimeStep]] = {number: {} for number in bounds_of}
        for group, by_number in cells.items():
            for number, (many, errors, weight) in by_number.items():
                steps[number][group] = TimeStep(
                    bounds_of[number].start,
                    bounds_of[number].end,
                    round(weight / MILLION),
                    round(errors / MILLION),
                    estimated=weight != many * MILLION,
                    unfinished=bounds_of[number].unfinished,
                    accuracy=accuracy,
                )
        if group_by is None:
            return {number: groups[""] for number, groups in steps.items()}
        return {
            number: attrs.evolve(bounds_of[number], groups=groups, accuracy=accuracy)
            for number, groups in steps.items()
        }


@attrs.frozen
class _Sketch:
    """What one flag's sketches say: figures of a summary, and their bounds."""

    users: int | None = None
    percentiles: Mapping[float, float] = attrs.field(factory=dict[float, float])

    @classmethod
    def of(cls, people: int, whole: int, near: Sequence[tuple[int, int]], percentiles: Sequence[float]) -> _Sketch:
        if not near:
            return cls(people)
        ordered = sorted(near)
        middles = [2 * BUCKET_RATIO**bucket / (BUCKET_RATIO + 1) for _, bucket in ordered]
        reach = [up_to for up_to, _ in ordered]
        return cls(people, {percent: weighted_percentile(middles, reach, whole, percent) for percent in percentiles})

    def only(self, parts: frozenset[str]) -> _Sketch:
        """Return what belongs to these parts."""
        return _Sketch(self.users if "users" in parts else None, self.percentiles if "latency" in parts else {})

    @property
    def bounds(self) -> dict[str, float]:
        users = {} if self.users is None else {"users": USERS_BOUND}
        return {**users, **({"latency": LATENCY_BOUND} if self.percentiles else {})}

    @property
    def figures(self) -> dict[str, Any]:
        users = {} if self.users is None else {"unique_users": self.users}
        return {**users, **({"percentiles": self.percentiles} if self.percentiles else {})}


def _people(summary: FlagSummary) -> dict[str, Any]:
    """Return the figures of events that no rollup has."""
    users = {"unique_users": summary.unique_users} if summary.unique_users else {}
    return {**users, **({"percentiles": summary.percentiles} if summary.percentiles else {})}


def _totals(rows: Sequence[Sequence[Any]]) -> tuple[Counter[str], set[str]]:
    """Return the number of events by flag, and the flags that have sampled ones."""
    events: Counter[str] = Counter()
    sampled: set[str] = set()
    for _, flag_key, _, _, _, many, _, weight, *_ in rows:
        events[flag_key] += many
        if weight != many * MILLION:
            sampled.add(flag_key)
    return events, sampled


def _is_long(window: Window, kept: int | None) -> bool:
    """Return whether rollups may be faster; of a time without events they are all there is."""
    if window.start is None:
        return True
    start = micros(window.start)
    return micros(window.end) - start >= _SHORTEST or (kept is not None and start < kept)


def _smallest(events: Mapping[str, int], most: int) -> list[str]:
    """Return the smallest flags that together have at most so many events."""
    found: list[str] = []
    for key, many in sorted(events.items(), key=lambda item: (item[1], item[0])):
        most -= many
        if most < 0:
            break
        found.append(key)
    return sorted(found)


def _drafts(
    rows: Sequence[Sequence[Any]], keys: Sequence[str], parts: frozenset[str], group_by: Grouping | None
) -> dict[str, dict[str, Draft]]:
    """Return drafts by flag and group, of the largest groups under their names and the others together."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for _, flag_key, group, _, _, many, *_ in rows:
        counts[flag_key][group] += many
    kept = {key: _largest(of_flag, 1 if group_by is None else group_by.most) for key, of_flag in counts.items()}
    drafts: dict[str, dict[str, Draft]] = {key: {} for key in keys}
    for _, flag_key, group, variant, reason, many, first, weight, further, _ in rows:
        if flag_key in drafts:
            name = group if group in kept[flag_key] else OTHER_GROUP
            draft = drafts[flag_key].setdefault(name, Draft((), parts))
            draft.add(GROUPS, variant, reason, many, first, weight, further, (), (), ())
    return drafts


def _largest_cells(cells: Mapping[str, Mapping[int, list[int]]], most: int) -> Any:
    kept = _largest({group: sum(cell[0] for cell in some.values()) for group, some in cells.items()}, most)
    named: defaultdict[str, defaultdict[int, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0, 0]))
    for group, some in cells.items():
        for number, figures in some.items():
            cell = named[group if group in kept else OTHER_GROUP][number]
            cell[:] = [one + more for one, more in zip(cell, figures, strict=True)]
    return named


def _largest(counts: Mapping[str, int], most: int) -> set[str]:
    return set(sorted(counts, key=lambda name: (-counts[name], name))[:most])


def _activity(key: str, cells: Sequence[tuple[int, int, int, int]], accuracy: Accuracy) -> FlagActivity:
    many, weight = sum(cell[0] for cell in cells), sum(cell[1] for cell in cells)
    first, last = min(cell[2] for cell in cells), max(cell[3] for cell in cells)
    return FlagActivity(
        key, round(weight / MILLION), from_micros(first), from_micros(last), weight != many * MILLION, accuracy
    )


def _window(span: Span) -> Window:
    return Window(from_micros(span[0]), from_micros(span[1]))
