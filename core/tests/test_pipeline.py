"""Pipelines: composition, fan-out, processors, life cycle, accounts; with real plugins on the real delivery engine."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import threading
import weakref
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import attrs
import pytest
from flag_analytics.aggregator import AnalyticsAggregator
from flag_analytics.config.reading import read_config
from flag_analytics.errors import ConfigError, PluginError, SourceError
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.pipeline import Pipeline, open_pipeline
from flag_analytics.processing import Processing, as_event
from flag_analytics.protocols import AnalyticsCollector, RecordResult
from flag_analytics.reports import DeliveryOptions
from flag_analytics.testing.samples import plain_event
from flag_analytics_delivery import Delivery
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

PLUGIN = """
    import attrs
    from flag_analytics import (
        Backend, BadBatch, DeliveryOptions, FatalConfiguration, FlagEvaluationEvent, ProcessorFactory, RecordResult,
        hookimpl
    )

    made = []       # what was created, in order
    heard = []      # which hooks were called

    @attrs.frozen(kw_only=True)
    class Options:
        fail: str = ""
        batch_size: int = 500

    class Keeper:
        def __init__(self, options):
            if options.fail == "create":
                raise ValueError("no room for it")
            self.options, self.events, self.closed = options, [], 0
            made.append(self)

    class Sink(Keeper):
        @property
        def delivery(self):
            return DeliveryOptions(batch_size=self.options.batch_size, flush_interval_seconds=0.01)

        async def write(self, batch):
            if self.options.fail == "write":
                raise BadBatch(code="22001")
            if self.options.fail == "configuration":
                raise FatalConfiguration("no such database")
            self.events += batch.events

        async def close(self): self.closed += 1

    class Inline(Keeper):
        def record_nowait(self, event):
            self.events.append(event)
            return RecordResult.ACCEPTED

        async def flush(self): pass
        async def close(self): self.closed += 1
        async def summarise(self, flag_keys, window, **asked): return {}
        async def get_exposures(self, flag_key, window, **asked): return None
        async def list_flags(self, window, **asked): return []
        async def count_steps(self, flag_key, window, step_seconds, **asked): return {}
        async def count_future(self, now): return sum(event.timestamp > now for event in self.events)

    class Plain(Keeper):
        flushed = 0
        async def record(self, event):
            if self.options.fail == "once" and len(self.events) == 2:
                self.options = Options()
                raise ConnectionRefusedError
            self.events.append(event)

        async def flush(self): self.flushed += 1
        async def close(self): self.closed += 1

    class Old(Keeper):
        def record(self, event): self.events.append(event)
        def flush(self): pass
        def close(self): self.closed += 1

    async def asynchronous(options): pass
    def awaitable(options): return asynchronous(options)

    class AsyncProcessor:
        async def __call__(self, event): return event

    async def slow(event): return event

    @hookimpl
    def flag_analytics_register_collectors():
        return [
            Backend("sink", Options, Sink), Backend("inline", Options, Inline), Backend("plain", Options, Plain),
            Backend("old", Options, Old), Backend("none", Options, lambda options: None),
            Backend("awaitable", Options, awaitable),
            Backend("exits", Options, lambda options: exit(5)),
        ]

    @hookimpl
    def flag_analytics_register_exporters():
        return [Backend("out", Options, Sink)]

    @hookimpl
    def flag_analytics_register_processors():
        replace = __import__("msgspec").structs.replace
        def mark(event): return replace(event, variant=(event.variant or "") + "!")
        return [
            ProcessorFactory("mark", Options, lambda options: mark),
            ProcessorFactory("drop", Options, lambda options: lambda event: None),
            ProcessorFactory("boom", Options, lambda options: lambda event: 1 / 0),
            ProcessorFactory("quit", Options, lambda options: lambda event: exit(3)),
            ProcessorFactory("rubbish", Options, lambda options: lambda event: {"flag_key": "x"}),
            ProcessorFactory("late", Options, lambda options: lambda event: slow(event)),
            ProcessorFactory("async", Options, lambda options: slow),
            ProcessorFactory("async_object", Options, lambda options: AsyncProcessor()),
            ProcessorFactory("no_callable", Options, lambda options: 5),
        ]

    @hookimpl
    def flag_analytics_pipeline_started(pipeline): heard.append(("started", len(made)))

    @hookimpl
    def flag_analytics_pipeline_closing(pipeline): heard.append(("closing", pipeline.closed))

    @hookimpl
    def flag_analytics_delivery_failed(sink, error, events): heard.append((sink, error, len(events)))
