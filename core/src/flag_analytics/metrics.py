"""The arithmetic of metrics over events in memory, which every event source answers alike.

"Events" are ``FrozenEvent`` here, or ``FlagEvaluationEvent`` in canonical form, mixed as they come.

The figures, for the events ``e`` that happened in a window and pass a filter, with the weights ``w(e)`` of
``flag_analytics.weighting`` (1 for an event that was not sampled):

- The number of events, also by variant or reason: the sum of ``w(e)``.
- An error is an event whose reason is ``ERROR``, or with an ``error_type``.
- Distinct users: the sum over targeting keys of the smallest weight of the key's events. The ``sample`` processor
  draws by user: a user is seen if any of its events is kept, which the highest rate decides.
- Users by variant: the same among the events of the variant.
- Users with more than one variant: the sum over targeting keys of the second smallest of the variants' weights, since
  two variants must be seen.
- Percentiles: over durations above 0, weighted; see ``weighted_percentile``.

Of ``n`` users sampled at rate ``r``, the estimate of ``n`` has the standard error ``sqrt(n * (1 - r) / r)``; of events,
with ``k(u)`` events of user ``u``, ``sqrt(sum(k(u)**2) * (1 - r) / r)``.
"""

from __future__ import annotations

import heapq
import itertools
import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any

import attrs
import msgspec

