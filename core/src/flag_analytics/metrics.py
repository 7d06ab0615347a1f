"""The arithmetic of metrics over events in memory: filters, tallies, percentiles, steps of time.

The aggregator and every event source that computes in this process share it, so that all of them answer alike.
"Events" are ``FrozenEvent`` here, or ``FlagEvaluationEvent`` in canonical form, mixed as they come.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any

import attrs

from .canonical import canonical_key
from .events import EvaluationReason, FlagEvaluationEvent
from .freezer import Freezer
from .sources import EventFilter, FlagActivity, FlagSummary, TimeStep, Window

__all__ = [
    "DEFAULT_VARIANT",
    "Digest",
    "StepTally",
    "Tally",
    "activity",
    "canonical_filter",
    "check_percentiles",
    "count_steps",
    "percentile",
    "select",
    "step_bounds",
    "step_count",
    "step_length",
]

DEFAULT_VARIANT = "default"
"""What an event without a variant counts as, in distributions and in filters."""

_BEGINNING = datetime.min.replace(tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_ANYTHING = EventFilter()
_targeting_key = attrgetter("targeting_key")
_timestamp = attrgetter("timestamp")


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the value below which ``percent`` (0–100) of the ordered, non-empty values lie.

    Linear interpolation between order statistics: definition 7 of Hyndman and Fan, "Sample Quantiles in Statistical
    Packages" (1996), which is also ``percentile_cont`` of SQL. 0 and 100 give the minimum and the maximum.
    """
    position = percent / 100 * (len(ordered) - 1)
    below = int(position)
    fraction = position - below
    low = ordered[below]
    return low + fraction * (ordered[below + 1] - low) if fraction else low


def check_percentiles(percentiles: Iterable[float]) -> tuple[float, ...]:
    """Return the percentiles as floats, in their order.

    Raises:
        ValueError: one of them is not a number from 0 to 100.
    """
    checked = []
    for percent in percentiles:
        if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 <= percent <= 100:
            raise ValueError(f"percentile {percent!r} is out of range: expected numbers from 0 to 100, such as 99.9")
        checked.append(float(percent))
    return tuple(checked)


def canonical_filter(where: EventFilter | None) -> EventFilter:
    """Return the filter in the canonical form of events, so that what was recorded is found by the value recorded."""
    if where is None or where == _ANYTHING:
        return _ANYTHING
    context = where.required_context()
    kinds = where.kinds
    wanted = _as_stored(context)
    if len(wanted) < len(context):
        # Too large as a whole, it lost some attributes, and events without them would pass: each goes alone.
        alone = [_as_stored({name: value}) for name, value in context.items()]
        wanted = {name: value for attribute in alone for name, value in attribute.items()}
        kinds = kinds if all(alone) else ()  # what cannot be stored, no event has
    return attrs.evolve(
        where,
        environment=None if where.environment is None else wanted.get("environment"),
        provider_name=None if where.provider_name is None else canonical_key(where.provider_name),
        variant=None if where.variant is None else canonical_key(where.variant) or DEFAULT_VARIANT,
        context=wanted,
        kinds=kinds,
    )


def _as_stored(context: Mapping[str, Any]) -> dict[str, Any]:
    # The context that is wanted goes the way of every event's own: what changes there changes here.
    probe = FlagEvaluationEvent(_BEGINNING, "", None, EvaluationReason.UNKNOWN, context_attributes=dict(context))
    return Freezer().freeze(probe).context_attributes


def select(events: Iterable[Any], window: Window, where: EventFilter | None = None) -> list[Any]:
    """Return the events that happened in the window and pass the filter, in their order."""
    where = where or _ANYTHING
    start = window.start or _BEGINNING
    end = window.end
    kinds = frozenset(where.kinds)
    found = [event for event in events if start <= event.timestamp <= end and event.kind in kinds]
    matches = _matcher(where)
    return found if matches is None else [event for event in found if matches(event)]


def _matcher(where: EventFilter) -> Callable[[Any], bool] | None:
    provider_name = where.provider_name
    variant = where.variant
    wanted = tuple(where.required_context().items())
    if provider_name is None and variant is None and not wanted:
        return None
    return lambda event: (
        (provider_name is None or event.provider_name == provider_name)
        and (variant is None or (event.variant or DEFAULT_VARIANT) == variant)
        and (not wanted or _has(event.context_attributes, wanted))
    )


def _has(context: Mapping[str, Any], wanted: Sequence[tuple[str, Any]]) -> bool:
    for name, value in wanted:
        if name not in context:
            return False
        found = context[name]
        # In JSON true is not 1, while in Python it is.
        if found != value or isinstance(found, bool) is not isinstance(value, bool):
            return False
    return True


