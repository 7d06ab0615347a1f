"""The exporter applications hold: the reference's interface over the delivery engine."""

import inspect
import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from typing import Any

import pytest
from flag_analytics.errors import ConfigError, SinkUnavailable
from flag_analytics.events import EvaluationReason, FlagEvaluationEvent
from flag_analytics.freezer import Freezer
from flag_analytics.pipeline import open_pipeline
from flag_analytics.protocols import AnalyticsExporter, Batch, BatchSink, RecordResult
from flag_analytics.reports import DeliveryOptions
from flag_analytics_otel import (
    OTelAnalyticsExporter,
    OTelHook,
    OTelOptions,
    OTelSink,
    create_exporter_from_hook,
    plugin,
)
from flag_analytics_otel.providers import log_signal, metric_signal, trace_signal
from litestar_flags import EvaluationContext, FeatureFlagClient
from litestar_flags.analytics.exporters import otel as reference
from litestar_flags.contrib.otel import OTelHook as ReferenceHook
from litestar_flags.models import FeatureFlag
from litestar_flags.storage.memory import MemoryStorageBackend
from litestar_flags.types import FlagStatus, FlagType
from opentelemetry import _logs, metrics, trace
from opentelemetry.metrics import NoOpMeter
from opentelemetry.sdk._logs import export as logs_export
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NoOpTracer

KeptLogs = getattr(logs_export, "InMemoryLogRecordExporter", None) or logs_export.InMemoryLogExporter
"""Its name before version 1.39 was another."""

MOMENT = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


def evaluated(flag_key: str = "checkout", **extra: Any) -> FlagEvaluationEvent:
    return FlagEvaluationEvent(MOMENT, flag_key, True, EvaluationReason.STATIC, **extra)


def keys(sdk: Any) -> list[str]:
    return [span.attributes["feature_flag.key"] for span in sdk.spans()]


@pytest.mark.parametrize("name", ["OTelAnalyticsExporter", "create_exporter_from_hook"])
def test_parameters_and_defaults_are_the_references_in_its_order(name):
    ours = inspect.signature(globals()[name]).parameters
    theirs = inspect.signature(getattr(reference, name)).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    for parameter in theirs.values():
        if not parameter.name.endswith("_name"):
            assert ours[parameter.name].default == parameter.default


def test_everything_public_of_the_reference_is_here():
    theirs = {name for name in vars(reference.OTelAnalyticsExporter) if not name.startswith("_")}
    assert theirs <= set(dir(OTelAnalyticsExporter))


async def test_recorded_events_are_emitted_when_flush_returns(sdk):
    exporter = OTelAnalyticsExporter(**sdk.emitters())
    assert isinstance(exporter, AnalyticsExporter)
    await exporter.record(evaluated("a"))
    assert exporter.record_nowait(evaluated("b")) is RecordResult.ACCEPTED
    await exporter.flush()
    assert keys(sdk) == ["a", "b"]
    assert exporter.buffer_size == 0
    await exporter.close()


async def test_close_emits_waiting_events_and_refuses_later_ones(sdk):
    exporter = OTelAnalyticsExporter(**sdk.emitters())
    await exporter.record(evaluated("a"))
    await exporter.close()
    await exporter.close()
    assert exporter.record_nowait(evaluated("b")) is RecordResult.CLOSED
    await exporter.record(evaluated("c"))
    assert keys(sdk) == ["a"]
    stats = exporter.stats()
    assert (stats.recorded, stats.accepted, stats.refused) == (3, 1, {"closed": 2})
    assert stats.balanced()


async def test_a_full_batch_goes_without_being_asked_and_a_part_of_one_waits(sdk):
    exporter = OTelAnalyticsExporter(batch_size=3, flush_interval=0, **sdk.emitters())
    for n in range(5):
        await exporter.record(evaluated(f"f{n}"))
    await exporter.flush()
    sizes = sdk.points("feature_flag.analytics.batch_size")[0]
    assert (sizes.count, sizes.sum) == (2, 5)
    await exporter.close()


async def test_batch_size_zero_emits_each_event_on_its_own(sdk):
    exporter = OTelAnalyticsExporter(batch_size=0, **sdk.emitters())
    for n in range(4):
        await exporter.record(evaluated(f"f{n}"))
    await exporter.flush()
    sizes = sdk.points("feature_flag.analytics.batch_size")[0]
    assert (sizes.count, sizes.sum) == (4, 4)
    assert keys(sdk) == ["f0", "f1", "f2", "f3"]
    await exporter.close()