from .filters import DEFAULT_VARIANT, canonical_filter, same_json, select
from .outcomes import OUTCOMES, Outcomes, OutcomeTally
from .sources import (
    NO_VALUE,
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
from .weighting import MILLION, as_count, check_percentiles, percentile, weight_of, weighted_percentile

__all__ = [
    "DEFAULT_VARIANT",
    "MILLION",
    "ActivityTally",
    "Digest",
    "EventsSource",
    "ExposureTally",
    "Groups",
    "StepTally",
    "Tally",
    "activity",
    "as_count",
    "canonical_filter",
    "check_percentiles",
    "count_steps",
    "group_steps",
    "is_error",
    "percentile",
    "same_json",
    "select",
    "step_bounds",
    "step_count",
    "step_length",
    "summarise",
    "time_step",
    "weight_of",
    "weighted_percentile",
]

_MICROSECOND = timedelta(microseconds=1)
_timestamp = attrgetter("timestamp")
_sample_rate = attrgetter("sample_rate")
_variant_and_user = attrgetter("variant", "targeting_key")
_encode = msgspec.json.Encoder().encode


def is_error(event: Any) -> bool:
    """Return whether an event counts as an error: its reason is ``ERROR``, or it has an ``error_type``."""
    return bool(event.reason == "ERROR" or event.error_type)


@attrs.frozen
class Digest:
    """One run of one flag's events, all with one sample rate: enough to take part in any sum without the events.

    Attributes:
        total: Number of events, at least 1.
        errors: Number of errors.
        first_seen: The earliest time.
        last_seen: The latest time.
        kinds: The kinds that occur.
        variants: Events by variant, as it is.
        reasons: Events by reason.
        users: Distinct targeting keys by variant, as it is; None and the empty one may be among them.
        durations: Milliseconds, in order; those above 0.
        sample_rate: The rate of all events.
    """

    total: int
    errors: int
    first_seen: datetime
    last_seen: datetime
    kinds: frozenset[str]
    variants: Mapping[str | None, int]
    reasons: Mapping[str, int]
    users: Mapping[str | None, Collection[str | None]]
    durations: Sequence[float]
    sample_rate: float = 1.0

    @classmethod
    def of(cls, events: Sequence[Any]) -> Digest:
        """Return the digest of at least one event, all with one sample rate."""
        # One attribute after the other, each by one comprehension: several fast passes take less than a slow one.
        times = [event.timestamp for event in events]
        limit = math.inf
        reasons = Counter([event.reason for event in events])
        users: dict[str | None, set[str | None]] = {}
        for variant, user in set(map(_variant_and_user, events)):
            users.setdefault(variant, set()).add(user)
        typed = [event for event in events if event.error_type]
        return cls(
            total=len(events),
            errors=reasons["ERROR"] + sum(event.reason != "ERROR" for event in typed),
            first_seen=min(times),
            last_seen=max(times),
            kinds=frozenset({event.kind for event in events}),
            variants=Counter([event.variant for event in events]),
            reasons=reasons,
            users=users,
            durations=sorted([d for event in events if 0.0 < (d := event.evaluation_duration_ms) < limit]),
            sample_rate=events[0].sample_rate,
        )


class Tally:
    """Counts one flag's events: ``add`` events or ``merge`` digests as they come, then ask for the summary."""

    def __init__(self) -> None:
        self._total = 0
        self._errors = 0
        self._estimated = False
        self._variants: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._users: dict[float, dict[str, set[str | None]]] = {}
        self._durations: dict[float, array[float]] = {}
        self._first_seen: datetime | None = None

    def add(self, events: Sequence[Any]) -> None:
        """Count these events."""
        if len(set(map(_sample_rate, events))) > 1:
            by_rate: defaultdict[float, list[Any]] = defaultdict(list)
            for event in events:
                by_rate[event.sample_rate].append(event)
            for some in by_rate.values():
                self.merge(Digest.of(some))
        elif events:
            self.merge(Digest.of(events))

    def merge(self, digest: Digest) -> None:
        """Count the events of a digest."""
        rate = digest.sample_rate
        weight = weight_of(rate)
        self._estimated |= weight != MILLION
        self._total += digest.total * weight
        self._errors += digest.errors * weight
        for variant, count in digest.variants.items():
            self._variants[variant or DEFAULT_VARIANT] += count * weight
        for reason, count in digest.reasons.items():
            self._reasons[str(reason)] += count * weight
        users = self._users.setdefault(rate, {})
        for variant, keys in digest.users.items():
            users.setdefault(variant or DEFAULT_VARIANT, set()).update(keys)
        # In sorted runs: to put them in order is a merge, a fraction of a sort.
        self._durations.setdefault(rate, array("d")).extend(digest.durations)
        if self._first_seen is None or digest.first_seen < self._first_seen:
            self._first_seen = digest.first_seen

    def summary(self, percentiles: Sequence[float] = ()) -> FlagSummary:
        """Return the summary so far, with these percentiles (0–100) of the durations above 0."""
        users, variant_users, crossovers = self._distinct()
        return FlagSummary(
            total=as_count(self._total),
            errors=as_count(self._errors),
            unique_users=users,
            variants={variant: as_count(count) for variant, count in self._variants.items()},
            reasons={reason: as_count(count) for reason, count in self._reasons.items()},
            percentiles=self._percentiles(percentiles),
            first_seen=self._first_seen,
            variant_users=variant_users,
            crossover_users=crossovers,
            estimated=self._estimated,
        )

    def _distinct(self) -> tuple[float, dict[str, float], float]:
        """Return distinct users, by variant too, and those with more than one variant: the highest rate counts."""
        once: set[str | None] = {None, ""}
        seen = once.copy()
        crossed: set[str | None] = set()
        by_variant: dict[str, set[str | None]] = {}
        users = crossovers = 0
        counts: Counter[str] = Counter()
        for rate in sorted(self._users, reverse=True):
            weight = weight_of(rate)
            for variant, keys in self._users[rate].items():
                known = by_variant.setdefault(variant, once)
                entering = keys - known
                by_variant[variant] = known | entering
                again = (entering & seen) - crossed
                crossed |= again
                counts[variant] += weight * len(entering)
                crossovers += weight * len(again)
                users += weight * len(entering - seen)
                seen |= entering
        found = {variant: as_count(count) for variant, count in counts.items() if count}
        return as_count(users), found, as_count(crossovers)

    def _percentiles(self, percentiles: Sequence[float]) -> dict[float, float]:
        if not percentiles or not any(self._durations.values()):
            return {}
        if not self._estimated:
            ordered = sorted(duration for durations in self._durations.values() for duration in durations)
            return {percent: percentile(ordered, percent) for percent in percentiles}
        pairs = sorted((duration, weight_of(rate)) for rate, some in self._durations.items() for duration in some)
        reach = list(itertools.accumulate(weight for _, weight in pairs))
        ordered = [duration for duration, _ in pairs]
        return {percent: weighted_percentile(ordered, reach, reach[-1], percent) for percent in percentiles}


class ExposureTally:
    """Finds the variant that each user saw first, from one flag's events as they come; see ``Exposures``."""

    def __init__(self) -> None:
        self._versions: Counter[str] = Counter()
        self._seen: defaultdict[str, _Seen] = defaultdict(dict)

    def add(self, events: Iterable[Any]) -> None:
        """Count these events."""
        for event in events:
            if event.targeting_key:
                version = event.flag_version or NO_VALUE
                self._versions[version] += 1
                cell = (event.timestamp, event.timestamp, event.sample_rate)
                _see(self._seen[version], event.targeting_key, event.variant or DEFAULT_VARIANT, cell)

    def exposures(self, most_versions: int = Grouping("flag_version").most) -> Exposures:
        """Return the exposures so far."""
        kept = _largest(self._versions, most_versions)
        if len(self._seen) == 1:
            ((version, seen),) = self._seen.items()
            only = _exposures(seen)
            return attrs.evolve(only, by_version={version: only})
        whole: _Seen = {}
        by_version: defaultdict[str, _Seen] = defaultdict(dict)
        for version, users in self._seen.items():
            name = version if version in kept else OTHER_GROUP
            for user, variants in users.items():
                for variant, cell in variants.items():
                    _see(whole, user, variant, cell)
                    _see(by_version[name], user, variant, cell)
        versions = {version: _exposures(seen) for version, seen in by_version.items()}
        return attrs.evolve(_exposures(whole), by_version=versions)


_Cell = tuple[datetime, datetime, float]
"""First time, last time and highest sample rate of one user's events with one variant."""
_Seen = dict[str, dict[str, _Cell]]
"""Cells by user and variant."""


def _see(seen: _Seen, user: str, variant: str, cell: _Cell) -> None:
    variants = seen.setdefault(user, {})
    known = variants.get(variant)
    if known is not None:
        cell = (min(known[0], cell[0]), max(known[1], cell[1]), max(known[2], cell[2]))
    variants[variant] = cell


def _exposures(seen: _Seen) -> Exposures:
    first: Counter[str] = Counter()
    crossed = switched = 0
    estimated = False
    for variants in seen.values():
        order = sorted((cell[0], variant, cell[1], cell[2]) for variant, cell in variants.items())
        highest, *others = sorted((rate for *_, rate in order), reverse=True)
        weight = weight_of(highest)
        estimated |= weight != MILLION
        first[order[0][1]] += weight
        if others:
            # Two variants must be seen to tell a crossover.
            weight = weight_of(others[0])
            crossed += weight
            switched += weight * _switches_back(order)
    return Exposures(
        users=round(first.total() / MILLION),
        first_variant_users={variant: round(count / MILLION) for variant, count in first.items()},
        crossover_users=round(crossed / MILLION),
        switch_back_users=round(switched / MILLION),
        estimated=estimated,
    )


def _switches_back(order: Sequence[tuple[datetime, str, datetime, float]]) -> bool:
    latest = order[0][2]
    for first, _, last, _ in order[1:]:
        if latest > first:
            return True
        latest = max(latest, last)
    return False


class Groups:
    """Deals events out by group; see ``Grouping``."""

    def __init__(self, grouping: Grouping) -> None:
        self._most = grouping.most
        self._name = _namer(grouping)
        self._groups: defaultdict[str, list[Any]] = defaultdict(list)

    def add(self, events: Iterable[Any]) -> None:
        """Deal out these events."""
        for event in events:
            self._groups[self._name(event)].append(event)

    def named(self) -> dict[str, list[Any]]:
        """Return the events so far by group, the largest under their names and the others together."""
        kept = _largest({name: len(events) for name, events in self._groups.items()}, self._most)
        named: defaultdict[str, list[Any]] = defaultdict(list)
        for name, events in self._groups.items():
            named[name if name in kept else OTHER_GROUP] += events
        return dict(named)


def _largest(counts: Mapping[str, int], most: int) -> frozenset[str]:
    return frozenset(heapq.nsmallest(most, counts, key=lambda name: (-counts[name], name)))


def _namer(grouping: Grouping) -> Callable[[Any], str]:
    attribute = grouping.attribute
    if attribute is not None:
        return lambda event: _as_name(event.context_attributes.get(attribute))
    if grouping.by == "variant":
        return lambda event: event.variant or DEFAULT_VARIANT
    if grouping.by == "reason":
        return lambda event: str(event.reason)
    return lambda event: event.flag_version or NO_VALUE


def _as_name(value: Any) -> str:
    if value is None:
        return NO_VALUE
    return value if isinstance(value, str) else _encode(value).decode()


class ActivityTally:
    """Finds when one flag's events happened, and how many there are."""

    def __init__(self, flag_key: str) -> None:
        self._flag_key = flag_key
        self._events = 0
        self._total = 0
        self._seen: list[datetime] = []

    def add(self, events: Sequence[Any]) -> None:
        """Count these events."""
        if events:
            total = sum(map(weight_of, map(_sample_rate, events)))
            self._count(len(events), total, min(map(_timestamp, events)), max(map(_timestamp, events)))

    def merge(self, digest: Digest) -> None:
        """Count the events of a digest."""
        self._count(digest.total, digest.total * weight_of(digest.sample_rate), digest.first_seen, digest.last_seen)

    def _count(self, events: int, total: int, first_seen: datetime, last_seen: datetime) -> None:
        self._events += events
        self._total += total
        self._seen = [min([*self._seen, first_seen]), max([*self._seen, last_seen])]

    def activity(self) -> FlagActivity | None:
        """Return the activity so far; None without events."""
        if not self._events:
            return None
        estimated = self._total != self._events * MILLION
        return FlagActivity(self._flag_key, round(self._total / MILLION), self._seen[0], self._seen[1], estimated)


def activity(flag_key: str, events: Sequence[Any]) -> FlagActivity:
    """Return the activity of one flag, from at least one event of it."""
    tally = ActivityTally(flag_key)
    tally.add(events)
    found = tally.activity()
    assert found is not None
    return found


def step_length(step_seconds: float) -> timedelta:
    """Return the length of a step, in whole microseconds.

    Raises:
        TypeError: it is not a number.
        ValueError: it is less than a microsecond, or infinite.
    """
    if isinstance(step_seconds, bool) or not isinstance(step_seconds, int | float):
        raise TypeError(f"step_seconds is {type(step_seconds).__name__}: expected a number of seconds")
    try:
        step = timedelta(seconds=step_seconds)
    except (OverflowError, ValueError):
        step = timedelta(0)
    if step < _MICROSECOND:
        raise ValueError(f"step_seconds is {step_seconds!r}: expected a number of seconds, at least 0.000001")
    return step


def step_count(window: Window, step: timedelta) -> int:
    """Return how many steps it takes to cover the window, whose start is set; the last one may be shorter."""
    assert window.start is not None
    return max(0, -((window.start - window.end) // step))


def step_bounds(window: Window, step: timedelta, number: int) -> tuple[datetime, datetime]:
    """Return where a step begins and ends."""
    assert window.start is not None
    start = window.start + number * step
    return start, window.end if window.end - start <= step else start + step


def time_step(window: Window, step: timedelta, number: int, **figures: Any) -> TimeStep:
    """Return one step of a window with these figures; it is unfinished where the window ends before it does."""
    start, end = step_bounds(window, step, number)
    return TimeStep(start, end, unfinished=end - start < step, **figures)


class StepTally:
    """Counts one flag's events in each step of a window; see ``EventSource.count_steps``."""

    def __init__(self, window: Window, step_seconds: float) -> None:
        assert window.start is not None
        self._window = window
        self._start = window.start
        self._step = step_length(step_seconds)
        self._last = max(0, step_count(window, self._step) - 1)
        self._steps: dict[int, _StepFigures] = {}

    def add(self, events: Iterable[Any]) -> None:
        """Count these events, which lie in the window."""
        for event in events:
            # The division is exact: time differences are whole microseconds.
            number = min((event.timestamp - self._start) // self._step, self._last)
            step = self._steps.get(number)
            if step is None:
                step = self._steps[number] = _StepFigures()
            weight = weight_of(event.sample_rate)
            step.events += 1
            step.total += weight
            if is_error(event):
                step.errors += weight
            if event.targeting_key:
                step.users[event.targeting_key] = min(weight, step.users.get(event.targeting_key, weight))

    def steps(self) -> dict[int, TimeStep]:
        """Return the steps that have events, by number."""
        return {
            number: time_step(
                self._window,
                self._step,
                number,
                count=round(step.total / MILLION),
                errors=round(step.errors / MILLION),
                unique_users=round(sum(step.users.values()) / MILLION),
                estimated=step.total != step.events * MILLION,
            )
            for number, step in sorted(self._steps.items())
        }


@attrs.define
class _StepFigures:
    """Sums of weights of one step, and the smallest weight of each user."""

    events: int = 0
    total: int = 0
    errors: int = 0
    users: dict[str, int] = attrs.field(factory=dict[str, int])


def count_steps(events: Iterable[Any], window: Window, step_seconds: float) -> dict[int, TimeStep]:
    """Return the steps of the window that have events, by number, from events that lie in the window."""
    tally = StepTally(window, step_seconds)
    tally.add(events)
    return tally.steps()


def group_steps(
    window: Window, step_seconds: float, groups: Mapping[str, Mapping[int, TimeStep]]
) -> dict[int, TimeStep]:
    """Return steps by number that have the steps of these groups as their ``groups``."""
    by_number: defaultdict[int, dict[str, TimeStep]] = defaultdict(dict)
    for name, steps in groups.items():
        for number, step in steps.items():
            by_number[number][name] = step
    length = step_length(step_seconds)
    return {number: time_step(window, length, number, groups=by_number[number]) for number in sorted(by_number)}


class EventsSource:
    """An ``EventSource`` over events in memory; it computes an answer in one go.

    Args:
        read: Returns all events, in canonical form.
    """

    any_loop = True

    def __init__(self, read: Callable[[], Iterable[Any]]) -> None:
        self._read = read

    async def summarise(
        self,
        flag_keys: Sequence[str],
        window: Window,
        *,
        parts: frozenset[str] = PARTS,  # noqa: ARG002  all of them are computed
        percentiles: Sequence[float] = (),
        where: EventFilter | None = None,
        group_by: Grouping | None = None,
    ) -> Mapping[str, FlagSummary]:
        """See ``EventSource.summarise``."""
        by_flag = self._by_flag(window, where)
        return {key: summarise(by_flag[key], percentiles, group_by) for key in flag_keys if key in by_flag}

    async def get_exposures(self, flag_key: str, window: Window, *, where: EventFilter | None = None) -> Exposures:
        """See ``EventSource.get_exposures``."""
        tally = ExposureTally()
        tally.add(self._by_flag(window, where).get(flag_key, ()))
        return tally.exposures()

    async def get_outcomes(
        self, flag_key: str, metric: str, window: Window, *, where: EventFilter | None = None
    ) -> Outcomes:
        """See ``OutcomeSource.get_outcomes``."""
        tally = OutcomeTally(flag_key, metric)
        tally.add_exposures(self._by_flag(window, where).get(flag_key, ()))
        tally.add_outcomes(self._by_flag(window, OUTCOMES).get(metric, ()))
        return tally.outcomes()

    async def list_flags(self, window: Window, *, where: EventFilter | None = None) -> Sequence[FlagActivity]:
        """See ``EventSource.list_flags``."""
        return [activity(key, events) for key, events in sorted(self._by_flag(window, where).items())]

    async def count_steps(
        self,
        flag_key: str,
        window: Window,
        step_seconds: float,
        *,
        where: EventFilter | None = None,
        group_by: Grouping | None = None,
    ) -> Mapping[int, TimeStep]:
        """See ``EventSource.count_steps``."""
        events = self._by_flag(window, where).get(flag_key, ())
        if group_by is None:
            return count_steps(events, window, step_seconds)
        groups = Groups(group_by)
        groups.add(events)
        named = {name: count_steps(some, window, step_seconds) for name, some in groups.named().items()}
        return group_steps(window, step_seconds, named)

    async def count_future(self, now: datetime) -> int:
        """See ``EventSource.count_future``."""
        return sum(event.timestamp > now for event in self._read())

    def _by_flag(self, window: Window, where: EventFilter | None) -> dict[str, list[Any]]:
        by_flag: defaultdict[str, list[Any]] = defaultdict(list)
        for event in select(self._read(), window, canonical_filter(where)):
            by_flag[event.flag_key].append(event)
        return dict(by_flag)


def summarise(events: Sequence[Any], percentiles: Sequence[float], group_by: Grouping | None = None) -> FlagSummary:
    """Return the summary of one flag's events, by group where groups are asked for."""
    if group_by is not None:
        groups = Groups(group_by)
        groups.add(events)
        return FlagSummary(groups={name: summarise(some, percentiles) for name, some in groups.named().items()})
    tally = Tally()
    tally.add(events)
    return tally.summary(percentiles)
