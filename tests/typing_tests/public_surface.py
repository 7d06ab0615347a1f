"""Read by type checkers only: what users of the public surface may write, and what they get."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, assert_type

import attrs
from flag_analytics import (
    AnalyticsAggregator,
    AnalyticsCollector,
    AnalyticsExporter,
    Backend,
    Batch,
    BatchSink,
    DeliveryReport,
    DeliveryStats,
    EvaluationReason,
    EventSource,
    FlagActivity,
    FlagEvaluationEvent,
    FlagMetrics,
    Pipeline,
    Processor,
    ProcessorFactory,
    RecordResult,
    Window,
    hookimpl,
    open_pipeline,
)
from flag_analytics_database import DatabaseAnalyticsCollector
from flag_analytics_memory import InMemoryAnalyticsCollector
from flag_analytics_otel import OTelAnalyticsExporter
from flag_analytics_prometheus import PrometheusExporter

event = FlagEvaluationEvent(
    datetime.now(UTC), "checkout", True, EvaluationReason.SPLIT, "treatment", "user-1", {"plan": "premium"}, 1.5
)
by_name = FlagEvaluationEvent(
    timestamp=datetime.now(UTC), flag_key="checkout", value={"any": ["thing"]}, reason="OF_ITS_OWN", kind="exposure"
)
now = FlagEvaluationEvent.now(
    "checkout", True, "STATIC", "treatment", "user-1", {"plan": "premium"}, provider_name="sdk"
)
assert_type(now, FlagEvaluationEvent)
assert_type(event.reason, EvaluationReason | str)
assert_type(event.variant, str | None)
assert_type(event.to_dict(), dict[str, Any])
assert_type(FlagEvaluationEvent.from_dict({}), FlagEvaluationEvent)

FlagEvaluationEvent(datetime.now(UTC), "checkout", True, "SPLIT", kind="guess")  # type: ignore[arg-type]
FlagEvaluationEvent(datetime.now(UTC), "checkout")  # type: ignore[call-arg]
FlagEvaluationEvent.now("checkout", True)  # type: ignore[call-arg]
FlagEvaluationEvent.now("checkout", True, "SPLIT", kind="guess")  # type: ignore[arg-type]
event.flag_key = "another"  # type: ignore[misc]


async def asynchronously() -> None:
    async with open_pipeline({"collectors": {"memory": {}}}) as pipeline:
        assert_type(pipeline, Pipeline)
        assert_type(pipeline.record_nowait(event), RecordResult)
        assert_type(await pipeline.flush(timeout=1.0), DeliveryReport)
        assert_type(pipeline.stats(), DeliveryStats)
        assert_type(pipeline.aggregator, AnalyticsAggregator)
        assert_type(await pipeline.close(), DeliveryReport)
        collector: AnalyticsCollector = pipeline.collectors["memory"]
        await collector.record(event)


def synchronously() -> None:
    with open_pipeline("flag-analytics.toml") as pipeline:
        assert_type(pipeline.flush_sync(), DeliveryReport)
        assert_type(pipeline.close_sync(timeout=1.0), DeliveryReport)


async def asked(aggregator: AnalyticsAggregator) -> None:
    assert_type(await aggregator.get_evaluation_rate("checkout", window_seconds=60), float)
    assert_type(await aggregator.get_unique_users("checkout"), int)
    assert_type(await aggregator.get_variant_distribution("checkout"), dict[str, int])
    assert_type(await aggregator.get_latency_percentiles("checkout"), dict[float, float])
    assert_type(await aggregator.get_flag_metrics("checkout"), FlagMetrics)
    assert_type(await aggregator.get_metrics(["checkout"]), dict[str, FlagMetrics])
    flags: Sequence[FlagActivity] = await aggregator.list_flags()
    assert_type(flags[0].count, int)


def collectors_are_what_the_protocol_says(
    memory: InMemoryAnalyticsCollector,
    database: DatabaseAnalyticsCollector,
    prometheus: PrometheusExporter,
    otel: OTelAnalyticsExporter,
) -> tuple[Sequence[AnalyticsCollector], Sequence[AnalyticsExporter], EventSource]:
    return [memory, database], [prometheus, otel], memory


@attrs.frozen
class LinesOptions:
    path: str = "events.jsonl"


@attrs.frozen
class OtherOptions:
    size: int = 5


class Lines:
    """A sink as a plugin would write it."""

    def __init__(self, options: LinesOptions) -> None:
        self.path = options.path

    async def write(self, batch: Batch) -> None:
        for frozen in batch:
            assert_type(frozen.value_json, bytes)
            assert_type(frozen.thaw(), FlagEvaluationEvent)

    async def close(self) -> None:
        pass


def keep_all(options: OtherOptions) -> Processor:
    def process(event: FlagEvaluationEvent) -> FlagEvaluationEvent | None:
        return event if options.size else None

    return process


def keep_none(options: OtherOptions) -> int:
    return options.size


sink: BatchSink = Lines(LinesOptions())


@hookimpl
def flag_analytics_register_collectors() -> Sequence[Backend[LinesOptions]]:
    return [Backend("lines", LinesOptions, Lines)]


@hookimpl
def flag_analytics_register_processors() -> Sequence[ProcessorFactory[OtherOptions]]:
    return [ProcessorFactory("keep_all", OtherOptions, keep_all)]


Backend("lines", OtherOptions, Lines)  # type: ignore[arg-type]
Backend("lines", OtherOptions, keep_none)  # type: ignore[arg-type]
ProcessorFactory("keep_all", LinesOptions, keep_all)  # type: ignore[arg-type]
ProcessorFactory("keep_none", OtherOptions, keep_none)  # type: ignore[arg-type]


window = Window(None, datetime.now(UTC))
assert_type(window.start, datetime | None)
