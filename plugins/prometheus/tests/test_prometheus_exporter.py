"""The exporter's contract: the reference's metrics, labels and units, from any thread, after close and after a fork."""

from __future__ import annotations

import gc
import os
import sys
import threading
import weakref
from types import SimpleNamespace

import pytest
from flag_analytics.events import EvaluationReason
from flag_analytics.freezer import Freezer
from flag_analytics.pipeline import open_pipeline
from flag_analytics.protocols import AnalyticsExporter, InlineSink, RecordResult
from flag_analytics.testing.samples import plain_event
from flag_analytics_prometheus import DEFAULT_DURATION_BUCKETS, LabelCaps, MetricsConflictError, PrometheusExporter
from prometheus_client import CollectorRegistry, Counter, generate_latest


def an_event(flag_key="checkout", reason=EvaluationReason.SPLIT, variant="a", user="user-1", duration=1.5, **more):
    fields = {"reason": reason, "variant": variant, "targeting_key": user, "evaluation_duration_ms": duration}
    return plain_event(flag_key=flag_key, **fields, **more)


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def exporter(registry):
    return PrometheusExporter(registry)


def evaluations(registry, flag_key="checkout", reason="SPLIT", variant="a", name="feature_flag_evaluations_total"):
    return registry.get_sample_value(name, {"flag_key": flag_key, "reason": reason, "variant": variant})


def test_it_is_an_exporter_and_an_inline_sink(exporter):
    assert isinstance(exporter, AnalyticsExporter)
    assert isinstance(exporter, InlineSink)


async def test_leaving_the_block_closes_it(registry):
    async with PrometheusExporter(registry) as exporter:
        await exporter.record(an_event())
    assert exporter.record_nowait(an_event()) is RecordResult.CLOSED
    assert evaluations(registry) == 1


async def test_its_repr_says_what_it_is_and_where_it_serves(registry):
    async with PrometheusExporter(registry, "shop") as exporter:
        assert repr(exporter) == "PrometheusExporter(prefix='shop')"
        server = exporter.serve(0)
        assert repr(exporter) == f"PrometheusExporter(prefix='shop', serving {server.url})"
    with open_pipeline({"exporters": {"prometheus": {"prefix": "repr"}}}, environ={}) as pipeline:
        assert repr(pipeline.exporters["prometheus"]) == "PrometheusExporter(prefix='repr')"


async def test_every_method_of_the_protocol_returns_none(exporter):
    assert await exporter.record(an_event()) is None
    assert await exporter.flush() is None
    assert await exporter.close() is None


async def test_an_evaluation_is_counted_by_flag_key_reason_and_variant(exporter, registry):
    await exporter.record(an_event())
    await exporter.record_batch([an_event(), an_event(reason="STATIC", variant=None)])
    assert evaluations(registry) == 2
    assert evaluations(registry, reason="STATIC", variant="") == 1


def test_durations_come_in_milliseconds_and_are_shown_in_seconds(exporter, registry):
    for milliseconds in (0.1, 0.3, 30.0, 5_000.0):
        exporter.record_nowait(an_event(duration=milliseconds))
    name = "feature_flag_evaluation_duration_seconds"
    assert registry.get_sample_value(f"{name}_sum", {"flag_key": "checkout"}) == pytest.approx(5.0304)
    assert registry.get_sample_value(f"{name}_count", {"flag_key": "checkout"}) == 4
    for bound, count in (("0.0001", 1), ("0.0005", 2), ("0.025", 2), ("0.05", 3), ("1.0", 3), ("+Inf", 4)):
        assert registry.get_sample_value(f"{name}_bucket", {"flag_key": "checkout", "le": bound}) == count


def test_the_default_buckets_go_from_100_microseconds_to_1_second(exporter, registry):
    exporter.record_nowait(an_event())
    bounds = [
        float(sample.labels["le"])
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name.endswith("_bucket")
    ]
    assert bounds == [*DEFAULT_DURATION_BUCKETS, float("inf")]
    assert (bounds[0], bounds[-2]) == (0.0001, 1.0)