def test_record_sync_returns_when_the_event_is_emitted(sdk):
    exporter = OTelAnalyticsExporter(**sdk.emitters())
    exporter.record_sync(evaluated())
    assert keys(sdk) == ["checkout"]
    exporter.record_nowait(evaluated("second"))
    assert exporter.flush_sync(10.0).stored == 2
    assert keys(sdk) == ["checkout", "second"]
    assert exporter.close_sync(1.0).complete


async def test_record_batch_returns_when_the_events_are_emitted(sdk):
    exporter = OTelAnalyticsExporter(**sdk.emitters())
    await exporter.record_batch([evaluated("a"), evaluated("b")])
    assert keys(sdk) == ["a", "b"]
    await exporter.close()


async def test_the_span_is_linked_to_the_callers_trace(sdk):
    exporter = OTelAnalyticsExporter(**sdk.emitters())
    with sdk.emitters()["tracer"].start_as_current_span("request") as request:
        await exporter.record(evaluated())
    await exporter.close()
    made = next(span for span in sdk.spans() if span.name != "request")
    assert [link.context.span_id for link in made.links] == [request.get_span_context().span_id]


@pytest.mark.parametrize("make", [create_exporter_from_hook, lambda hook: OTelAnalyticsExporter(otel_hook=hook)])
async def test_an_exporter_shares_tracer_and_meter_with_a_hook(sdk, make):
    emitters = sdk.emitters()
    hook = OTelHook(emitters["tracer"], emitters["meter"])
    exporter = make(hook)
    assert exporter.tracer is hook.tracer
    assert exporter.meter is hook.meter
    await exporter.record(evaluated())
    await exporter.close()
    assert keys(sdk) == ["checkout"]


async def test_the_references_own_hook_is_shared_just_as_well(sdk):
    emitters = sdk.emitters()
    exporter = create_exporter_from_hook(ReferenceHook(emitters["tracer"], emitters["meter"]), semconv="legacy")
    await exporter.record(evaluated())
    await exporter.close()
    assert keys(sdk) == ["checkout"]


async def test_events_without_an_sdk_are_filtered_counted_and_warned_of_once(caplog):
    exporter = OTelAnalyticsExporter(NoOpTracer(), NoOpMeter("none"))
    assert exporter.record_nowait(evaluated()) is RecordResult.FILTERED
    await exporter.record(evaluated())
    stats = exporter.stats()
    assert (stats.recorded, stats.accepted, stats.refused) == (2, 0, {"filtered": 2})
    assert stats.balanced()
    assert exporter.health()["listening"] is False
    assert [record.getMessage() for record in caplog.records] == [
        "no OpenTelemetry SDK is set up: events for otel are dropped until the application sets a provider"
    ]
    await exporter.close()


async def test_the_litestar_flags_client_takes_it_as_its_collector(sdk):
    storage = MemoryStorageBackend()
    await storage.create_flag(
        FeatureFlag(key="dark", name="dark", flag_type=FlagType.BOOLEAN, status=FlagStatus.ACTIVE, default_enabled=True)
    )
    exporter = OTelAnalyticsExporter(**sdk.emitters())
    client = FeatureFlagClient(storage, analytics_collector=exporter)
    assert await client.get_boolean_value("dark", context=EvaluationContext(targeting_key="u")) is True
    await exporter.close()
    (span,) = sdk.spans()
    assert span.attributes["feature_flag.key"] == "dark"
    assert span.attributes["feature_flag.targeting_key"] == "u"


def run(code: str, *blocked: str) -> str:
    """Run code in a process of its own, where no other test has set the global providers."""
    block = "".join(f"import sys; sys.modules[{name!r}] = None\n" for name in blocked)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_without_an_sdk_nothing_is_queued_and_no_thread_starts():
    said = run(
        """
        import threading
        from datetime import UTC, datetime
        from flag_analytics.events import FlagEvaluationEvent
        from flag_analytics_otel import OTelAnalyticsExporter, OTelHook
        for semconv in ("legacy", "stable", "both"):
            exporter = OTelAnalyticsExporter(semconv=semconv)
            exporter.record_nowait(FlagEvaluationEvent(datetime.now(UTC), "f", True, "STATIC"))
            print(exporter.stats().refused, threading.active_count())
            exporter.record_sync(FlagEvaluationEvent(datetime.now(UTC), "f", True, "STATIC"))
            exporter.close_sync()
        hook = OTelHook(semconv="both")
        hook.end_evaluation_span(hook.start_evaluation_span("f"), None)
        """,
        "opentelemetry.sdk",
        "opentelemetry.semconv",
        "openfeature",
        "litestar_flags",
    )
    assert said.splitlines() == ["{'filtered': 1} 1"] * 3


