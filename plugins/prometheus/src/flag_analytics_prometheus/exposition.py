"""Everything that scrapes of one registry see under one prefix: series, gauges, self-metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
from flag_analytics.errors import FlagAnalyticsError
from flag_analytics.events import EvaluationReason
from flag_analytics.freezer import Freezer
from flag_analytics.processes import new_lock, renew_after_fork
from flag_analytics.reports import DeliveryStats
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from .labels import OTHER, LabelCaps, LabelGate, label_text
from .multiprocess import SharedSeries
from .reading import Seen, read_event
from .scrape import ScrapeQuery
from .self_metrics import Ledgers, SelfReport, self_metrics
from .series import Cell, FlagSeries, Gauges, LocalSeries, MetricNames, error_rates, flag_metrics, gauge_metrics
from .shared_directory import shared_directory

__all__ = ["CellKey", "Exposition", "MetricsConflictError", "exposition_of"]

CellKey = tuple[Any, Any, Any]


class MetricsConflictError(FlagAnalyticsError, ValueError):
    """A registry already has metrics of these names that cannot be shared."""


class Exposition:
    """A collector in prometheus_client's sense; exporters with the same registry and prefix share one.

    ``cells`` maps flag key, reason and variant exactly as events have them to where they are counted. Only texts that
    are labels as they are get into it, so that it is as bounded as the labels are.
    """

    def __init__(self, prefix: str, buckets: tuple[float, ...], caps: LabelCaps) -> None:
        self.prefix = prefix
        self.names = MetricNames.under(prefix)
        self.buckets = buckets
        self.caps = caps
        self.cells: dict[CellKey, Cell] = {}
        self.ledgers = Ledgers()
        self.query: ScrapeQuery | None = None
        self._lock = new_lock()
        self._gate = LabelGate(caps)
        self._freezer = Freezer()
        self._synced = Gauges()
        self._shared: SharedSeries | None = None
        self._series: FlagSeries
        directory = shared_directory()
        if directory is None:
            self._series = LocalSeries(self.names, buckets)
        else:
            self._series = self._shared = SharedSeries(self.names, buckets, caps, directory)
        renew_after_fork(self.after_fork_in_child)

    def after_fork_in_child(self) -> None:
        """Start at zero: the parent reports its own counts."""
        self._lock = new_lock()
        self.cells.clear()
        self._gate.clear()
        self._freezer.after_fork_in_child()
        self._synced = Gauges()
        self.ledgers.after_fork_in_child()
        self._series.clear()
        if self.query is not None:
            self.query.after_fork_in_child()

    def add(self, event: Any) -> None:
        """Count an event that has no cell yet, or that is not plain in every field."""
        seen = read_event(event, self._freezer)
        if seen.kind == "outcome":
            return
        cell = self.cells.get((seen.flag_key, seen.reason, seen.variant)) or self._admit(seen)
        if seen.sample_rate == 1.0 and not seen.error_type:
            cell.add(seen.milliseconds, seen.targeting_key)
        else:
            failed = bool(seen.error_type) and seen.reason != EvaluationReason.ERROR
            cell.add_weighted(seen.milliseconds, seen.targeting_key, 1.0 / seen.sample_rate, failed=failed)

    def _admit(self, seen: Seen) -> Cell:
        with self._lock:
            labels = self._gate.admit(seen.flag_key, seen.reason, seen.variant or "")
            cell = self._series.cell(*labels)
            if labels == (seen.flag_key, seen.reason, seen.variant or ""):
                self.cells[seen.flag_key, seen.reason, seen.variant] = cell
        if self._shared is not None:
            self._shared.publish(self.report)
        return cell

    def set_gauges(self, flag_key: str, unique_users: float, error_rate: float) -> None:
        """Show these values for a flag from now on, in place of the observed ones."""
        with self._lock:
            key = self._gate.admit_flag_key(flag_key)
            if key == OTHER:
                return  # the values of one of many flags do not describe the others; the gate has counted it
            self._synced.unique_users[key] = unique_users
            self._synced.error_rates[key] = error_rate
            if self._shared is not None:
                self._shared.set_gauges(key, unique_users, error_rate)

    def report(self) -> SelfReport:
        """Return this process's report about itself."""
        query = self.query
        with self._lock:
            sanitised = self._freezer.changes()
            if self._gate.sanitised:
                sanitised["label"] = self._gate.sanitised
            overflow, flag_keys = dict(self._gate.overflow), len(list(self._gate.flag_keys))
        return SelfReport(
            overflow,
            sanitised,
            flag_keys,
            {} if query is None else dict(query.failures),
            None if query is None else query.last_success,
            self.ledgers.read(),
        )

    def describe(self) -> Iterator[Metric]:
        """Yield the metrics without samples, which is how a registry finds names that clash."""
        yield from flag_metrics(self.names)
        yield from gauge_metrics(self.names, Gauges())
        ledger = DeliveryStats(0, 0, {}, {}, {}, future_events=0)
        yield from self_metrics(self.prefix, SelfReport(scrape_success=0.0, ledger=ledger, files_skipped=0))

    def collect(self) -> Iterator[Metric]:
        """Yield this process's metrics."""
        evaluations, durations, errors = self._series.collect()
        yield from (evaluations, durations, errors)
        yield from gauge_metrics(self.names, self._gauges(evaluations, errors))
        yield from self_metrics(self.prefix, self.report())

    def collect_merged(self) -> Iterator[Metric]:
        """Yield the metrics of all processes that share ``PROMETHEUS_MULTIPROC_DIR``, other libraries' included."""
        if self._shared is None:
            yield from self.collect()
            return
        gauges = None if self.query is None else _fit_to_show(self.query.read())
        yield from self._shared.collect_merged(gauges)
        self._shared.publish(self.report, now=True)
        yield from self_metrics(self.prefix, self._shared.merged_report(self.report()))

    def scrape_registry(self, registry: CollectorRegistry) -> CollectorRegistry:
        """Return ``registry`` or, in multi-process mode, one that merges all processes."""
        if self._shared is None:
            return registry
        merged = CollectorRegistry()
        merged.register(_Merged(self))
        return merged

    def forget(self, query: ScrapeQuery) -> None:
        """Stop asking, unless another exporter has set a query of its own since."""
        if self.query is query:
            self.query = None
        query.close()

    def publish(self) -> None:
        """Let other processes know the latest."""
        if self._shared is not None:
            self._shared.publish(self.report, now=True)

    def reset(self, flag_key: str | None = None) -> None:
        """Go back to observed gauges for one flag or all of them."""
        with self._lock:
            for values in (self._synced.unique_users, self._synced.error_rates):
                if flag_key is None:
                    values.clear()
                else:
                    values.pop(label_text(flag_key), None)

    def _gauges(self, evaluations: Metric, errors: Metric) -> Gauges:
        if self.query is not None:
            return _fit_to_show(self.query.read())
        with self._lock:
            users, rates = dict(self._synced.unique_users), dict(self._synced.error_rates)
        return Gauges({**self._series.users(), **users}, {**error_rates(evaluations, errors), **rates})


