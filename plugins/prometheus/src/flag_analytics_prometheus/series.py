"""The counts and durations of one process, kept in memory and turned into metrics when they are scraped."""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Protocol, TypeVar

import attrs
from flag_analytics.events import EvaluationReason
from flag_analytics.processes import new_lock
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from .unique_users import UniqueUsers

__all__ = ["DEFAULT_DURATION_BUCKETS", "Cell", "FlagSeries", "Gauges", "LocalSeries", "MetricNames", "check_buckets"]

DEFAULT_DURATION_BUCKETS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Upper bounds in seconds, 100 µs to 1 s."""

_PREFIX = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
T = TypeVar("T")

_MAX_UNSETTLED = 128
"""How many events a cell keeps before it adds them up: together they cost a fraction of one by one."""
_ALL_UNSETTLED = 16_384
"""Where there are many cells, each keeps its share of so many, so that memory stays bounded."""


@attrs.frozen
class MetricNames:
    """The names of the metrics under one prefix, without the suffixes of their samples, and their help texts."""

    evaluations: str
    duration: str
    unique_users: str
    error_rate: str
    errors: str

    EVALUATIONS_HELP = "Evaluations of each flag by reason and variant; a sampled event counts 1 / sample_rate."
    DURATION_HELP = "Duration of flag evaluations in seconds, as observed; a sampled event counts once."
    UNIQUE_USERS_HELP = (
        "Distinct targeting keys of each flag, as observed; above 1,000 an estimate with a standard error of 0.82 %."
    )
    ERROR_RATE_HELP = "Ratio, 0.0 to 1.0, of evaluations of each flag with reason ERROR or an error type."
    ERRORS_HELP = "Evaluations of each flag with reason ERROR or an error type; a sampled event counts 1 / sample_rate."

    @classmethod
    def under(cls, prefix: str) -> MetricNames:
        stem = metric_stem(prefix)
        return cls(
            f"{stem}feature_flag_evaluations",
            f"{stem}feature_flag_evaluation_duration_seconds",
            f"{stem}feature_flag_unique_users",
            f"{stem}feature_flag_error_rate",
            f"{stem}flag_analytics_evaluation_errors",
        )


def metric_stem(prefix: str) -> str:
    """Return the start of metric names under ``prefix``.

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

    def add(self, milliseconds: float, targeting_key: str | None) -> None:
        """Count one event; a duration is finite, and 0 if it was not measured. Never waits for a lock."""
        ...

    def add_weighted(self, milliseconds: float, targeting_key: str | None, weight: float, *, failed: bool) -> None:
        """Count one event as ``weight`` evaluations; ``failed``: it is an error with any reason."""
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

    def collect(self) -> Iterator[Metric]:
        """Yield the counters and the histogram of this process."""
        ...

    def users(self) -> dict[str, int]:
        """Return the number of distinct users of each flag."""
        ...


@attrs.frozen
class Gauges:
    """The values of the two gauges by flag key."""

    unique_users: dict[str, float] = attrs.field(factory=dict[str, float])
    error_rates: dict[str, float] = attrs.field(factory=dict[str, float])


Write = Callable[[float], None]
Writer = Callable[[str, str, str, str, dict[str, str]], Write]
"""Takes the kind and name of a metric, its help text, the name and labels of a sample; returns a function that shows
the value of that sample to other processes."""


def _write_nowhere(_value: float) -> None:
    pass


def _no_writer(*_: object) -> Write:
    return _write_nowhere


