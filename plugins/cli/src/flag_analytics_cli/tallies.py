"""The events of a file as an event source that keeps counts and not events: a file of any size."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import attrs
from flag_analytics.canonical import MAX_KEY_CHARS
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.freezer import Freezer
from flag_analytics.frozen import FrozenEvent
from flag_analytics.metrics import (
    ActivityTally,
    ExposureTally,
    Groups,
    StepTally,
    Tally,
    canonical_filter,
    group_steps,
    select,
)
from flag_analytics.outcomes import OUTCOMES, Outcomes, OutcomeTally
from flag_analytics.sources import (
    OTHER_GROUP,
    PARTS,
    EventFilter,
    Exposures,
    FlagActivity,
    FlagSummary,
    Grouping,
    TimeStep,
    Window,
)

from .file_errors import FileError

__all__ = ["Needs", "TallySource"]

_CHUNK = 512
_MOST_GROUPS = 100_000
_ALL = ""

_FIELDS = frozenset({"variant", "reason", "flag_version"})
"""The dimensions that are fields of an event, and no attributes of its context."""

_Event = FlagEvaluationEvent | FrozenEvent
Read = Callable[[Callable[[FlagEvaluationEvent], object]], None]
"""Gives every event of the file to a function."""


@attrs.frozen
class Needs:
    """What a question asks of a file beyond the sums of each flag.

    Attributes:
        exposures: The variant that each user saw first.
        groups: The dimensions of groups.
        steps: Steps of time.
        outcomes: What users did after their first exposure.
    """

    exposures: bool = False
    groups: frozenset[str] = frozenset()
    steps: bool = False
    outcomes: bool = False

    @property
    def reads_again(self) -> bool:
        """Whether the file is read again: groups, steps and who was exposed are known when it has been read once."""
        return self.steps or self.outcomes or bool(self.groups)


@attrs.define
class _Flag:
    """The counts of one flag so far; events wait in ``chunk``, since a tally is faster with many at once.

    ``groups`` has the events of each group, by dimension.
    """

    exposures: ActivityTally
    others: ActivityTally
    tally: Tally = attrs.field(factory=Tally)
    chunk: list[_Event] = attrs.field(factory=list[_Event])
    first_seen_by: ExposureTally = attrs.field(factory=ExposureTally)
    groups: defaultdict[str, Counter[str]] = attrs.field(factory=lambda: defaultdict[str, Counter[str]](Counter))

    def activity(self) -> FlagActivity | None:
        """Return the activity of all its events."""
        exposures, others = self.exposures.activity(), self.others.activity()
        if exposures is None or others is None:
            return exposures or others
        return FlagActivity(
            exposures.flag_key,
            exposures.count + others.count,
            min(exposures.first_seen, others.first_seen),
            max(exposures.last_seen, others.last_seen),
            exposures.estimated or others.estimated,
        )


class TallySource:
    """Counts events as they are recorded, for one window and filter that are known beforehand.

    Numbers grow with the durations and texts with the distinct users, which exact percentiles and exact counts of users
    need. Which groups are the largest, and where steps of time begin, is known when all has been read: the file is read
    again for those, once for all that is asked at the same time.

    Args:
        window: The window; of events outside it, only those after now are counted, as being in the future.
        where: The events to count.
        needs: What will be asked for beyond sums.
        read_again: Gives every event of the file once more.
    """

    def __init__(
        self,
        window: Window,
        where: EventFilter | None = None,
        needs: Needs | None = None,
        read_again: Read | None = None,
    ) -> None:
        self.window = window
        self._where = canonical_filter(where)
        self._needs = needs or Needs()
        self._read_again = read_again
        self._waiting: list[_Dealt] = []
        self._keeps_context = bool(self._where.required_context()) or not self._needs.groups <= _FIELDS
        self._freeze = Freezer().freeze
        self._flags: dict[str, _Flag] = {}
        self._now = datetime.now(UTC)
        self._future = 0

    def record(self, event: FlagEvaluationEvent) -> None:
        """Count one event."""
        counted = self._counted(event)
        if counted.timestamp > self._now:
            self._future += 1
        flag = self._flags.get(counted.flag_key)
        if flag is None:
            key = counted.flag_key
            flag = self._flags[key] = _Flag(ActivityTally(key), ActivityTally(key))
        flag.chunk.append(counted)
        if len(flag.chunk) >= _CHUNK:
            self._count(flag)

    async def summarise(
        self,
        flag_keys: Sequence[str],
        window: Window,
        *,
        parts: frozenset[str] = PARTS,  # noqa: ARG002 - all of them are there
        percentiles: Sequence[float] = (),
        where: EventFilter | None = None,
        group_by: Grouping | None = None,
    ) -> Mapping[str, FlagSummary]:
        """Return the summaries of these flags."""
        self._check(window, where)
        if group_by is not None:
            return await self._summarise_groups(flag_keys, percentiles, group_by)
        found = {key: self._count(self._flags[key]) for key in flag_keys if key in self._flags}
        return {key: flag.tally.summary(percentiles) for key, flag in found.items() if flag.activity() is not None}

    async def get_exposures(self, flag_key: str, window: Window, *, where: EventFilter | None = None) -> Exposures:
        """Return users by the variant that they saw first, where this was needed."""
        self._check(window, where)
        if not self._needs.exposures:
            raise ValueError("the variant that a user saw first was not kept: ask for it before the file is read")
        flag = self._flags.get(flag_key)
        return Exposures() if flag is None else self._count(flag).first_seen_by.exposures()

    async def get_outcomes(
        self, flag_key: str, metric: str, window: Window, *, where: EventFilter | None = None
    ) -> Outcomes:
        """Return what users did, by the variant that they saw first; the file is read once for each of the two."""
        tally = OutcomeTally(flag_key, metric)
        if self._read_again is not None:
            self._read_again(self._each(flag_key, window, canonical_filter(where), tally.add_exposures))
            self._read_again(self._each(metric, window, OUTCOMES, tally.add_outcomes))
        return tally.outcomes()

    def _each(
        self, flag_key: str, window: Window, where: EventFilter, add: Callable[[list[Any]], None]
    ) -> Callable[[FlagEvaluationEvent], None]:
        def record(event: FlagEvaluationEvent) -> None:
            counted = self._freeze(event)
            if counted.flag_key == flag_key:
                add(select([counted], window, where))

        return record

    async def list_flags(self, window: Window, *, where: EventFilter | None = None) -> Sequence[FlagActivity]:
        """Return every flag of the file, by key; those with exposures where only these are asked for."""
        exposures = where is not None and where.kinds == ("exposure",) and self._where.kinds != ("exposure",)
        self._check(window, attrs.evolve(where, kinds=self._where.kinds) if where is not None and exposures else where)
        flags = [self._count(self._flags[key]) for key in sorted(self._flags)]
        found = (flag.exposures.activity() if exposures else flag.activity() for flag in flags)
        return [activity for activity in found if activity is not None]

    async def count_steps(
        self,
        flag_key: str,
        window: Window,
        step_seconds: float,
        *,
        where: EventFilter | None = None,
        group_by: Grouping | None = None,
    ) -> Mapping[int, TimeStep]:
        """Return the steps of a flag in a window within the one that was read, whose largest groups have names."""
        self._check(self.window, where)
        dealt: _Dealt = self._dealt(flag_key, window, group_by, lambda: StepTally(window, step_seconds))
        await self._fill(dealt)
        found = {name: tally.steps() for name, tally in dealt.tallies.items()}
        return found.get(_ALL, {}) if group_by is None else group_steps(window, step_seconds, found)

    async def count_future(self, now: datetime) -> int:  # noqa: ARG002 - the file was read before
        """Return the number of events dated after the time at which the file was opened."""
        return self._future

    def _check(self, window: Window, where: EventFilter | None) -> None:
        if window != self.window or canonical_filter(where) != self._where:
            raise ValueError("only the window and the filter that the file was read for can be asked about")

    def _counted(self, event: FlagEvaluationEvent) -> _Event:
        """Return the event in canonical form, as far as a tally looks at it: a short and printable one is."""
        text = f"{event.flag_key}{event.reason}{event.variant}{event.targeting_key}"
        is_plain = len(text) <= MAX_KEY_CHARS and text.isprintable() and not self._keeps_context
        return event if is_plain else self._freeze(event)

    def _count(self, flag: _Flag) -> _Flag:
        """Count the events that wait."""
        events = select(flag.chunk, self.window, self._where)
        flag.chunk.clear()
        if events:
            flag.tally.add(events)
            exposures = [event for event in events if event.kind == "exposure"]
            flag.exposures.add(exposures)
            if len(exposures) < len(events):
                flag.others.add([event for event in events if event.kind != "exposure"])
            if self._needs.exposures:
                flag.first_seen_by.add(events)
            for dimension in self._needs.groups:
                counts = flag.groups[dimension]
                counts.update({name: len(some) for name, some in _by_group(events, dimension)})
                if len(counts) > _MOST_GROUPS:
                    raise FileError(
                        f"more than {_MOST_GROUPS:,} groups by {dimension}: expected a dimension of few values, or "
                        "import the file into a database"
                    )
        return flag

    async def _summarise_groups(
        self, flag_keys: Sequence[str], percentiles: Sequence[float], group_by: Grouping
    ) -> Mapping[str, FlagSummary]:
        dealt = {key: self._dealt(key, self.window, group_by, Tally) for key in flag_keys if key in self._flags}
        await self._fill(*dealt.values())
        return {
            key: FlagSummary(groups={name: tally.summary(percentiles) for name, tally in of_flag.tallies.items()})
            for key, of_flag in dealt.items()
            if of_flag.tallies
        }

    def _dealt(self, flag_key: str, window: Window, group_by: Grouping | None, tally: Callable[[], Any]) -> _Dealt:
        """Return the tallies by group of one flag, still empty."""
        if not (self._needs.steps if group_by is None else group_by.by in self._needs.groups):
            raise ValueError("groups and steps were not kept: ask for them before the file is read")
        if group_by is None or flag_key not in self._flags:
            return _Dealt(flag_key, window, None, frozenset(), defaultdict(tally))
        counts = self._count(self._flags[flag_key]).groups[group_by.by]
        largest = heapq.nsmallest(group_by.most, counts, key=lambda name: (-counts[name], name))
        return _Dealt(flag_key, window, group_by.by, frozenset(largest), defaultdict(tally))

    async def _fill(self, *dealt: _Dealt) -> None:
        """Read the file again for these, and for those that other tasks are about to ask for."""
        self._waiting += dealt
        await asyncio.sleep(0)
        waiting, self._waiting = self._waiting, []
        if not waiting or self._read_again is None:
            return
        by_flag: defaultdict[str, list[_Dealt]] = defaultdict(list)
        for one in waiting:
            by_flag[one.flag_key].append(one)
        chunks: defaultdict[str, list[_Event]] = defaultdict(list)

        def add(flag_key: str) -> None:
            for one in by_flag[flag_key]:
                one.add(select(chunks[flag_key], one.window, self._where))
            chunks[flag_key].clear()

        def record(event: FlagEvaluationEvent) -> None:
            counted = self._counted(event)
            if counted.flag_key in by_flag:
                chunks[counted.flag_key].append(counted)
                if len(chunks[counted.flag_key]) >= _CHUNK:
                    add(counted.flag_key)

        self._read_again(record)
        for flag_key in list(chunks):
            add(flag_key)


@attrs.frozen
class _Dealt:
    """One flag's events of a window, counted by group: the largest under their names, the others together."""

    flag_key: str
    window: Window
    dimension: str | None
    largest: frozenset[str]
    tallies: defaultdict[str, Any]

    def add(self, events: Sequence[Any]) -> None:
        if self.dimension is None:
            if events:
                self.tallies[_ALL].add(events)
            return
        for name, some in _by_group(events, self.dimension):
            self.tallies[name if name in self.largest else OTHER_GROUP].add(some)


def _by_group(events: Sequence[Any], dimension: str) -> Iterator[tuple[str, list[Any]]]:
    """Yield the events of each group; there are at most ``_CHUNK``, so that each group has its own name."""
    groups = Groups(Grouping(dimension, most=_CHUNK))
    groups.add(events)
    yield from groups.named().items()
