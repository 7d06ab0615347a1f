"""What the OpenTelemetry exporter costs its caller, and what a large flush does to the host's event loop."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from itertools import repeat
from typing import Any

from flag_analytics.reports import DeliveryOptions
from flag_analytics_otel import OTelAnalyticsExporter
from opentelemetry import trace
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from ._harness import Contender, Figure, Limit, Table, Timed, awaits, calls, compare, installed, judge
from ._samples import EVENT

_FLUSHED = 20_000
_TICK_SECONDS = 0.001


class _Discard(SpanExporter):
    def export(self, spans: Any) -> SpanExportResult:  # noqa: ARG002 - the interface
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


def _tracers() -> TracerProvider:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_Discard()))
    return provider


def _emitters() -> dict[str, Any]:
    return {
        "tracer": _tracers().get_tracer("benchmark"),
        "meter": MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False).get_meter("benchmark"),
        "logger": LoggerProvider(shutdown_on_exit=False).get_logger("benchmark"),
    }


def record() -> Table:
    """Time the caller's cost of one event, outside and inside a trace, beside the SDK's own span."""
    silent = OTelAnalyticsExporter()
    contenders = [
        Contender("OpenTelemetry SDK span start and end", calls(_span(_tracers().get_tracer("benchmark")))),
        Contender("flag-analytics record_nowait", _recorded(inside_a_trace=False), most=20_000),
        Contender("flag-analytics record_nowait, inside a trace", _recorded(inside_a_trace=True), most=20_000),
        Contender("flag-analytics await record, no SDK set", awaits(silent.record, EVENT)),
    ]
    notes = ["the delivery thread sleeps while the caller is timed: what it does is measured by flush"]
    if installed("litestar_flags"):
        contenders.append(Contender("litestar-flags await record, its flushes included", _litestar_flags(), most=2_000))
    else:
        notes.append("not installed: litestar_flags")
    span = "OpenTelemetry SDK span start and end"
    return compare(
        "OTelAnalyticsExporter.record",
        contenders,
        limits=[
            Limit("flag-analytics record_nowait", at_most=0.2, times=span),
            Limit("flag-analytics record_nowait, inside a trace", at_most=0.2, times=span),
            Limit("flag-analytics await record, no SDK set", at_most=0.1, times=span),
        ],
        notes=notes,
    )


def flush() -> Table:
    """Measure how late the host's event loop is while 20,000 events become spans on the delivery thread."""
    figures: list[Figure] = []
    figures += asyncio.run(_lag("idle loop", None))
    figures += asyncio.run(_lag("batches of 100 (default)", _exporter(batch_size=100, flush_interval=0)))
    figures += asyncio.run(_lag("one batch of 20,000", _exporter(batch_size=_FLUSHED, flush_interval=0)))
    figures += asyncio.run(
        _lag("one batch of 20,000, spans and log records", _exporter(_FLUSHED, flush_interval=0, semconv="both"))
    )
    if installed("litestar_flags"):
        from litestar_flags.analytics.exporters.otel import OTelAnalyticsExporter as Peer

        emitters = _emitters()
        peer = Peer(emitters["tracer"], emitters["meter"], batch_size=_FLUSHED + 1, flush_interval=0)
        figures += asyncio.run(_lag("litestar-flags", peer, limited=False))
    return Table("Flush of 20,000 events in spans mode: lag of the host's event loop", (), figures, judge(figures))


def _span(tracer: trace.Tracer) -> Callable[[], None]:
    attributes = {
        "feature_flag.key": "checkout_redesign",
        "feature_flag.reason": "TARGETING_MATCH",
        "feature_flag.variant": "treatment_a",
        "feature_flag.targeting_key": "user-12345",
        "feature_flag.event_timestamp": "2026-01-31T12:00:00+00:00",
        "feature_flag.evaluation_duration_ms": 1.5,
    }

    def one() -> None:
        tracer.start_span("feature_flag.analytics.event", attributes=attributes).end()

    return one


def _exporter(batch_size: int = 100, **options: Any) -> OTelAnalyticsExporter:
    delivery = DeliveryOptions(max_batch_bytes=64 * 2**20, max_bytes=64 * 2**20)
    return OTelAnalyticsExporter(**_emitters(), batch_size=batch_size, delivery=delivery, **options)


def _recorded(*, inside_a_trace: bool) -> Timed:
    tracer = _tracers().get_tracer("benchmark")

    def timed(operations: int) -> int:
        exporter = _exporter(batch_size=50_000, flush_interval=0)
        turns = repeat(None, operations)
        with tracer.start_as_current_span("request") if inside_a_trace else trace.use_span(trace.INVALID_SPAN):
            started = time.perf_counter_ns()
            for _ in turns:
                exporter.record_nowait(EVENT)
            took = time.perf_counter_ns() - started
        exporter.close_sync(30.0)
        return took

    return timed


def _litestar_flags() -> Timed:
    from litestar_flags.analytics.exporters.otel import OTelAnalyticsExporter as Peer

    emitters = _emitters()

    async def in_loop(operations: int) -> int:
        peer = Peer(emitters["tracer"], emitters["meter"], flush_interval=0)
        turns = repeat(None, operations)
        started = time.perf_counter_ns()
        for _ in turns:
            await peer.record(EVENT)
        return time.perf_counter_ns() - started

    return lambda operations: asyncio.run(in_loop(operations))


async def _lag(name: str, exporter: Any, *, limited: bool = True) -> list[Figure]:
    """Return the lag of 1 ms sleeps while the exporter flushes, and how long the flush took."""
    if exporter is not None:
        for _ in range(_FLUSHED):
            await exporter.record(EVENT)
    lags: list[float] = []
    done = asyncio.Event()

    async def watch() -> None:
        while not done.is_set():
            due = time.perf_counter() + _TICK_SECONDS
            await asyncio.sleep(_TICK_SECONDS)
            lags.append((time.perf_counter() - due) * 1_000)

    watcher = asyncio.create_task(watch())
    await asyncio.sleep(0)
    started = time.perf_counter()
    await (asyncio.sleep(0.5) if exporter is None else exporter.flush())
    took = time.perf_counter() - started
    done.set()
    await watcher
    if exporter is not None:
        await exporter.close()
    p99 = statistics.quantiles(lags, n=100, method="inclusive")[-1] if len(lags) > 1 else max(lags)
    return [
        Figure(f"{name}: lag p99", p99, "ms", at_most=10.0 if limited else None),
        Figure(f"{name}: lag worst", max(lags), "ms"),
        Figure(f"{name}: flush", took * 1_000, "ms"),
    ]


BENCHMARKS = (record, flush)
