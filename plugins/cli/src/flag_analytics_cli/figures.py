"""The figures of a report: the metrics of some flags in one window, gathered before anything is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs
from flag_analytics.aggregator import AnalyticsAggregator, FlagMetrics
from flag_analytics.canonical import canonical_key
from flag_analytics.sources import EventFilter, FlagActivity
from flag_analytics.statistics import ArmCheck, check_arms, wilson_interval

from .selection import Selection

__all__ = ["ORDERS", "FlagFigures", "Report", "Share", "gather", "iso", "ranked"]

_SHORTEST_SPAN_SECONDS = 1.0
"""The least time from the first to the last event of all time: a rate over less is about the clock, not the flag."""


@attrs.frozen
class Share:
    """The users of one variant among all users of a flag; ratios 0–1, with the 95 % interval after Wilson."""

    users: int
    share: float
    low: float
    high: float


@attrs.frozen
class FlagFigures:
    """One flag, or one group of its events.

    Attributes:
        flag_key: The flag.
        metrics: Its metrics.
        first_seen: When it was first seen in the window, None if it was not.
        last_seen: When it was last seen.
        window_seconds: The window's length; None is all time.
        exposures: How many of its evaluations are exposures; None where that would take a look at each event.
        group: The group, None where there are none.
        arms: Whether users are spread over the variants as planned, None where no plan was given.
    """

    flag_key: str
    metrics: FlagMetrics
    first_seen: datetime | None = None
    last_seen: datetime | None = None
    window_seconds: float | None = None
    exposures: int | None = 0
    group: str | None = None
    arms: ArmCheck | None = None

    @property
    def rate_seconds(self) -> float | None:
        """The seconds that the rate is over: the window, of all time those from the first to the last event.

        The time since the last event would make the rate of a file a matter of its age. None where it is too short.
        """
        if self.window_seconds is not None:
            return self.window_seconds
        if self.first_seen is None or self.last_seen is None:
            return None
        span = (self.last_seen - self.first_seen).total_seconds()
        return span if span >= _SHORTEST_SPAN_SECONDS else None

    @property
    def rate(self) -> float | None:
        """Evaluations per second, None where there is no time for them to be over."""
        seconds = self.rate_seconds
        return self.metrics.total_evaluations / seconds if seconds else None

    @property
    def is_measured(self) -> bool:
        """Whether any evaluation has a duration; without one there are no percentiles."""
        return self.metrics.latency_p99 > 0.0

    @property
    def users(self) -> int | None:
        """The number of users, None where nothing stored tells it any more."""
        return None if "users" in self.metrics.accuracy.missing else self.metrics.unique_users

    @property
    def latencies(self) -> tuple[float | None, float | None, float | None]:
        """The 50th, 90th and 99th percentile in milliseconds, each None where no duration was measured."""
        if not self.is_measured:
            return None, None, None
        return self.metrics.latency_p50, self.metrics.latency_p90, self.metrics.latency_p99

    @property
    def shares(self) -> dict[str, Share]:
        """The users of each variant, the most frequent first; with crossovers the shares add up to more than 1."""
        total = self.metrics.unique_users
        return {
            variant: Share(users, users / total, *wilson_interval(users, total))
            for variant, users in ranked(self.metrics.variant_users)
            if total
        }

    def to_dict(self) -> dict[str, Any]:
        """Return every figure by name; times in ISO 8601, distributions the most frequent first.

        ``evaluation_rate`` is per second, over ``evaluation_rate_over_seconds``; a figure that cannot be known is None.
        """
        metrics = self.metrics
        return {
            "flag_key": self.flag_key,
            **({} if self.group is None else {"group": self.group}),
            **metrics.to_dict(),
            "exposures": self.exposures,
            "evaluation_rate": self.rate,
            "evaluation_rate_over_seconds": self.rate_seconds,
            **dict(zip(("latency_p50", "latency_p90", "latency_p99"), self.latencies, strict=True)),
            "variant_users": dict(ranked(metrics.variant_users)),
            "variant_distribution": dict(ranked(metrics.variant_distribution)),
            "reason_distribution": dict(ranked(metrics.reason_distribution)),
            "variant_shares": {variant: attrs.asdict(share) for variant, share in self.shares.items()},
            "first_seen": iso(self.first_seen),
            "last_seen": iso(self.last_seen),
            **({} if self.arms is None else {"arms": {**attrs.asdict(self.arms), "matches": self.arms.matches}}),
        }


@attrs.frozen
class Report:
    """The figures of some flags.

    Attributes:
        window_seconds: How far back they reach; None is all time.
        window_name: The window for people.
        flags: The figures; with groups, each flag's one after the other.
        asked_for: Whether the flags were named, as opposed to found.
        others: How many flags were left out, after the first so many.
        known: The flags that have events in the window.
    """

    window_seconds: float | None
    window_name: str
    flags: tuple[FlagFigures, ...]
    asked_for: bool = False
    others: int = 0
    known: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """The flags that were named and have no events in the window."""
        empty = (flag.flag_key for flag in self.flags if not flag.metrics.total_evaluations)
        return tuple(dict.fromkeys(empty)) if self.asked_for else ()

    @property
    def is_sound(self) -> bool:
        """Whether every flag that was named has events, and every plan of arms holds."""
        return not self.missing and all(flag.arms is None or flag.arms.matches for flag in self.flags)


ORDERS: Mapping[str, Any] = {
    "name": lambda flag: flag.flag_key,
    "users": lambda flag: (-flag.metrics.unique_users, flag.flag_key),
    "events": lambda flag: (-flag.metrics.total_evaluations, flag.flag_key),
    "errors": lambda flag: (-flag.metrics.error_rate, flag.flag_key),
    "last-seen": lambda flag: (-(flag.last_seen.timestamp() if flag.last_seen else 0.0), flag.flag_key),
}
"""The orders of flags in a report."""


async def gather(
    aggregator: AnalyticsAggregator,
    flag_keys: Sequence[str],
    selection: Selection,
    *,
    group_by: str | None = None,
    expected: Mapping[str, float] | None = None,
    sort: str | None = None,
    top: int | None = None,
) -> Report:
    """Return the report of these flags, by default of all that have events in the window, by key.

    Args:
        aggregator: Answers the questions.
        flag_keys: The flags.
        selection: The window and the events in it.
        group_by: The dimension of groups.
        expected: The planned share of each variant's users.
        sort: One of ``ORDERS``; by default the flags as they were named, else by key.
        top: The most flags.
    """
    seconds = selection.window_seconds
    activity = {flag.flag_key: flag for flag in await aggregator.list_flags(seconds, **selection.scope)}
    exposures = await _exposures(aggregator, selection)
    keys = list(dict.fromkeys(map(canonical_key, flag_keys))) if flag_keys else list(activity)
    figures: list[FlagFigures] = []
    if group_by is None:
        metrics = await aggregator.get_metrics(keys, seconds, **selection.scope)
        figures = [_figures(key, metrics[key], activity.get(key), selection, exposures) for key in keys]
    else:
        groups = await aggregator.get_metrics(keys, seconds, group_by=group_by, **selection.scope)
        for key in keys:
            found = groups[key] or {"": FlagMetrics()}
            all_exposures = exposures and key in activity and exposures.get(key) == activity[key].count
            for name, of_group in sorted(found.items()):
                count = {key: of_group.total_evaluations} if all_exposures else None if exposures is None else {}
                figure = _figures(key, of_group, activity.get(key), selection, count)
                figures.append(attrs.evolve(figure, group=name or None))
    if sort is not None:
        figures.sort(key=ORDERS[sort])
    others = len(figures) - top if top is not None and len(figures) > top else 0
    figures = figures[: len(figures) - others]
    if expected is not None:
        figures = [
            attrs.evolve(figure, arms=await _arms(aggregator, figure.flag_key, selection, expected))
            for figure in figures
        ]
    return Report(seconds, selection.name, tuple(figures), bool(flag_keys), others, tuple(activity))


async def _exposures(aggregator: AnalyticsAggregator, selection: Selection) -> dict[str, int] | None:
    """Return by flag how many of its events are exposures; None in a fast report, since rollups do not tell."""
    if selection.fast:
        return None
    kinds = ("evaluation", "exposure") if selection.where is None else selection.where.kinds
    if "exposure" not in kinds:
        return {}
    where = attrs.evolve(selection.where or EventFilter(), kinds=("exposure",))
    found = await aggregator.list_flags(selection.window_seconds, where=where, until=selection.until)
    return {flag.flag_key: flag.count for flag in found}


def _figures(
    key: str,
    metrics: FlagMetrics,
    activity: FlagActivity | None,
    selection: Selection,
    exposures: Mapping[str, int] | None,
) -> FlagFigures:
    first, last = (None, None) if activity is None else (activity.first_seen, activity.last_seen)
    count = None if exposures is None else exposures.get(key, 0)
    return FlagFigures(key, metrics, first, last, selection.window_seconds, count)


async def _arms(
    aggregator: AnalyticsAggregator, key: str, selection: Selection, expected: Mapping[str, float]
) -> ArmCheck:
    found = await aggregator.get_exposures(key, selection.window_seconds, where=selection.where, until=selection.until)
    return check_arms(found.first_variant_users, expected)


def iso(moment: datetime | None) -> str | None:
    """Return the time in ISO 8601, None for none."""
    return None if moment is None else moment.isoformat()


def ranked(distribution: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return names with their counts, the most frequent first, then by name."""
    return sorted(distribution.items(), key=lambda item: (-item[1], item[0]))
