"""``ClickHouseSource``: answers the aggregator's questions by asking ClickHouse."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs
from flag_analytics.canonical import canonical_key
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

from .answers import Draft, exposures_of, outcomes_of
from .fast import Rollups
from .fast_queries import removed_query
from .queries import (
    Query,
    activity_query,
    exposures_by_version_query,
    exposures_query,
    future_query,
    outcomes_query,
    steps_query,
    summary_query,
    weighted_steps_query,
)
from .reading import EventStream
from .rows import from_micros, micros
from .schema import Tables

__all__ = ["SETTINGS", "Ask", "ClickHouseSource"]

Ask = Callable[[Query], Awaitable[Sequence[Any]]]
"""Runs one statement and returns its rows."""

SETTINGS = {
    # The regular expression that cuts an attribute out runs for the few rows that need it.
    "short_circuit_function_evaluation": "force_enable",
    "precise_float_parsing": "1",
    "distributed_product_mode": "global",
    # What a profile of the server may have set otherwise.
    "join_use_nulls": "0",
    "aggregate_functions_null_for_empty": "0",
    "group_by_use_nulls": "0",
    "prefer_column_name_to_alias": "0",
}
"""The settings that questions are asked with."""
_SECOND = 1_000_000
_FLAGS_PER_STATEMENT = 1_000


@attrs.frozen(eq=False)
class ClickHouseSource:
    """An ``EventSource`` over one set of tables: ClickHouse computes, a few rows come back.

    Where events of a window were removed, rollups answer, and the answer says how exact it is.

    Attributes:
        ask: Runs one statement.
        tables: The tables.
        kept_since: Returns the start of the first day whose events are all there, in microseconds; None if none were
            removed.
    """

    ask: Ask = attrs.field(repr=False)
    tables: Tables
    kept_since: Callable[[], Awaitable[int | None]] = attrs.field(repr=False)

    @property
    def _rollups(self) -> Rollups:
        return Rollups(self.ask, self.tables, self.summarise_events)

    async def _choose(self, window: Window, accuracy: str) -> tuple[bool, int | None]:
        """Return whether rollups are to answer, and since when events are kept, as far as it matters."""
        kept = await self.kept_since()
        if kept is None or (window.start is not None and micros(window.start) >= kept):
            return accuracy == "fast", None
        if not await self.ask(removed_query(self.tables, window, kept)):
            return accuracy == "fast", None
        return True, kept

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
        asked = (window, parts, check_percentiles(percentiles), canonical_filter(where), group_by)
        keys = sorted(set(flag_keys))
        rolled, kept = await self._choose(window, accuracy)
        if rolled and keys:
            found = await self._rollups.summarise(keys, *asked, kept)
            if found is not None:
                return found
        found = await self.summarise_events(keys, *asked)
        since = _complete_since(kept)
        return {key: attrs.evolve(summary, accuracy=since) for key, summary in found.items()} if kept else found

    async def summarise_events(
        self,
        flag_keys: Sequence[str],
        window: Window,
        parts: frozenset[str],
        percentiles: Sequence[float],
        where: EventFilter,
        group_by: Grouping | None,
    ) -> Mapping[str, FlagSummary]:
        """Return summaries from events; the filter is in canonical form."""
        asked = (window, parts, percentiles, where, group_by)
        drafts: dict[tuple[str, str], Draft] = {}
        for keys in _chunks(flag_keys, _FLAGS_PER_STATEMENT):
            found = await self._drafts(keys, *asked, weighted=False)
            if any(draft.sampled for draft in found.values()):
                found = await self._drafts(keys, *asked, weighted=True)
            drafts |= found
        summaries = {key: draft.summary() for key, draft in drafts.items() if draft.total}
        if group_by is None:
            return {flag_key: summary for (flag_key, _), summary in summaries.items()}
        groups: defaultdict[str, dict[str, FlagSummary]] = defaultdict(dict)
        for (flag_key, group), summary in summaries.items():
            groups[flag_key][group] = summary
        return {flag_key: FlagSummary(groups=named) for flag_key, named in groups.items()}

    async def _drafts(
        self,
        keys: Sequence[str],
        window: Window,
        parts: frozenset[str],
        percentiles: Sequence[float],
        where: EventFilter,
        group_by: Grouping | None,
        *,
        weighted: bool,
    ) -> dict[tuple[str, str], Draft]:
        query = summary_query(self.tables, keys, window, parts, percentiles, where, group_by, weighted=weighted)
        drafts: dict[tuple[str, str], Draft] = {}
        for kind, flag_key, group, *row in await self.ask(query):
            if (flag_key, group) not in drafts:
                drafts[flag_key, group] = Draft(percentiles, parts)
            drafts[flag_key, group].add(kind, *row)
        return drafts

    async def get_exposures(self, flag_key: str, window: Window, *, where: EventFilter | None = None) -> Exposures:
        """Return users by the variant that they saw first; see ``EventSource.get_exposures``."""
        asked = (self.tables, flag_key, window)
        where = canonical_filter(where)
        versions: set[str] = set()
        rows = []
        for *row, names in await self.ask(exposures_query(*asked, where)):
            rows.append(row)
            versions.update(names)
        _, kept = await self._choose(window, "exact")
        whole = attrs.evolve(exposures_of(rows), accuracy=_complete_since(kept))
        if len(versions) < 2:
            return attrs.evolve(whole, by_version=dict.fromkeys(versions, whole))
        by_version: defaultdict[str, list[Sequence[Any]]] = defaultdict(list)
        for version, *row in await self.ask(exposures_by_version_query(*asked, Grouping("flag_version").most, where)):
            by_version[version].append(row)
        return attrs.evolve(whole, by_version={name: exposures_of(some) for name, some in by_version.items()})

    async def get_outcomes(
        self, flag_key: str, metric: str, window: Window, *, where: EventFilter | None = None
    ) -> Outcomes:
        """Return what the flag's users did, by the variant that they saw first; see ``OutcomeSource.get_outcomes``."""
        asked = (self.tables, flag_key, metric, window, canonical_filter(where))
        _, kept = await self._choose(window, "exact")
        found = outcomes_of(flag_key, metric, await self.ask(outcomes_query(*asked)))
        return attrs.evolve(found, accuracy=_complete_since(kept))

    async def list_flags(
        self, window: Window, *, where: EventFilter | None = None, accuracy: str = "exact"
    ) -> Sequence[FlagActivity]:
        """Return every flag with events in the window, by key."""
        where = canonical_filter(where)
        rolled, kept = await self._choose(window, accuracy)
        found = await self._rollups.list_flags(window, where, kept) if rolled else None
        if found is not None:
            return found
        since = _complete_since(kept)
        rows = await self.ask(activity_query(self.tables, window, where))
        return sorted(
            (
                FlagActivity(
                    key,
                    round(weight / MILLION),
                    from_micros(first),
                    from_micros(last),
                    weight != count * MILLION,
                    since,
                )
                for key, count, weight, first, last in rows
            ),
            key=lambda flag: flag.flag_key,
        )

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
        """Return, by number, the steps of the window that have events; see ``EventSource.count_steps``."""
        step = step_length(step_seconds)
        last = max(0, step_count(window, step) - 1)
        length = (step.days * 86_400 + step.seconds) * _SECOND + step.microseconds
        where = canonical_filter(where)
        rolled, kept = await self._choose(window, accuracy)
        if rolled:
            found = await self._rollups.count_steps(flag_key, window, length, last, where, group_by, kept)
            if found is not None:
                return found
        since = _complete_since(kept)
        asked = (self.tables, flag_key, window, length, last, where, group_by)
        rows = await self.ask(steps_query(*asked))
        users: Mapping[tuple[int, str], int] | None = None
        if any(weight != count * MILLION for *_, count, _, _, weight in rows):
            users = {(number, group): weight for number, group, weight in await self.ask(weighted_steps_query(*asked))}
        steps: defaultdict[str, dict[int, TimeStep]] = defaultdict(dict)
        for number, group, count, errors, people, weight in sorted(rows):
            steps[group][number] = time_step(
                window,
                step,
                number,
                count=round(weight / MILLION),
                errors=round(errors / MILLION),
                unique_users=people if users is None else round(users.get((number, group), 0) / MILLION),
                estimated=weight != count * MILLION,
                accuracy=since,
            )
        return group_steps(window, step_seconds, steps) if group_by is not None else steps.get("", {})

    async def count_future(self, now: datetime) -> int:
        """Return how many stored events are dated after ``now``."""
        ((count,),) = await self.ask(future_query(self.tables, micros(now)))
        return int(count)

    def get_events(
        self, flag_key: str | None, limit: int | None, window: Window | None, where: EventFilter | None
    ) -> EventStream:
        """Return events by time; without a filter those of every kind."""
        return EventStream(
            self.ask,
            self.tables,
            flag_key=None if flag_key is None else canonical_key(flag_key),
            window=window,
            where=None if where is None else canonical_filter(where),
            limit=limit,
        )


def _complete_since(kept: int | None) -> Accuracy:
    return EXACT if kept is None else Accuracy(complete_since=from_micros(kept))


def _chunks(keys: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]
