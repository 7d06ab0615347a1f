"""The counts and durations of one process, kept in memory and turned into metrics when they are scraped."""

from __future__ import annotations

import math
import re
import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Protocol

import attrs
from flag_analytics.events import EvaluationReason
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from .unique_users import UniqueUsers, process_hash

__all__ = ["DEFAULT_DURATION_BUCKETS", "Cell", "FlagSeries", "LocalSeries", "MetricNames", "check_buckets"]

DEFAULT_DURATION_BUCKETS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Upper bounds in seconds, 100 µs to 1 s."""

_PREFIX = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


@attrs.frozen
class MetricNames:
    """The names of the four metrics under one prefix, without the suffixes of their samples, and their help texts."""

    evaluations: str
    duration: str
    unique_users: str
    error_rate: str

    EVALUATIONS_HELP = "Evaluations of each flag by reason and variant."
    DURATION_HELP = "Duration of flag evaluations in seconds."
    UNIQUE_USERS_HELP = "Distinct targeting keys of each flag; above 1,000 an estimate with a standard error of 0.82 %."
    ERROR_RATE_HELP = "Ratio, 0.0 to 1.0, of evaluations of each flag that ended in an error."

    @classmethod
    def under(cls, prefix: str) -> MetricNames:
        stem = metric_stem(prefix)
        return cls(
            f"{stem}feature_flag_evaluations",
            f"{stem}feature_flag_evaluation_duration_seconds",
            f"{stem}feature_flag_unique_users",
            f"{stem}feature_flag_error_rate",
        )


def metric_stem(prefix: str) -> str:
    """Return what metric names start with under ``prefix``.

    Raises:
        ValueError: the prefix cannot be part of a metric's name.
    """
    if not prefix:
        return ""
    if not (isinstance(prefix, str) and _PREFIX.fullmatch(prefix)):
        raise ValueError(
            "the prefix of metric names is not usable: expected ASCII letters, digits and underscores, "
            "not starting with a digit"
        )
    return f"{prefix}_"


def check_buckets(buckets: Sequence[float]) -> tuple[float, ...]:
    """Return the upper bounds of the histogram's buckets, in seconds, without a final infinity.

    Raises:
        ValueError: they are not positive and rising.
    """
    try:
        bounds = tuple(float(bound) for bound in buckets)
    except (TypeError, ValueError):
        raise ValueError("duration_buckets are not numbers: expected rising upper bounds in seconds") from None
    if bounds and bounds[-1] == math.inf:
        bounds = bounds[:-1]
    rising = all(low < high for low, high in pairwise(bounds))
    if not bounds or not rising or not all(0 < bound < math.inf for bound in bounds):
        raise ValueError("duration_buckets are not usable: expected at least one, above 0 seconds, each above the last")
    return bounds


def _bound_name(bound: float) -> str:
    name: str = floatToGoString(bound)  # type: ignore[no-untyped-call]
    return name


class Cell(Protocol):
    """One combination of flag key, reason and variant; where an event ends up."""

    def add(self, seconds: float, targeting_key: str | None) -> None:
        """Count one event. A duration of 0 or less, or not finite, was not measured."""
        ...


class FlagSeries(Protocol):
    """Where the numbers of all flags are kept."""

    names: MetricNames

    def cell(self, flag_key: str, reason: str, variant: str) -> Cell:
        """Return the cell of these labels, new or not; its owner has the lock."""
        ...

    def clear(self) -> None:
        """Forget everything, in the child of a fork."""
        ...

    def collect(self, gauges: Gauges) -> Iterator[Metric]:
        """Yield the metrics of this process, with these values of the gauges."""
        ...

    def users(self) -> dict[str, int]:
        """Return the number of distinct users of each flag."""
        ...

    def error_rates(self) -> dict[str, float]:
        """Return the ratio of errors of each flag."""
        ...


@attrs.frozen
class Gauges:
    """The values of the two gauges by flag key."""

    unique_users: dict[str, float] = attrs.field(factory=dict[str, float])
    error_rates: dict[str, float] = attrs.field(factory=dict[str, float])


class _LocalFlag:
    """The numbers of one flag; ``lock`` guards them, its cells' counts and its users."""

    __slots__ = ("bounds", "bucket_labels", "buckets", "cells", "labels", "lock", "seconds", "users")

    def __init__(self, flag_key: str, bounds: tuple[float, ...], bound_names: tuple[str, ...]) -> None:
        self.lock = threading.Lock()
        self.labels = {"flag_key": flag_key}
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.bucket_labels = [{"flag_key": flag_key, "le": name} for name in bound_names]
        self.seconds = 0.0
        self.users: UniqueUsers | None = None
        self.cells: list[_LocalCell] = []


