"""Everything that scrapes of one registry see under one prefix: series, gauges, self-metrics."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from typing import Any

from flag_analytics.errors import FlagAnalyticsError
from flag_analytics.events import EvaluationReason
from flag_analytics.freezer import Freezer
from flag_analytics.reports import DeliveryStats
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from .forking import renew_after_fork
from .labels import OTHER, LabelCaps, LabelGate, label_text
from .multiprocess import SharedDirectory, SharedSeries, shared_directory
from .scrape import ScrapeQuery
from .self_metrics import Ledgers, SelfReport, self_metrics
from .series import Cell, FlagSeries, Gauges, LocalSeries, MetricNames, gauge_metrics

__all__ = ["CellKey", "Exposition", "MetricsConflictError", "exposition_of"]

CellKey = tuple[Any, Any, Any]

_TEXT_OR_NONE = (str, type(None))
_PLAIN = frozenset((str, str, variant, user, float, str) for variant in _TEXT_OR_NONE for user in _TEXT_OR_NONE)
"""The types of what is read of an event, where they need no care."""


class MetricsConflictError(FlagAnalyticsError, ValueError):
    """A registry already has metrics of these names that cannot be shared."""


class Exposition:
    """A collector in prometheus_client's sense; exporters with the same registry and prefix share one.

    ``cells`` maps flag key, reason and variant exactly as events have them to where they are counted. Only what needs
    no change to be a label is in it, so that it is as bounded as the labels are.
    """

    def __init__(self, prefix: str, buckets: tuple[float, ...], caps: LabelCaps) -> None:
        self.prefix = prefix
        self.names = MetricNames.under(prefix)
        self.buckets = buckets
        self.caps = caps
        self.cells: dict[CellKey, Cell] = {}
        self.ledgers = Ledgers()
        self.query: ScrapeQuery | None = None
        self._lock = threading.Lock()
        self._gate = LabelGate(caps)
        self._freezer = Freezer()
        self._synced = Gauges()
        self._directory: SharedDirectory | None = shared_directory()
        self._shared: SharedSeries | None = None
        self._series: FlagSeries
        if self._directory is None:
            self._series = LocalSeries(self.names, buckets)
        else:
            self._series = self._shared = SharedSeries(self.names, buckets, caps, self._directory)
        renew_after_fork(self)

    def after_fork_in_child(self) -> None:
        """Start at zero: what the parent counted, the parent reports."""
        self._lock = threading.Lock()
        self.cells.clear()
        self._gate.clear()
        self._freezer.after_fork_in_child()
        self._synced = Gauges()
        self.ledgers.after_fork_in_child()
        self._series.clear()
        if self.query is not None:
            self.query.after_fork_in_child()

    def add(self, event: Any) -> None:
        """Count an event that has no cell yet, or whose labels are not its own texts."""
        flag_key, reason, variant, targeting_key, seconds, kind = self._read(event)
        if kind == "outcome":
            return
        with self._lock:
            labels = self._gate.admit(flag_key, reason, variant or "")
            cell = self._series.cell(*labels)
            if labels == (flag_key, reason, variant or ""):
                self.cells[flag_key, reason, variant] = cell
        if self._shared is not None:
            self._shared.publish(self.report)
        cell.add(seconds, targeting_key)

    def set_gauges(self, flag_key: str, unique_users: float, error_rate: float) -> None:
        """Show these values for a flag from now on, in place of what was observed of it."""
        with self._lock:
            key = self._gate.admit_flag_key(flag_key)
            if key == OTHER:
                return  # the values of one of many flags would say nothing of the others; the gate has counted it
            self._synced.unique_users[key] = unique_users
            self._synced.error_rates[key] = error_rate
        if self._shared is not None:
            self._shared.set_gauges(key, unique_users, error_rate)

    def report(self) -> SelfReport:
        """Return what this process has to say of itself."""
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
        yield Metric(self.names.evaluations, MetricNames.EVALUATIONS_HELP, "counter")
        yield Metric(self.names.duration, MetricNames.DURATION_HELP, "histogram")
        yield from gauge_metrics(self.names, Gauges())
        yield from self_metrics(
            self.prefix, SelfReport(scrape_success=0.0, ledger=DeliveryStats(0, 0, {}, {}, {}, future_events=0))
        )

    def collect(self) -> Iterator[Metric]:
        """Yield this process's metrics."""
        yield from self._series.collect(self._gauges())
        yield from self_metrics(self.prefix, self.report())

    def collect_merged(self) -> Iterator[Metric]:
        """Yield the metrics of all processes that share ``PROMETHEUS_MULTIPROC_DIR``, other libraries' included."""
        if self._shared is None:
            yield from self.collect()
            return
        self._shared.publish(self.report, now=True)
        gauges = None if self.query is None else _fit_to_show(self.query.read())
        yield from self._shared.collect_merged(gauges)
        yield from self_metrics(self.prefix, self._shared.merged_report())

    @property
    def shared(self) -> bool:
        """Whether several processes share the metrics."""
        return self._shared is not None

    def forget(self, query: ScrapeQuery) -> None:
        """Ask no more, unless another exporter has brought a question of its own since."""
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

    def _gauges(self) -> Gauges:
        if self.query is not None:
            return _fit_to_show(self.query.read())
        with self._lock:
            users, rates = dict(self._synced.unique_users), dict(self._synced.error_rates)
        return Gauges({**self._series.users(), **users}, {**self._series.error_rates(), **rates})

    def _read(self, event: Any) -> tuple[str, str, str | None, str | None, float, str]:
        """Return flag key, reason, variant, targeting key, duration in seconds and kind, as plain texts and a float."""
        try:
            reason = event.reason
            if reason.__class__ is EvaluationReason:
                reason = reason.value
            read = (
                event.flag_key,
                reason,
                event.variant,
                event.targeting_key,
                event.evaluation_duration_ms / 1000.0,
                getattr(event, "kind", "evaluation"),
            )
        except Exception:
            read = None  # read again below, with care
        if read is not None and tuple(map(type, read)) in _PLAIN:
            return read
        frozen = self._freezer.freeze(event)
        return (
            frozen.flag_key,
            frozen.reason,
            frozen.variant,
            frozen.targeting_key,
            frozen.evaluation_duration_ms / 1000.0,
            frozen.kind,
        )


