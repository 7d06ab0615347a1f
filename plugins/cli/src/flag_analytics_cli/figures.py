"""What a report is made of: the metrics of some flags in one window, gathered before anything is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs
from flag_analytics.aggregator import AnalyticsAggregator, FlagMetrics
from flag_analytics.normal_form import normal_key

__all__ = ["FlagFigures", "Report", "gather", "ranked"]


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
            "first_seen": None if self.first_seen is None else self.first_seen.isoformat(),
            "last_seen": None if self.last_seen is None else self.last_seen.isoformat(),
        }


@attrs.frozen
class Report:
    """The figures of some flags; ``window_seconds`` None is all time. ``asked_for`` says that flags were named."""

    window_seconds: float | None
    flags: tuple[FlagFigures, ...]
    asked_for: bool = False

    @property
    def missing(self) -> tuple[str, ...]:
        """The flags that were named and have no events in the window."""
        return tuple(flag.flag_key for flag in self.flags if not flag.metrics.total_evaluations)


async def gather(
    aggregator: AnalyticsAggregator, flag_keys: Sequence[str] = (), window_seconds: float | None = None
) -> Report:
    """Return the report of these flags, by default of all that have events in the window, by key."""
    activity = {flag.flag_key: flag for flag in await aggregator.list_flags(window_seconds)}
    keys = list(dict.fromkeys(map(normal_key, flag_keys))) if flag_keys else list(activity)
    metrics = await aggregator.get_metrics(keys, window_seconds) if keys else {}
    flags = []
    for key in keys:
        seen = activity.get(key)
        flags.append(
            FlagFigures(
                key, metrics[key], None if seen is None else seen.first_seen, None if seen is None else seen.last_seen
            )
        )
    return Report(window_seconds, tuple(flags), bool(flag_keys))


def ranked(distribution: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return names with their counts, the most frequent first, then by name."""
    return sorted(distribution.items(), key=lambda item: (-item[1], item[0]))
