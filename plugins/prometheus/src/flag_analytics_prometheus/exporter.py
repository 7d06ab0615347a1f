"""``PrometheusExporter``: counts flag evaluations, for Prometheus to scrape."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Self

from flag_analytics.events import EvaluationReason, FlagEvaluationEvent
from flag_analytics.frozen import FrozenEvent
from flag_analytics.protocols import RecordResult
from prometheus_client import REGISTRY, CollectorRegistry

from .exposition import CellKey, Exposition, exposition_of
from .labels import LabelCaps
from .scrape import ScrapeQuery, ask, read_metrics
from .series import DEFAULT_DURATION_BUCKETS, Cell, check_buckets
from .serving import MetricsServer, serve

__all__ = ["PrometheusExporter"]

_ACCEPTED = RecordResult.ACCEPTED
_INFINITE = math.inf
_EVALUATION = "evaluation"


class PrometheusExporter:
    """Counts evaluations by flag key, reason and variant, their durations, distinct users and errors.

    An exporter touches memory only and is safe from any thread. Exporters with the same registry, prefix and options
    share their metrics, so that a pipeline can be closed and opened anew. ``async with`` closes it.

    Args:
        registry: Where the metrics are registered; the default is prometheus_client's own ``REGISTRY``.
        prefix: The start of metric names: ``myapp`` gives ``myapp_feature_flag_evaluations_total``.
        duration_buckets: Upper bounds of the duration histogram, in seconds.
        caps: The most label values there can be.
        aggregator: Where the two gauges are read from at each scrape; without one they show the events that this
            exporter has counted, or the values that ``update_from_…`` last set.
        flag_keys: The flags to read from the aggregator; None means those with the most evaluations.
        window_seconds: The aggregator's window, up to the scrape.
        timeout_seconds: The longest a scrape waits for the aggregator.

    Raises:
        ValueError: an option is not usable.
        MetricsConflictError: the registry has metrics of these names with other options, or of another library.
    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        prefix: str = "",
        duration_buckets: Sequence[float] = DEFAULT_DURATION_BUCKETS,
        *,
        caps: LabelCaps | None = None,
        aggregator: Any = None,
        flag_keys: Sequence[str] | None = None,
        window_seconds: float = 3600,
        timeout_seconds: float = 1.0,
    ) -> None:
        self.registry = REGISTRY if registry is None else registry
        self.prefix = prefix
        self._exposition = exposition_of(self.registry, prefix, check_buckets(duration_buckets), caps or LabelCaps())
        self._cells = self._exposition.cells
        self._closed = False
        self._query: ScrapeQuery | None = None
        self.server: MetricsServer | None = None
        """The server that ``serve`` started."""
        if aggregator is not None:
            self.read_gauges_from(aggregator, flag_keys, window_seconds=window_seconds, timeout_seconds=timeout_seconds)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        serving = "" if self.server is None else f", serving {self.server.url}"
        return f"PrometheusExporter(prefix={self.prefix!r}{serving})"

    @property
    def exposition(self) -> Exposition:
        """The metrics that scrapes see, shared by all exporters of this registry and prefix."""
        return self._exposition

    def scrape_registry(self) -> CollectorRegistry:
        """Return the registry to scrape: ``registry`` or, in multi-process mode, one that merges all processes."""
        return self._exposition.scrape_registry(self.registry)

    def record_nowait(self, event: Any) -> RecordResult:
        """Count one event, which may be any object with an event's attributes; never raises, never waits."""
        # The straight lines: an event that is counted as it is, with labels that are known as they are.
        try:
            kind = type(event)
            if kind is FrozenEvent:
                cell = self._cells.get((event.flag_key, event.reason, event.variant))
                milliseconds = event.evaluation_duration_ms
                targeting_key = event.targeting_key
            elif kind is FlagEvaluationEvent:
                reason = event.reason
                if type(reason) is EvaluationReason:
                    reason = reason._value_
                flag_key = event.flag_key
                variant = event.variant
                milliseconds = event.evaluation_duration_ms
                targeting_key = event.targeting_key
                if (  # before anything is hashed or compared, which may call code of a value
                    type(flag_key) is not str
                    or type(reason) is not str
                    or not (variant is None or type(variant) is str)
                    or not (targeting_key is None or type(targeting_key) is str)
                    or type(milliseconds) is not float
                    or not 0.0 <= milliseconds < _INFINITE
                    or type(event.sample_rate) is not float
                ):
                    return self._record_with_care(event)
                cell = self._cells.get((flag_key, reason, variant))
            else:
                return self._record_with_care(event)
            if (
                cell is None
                or event.error_type is not None
                or event.sample_rate != 1.0
                or event.kind is not _EVALUATION
            ):
                return self._record_with_care(event)
        except Exception:
            return self._record_with_care(event)
        cell.add(milliseconds, targeting_key)
        return _ACCEPTED

    def _record_with_care(self, event: Any) -> RecordResult:
        if self._closed:
            return RecordResult.CLOSED
        try:
            self._exposition.add(event)
        except KeyboardInterrupt:
            raise
        except BaseException:
            return RecordResult.ERROR
        return _ACCEPTED

    async def record(self, event: FlagEvaluationEvent) -> None:
        """Count one event; never raises, never suspends."""
        self.record_nowait(event)

    async def record_batch(self, events: Iterable[FlagEvaluationEvent]) -> None:
        """Count several events."""
        for event in events:
            self.record_nowait(event)

    def update_from_metrics(self, flag_key: str, metrics: Any) -> None:
        """Show this flag's unique users and error rate from ``FlagMetrics``, or from a dict with its names.

        The gauges of the flag show these values until the next update, in place of the observed ones.
        ``error_rate`` is a percentage, 0 to 100; the gauge is a ratio, 0.0 to 1.0.

        Raises:
            ValueError: a value is not a finite number.
        """
        unique_users, error_rate = read_metrics(metrics)
        self._exposition.set_gauges(flag_key, unique_users, error_rate)

    async def update_from_aggregator(
        self, aggregator: Any, flag_keys: Sequence[str], window_seconds: float = 3600
    ) -> None:
        """Show the gauges of these flags from an ``AnalyticsAggregator``, asked once for all of them.

        Raises:
            Exception: any that the aggregator raises; the gauges stay as they were.
        """
        answer = await ask(aggregator, list(flag_keys), window_seconds)
        for flag_key, metrics in answer.items():
            self.update_from_metrics(flag_key, metrics)

    def read_gauges_from(
        self,
        aggregator: Any,
        flag_keys: Sequence[str] | None = None,
        *,
        window_seconds: float = 3600,
        timeout_seconds: float = 1.0,
    ) -> None:
        """Read the gauges from an ``AnalyticsAggregator`` at each scrape, from now on.

        A scrape waits for it up to ``timeout_seconds``; failures are counted, and the last values stand for five
        minutes. The aggregator is asked in a thread and an event loop of its own.

        Raises:
            ValueError: a time is not above 0.
        """
        if not (window_seconds > 0 and timeout_seconds > 0):
            raise ValueError("window_seconds and timeout_seconds must be above 0")
        before = self._exposition.query
        most = self._exposition.caps.max_flag_keys
        self._query = ScrapeQuery(aggregator, flag_keys, window_seconds, timeout_seconds, most)
        self._exposition.query = self._query
        if before is not None:
            before.close()

    async def reset_flag_stats(self, flag_key: str) -> None:
        """Go back to observed values in one flag's gauges."""
        self._exposition.reset(flag_key)

    async def reset_all_stats(self) -> None:
        """Go back to observed values in the gauges of all flags."""
        self._exposition.reset()

    def serve(self, port: int, address: str = "127.0.0.1") -> MetricsServer:
        """Serve ``/metrics`` from a thread of its own until the exporter is closed; port 0 means any that is free.

        Raises:
            OSError: the port is taken, or not allowed.
        """
        if self.server is None:
            self.server = serve(self, port, address)
        return self.server

    async def flush(self) -> None:
        """Return at once: every event is counted when it is recorded."""

    def flush_sync(self) -> None:
        """Return at once, as ``flush`` does."""

    async def close(self) -> None:
        """Refuse further events, stop serving and asking the aggregator; the counts stay in the registry."""
        self.close_sync()

    def close_sync(self) -> None:
        """``close`` for callers without an event loop."""
        self._closed = True
        self._cells = dict[CellKey, Cell]()
        if self.server is not None:
            self.server.close()
            self.server = None
        if self._query is not None:
            self._exposition.forget(self._query)
            self._query = None
        self._exposition.publish()