"""
NAMES = ("sink", "inline", "plain", "old", "none", "awaitable", "exits", "out")
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Plugins:
    """The plugin module and a registry that finds it."""

    def __init__(self, registry: Any) -> None:
        self.registry = registry

    @property
    def module(self) -> Any:
        return self.registry.load("sink")

    def open(self, source: Any) -> Pipeline:
        return open_pipeline(source, environ={}, registry=self.registry)


@pytest.fixture
def plugins(site):
    site.add("acme", points=dict.fromkeys(NAMES, "acme_plugin"), modules={"acme_plugin": PLUGIN})
    return Plugins(site.registry())


event = partial(plain_event, timestamp=NOW, value=True, targeting_key="user", variant=None, context_attributes={})


def keys(backend: Any) -> list[str]:
    return [one.flag_key for one in backend.events]


# --- composition and fan-out


async def test_every_collector_and_exporter_gets_every_event(plugins):
    source = {
        "collectors": {"sink": {}, "inline": {}, "plain": {}, "sink/second": {}, "old": {}},
        "exporters": {"out": {}},
    }
    async with plugins.open(source) as pipeline:
        for i in range(10):
            assert pipeline.record_nowait(event(i)) is RecordResult.ACCEPTED
        assert await pipeline.flush()
        backends = [*pipeline.collectors.values(), *pipeline.exporters.values()]
        assert list(pipeline.collectors) == ["sink", "inline", "plain", "sink/second", "old"]
        assert list(pipeline.exporters) == ["out"]
    for backend in backends:
        assert keys(backend) == [f"flag-{i}" for i in range(10)]
        assert backend.closed == 1
    assert pipeline.stats().balanced()
    assert pipeline.stats().accepted == 10


def test_code_without_an_event_loop_uses_the_same_pipeline(plugins):
    with plugins.open({"collectors": {"sink": {}, "inline": {}, "plain": {}}}) as pipeline:
        pipeline.record_nowait(event())
        assert pipeline.flush_sync()
        assert keys(pipeline.collectors["plain"]) == ["flag-0"]
    assert pipeline.closed
    assert [backend.closed for backend in pipeline.collectors.values()] == [1, 1, 1]


async def test_a_pipeline_is_a_collector_itself(plugins):
    async with plugins.open({"collectors": {"inline": {}}}) as pipeline:
        assert isinstance(pipeline, AnalyticsCollector)
        assert await pipeline.record(event()) is None
        assert keys(pipeline.collectors["inline"]) == ["flag-0"]


def test_without_processors_recording_is_the_delivery_engines_own_method(plugins):
    with plugins.open({"collectors": {"sink": {}}}) as pipeline:
        assert pipeline.record_nowait.__func__ is Delivery.record_nowait


def test_a_plan_can_be_opened_as_it_is(plugins):
    plan = read_config({"collectors": {"sink": {}}}, environ={}, registry=plugins.registry)
    with plugins.open(plan) as pipeline:
        assert list(pipeline.collectors) == ["sink"]


def test_delivery_settings_reach_the_engine(plugins):
    source = {
        "collectors": {"sink": {"batch_size": 3}, "plain": {"delivery": {"max_events": 2}}},
        "delivery": {"max_events": 4, "batch_size": 9},
    }
    plan = read_config(source, environ={}, registry=plugins.registry)
    with plugins.open(plan) as pipeline:
        engine = pipeline._fanout._engine._engine
        found = {name: sink.machine.options for name, sink in engine.accounts.sinks.items()}
        assert engine.settings.options == DeliveryOptions(max_events=4, batch_size=9)
        assert found["sink"] == DeliveryOptions(max_events=4, batch_size=3, flush_interval_seconds=0.01)
        assert found["plain"] == DeliveryOptions(max_events=2, batch_size=9)


def test_a_wrong_configuration_creates_nothing(plugins):
    with pytest.raises(ConfigError):
        plugins.open({"collectors": {"sink": {}, "plain": {"size": 5}}})
    assert plugins.module.made == []


def test_a_pipeline_shows_its_backends_and_nothing_else(plugins):
    with plugins.open({"collectors": {"sink": {}}, "exporters": {"out": {}}}) as pipeline:
        assert repr(pipeline) == "<Pipeline to sink, out>"
    assert repr(pipeline) == "<Pipeline to sink, out (closed)>"


def test_a_sink_whose_configuration_was_wrong_goes_on_after_reopen(plugins):
    with plugins.open({"collectors": {"sink": {"fail": "configuration"}, "inline": {}}}) as pipeline:
        pipeline.record_nowait(event())
        assert not pipeline.flush_sync()
        assert pipeline.health()["sinks"]["sink"]["breaker"] == "halted"
        pipeline.collectors["sink"].options = pipeline.collectors["inline"].options
        pipeline.reopen("inline")  # of no effect: it has no queue
        pipeline.reopen("sink")
        assert pipeline.flush_sync()
        assert keys(pipeline.collectors["sink"]) == ["flag-0"]
        with pytest.raises(ValueError, match="no sink 'other': expected one of sink, inline"):
            pipeline.reopen("other")


# --- a create() that fails


@pytest.mark.parametrize(
    ("name", "table", "expected"),
    [
        ("plain", {"fail": "create"}, "create of collectors.plain failed: ValueError: no room for it ("),
        ("exits", {}, "create of collectors.exits failed: SystemExit: 5"),
        ("none", {}, "create of collectors.none returned None, expected an object with write"),
        ("awaitable", {}, "create of collectors.awaitable returned coroutine, expected an object"),
    ],
)
def test_a_backend_that_cannot_be_created_is_named_and_the_others_are_closed(plugins, name, table, expected):
    source = {"collectors": {"sink": {}, "old": {}, "inline": {}, name: table}}
    with pytest.raises(PluginError) as caught:
        plugins.open(source)
    assert expected in str(caught.value)
    assert [backend.closed for backend in plugins.module.made] == [1, 1, 1]


async def test_what_was_created_is_closed_where_a_loop_is_running_too(plugins):
    with pytest.raises(PluginError, match="no room"):
        plugins.open({"collectors": {"sink": {}, "plain": {"fail": "create"}}})
    assert [backend.closed for backend in plugins.module.made] == [1]


def test_one_that_cannot_even_be_closed_does_not_hide_why(plugins):
    plugins.module.Sink.close = None
    with pytest.raises(PluginError, match="no room"):
        plugins.open({"collectors": {"sink": {}, "old": {}, "plain": {"fail": "create"}}})
    assert plugins.module.made[1].closed == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("async", "create of processor async returned an async callable, expected a plain one"),
        ("async_object", "returned an async callable"),
        ("no_callable", "create of processor no_callable returned int, expected a callable"),
    ],
)
def test_a_processor_that_cannot_be_called_plainly_is_refused(plugins, name, expected):
    with pytest.raises(PluginError) as caught:
        plugins.open({"collectors": {"sink": {}}, "processors": [{"type": name}]})
    assert expected in str(caught.value)
    assert [backend.closed for backend in plugins.module.made] == [1]


# --- plain collectors behind the engine


def test_a_plain_collector_gets_events_of_the_class_it_knows_then_a_flush(plugins):
    with plugins.open({"collectors": {"plain": {}}}) as pipeline:
        sent = event(7)
        pipeline.record_nowait(sent)
        pipeline.flush_sync()
        collector = pipeline.collectors["plain"]
        assert collector.events == [sent]
        assert type(collector.events[0]) is FlagEvaluationEvent
        assert collector.flushed == 1


def test_a_plain_collector_that_fails_in_the_middle_gets_the_rest_and_nothing_twice(plugins):
    source = {"collectors": {"plain": {"fail": "once"}}, "delivery": {"retry_initial_seconds": 0.001}}
    with plugins.open(source) as pipeline:
        for i in range(5):
            pipeline.record_nowait(event(i))
        assert pipeline.flush_sync()
        assert keys(pipeline.collectors["plain"]) == [f"flag-{i}" for i in range(5)]
        assert pipeline.stats().sinks["plain"].retries == 1


# --- processors


def test_processors_run_in_order_and_every_sink_sees_the_result(plugins):
    source = {
        "collectors": {"sink": {}, "inline": {}},
        "processors": [{"type": "mark"}, {"type": "hash_targeting_key", "unkeyed": True}, {"type": "mark"}],
    }
    with plugins.open(source) as pipeline:
        pipeline.record_nowait(event(variant="on"))
        pipeline.flush_sync()
        (queued,), (inline,) = pipeline.collectors["sink"].events, pipeline.collectors["inline"].events
    assert queued.variant == inline.variant == "on!!"
    assert queued.targeting_key == inline.targeting_key
    assert len(queued.targeting_key) == 32


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("drop", RecordResult.FILTERED),
        ("boom", RecordResult.ERROR),
        ("quit", RecordResult.ERROR),
        ("rubbish", RecordResult.ERROR),
        ("late", RecordResult.ERROR),
    ],
)
def test_an_event_that_a_processor_drops_or_breaks_on_is_counted_and_reaches_no_sink(plugins, name, outcome):
    source = {"collectors": {"sink": {}, "inline": {}}, "processors": [{"type": "mark"}, {"type": name}]}
    with plugins.open(source) as pipeline:
        assert pipeline.record_nowait(event()) is outcome
        pipeline.flush_sync()
        assert pipeline.collectors["sink"].events == pipeline.collectors["inline"].events == []
        stats = pipeline.stats()
    assert (stats.recorded, stats.accepted, stats.refused) == (1, 0, {outcome.value: 1})


def assign(changed):
    changed.variant = "on"


@pytest.mark.parametrize(
    "process",
    [lambda event: attrs.evolve(event, variant="on"), lambda event: dataclasses.replace(event, variant="on"), assign],
)
def test_a_processor_that_takes_an_event_for_something_else_is_told_how_to_change_it(process, caplog):
    delivery = Delivery({})
    processing = Processing([("mine", process)], delivery)
    assert processing.record_nowait(event()) is RecordResult.ERROR
    delivery.close_sync()
    (message,) = caplog.messages
    assert message.startswith("processor mine raised ")
    assert message.endswith("the event is dropped; return event.replace(name=value) to change an event")


def test_a_broken_processor_is_logged_once_a_minute_without_the_event(plugins, caplog):
    source = {"collectors": {"sink": {}}, "processors": [{"type": "mark"}, {"type": "boom"}]}
    with caplog.at_level(logging.DEBUG), plugins.open(source) as pipeline:
        for _ in range(100):
            pipeline.record_nowait(event(variant="CANARY"))
    messages = [record.getMessage() for record in caplog.records if record.name == "flag_analytics.pipeline"]
    assert messages == ["processor boom raised ZeroDivisionError: the event is dropped"]
    assert "CANARY" not in caplog.text


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["keep", "drop", "boom"]), max_size=30))
def test_the_ledger_balances_whatever_processors_do(fates):
    def process(one):
        return {"keep": lambda: one, "drop": lambda: None, "boom": lambda: 1 / 0}[one.value]()

    sink = type("Sink", (), {"write": _swallow, "close": _swallow})()
    delivery = Delivery({"sink": sink})
    processing = Processing([("fate", process)], delivery)
    outcomes = [processing.record_nowait(FlagEvaluationEvent(NOW, "a", fate, "SPLIT")) for fate in fates]
    report = delivery.close_sync()
    stats = delivery.stats()
    assert stats.balanced()
    assert report.stored == stats.accepted == outcomes.count(RecordResult.ACCEPTED) == fates.count("keep")
    assert stats.refused.get("filtered", 0) == fates.count("drop")
    assert stats.refused.get("error", 0) == fates.count("boom")


async def _swallow(self: Any, *_: Any) -> None:
    pass


# --- events of other classes


@dataclasses.dataclass
class ForeignEvent:
    timestamp: datetime
    flag_key: str
    value: Any
    reason: str
    variant: str | None = None
    targeting_key: str | None = None
    context_attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    evaluation_duration_ms: float = 0.0


@pytest.mark.parametrize("processors", [[], [{"type": "hash_targeting_key", "unkeyed": True}]])
def test_an_event_object_of_another_library_is_taken_as_it_is(plugins, processors):
    with plugins.open({"collectors": {"sink": {}}, "processors": processors}) as pipeline:
        foreign = ForeignEvent(NOW, "theirs", {"a": 1}, "STATIC", "v", "user", {"plan": "pro"}, 1.5)
        assert pipeline.record_nowait(foreign)
        pipeline.flush_sync()
        (stored,) = pipeline.collectors["sink"].events
    assert (stored.timestamp, stored.flag_key, stored.value, stored.reason) == (NOW, "theirs", {"a": 1}, "STATIC")
    assert (stored.variant, stored.context_attributes, stored.evaluation_duration_ms) == ("v", {"plan": "pro"}, 1.5)
    assert (stored.targeting_key == "user") is not bool(processors)
    assert foreign.targeting_key == "user"


class Thorny:
    flag_key = "thorny"

    @property
    def value(self) -> Any:
        raise RuntimeError("no value today")


@pytest.mark.parametrize("processors", [[], [{"type": "redact", "attributes": ["a"]}]])
@pytest.mark.parametrize("given_event", [Thorny(), {"flag_key": "x"}, {"flag_key": None, "timestamp": "never"}])
def test_whatever_has_a_flag_key_is_an_event(plugins, processors, given_event):
    with plugins.open({"collectors": {"sink": {}}, "processors": processors}) as pipeline:
        assert pipeline.record_nowait(given_event) is RecordResult.ACCEPTED
        pipeline.flush_sync()
        assert pipeline.stats().balanced()
        assert pipeline.stats().sinks["sink"].delivered == 1


class Trap(dict):
    def __contains__(self, key):
        raise RuntimeError(key)


@pytest.mark.parametrize("processors", [[], [{"type": "redact", "attributes": ["a"]}]])
@pytest.mark.parametrize("given_event", [None, 42, "event", object, {}, {"key": "x"}, Trap(flag_key="x")])
def test_what_is_no_event_is_refused_and_counted_and_never_raises(plugins, processors, given_event):
    with plugins.open({"collectors": {"sink": {}}, "processors": processors}) as pipeline:
        assert pipeline.record_nowait(given_event) is RecordResult.ERROR
        assert pipeline.stats().refused == {"error": 1}
        assert pipeline.stats().balanced()


def test_an_accepted_event_can_be_recorded_again_with_processors():
    sent = event(3)
    from flag_analytics.freezer import Freezer

    assert as_event(Freezer().freeze(sent)) == sent


# --- life cycle


async def test_plugins_hear_of_the_start_and_once_of_the_end(plugins):
    pipeline = plugins.open({"collectors": {"sink": {}, "inline": {}}})
    assert plugins.module.heard == [("started", 2)]
    reports = await asyncio.gather(*(pipeline.close() for _ in range(10)))
    assert plugins.module.heard[1:] == [("closing", False)]
    assert all(report == reports[0] for report in reports)
    assert pipeline.close_sync() == reports[0]


def test_threads_that_close_together_get_one_report(plugins):
    pipeline = plugins.open({"collectors": {"sink": {}}})
    for i in range(100):
        pipeline.record_nowait(event(i))
    reports = []
    threads = [threading.Thread(target=lambda: reports.append(pipeline.close_sync())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reports) == 8
    assert all(report == reports[0] for report in reports)
    assert (reports[0].stored, reports[0].complete) == (100, True)


def test_an_event_after_close_is_refused_and_counted(plugins):
    pipeline = plugins.open({"collectors": {"inline": {}}})
    pipeline.close_sync()
    assert pipeline.record_nowait(event()) is RecordResult.CLOSED
    assert pipeline.stats().refused == {"closed": 1}
    assert pipeline.collectors["inline"].events == []


def test_plugins_hear_of_events_that_a_backend_refused_for_good(plugins):
    with plugins.open({"collectors": {"sink": {"fail": "write"}, "plain": {}}}) as pipeline:
        pipeline.record_nowait(event())
        pipeline.flush_sync()
        assert ("sink", "BadBatch", 1) in plugins.module.heard
        (letter,) = pipeline.dead_letters()
        assert (letter.sink, letter.code, letter.event.flag_key) == ("sink", "22001", "flag-0")
        assert keys(pipeline.collectors["plain"]) == ["flag-0"]


@pytest.mark.parametrize("processors", [[], [{"type": "mark"}]])
def test_a_pipeline_that_is_dropped_is_collected_at_once_and_warns(plugins, processors):
    pipeline = plugins.open({"collectors": {"sink": {}}, "processors": processors})
    pipeline.record_nowait(event())
    pipeline.flush_sync()
    reference = weakref.ref(pipeline)
    gc.disable()
    try:
        with pytest.warns(ResourceWarning, match="dropped without close"):
            del pipeline
        assert reference() is None
    finally:
        gc.enable()


# --- accounts


def test_health_tells_each_sinks_role_and_state(plugins):
    with plugins.open({"collectors": {"sink": {}}, "exporters": {"out": {}}}) as pipeline:
        health = pipeline.health()
    assert health["status"] == "ok"
    assert {name: (sink["role"], sink["status"]) for name, sink in health["sinks"].items()} == {
        "sink": ("collector", "ok"),
        "out": ("exporter", "ok"),
    }
    assert pipeline.health()["status"] == "closed"


def test_events_dated_in_the_future_are_counted_where_a_source_in_memory_can_tell(plugins):
    with plugins.open({"collectors": {"sink": {}, "inline": {}}}) as pipeline:
        assert pipeline.stats().future_events == 0
        later = datetime.now(UTC) + timedelta(hours=1)
        pipeline.record_nowait(FlagEvaluationEvent(later, "soon", 1, "STATIC"))
        assert pipeline.stats().future_events == 1
    with plugins.open({"collectors": {"sink": {}}}) as pipeline:
        assert pipeline.stats().future_events is None


def test_a_source_that_would_have_to_wait_is_not_waited_for(plugins):
    with plugins.open({"collectors": {"inline": {}}}) as pipeline:

        async def count_future(now: datetime) -> int:
            await asyncio.sleep(3600)
            return 5

        pipeline.collectors["inline"].count_future = count_future
        assert pipeline.stats().future_events is None


async def test_the_aggregator_asks_the_first_collector_that_keeps_events(plugins):
    async with plugins.open({"collectors": {"sink": {}, "inline/b": {}, "inline/a": {}}}) as pipeline:
        assert pipeline.aggregator is pipeline.aggregator
        assert (await pipeline.aggregator.get_flag_metrics("flag")).total_evaluations == 0
        assert pipeline.aggregator._source is pipeline.collectors["inline/b"]
        assert AnalyticsAggregator(pipeline)._source is pipeline.collectors["inline/b"]


def test_without_a_collector_that_keeps_events_the_aggregator_says_what_to_add(plugins):
    pipeline = plugins.open({"collectors": {"sink": {}}, "exporters": {"out": {}}})
    with pipeline, pytest.raises(SourceError, match=r"\(collectors: sink\): add one that keeps them"):
        _ = pipeline.aggregator
    with pytest.raises(SourceError, match="add one that keeps them"):
        AnalyticsAggregator(pipeline)