@pytest.mark.parametrize("duration", [0.0, -1.0, float("nan"), float("inf"), None, "soon", 10**400])
def test_a_duration_that_was_not_measured_counts_the_event_and_no_duration(exporter, registry, duration):
    assert exporter.record_nowait(an_event(duration=duration)) is RecordResult.ACCEPTED
    assert evaluations(registry) == 1
    assert registry.get_sample_value("feature_flag_evaluation_duration_seconds_count", {"flag_key": "checkout"}) is None


def test_unique_users_and_the_error_rate_are_those_observed(exporter, registry):
    for user in ("ann", "bob", "ann", None, ""):
        exporter.record_nowait(an_event(user=user))
    exporter.record_nowait(an_event(reason=EvaluationReason.ERROR, user="bob"))
    assert registry.get_sample_value("feature_flag_unique_users", {"flag_key": "checkout"}) == 2
    assert registry.get_sample_value("feature_flag_error_rate", {"flag_key": "checkout"}) == pytest.approx(1 / 6)


@pytest.mark.parametrize("reason", ["DEFAULT", "STATIC", "ERROR"])
def test_an_event_with_an_error_type_is_an_error_with_any_reason(exporter, registry, reason):
    for error_type in ("PROVIDER_NOT_READY", None, ""):
        exporter.record_nowait(an_event(reason=reason, error_type=error_type))
    expected = 3 if reason == "ERROR" else 1
    labels = {"flag_key": "checkout"}
    assert evaluations(registry, reason=reason) == 3
    assert registry.get_sample_value("flag_analytics_evaluation_errors_total", labels) == expected
    assert registry.get_sample_value("feature_flag_error_rate", labels) == pytest.approx(expected / 3)


@pytest.mark.parametrize("form", ["ours", "frozen", "foreign"])
def test_a_sampled_event_counts_one_through_its_rate_but_once_in_the_histogram(exporter, registry, form):
    for reason, rate in (("SPLIT", 0.1), ("SPLIT", 0.25), ("SPLIT", 1.0), ("ERROR", 1.0)):
        event = an_event(reason=reason, sample_rate=rate)
        if form == "frozen":
            event = Freezer().freeze(event)
        elif form == "foreign":
            event = SimpleNamespace(**{name: getattr(event, name) for name in event.__struct_fields__})
        exporter.record_nowait(event)
    labels = {"flag_key": "checkout"}
    assert evaluations(registry) == pytest.approx(10 + 4 + 1)
    assert registry.get_sample_value("feature_flag_evaluation_duration_seconds_count", labels) == 4
    assert registry.get_sample_value("feature_flag_error_rate", labels) == pytest.approx(1 / 16)
    assert "a sampled event counts 1 / sample_rate" in generate_latest(registry).decode()


@pytest.mark.parametrize("rate", [0.0, -1.0, 2.0, float("nan"), "half", None])
def test_a_sample_rate_that_is_none_counts_once(exporter, registry, rate):
    assert exporter.record_nowait(an_event(sample_rate=rate))
    assert evaluations(registry) == 1


def test_a_finaliser_that_records_while_a_scrape_adds_up_is_counted_and_does_not_wait(exporter, registry):
    flag = exporter.exposition._series.cell("checkout", "SPLIT", "a")._flag
    with flag.lock:  # as when a finaliser interrupts the code that adds up
        for _ in range(100):
            assert exporter.record_nowait(an_event())
    assert evaluations(registry) == 100
    assert registry.get_sample_value("feature_flag_unique_users", {"flag_key": "checkout"}) == 1


def test_a_module_that_is_imported_anew_finds_its_metrics_again(exporter, registry):
    import importlib

    import flag_analytics_prometheus as package

    exporter.record_nowait(an_event())
    names = [name for name in sys.modules if name.partition(".")[0] == "flag_analytics_prometheus"]
    before = {name: sys.modules.pop(name) for name in names}
    try:
        again = importlib.import_module("flag_analytics_prometheus").PrometheusExporter(registry)
        assert type(again) is not package.PrometheusExporter
        again.record_nowait(an_event())
    finally:
        sys.modules.update(before)
    assert evaluations(registry) == 2


def test_an_outcome_is_not_an_evaluation(exporter, registry):
    exporter.record_nowait(an_event())
    assert exporter.record_nowait(an_event(kind="outcome")) is RecordResult.ACCEPTED
    exporter.record_nowait(an_event(kind="exposure"))
    assert evaluations(registry) == 2