def _fit_to_show(gauges: Gauges) -> Gauges:
    return Gauges(
        {label_text(key): value for key, value in gauges.unique_users.items()},
        {label_text(key): value for key, value in gauges.error_rates.items()},
    )


class _Merged:
    """All processes' metrics as a collector; its names are this process's, so that a scrape can choose among them."""

    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition

    def describe(self) -> Iterator[Metric]:
        return self._exposition.describe()

    def collect(self) -> Iterator[Metric]:
        return self._exposition.collect_merged()


_EXPOSITIONS = "_flag_analytics_expositions"
"""The attribute of a registry that holds its expositions by prefix: a module that is imported anew finds them there."""


def exposition_of(registry: CollectorRegistry, prefix: str, buckets: tuple[float, ...], caps: LabelCaps) -> Exposition:
    """Return the exposition of this registry and prefix, new or shared.

    Raises:
        MetricsConflictError: it exists with other buckets or caps, or something else has taken the names.
    """
    known: dict[str, Exposition] = vars(registry).setdefault(_EXPOSITIONS, {})
    existing = known.get(prefix)
    if existing is None:
        exposition = Exposition(prefix, buckets, caps)
        existing = known.setdefault(prefix, exposition)  # one step: of two threads one registers
        if existing is exposition:
            _register(registry, exposition, known)
    if (existing.buckets, attrs.astuple(existing.caps)) != (buckets, attrs.astuple(caps)):
        raise MetricsConflictError(
            f"an exporter with prefix {prefix!r} is already on this registry with other duration_buckets or "
            "label caps: give both the same options, or one of them another prefix or registry"
        )
    return existing


def _register(registry: CollectorRegistry, exposition: Exposition, known: dict[str, Exposition]) -> None:
    try:
        registry.register(exposition)
    except ValueError:
        del known[exposition.prefix]
        raise MetricsConflictError(
            f"the registry already has metrics named {exposition.names.evaluations}_total or alike, from something "
            "other than this exporter: give the exporter a prefix or a registry of its own"
        ) from None
