"""What a report is made of: the metrics of some flags in one window, gathered before anything is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import attrs
from flag_analytics.aggregator import AnalyticsAggregator, FlagMetrics
from flag_analytics.canonical import canonical_key

from .windows import describe_window

__all__ = ["FlagFigures", "Report", "gather", "iso", "ranked"]


_SHORTEST_SPAN_SECONDS = 1.0
"""Between the first and the last event of all time: of less, a rate would be about the clock and not the flag."""


@attrs.frozen
class FlagFigures:
    """One flag: its metrics, and when it was first and last seen in the window (None if it was not).

    ``window_seconds`` is the window's length; None is all time.
    """

    flag_key: str
    metrics: FlagMetrics
    first_seen: datetime | None = None
    last_seen: datetime | None = None
    window_seconds: float | None = None

    @property
    def rate_seconds(self) -> float | None:
        """What the rate is over: the window, of all time the seconds from the first to the last event.

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
        """Evaluations per second, None where there is nothing they could be over."""
        seconds = self.rate_seconds
        return self.metrics.total_evaluations / seconds if seconds else None

    @property
    def is_measured(self) -> bool:
        """Whether any evaluation has a duration; without one there are no percentiles."""
        return self.metrics.latency_p99 > 0.0

    @property
    def latencies(self) -> tuple[float | None, float | None, float | None]:
        """The 50th, 90th and 99th percentile in milliseconds, each None where nothing was measured."""
        if not self.is_measured:
            return None, None, None
        return self.metrics.latency_p50, self.metrics.latency_p90, self.metrics.latency_p99

    def to_dict(self) -> dict[str, Any]:
        """Return every figure by name; times in ISO 8601, distributions the most frequent first.

        ``evaluation_rate`` is per second, over ``evaluation_rate_over_seconds``; what cannot be known is None.
        """
        return {
            "flag_key": self.flag_key,
            **self.metrics.to_dict(),
            "evaluation_rate": self.rate,
            "evaluation_rate_over_seconds": self.rate_seconds,
            **dict(zip(("latency_p50", "latency_p90", "latency_p99"), self.latencies, strict=True)),
            "variant_distribution": dict(ranked(self.metrics.variant_distribution)),
            "reason_distribution": dict(ranked(self.metrics.reason_distribution)),
            "first_seen": iso(self.first_seen),
            "last_seen": iso(self.last_seen),
        }


@attrs.frozen
class Report:
    """The figures of some flags.

    Attributes:
        window_seconds: How far back they reach; None is all time.
        window_name: The window for people.
        asked_for: Whether the flags were named, as opposed to found.
    """

    window_seconds: float | None
    window_name: str
    flags: tuple[FlagFigures, ...]
    asked_for: bool = False

    @property
    def missing(self) -> tuple[str, ...]:
        """The flags that were named and have no events in the window."""
        return tuple(flag.flag_key for flag in self.flags if not flag.metrics.total_evaluations)


async def gather(
    aggregator: AnalyticsAggregator,
    flag_keys: Sequence[str] = (),
    window_seconds: float | None = None,
    until: datetime | None = None,
    window_name: str | None = None,
) -> Report:
    """Return the report of these flags, by default of all that have events in the window, by key."""
    until = until or datetime.now(UTC)  # one window for both questions
    activity = {flag.flag_key: flag for flag in await aggregator.list_flags(window_seconds, until=until)}
    keys = list(dict.fromkeys(map(canonical_key, flag_keys))) if flag_keys else list(activity)
    metrics = await aggregator.get_metrics(keys, window_seconds, until=until)
    return Report(
        window_seconds,
        window_name or describe_window(window_seconds),
        tuple(
            FlagFigures(key, metrics[key], activity[key].first_seen, activity[key].last_seen, window_seconds)
            if key in activity
            else FlagFigures(key, metrics[key], window_seconds=window_seconds)
            for key in keys
        ),
        bool(flag_keys),
    )


def iso(moment: datetime | None) -> str | None:
    """Return the time in ISO 8601, None for none."""
    return None if moment is None else moment.isoformat()


def ranked(distribution: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return names with their counts, the most frequent first, then by name."""
    return sorted(distribution.items(), key=lambda item: (-item[1], item[0]))