def test_a_targeting_key_is_no_label(exporter, registry):
    exporter.record_nowait(an_event(user="ann@example.org"))
    assert "ann" not in generate_latest(registry).decode()


def test_the_prefix_is_before_every_name(registry):
    exporter = PrometheusExporter(registry, prefix="myapp")
    exporter.record_nowait(an_event())
    names = [metric.name for metric in registry.collect()]
    assert "myapp_feature_flag_evaluations" in names
    assert all(name.startswith("myapp_") for name in names)


def test_frozen_and_foreign_events_count_like_our_own(exporter, registry):
    from enum import Enum

    class TheirReason(str, Enum):  # noqa: UP042 - as litestar-flags has it: its hash is its name's
        SPLIT = "SPLIT"

    ours = an_event()
    theirs = SimpleNamespace(
        timestamp=ours.timestamp,
        flag_key="checkout",
        value=True,
        reason=TheirReason.SPLIT,
        variant="a",
        targeting_key="user-2",
        context_attributes={},
        evaluation_duration_ms=1.5,
    )
    for event in (ours, theirs, Freezer().freeze(ours), theirs, ours):
        assert exporter.record_nowait(event) is RecordResult.ACCEPTED
    assert evaluations(registry) == 5
    assert registry.get_sample_value("feature_flag_unique_users", {"flag_key": "checkout"}) == 2


async def test_the_real_litestar_flags_client_records_into_it_and_both_exporters_count_the_same(exporter, registry):
    flags = pytest.importorskip("litestar_flags")
    from litestar_flags.analytics import PrometheusExporter as TheirExporter
    from litestar_flags.models import FeatureFlag
    from litestar_flags.storage.memory import MemoryStorageBackend
    from litestar_flags.types import FlagStatus, FlagType

    storage = MemoryStorageBackend()
    flag = FeatureFlag(
        key="dark", name="dark", flag_type=FlagType.BOOLEAN, status=FlagStatus.ACTIVE, default_enabled=True
    )
    await storage.create_flag(flag)
    theirs = CollectorRegistry()
    for collector in (exporter, TheirExporter(registry=theirs)):
        client = flags.FeatureFlagClient(storage, analytics_collector=collector)
        for user in ("ann", "bob", "ann"):
            assert await client.get_boolean_value("dark", context=flags.EvaluationContext(targeting_key=user)) is True
        await client.get_boolean_value("missing")
    assert shown(registry) == shown(theirs)
    assert shown(registry)