@pytest.mark.parametrize("semconv", ["legacy", "stable"])
def test_providers_that_are_set_later_are_noticed(semconv):
    said = run(
        f"""
        import asyncio
        from datetime import UTC, datetime
        from flag_analytics.events import FlagEvaluationEvent
        from flag_analytics_otel import OTelAnalyticsExporter
        from opentelemetry import trace, _logs
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs import export as logs_export

        # Its name before version 1.39 was another.
        Kept = getattr(logs_export, "InMemoryLogRecordExporter", None) or logs_export.InMemoryLogExporter

        async def main():
            exporter = OTelAnalyticsExporter(semconv={semconv!r})
            await exporter.record(FlagEvaluationEvent(datetime.now(UTC), "before", True, "STATIC"))
            spans, logs = InMemorySpanExporter(), Kept()
            provider = TracerProvider()
            provider.add_span_processor(SimpleSpanProcessor(spans))
            trace.set_tracer_provider(provider)
            loggers = LoggerProvider()
            loggers.add_log_record_processor(logs_export.SimpleLogRecordProcessor(logs))
            _logs.set_logger_provider(loggers)
            await exporter.record(FlagEvaluationEvent(datetime.now(UTC), "after", True, "STATIC"))
            await exporter.close()
            emitted = [*spans.get_finished_spans(), *(record.log_record for record in logs.get_finished_logs())]
            print([one.attributes["feature_flag.key"] for one in emitted], exporter.stats().refused)

        asyncio.run(main())
        """
    )
    assert said == "['after'] {'filtered': 1}"


def test_an_sdk_that_is_switched_off_is_no_listener():
    said = run(
        """
        import os
        os.environ["OTEL_SDK_DISABLED"] = "true"
        from datetime import UTC, datetime
        from flag_analytics.events import FlagEvaluationEvent
        from flag_analytics_otel import OTelAnalyticsExporter
        from opentelemetry import trace, metrics
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.metrics import MeterProvider
        trace.set_tracer_provider(TracerProvider())
        metrics.set_meter_provider(MeterProvider())
        exporter = OTelAnalyticsExporter()
        print(exporter.record_nowait(FlagEvaluationEvent(datetime.now(UTC), "f", True, "STATIC")).value)
        """
    )
    assert said == "filtered"


def test_the_provider_slots_that_are_read_directly_exist_and_agree_with_the_getters():
    for make, emitter, get in (
        (trace_signal, trace.get_tracer("t"), trace.get_tracer_provider),
        (metric_signal, metrics.get_meter("t"), metrics.get_meter_provider),
        (log_signal, _logs.get_logger("t"), _logs.get_logger_provider),
    ):
        signal = make(emitter)
        assert hasattr(signal._slot_owner, signal._slot)
        slow = type(signal)(emitter, signal._slot_owner, "no_such_slot", get, signal._get_emitter)
        assert signal.taken() is slow.taken() is False


def test_the_plugin_offers_a_sink_with_its_own_delivery_settings():
    (backend,) = plugin.flag_analytics_register_exporters()
    sink = backend.create(backend.options(batch_size=7, flush_interval=2.0))
    assert isinstance(sink, OTelSink)
    assert isinstance(sink, BatchSink)
    assert (sink.delivery.batch_size, sink.delivery.flush_interval_seconds) == (7, 2.0)


async def test_in_a_pipeline_it_is_chosen_and_set_by_a_file_alone(tmp_path):
    path = tmp_path / "flag-analytics.toml"
    path.write_text(
        '[exporters.otel]\nbatch_size = 7\nsemconv = "both"\nexclude_attributes = ["feature_flag.targeting_key"]\n'
        "[exporters.otel.delivery]\nmax_events = 100\n"
    )
    async with open_pipeline(path) as pipeline:
        sink = pipeline.exporters["otel"]
        assert pipeline.record_nowait(evaluated())
        await pipeline.flush()
    assert sink.options == OTelOptions(batch_size=7, semconv="both", exclude_attributes=["feature_flag.targeting_key"])
    stats = pipeline.stats().sinks["otel"]  # there is no SDK in this process
    assert (stats.delivered, stats.dead, stats.balanced()) == (0, 1, True)
    assert {(letter.error, letter.code) for letter in pipeline.dead_letters()} == {("BadBatch", "no_sdk")}