class _LocalFlag:
    """The numbers of one flag; ``lock`` guards them, its cells' and its users."""

    def __init__(self, flag_key: str, series: LocalSeries) -> None:
        self.lock = new_lock()
        self.labels = {"flag_key": flag_key}
        self.buckets = [0] * len(series.bound_names)
        self.bucket_labels = [{"flag_key": flag_key, "le": name} for name in series.bound_names]
        self.seconds = 0.0
        self.errors: float = 0
        self.users: UniqueUsers | None = None
        self.unsettled_users: list[str] = []
        self.cells: list[_LocalCell] = []
        self._series = series
        names, writer = series.names, series.writer
        duration = ("histogram", names.duration, MetricNames.DURATION_HELP)
        self._write_buckets = [writer(*duration, f"{names.duration}_bucket", labels) for labels in self.bucket_labels]
        self._write_seconds = writer(*duration, f"{names.duration}_sum", self.labels)
        self._write_errors = writer(
            "counter", names.errors, MetricNames.ERRORS_HELP, f"{names.errors}_total", self.labels
        )

    def settle(self) -> None:
        """Add up the events that all cells keep; the caller holds the lock."""
        for cell in self.cells:
            cell.settle()
        self.settle_users()

    def settle_users(self) -> None:
        """Count the users that cells have noted; the caller holds the lock."""
        users = _take(self.unsettled_users) if self.unsettled_users else []
        if users:
            if self.users is None:
                self.users = self._series.new_users(self.labels["flag_key"])
            self.users.add_all(set(users))

    def observe(self, durations: list[float]) -> None:
        """Add measured durations, in seconds; the caller holds the lock."""
        durations.sort()
        self.seconds += sum(durations)
        self._write_seconds(self.seconds)
        bounds = self._series.bounds
        below = 0
        for index in range(bisect_left(bounds, durations[0]), bisect_left(bounds, durations[-1]) + 1):
            up_to = bisect_right(durations, bounds[index])
            if up_to > below:
                self.buckets[index] += up_to - below
                self._write_buckets[index](self.buckets[index])
                below = up_to

    def add_errors(self, weight: float) -> None:
        """Count errors; the caller holds the lock."""
        self.errors += weight
        self._write_errors(self.errors)


class _LocalCell:
    """Appends each event, which takes one step and no lock; later it adds up many at once."""

    __slots__ = ("_durations", "_flag", "_is_error", "_max_unsettled", "_weights", "_write_count", "count", "labels")

    def __init__(self, flag: _LocalFlag, labels: dict[str, str], write_count: Write, max_unsettled: int) -> None:
        self.labels = labels
        self.count: float = 0
        self._flag = flag
        self._is_error = labels["reason"] == EvaluationReason.ERROR
        self._durations: list[float] = []
        self._weights: list[tuple[float, bool]] = []
        self._write_count = write_count
        self._max_unsettled = max_unsettled

    def add(self, milliseconds: float, targeting_key: str | None) -> None:
        durations = self._durations
        if targeting_key:
            self._flag.unsettled_users.append(targeting_key)
        durations.append(milliseconds)
        if len(durations) >= self._max_unsettled:
            self._settle_if_free()

    def add_weighted(self, milliseconds: float, targeting_key: str | None, weight: float, *, failed: bool) -> None:
        self._weights.append((weight, failed))
        self.add(milliseconds, targeting_key)

    def _settle_if_free(self) -> None:
        # Where the lock is taken, by another thread or by the code that a finaliser interrupts, its holder looks again.
        lock = self._flag.lock
        while len(self._durations) >= self._max_unsettled and lock.acquire(blocking=False):
            try:
                self.settle()
                self._flag.settle_users()
            finally:
                lock.release()

    def settle(self) -> None:
        """Add up the events that were appended; the caller holds the flag's lock."""
        durations = _take(self._durations)
        if not durations:
            return
        count: float = len(durations)
        weights = _take(self._weights) if self._weights else []
        if weights:
            count += sum(weight - 1.0 for weight, _ in weights)
        self.count += count
        self._write_count(self.count)
        errors = count if self._is_error else sum(weight for weight, failed in weights if failed)
        if errors:
            self._flag.add_errors(errors)
        measured = [milliseconds / 1000.0 for milliseconds in durations if milliseconds > 0.0]
        if measured:
            self._flag.observe(measured)


def _take(kept: list[T]) -> list[T]:
    """Remove and return the items of a list; others may append meanwhile."""
    taken = kept[:]
    del kept[: len(taken)]
    return taken