def _fit_to_show(gauges: Gauges) -> Gauges:
    return Gauges(
        {label_text(key): value for key, value in gauges.unique_users.items()},
        {label_text(key): value for key, value in gauges.error_rates.items()},
    )


_known: weakref.WeakKeyDictionary[CollectorRegistry, dict[str, Exposition]] = weakref.WeakKeyDictionary()
_known_lock = threading.Lock()


def _renew_known_lock() -> None:
    global _known_lock  # noqa: PLW0603 - another thread may have held it at the fork
    _known_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_known_lock)


def exposition_of(registry: CollectorRegistry, prefix: str, buckets: tuple[float, ...], caps: LabelCaps) -> Exposition:
    """Return the exposition of this registry and prefix, new or shared.

    Raises:
        MetricsConflictError: it exists with other buckets or caps, or something else has taken the names.
    """
    with _known_lock:
        expositions = _known.setdefault(registry, {})
        existing = expositions.get(prefix)
        if existing is not None:
            if (existing.buckets, existing.caps) != (buckets, caps):
                raise MetricsConflictError(
                    f"an exporter with prefix {prefix!r} is already on this registry with other duration_buckets or "
                    "label caps: give both the same options, or one of them another prefix or registry"
                )
            return existing
        exposition = Exposition(prefix, buckets, caps)
        try:
            registry.register(exposition)
        except ValueError:
            raise MetricsConflictError(
                f"the registry already has metrics named {exposition.names.evaluations}_total or alike, from something "
                "other than this exporter: give the exporter a prefix or a registry of its own"
            ) from None
        expositions[prefix] = exposition
        return exposition