async def test_functions_are_options_of_a_mapping(sdk):
    def mapper(_event: Any) -> dict[str, Any]:
        return {"app": "shop"}

    async with open_pipeline({"exporters": {"otel": {"attribute_mapper": mapper}}}) as pipeline:
        assert pipeline.exporters["otel"].options.attribute_mapper is mapper


def test_a_misspelled_option_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match="did you mean 'stable'"):
        open_pipeline({"exporters": {"otel": {"semconv": "stabel"}}})


def test_zero_batch_size_and_zero_interval_are_mapped_to_the_engine():
    assert OTelOptions(batch_size=0).engine_options().batch_size == 1
    assert OTelOptions(batch_size=0).engine_options().flush_interval_seconds == 0.0
    assert OTelOptions(flush_interval=0).engine_options().flush_interval_seconds > 1e6


def test_further_delivery_settings_stay_as_they_are():
    options = OTelOptions(batch_size=7, flush_interval=2.0).engine_options(DeliveryOptions(max_events=9))
    assert (options.max_events, options.batch_size, options.flush_interval_seconds) == (9, 7, 2.0)


async def test_leaving_the_block_hands_over_waiting_events_and_closes(sdk):
    async with OTelAnalyticsExporter(**sdk.emitters()) as exporter:
        await exporter.record(evaluated())
        assert (await exporter.flush(10.0)).stored == 1
        await exporter.record(evaluated("second"))
    assert keys(sdk) == ["checkout", "second"]
    assert exporter.record_nowait(evaluated()) is RecordResult.CLOSED
    assert await exporter.close(1.0)


def test_its_repr_says_how_it_exports(sdk):
    exporter = OTelAnalyticsExporter(**sdk.emitters(), semconv="both")
    shown = "OTelSink(semconv='both', create_spans=True, parent='link')"
    assert repr(exporter) == f"OTelAnalyticsExporter({shown})"
    exporter.close_sync()


@pytest.mark.parametrize("semconv", ["legacy", "stable", "both"])
@pytest.mark.parametrize("signal", ["tracer", "logger", "meter"])
@pytest.mark.parametrize("batched", [False, True])
async def test_a_write_after_the_shutdown_of_the_sdk_fails(sdk, semconv, signal, batched):
    if batched:
        sdk.tracer_provider._active_span_processor._span_processors = ()
        sdk.tracer_provider.add_span_processor(BatchSpanProcessor(InMemorySpanExporter()))
        sdk.logger_provider._multi_log_record_processor._log_record_processors = ()
        sdk.logger_provider.add_log_record_processor(BatchLogRecordProcessor(KeptLogs()))
    sink = OTelSink(OTelOptions(semconv=semconv), **sdk.emitters())
    batch = Batch("1", (Freezer().freeze(evaluated()),))
    await sink.write(batch)
    getattr(sdk, f"{signal}_provider").shutdown()
    used = {"tracer": semconv != "stable", "logger": semconv != "legacy", "meter": False}[signal]
    if used:
        with pytest.raises(SinkUnavailable, match="was shut down"):
            await sink.write(batch)
    else:
        await sink.write(batch)


def test_after_the_shutdown_of_the_global_sdk_nothing_counts_as_delivered():
    said = run(
        """
        from opentelemetry import metrics
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from flag_analytics import FlagEvaluationEvent, open_pipeline
        provider = MeterProvider([InMemoryMetricReader()])
        metrics.set_meter_provider(provider)
        pipeline = open_pipeline({"exporters": {"otel": {"create_spans": False}}})
        pipeline.record_nowait(FlagEvaluationEvent.now("f", True, "STATIC"))
        assert pipeline.flush_sync(10)
        provider.shutdown()
        for _ in range(1_000):
            pipeline.record_nowait(FlagEvaluationEvent.now("f", True, "STATIC"))
        pipeline.close_sync(0.2)
        stats = pipeline.stats().sinks["otel"]
        print(stats.delivered, sum(stats.dropped.values()), stats.balanced(), stats.last_error)
        """
    )
    assert said == "1 1000 True SinkUnavailable sdk_shut_down"
