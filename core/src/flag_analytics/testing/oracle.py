"""What questions about events have as their answers, computed in the plainest way: no backend shares any of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from ..sources import (
    NO_VALUE,
    OTHER_GROUP,
    EventFilter,
    Exposures,
    FlagActivity,
    FlagSummary,
    Grouping,
    TimeStep,
    Window,
)

__all__ = ["Oracle"]


class Oracle:
    """Answers over a list of ``FlagEvaluationEvent`` that are not sampled; each is looked at for each question."""

    def __init__(self, events: Sequence[Any]) -> None:
        self.events = list(events)

    def flag_keys(self) -> list[str]:
        """Return the keys of all flags."""
        return sorted({event.flag_key for event in self.events})

    def find(self, window: Window, where: EventFilter | None = None, flag_key: str | None = None) -> list[Any]:
        """Return the events of one flag, or of all, in a window."""
        return [
            event
            for event in self.events
            if (flag_key is None or event.flag_key == flag_key)
            and (window.start is None or event.timestamp >= window.start)
            and event.timestamp <= window.end
            and _passes(event, where or EventFilter())
        ]

    def summarise(
        self,
        flag_key: str,
        window: Window,
        percentiles: Sequence[float] = (),
        where: EventFilter | None = None,
        group_by: Grouping | None = None,
    ) -> FlagSummary | None:
        """Return the summary of one flag, or None where it has no events."""
        found = self.find(window, where, flag_key)
        if group_by is not None:
            return FlagSummary(groups={name: _summary(some, percentiles) for name, some in _groups(found, group_by)})
        return _summary(found, percentiles) if found else None

    def list_flags(self, window: Window, where: EventFilter | None = None) -> list[FlagActivity]:
        """Return the flags of a window, by key."""
        activities = []
        for flag_key in self.flag_keys():
            times = [event.timestamp for event in self.find(window, where, flag_key)]
            if times:
                activities.append(FlagActivity(flag_key, len(times), min(times), max(times)))
        return activities

    def count_steps(
        self, flag_key: str, window: Window, step_seconds: float, where: EventFilter | None = None
    ) -> dict[int, TimeStep]:
        """Return the steps that have events, each found by walking over the window."""
        assert window.start is not None
        found = self.find(window, where, flag_key)
        steps: dict[int, TimeStep] = {}
        number, start = 0, window.start
        while start < window.end:
            whole = start + timedelta(seconds=step_seconds)
            end = min(whole, window.end)
            here = [e for e in found if start <= e.timestamp < end or e.timestamp == end == window.end]
            if here:
                errors, users = sum(map(_is_error, here)), len(_users(here))
                steps[number] = TimeStep(start, end, len(here), errors, users, unfinished=whole > window.end)
            number, start = number + 1, end
        return steps

    def exposures(self, flag_key: str, window: Window, where: EventFilter | None = None) -> Exposures:
        """Return users by the variant that they saw first; without those of each version."""
        found = [event for event in self.find(window, where, flag_key) if event.targeting_key]
        first: Counter[str] = Counter()
        crossed = back = 0
        for user in _users(found):
            mine = sorted((event.timestamp, _variant(event)) for event in found if event.targeting_key == user)
            seen = [variant for _, variant in mine]
            starts = sorted((min(moment for moment, name in mine if name == variant), variant) for variant in set(seen))
            first[starts[0][1]] += 1
            crossed += len(starts) > 1
            ends = {variant: max(moment for moment, name in mine if name == variant) for variant in seen}
            back += any(
                ends[earlier] > start
                for start, later in starts
                for began, earlier in starts
                if (began, earlier) < (start, later)
            )
        return Exposures(len(_users(found)), dict(first), crossed, back)

    def count_future(self, now: datetime) -> int:
        """Return how many events are dated after a moment."""
        return sum(event.timestamp > now for event in self.events)


def _summary(found: Sequence[Any], percentiles: Sequence[float]) -> FlagSummary:
    durations = sorted(event.evaluation_duration_ms for event in found if event.evaluation_duration_ms > 0)
    by_variant = {
        variant: _users([event for event in found if _variant(event) == variant]) for variant in map(_variant, found)
    }
    users = _users(found)
    return FlagSummary(
        total=len(found),
        errors=sum(map(_is_error, found)),
        unique_users=len(users),
        variants=dict(Counter(map(_variant, found))),
        reasons=dict(Counter(str(event.reason) for event in found)),
        percentiles={percent: _percentile(durations, percent) for percent in percentiles} if durations else {},
        first_seen=min(event.timestamp for event in found),
        variant_users={variant: len(some) for variant, some in by_variant.items() if some},
        crossover_users=sum(sum(user in some for some in by_variant.values()) > 1 for user in users),
    )


def _variant(event: Any) -> str:
    return event.variant or "default"


def _is_error(event: Any) -> bool:
    return bool(event.reason == "ERROR" or event.error_type)


def _users(events: Sequence[Any]) -> set[str]:
    return {event.targeting_key for event in events if event.targeting_key}


_GROUPS: dict[str, Callable[[Any], str]] = {
    "variant": _variant,
    "reason": lambda event: str(event.reason),
    "flag_version": lambda event: event.flag_version or NO_VALUE,
    "environment": lambda event: _group(event, "environment"),
}


def _groups(found: Sequence[Any], group_by: Grouping) -> list[tuple[str, list[Any]]]:
    name_of = _GROUPS.get(group_by.by) or (lambda event: _group(event, group_by.by.removeprefix("context.")))
    counts = Counter(map(name_of, found))
    kept = sorted(counts, key=lambda name: (-counts[name], name))[: group_by.most]
    names = [*kept, OTHER_GROUP] if len(counts) > len(kept) else kept
    return [
        (name, [event for event in found if (name_of(event) if name_of(event) in kept else OTHER_GROUP) == name])
        for name in names
    ]


def _group(event: Any, attribute: str) -> str:
    value = event.context_attributes.get(attribute)
    if value is None:
        return NO_VALUE
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _passes(event: Any, where: EventFilter) -> bool:
    texts = {
        "provider_name": where.provider_name,
        "reason": where.reasons,
        "flag_version": where.flag_version,
        "flag_set_id": where.flag_set_id,
        "targeting_key": where.targeting_key,
    }
    context = dict(where.context)
    if where.environment is not None:
        context["environment"] = where.environment
    return (
        event.kind in where.kinds
        and _is_one(_variant(event), where.variant)
        and all(_is_one(getattr(event, name), wanted) for name, wanted in texts.items())
        and all(
            name in event.context_attributes
            and any(
                _same_json(event.context_attributes[name], each)
                for each in (wanted if isinstance(wanted, set | frozenset) else [wanted])
            )
            for name, wanted in context.items()
        )
    )


def _is_one(text: str | None, wanted: Any) -> bool:
    return wanted is None or text == wanted or (isinstance(wanted, set | frozenset) and text in wanted)


def _same_json(one: Any, other: Any) -> bool:
    """Return whether two values are the same in JSON: 1 is 1.0, true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool) or one is None or other is None:
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return Fraction(one) == Fraction(other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same_json, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same_json(one[name], other[name]) for name in one)
    return type(one) is type(other) and bool(one == other)


def _percentile(ordered: Sequence[float], percent: float) -> float:
    """Return a percentile after definition 7 of Hyndman and Fan (1996), in exact fractions."""
    position = Fraction(percent) / 100 * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    low, high = Fraction(ordered[below]), Fraction(ordered[above])
    return float(low + (position - below) * (high - low))