@attrs.frozen
class Digest:
    """What one run of one flag's events amounts to: enough to take part in any sum, without the events themselves.

    Attributes:
        total: Number of events, at least 1.
        first_seen: The earliest time.
        last_seen: The latest time.
        kinds: The kinds that occur.
        variants: Events by variant, as it is.
        reasons: Events by reason.
        users: Distinct targeting keys; None and the empty one may be among them.
        durations: Milliseconds, in order; those above 0.
    """

    total: int
    first_seen: datetime
    last_seen: datetime
    kinds: frozenset[str]
    variants: Mapping[str | None, int]
    reasons: Mapping[str, int]
    users: Collection[str | None]
    durations: Sequence[float]

    @classmethod
    def of(cls, events: Sequence[Any]) -> Digest:
        """Return the digest of at least one event."""
        # One attribute after the other, each by one comprehension: several fast passes take less than a slow one.
        times = [event.timestamp for event in events]
        limit = math.inf
        return cls(
            total=len(events),
            first_seen=min(times),
            last_seen=max(times),
            kinds=frozenset({event.kind for event in events}),
            variants=Counter([event.variant for event in events]),
            reasons=Counter([event.reason for event in events]),
            users={event.targeting_key for event in events},
            durations=sorted([d for event in events if 0.0 < (d := event.evaluation_duration_ms) < limit]),
        )


class Tally:
    """Counts what happened to one flag: ``add`` events or ``merge`` digests as they come, then ask for the summary."""

    def __init__(self) -> None:
        self._total = 0
        self._variants: Counter[str | None] = Counter()
        self._reasons: Counter[str] = Counter()
        self._users: set[str | None] = set()
        self._durations: list[float] = []
        self._first_seen: datetime | None = None

    def add(self, events: Sequence[Any]) -> None:
        """Count these events."""
        if events:
            self.merge(Digest.of(events))

    def merge(self, digest: Digest) -> None:
        """Count the events of a digest."""
        self._total += digest.total
        self._variants.update(digest.variants)
        self._reasons.update(digest.reasons)
        self._users.update(digest.users)
        self._durations += digest.durations  # in sorted runs: to put them in order is a merge, a fraction of a sort
        if self._first_seen is None or digest.first_seen < self._first_seen:
            self._first_seen = digest.first_seen

    def summary(self, percentiles: Sequence[float] = ()) -> FlagSummary:
        """Return what was counted so far, with these percentiles (0–100) of the durations above 0."""
        variants: Counter[str] = Counter()
        for variant, count in self._variants.items():
            variants[variant or DEFAULT_VARIANT] += count
        reasons = {str(reason): count for reason, count in self._reasons.items()}
        durations = sorted(self._durations) if percentiles else []
        return FlagSummary(
            total=self._total,
            errors=reasons.get("ERROR", 0),
            unique_users=len(self._users - {None, ""}),
            variants=dict(variants),
            reasons=reasons,
            percentiles={percent: percentile(durations, percent) for percent in percentiles} if durations else {},
            first_seen=self._first_seen,
        )


def activity(flag_key: str, events: Sequence[Any]) -> FlagActivity:
    """Return the activity of one flag, from at least one event of it."""
    return FlagActivity(flag_key, len(events), min(map(_timestamp, events)), max(map(_timestamp, events)))


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


class StepTally:
    """Counts what happened to one flag in each step of a window; see ``EventSource.count_steps``."""

    def __init__(self, window: Window, step_seconds: float) -> None:
        assert window.start is not None
        self._window = window
        self._start = window.start
        self._step = step_length(step_seconds)
        self._last = max(0, step_count(window, self._step) - 1)
        self._counts: Counter[int] = Counter()
        self._errors: Counter[int] = Counter()
        self._users: dict[int, set[str | None]] = {}

    def add(self, events: Iterable[Any]) -> None:
        """Count these events, which lie in the window."""
        for event in events:
            # The division is exact: time differences are whole microseconds.
            number = min((event.timestamp - self._start) // self._step, self._last)
            self._counts[number] += 1
            self._errors[number] += event.reason == "ERROR"
            self._users.setdefault(number, set()).add(event.targeting_key)

    def steps(self) -> dict[int, TimeStep]:
        """Return the steps that have events, by number."""
        return {
            number: TimeStep(
                *step_bounds(self._window, self._step, number),
                count=self._counts[number],
                errors=self._errors[number],
                unique_users=len(self._users[number] - {None, ""}),
            )
            for number in sorted(self._counts)
        }


def count_steps(events: Iterable[Any], window: Window, step_seconds: float) -> dict[int, TimeStep]:
    """Return the steps of the window that have events, by number, from events that lie in the window."""
    tally = StepTally(window, step_seconds)
    tally.add(events)
    return tally.steps()