class _LocalCell:
    __slots__ = ("count", "flag", "labels")

    def __init__(self, flag: _LocalFlag, labels: dict[str, str]) -> None:
        self.flag = flag
        self.labels = labels
        self.count = 0

    def add(self, seconds: float, targeting_key: str | None) -> None:
        flag = self.flag
        with flag.lock:
            self.count += 1
            if 0.0 < seconds < math.inf:
                flag.seconds += seconds
                flag.buckets[bisect_left(flag.bounds, seconds)] += 1
            if targeting_key:
                if flag.users is None:
                    flag.users = UniqueUsers(process_hash)
                flag.users.add(targeting_key)


class LocalSeries:
    """The numbers of all flags in this process.

    The child of a fork starts at zero and with free locks: what its parent counted, its parent reports.
    """

    def __init__(self, names: MetricNames, bounds: tuple[float, ...]) -> None:
        self.names = names
        self._bounds = bounds
        self._bound_names = tuple(_bound_name(bound) for bound in (*bounds, math.inf))
        self._flags: dict[str, _LocalFlag] = {}
        self._cells: dict[tuple[str, str, str], _LocalCell] = {}

    def clear(self) -> None:
        self._flags = {}
        self._cells = {}

    def cell(self, flag_key: str, reason: str, variant: str) -> _LocalCell:
        key = (flag_key, reason, variant)
        cell = self._cells.get(key)
        if cell is None:
            flag = self._flags.get(flag_key)
            if flag is None:
                flag = self._flags[flag_key] = _LocalFlag(flag_key, self._bounds, self._bound_names)
            cell = _LocalCell(flag, {"flag_key": flag_key, "reason": reason, "variant": variant})
            flag.cells.append(cell)
            self._cells[key] = cell
        return cell

    def users(self) -> dict[str, int]:
        counts = {}
        for flag_key, flag in list(self._flags.items()):
            with flag.lock:
                if flag.users is not None:
                    counts[flag_key] = flag.users.count()
        return counts

    def error_rates(self) -> dict[str, float]:
        rates = {}
        for flag_key, flag in list(self._flags.items()):
            with flag.lock:
                total = sum(cell.count for cell in flag.cells)
                errors = sum(cell.count for cell in flag.cells if cell.labels["reason"] == EvaluationReason.ERROR)
            if total:
                rates[flag_key] = errors / total
        return rates

    def collect(self, gauges: Gauges) -> Iterator[Metric]:
        # The library's own children would lock every bucket and show when each series began: at the most series there
        # can be, that doubles what a scrape takes.
        evaluations = Metric(self.names.evaluations, MetricNames.EVALUATIONS_HELP, "counter")
        durations = Metric(self.names.duration, MetricNames.DURATION_HELP, "histogram")
        total_name = f"{self.names.evaluations}_total"
        bucket_name, count_name, sum_name = (f"{self.names.duration}_{suffix}" for suffix in ("bucket", "count", "sum"))
        for flag in list(self._flags.values()):
            with flag.lock:
                evaluations.samples += [Sample(total_name, cell.labels, cell.count) for cell in flag.cells]
                buckets, seconds = flag.buckets.copy(), flag.seconds
            if not any(buckets):
                continue
            running = 0
            for count, labels in zip(buckets, flag.bucket_labels, strict=True):
                running += count
                durations.samples.append(Sample(bucket_name, labels, running))
            durations.samples.append(Sample(count_name, flag.labels, running))
            durations.samples.append(Sample(sum_name, flag.labels, seconds))
        yield evaluations
        yield durations
        yield from gauge_metrics(self.names, gauges)


def gauge_metrics(names: MetricNames, gauges: Gauges) -> Iterator[Metric]:
    """Yield the two gauges with these values."""
    for name, text, values in (
        (names.unique_users, MetricNames.UNIQUE_USERS_HELP, gauges.unique_users),
        (names.error_rate, MetricNames.ERROR_RATE_HELP, gauges.error_rates),
    ):
        metric = Metric(name, text, "gauge")
        metric.samples = [Sample(name, {"flag_key": flag_key}, value) for flag_key, value in values.items()]
        yield metric
