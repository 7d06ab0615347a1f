"""What a report is made of: the metrics of some flags in one window, gathered before anything is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import attrs
from flag_analytics.aggregator import AnalyticsAggregator, FlagMetrics
from flag_analytics.normal_form import normal_key

from .windows import describe_window

__all__ = ["FlagFigures", "Report", "gather", "iso", "ranked"]


@attrs.frozen
class FlagFigures:
    """One flag: its metrics, and when it was first and last seen in the window (None if it was not)."""

    flag_key: str
    metrics: FlagMetrics
    first_seen: datetime | None = None
    last_seen: datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return every figure by name; times in ISO 8601, distributions the most frequent first."""
        return {
            "flag_key": self.flag_key,
            **self.metrics.to_dict(),
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
    keys = list(dict.fromkeys(map(normal_key, flag_keys))) if flag_keys else list(activity)
    metrics = await aggregator.get_metrics(keys, window_seconds, until=until)
    return Report(
        window_seconds,
        window_name or describe_window(window_seconds),
        tuple(
            FlagFigures(key, metrics[key], activity[key].first_seen, activity[key].last_seen)
            if key in activity
            else FlagFigures(key, metrics[key])
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