class LocalSeries:
    """The numbers of all flags in this process.

    The child of a fork starts at zero and with free locks: its parent reports its own counts.

    Args:
        names: The names of the metrics.
        bounds: The upper bounds of the duration histogram, in seconds.
        new_users: Makes the count of a flag's users.
        writer: Shows numbers to other processes.
        max_unsettled: How many events a combination of labels keeps before it adds them up.
    """

    def __init__(
        self,
        names: MetricNames,
        bounds: tuple[float, ...],
        new_users: Callable[[str], UniqueUsers] = lambda _: UniqueUsers(),
        writer: Writer = _no_writer,
        max_unsettled: int = _MAX_UNSETTLED,
    ) -> None:
        self.names = names
        self.bounds = (*bounds, math.inf)
        self.bound_names = tuple(_bound_name(bound) for bound in self.bounds)
        self.new_users = new_users
        self.writer = writer
        self._max_unsettled = max_unsettled
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
                flag = self._flags[flag_key] = _LocalFlag(flag_key, self)
            labels = {"flag_key": flag_key, "reason": reason, "variant": variant}
            name = self.names.evaluations
            write = self.writer("counter", name, MetricNames.EVALUATIONS_HELP, f"{name}_total", labels)
            share = max(1, min(self._max_unsettled, _ALL_UNSETTLED // (len(self._cells) + 1)))
            cell = self._cells[key] = _LocalCell(flag, labels, write, share)
            flag.cells.append(cell)
        return cell

    def flag_users(self) -> Iterator[tuple[str, UniqueUsers]]:
        """Yield the users of each flag, while its lock is held."""
        for flag_key, flag in list(self._flags.items()):
            with flag.lock:
                flag.settle()
                if flag.users is not None:
                    yield flag_key, flag.users

    def users(self) -> dict[str, int]:
        return {flag_key: users.count() for flag_key, users in self.flag_users()}

    def collect(self) -> Iterator[Metric]:
        # The library's own children would lock every bucket and show when each series began: at the most series there
        # can be, that doubles the time of a scrape.
        evaluations, durations, errors = flag_metrics(self.names)
        total_name, errors_name = f"{self.names.evaluations}_total", f"{self.names.errors}_total"
        bucket_name, count_name, sum_name = (f"{self.names.duration}_{suffix}" for suffix in ("bucket", "count", "sum"))
        for flag in list(self._flags.values()):
            with flag.lock:
                flag.settle()
                evaluations.samples += [Sample(total_name, cell.labels, cell.count) for cell in flag.cells]
                errors.samples.append(Sample(errors_name, flag.labels, flag.errors))
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
        yield errors


def flag_metrics(names: MetricNames) -> tuple[Metric, Metric, Metric]:
    """Return the counter of evaluations, the histogram of durations and the counter of errors, without samples."""
    return (
        Metric(names.evaluations, MetricNames.EVALUATIONS_HELP, "counter"),
        Metric(names.duration, MetricNames.DURATION_HELP, "histogram"),
        Metric(names.errors, MetricNames.ERRORS_HELP, "counter"),
    )


def error_rates(evaluations: Metric, errors: Metric) -> dict[str, float]:
    """Return the ratio of errors of each flag, 0.0 to 1.0."""
    totals: dict[str, float] = {}
    for sample in evaluations.samples:
        if sample.name == f"{evaluations.name}_total":
            flag_key = sample.labels["flag_key"]
            totals[flag_key] = totals.get(flag_key, 0.0) + sample.value
    failed = {
        sample.labels["flag_key"]: sample.value for sample in errors.samples if sample.name == f"{errors.name}_total"
    }
    return {flag_key: min(1.0, failed.get(flag_key, 0.0) / total) for flag_key, total in totals.items() if total}


def gauge_metrics(names: MetricNames, gauges: Gauges) -> Iterator[Metric]:
    """Yield the two gauges with these values."""
    for name, text, values in (
        (names.unique_users, MetricNames.UNIQUE_USERS_HELP, gauges.unique_users),
        (names.error_rate, MetricNames.ERROR_RATE_HELP, gauges.error_rates),
    ):
        metric = Metric(name, text, "gauge")
        metric.samples = [Sample(name, {"flag_key": flag_key}, value) for flag_key, value in values.items()]
        yield metric