def shown(registry):
    """Return every sample that the reference has too, but for how long it took."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name.startswith("feature_flag_") and not sample.name.endswith(("_created", "_bucket", "_sum"))
    }


class Hostile:
    """Raises at every use."""

    def _refuse(self, *_):
        raise RuntimeError("no")

    __hash__ = __eq__ = __str__ = __repr__ = __bool__ = __truediv__ = __float__ = __getattr__ = _refuse


@pytest.mark.parametrize(
    "field", ["flag_key", "reason", "variant", "targeting_key", "evaluation_duration_ms", "kind", "value"]
)
def test_an_attribute_that_raises_is_counted_and_never_raises(exporter, registry, field):
    attributes = {
        "flag_key": "checkout",
        "reason": "SPLIT",
        "variant": "a",
        "targeting_key": "ann",
        "evaluation_duration_ms": 1.0,
        "kind": "evaluation",
        "value": True,
    }
    for _ in range(2):
        assert exporter.record_nowait(SimpleNamespace(**{**attributes, field: Hostile()})) is RecordResult.ACCEPTED
    total = sum(s.value for m in registry.collect() for s in m.samples if s.name == "feature_flag_evaluations_total")
    assert total == 2
    generate_latest(registry)


async def test_a_closed_exporter_refuses_events_and_its_counters_stay(exporter, registry):
    exporter.record_nowait(an_event())
    await exporter.close()
    await exporter.close()
    assert exporter.record_nowait(an_event()) is RecordResult.CLOSED
    assert evaluations(registry) == 1


async def test_exporters_with_the_same_registry_and_prefix_share_their_metrics(exporter, registry):
    exporter.record_nowait(an_event())
    again = PrometheusExporter(registry)
    again.record_nowait(an_event())
    await exporter.close()
    again.record_nowait(an_event())
    assert evaluations(registry) == 3


def test_exporters_with_another_prefix_or_registry_share_nothing(exporter, registry):
    exporter.record_nowait(an_event())
    PrometheusExporter(registry, prefix="b").record_nowait(an_event())
    PrometheusExporter(CollectorRegistry()).record_nowait(an_event())
    assert evaluations(registry) == 1
    assert evaluations(registry, name="b_feature_flag_evaluations_total") == 1


@pytest.mark.parametrize("other", [{"duration_buckets": (1.0,)}, {"caps": LabelCaps(max_variants=2)}])
def test_sharing_with_other_options_is_refused_with_a_clear_error(exporter, registry, other):
    with pytest.raises(MetricsConflictError, match="on this registry with other duration_buckets or label caps"):
        PrometheusExporter(registry, **other)


def test_a_name_that_another_library_has_taken_is_refused_with_a_clear_error(registry):
    Counter("feature_flag_evaluations_total", "of another library", registry=registry)
    with pytest.raises(MetricsConflictError, match="a prefix or a registry of its own") as caught:
        PrometheusExporter(registry)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("prefix", ["1app", "my app", "app-", "ä", 'x"} 1\n#', 7])
def test_a_prefix_that_no_metric_can_have_is_refused(registry, prefix):
    with pytest.raises(ValueError, match="prefix"):
        PrometheusExporter(registry, prefix=prefix)


@pytest.mark.parametrize("buckets", [(), (0.5, 0.1), (0.1, 0.1), (0.0, 1.0), (-1.0,), ("a",), (float("nan"),), 3])
def test_buckets_that_do_not_rise_above_zero_are_refused(registry, buckets):
    with pytest.raises(ValueError, match="duration_buckets"):
        PrometheusExporter(registry, duration_buckets=buckets)


def test_an_infinite_last_bucket_is_understood(registry):
    PrometheusExporter(registry, duration_buckets=(0.1, float("inf"))).record_nowait(an_event())
    labels = {"flag_key": "checkout", "le": "+Inf"}
    assert registry.get_sample_value("feature_flag_evaluation_duration_seconds_bucket", labels) == 1


def test_a_registry_that_is_dropped_takes_its_exporter_along():
    registry = CollectorRegistry()
    exposition = weakref.ref(PrometheusExporter(registry).exposition)
    del registry
    gc.collect()
    assert exposition() is None


def test_many_threads_lose_no_count(registry):
    exporter = PrometheusExporter(registry)
    threads, each = 8, 3_000
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def record_all(number):
        for turn in range(each):
            exporter.record_nowait(an_event(f"flag-{turn % 7}", user=f"user-{number}-{turn % 50}"))

    try:
        workers = [threading.Thread(target=record_all, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            generate_latest(registry)
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(interval)
    counts = [evaluations(registry, f"flag-{number}") for number in range(7)]
    durations = [
        registry.get_sample_value("feature_flag_evaluation_duration_seconds_count", {"flag_key": f"flag-{number}"})
        for number in range(7)
    ]
    assert sum(counts) == sum(durations) == threads * each
    assert registry.get_sample_value("feature_flag_unique_users", {"flag_key": "flag-0"}) == threads * 50


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_the_child_of_a_fork_starts_at_zero_and_is_not_blocked_by_a_lock_held_at_the_fork(exporter, registry):
    exporter.record_nowait(an_event())
    held, release = threading.Event(), threading.Event()
    exposition = exporter.exposition

    def hold():
        with exposition._lock, exposition._series.cell("checkout", "SPLIT", "a")._flag.lock:
            held.set()
            release.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(5)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            exporter.record_nowait(an_event())
            exporter.record_nowait(an_event(user="user-2"))
            users = registry.get_sample_value("feature_flag_unique_users", {"flag_key": "checkout"})
            status = 0 if (evaluations(registry), users) == (2, 2) else 2
        finally:
            os._exit(status)
    release.set()
    holder.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert evaluations(registry) == 1
