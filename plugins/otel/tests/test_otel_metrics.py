"""Metrics: names, units, labels, bounds and exemplars."""

from datetime import UTC, datetime
from typing import Any

import pytest
from flag_analytics.events import EvaluationReason, FlagEvaluationEvent
from flag_analytics.freezer import Freezer
from flag_analytics.protocols import Batch
from flag_analytics_otel import OTelOptions, OTelSink
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

MOMENT = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


def evaluated(flag_key: str = "checkout", reason: Any = EvaluationReason.SPLIT, **extra: Any) -> FlagEvaluationEvent:
    return FlagEvaluationEvent(MOMENT, flag_key, True, reason, **extra)


async def emit(sdk: Any, *events: FlagEvaluationEvent, **options: Any) -> OTelSink:
    sink = OTelSink(OTelOptions(create_spans=False, **options), **sdk.emitters())
    freezer = Freezer(traceparent=sink.traceparent)
    await sink.write(Batch("1", tuple(freezer.freeze(one) for one in events)))
    return sink


def counted(sdk: Any, name: str) -> dict[tuple[Any, ...], int]:
    return {tuple(sorted(point.attributes.items())): point.value for point in sdk.points(name)}


async def test_events_recorded_and_batch_size_are_the_references(sdk):
    await emit(sdk, evaluated(), evaluated(), evaluated(reason="ERROR"))
    assert counted(sdk, "feature_flag.analytics.events_recorded") == {
        (("feature_flag.key", "checkout"), ("feature_flag.reason", "SPLIT")): 2,
        (("feature_flag.key", "checkout"), ("feature_flag.reason", "ERROR")): 1,
    }
    (sizes,) = sdk.points("feature_flag.analytics.batch_size")
    assert (sizes.count, sizes.sum, dict(sizes.attributes)) == (1, 3, {})


async def test_evaluations_are_counted_with_the_names_of_the_conventions(sdk):
    await emit(sdk, evaluated(variant="a"), evaluated(), evaluated(reason="ERROR", error_type="PARSE_ERROR"))
    key, split = ("feature_flag.key", "checkout"), ("feature_flag.result.reason", "split")
    assert counted(sdk, "feature_flag.evaluations") == {
        (key, split, ("feature_flag.result.variant", "a")): 1,
        (key, split): 1,
        (("error.type", "parse_error"), key, ("feature_flag.result.reason", "error")): 1,
    }


async def test_a_sampled_event_counts_one_through_its_rate_as_evaluations_and_once_as_an_event(sdk):
    await emit(sdk, *(evaluated(sample_rate=rate) for rate in (0.1, 0.25, 1.0)))
    (evaluations,) = sdk.points("feature_flag.evaluations")
    (recorded,) = sdk.points("feature_flag.analytics.events_recorded")
    assert (evaluations.value, recorded.value) == (15, 3)


async def test_the_duration_is_in_seconds_and_left_out_where_it_was_not_measured(sdk):
    await emit(sdk, evaluated(evaluation_duration_ms=2.0), evaluated(evaluation_duration_ms=0.0))
    (point,) = sdk.points("feature_flag.evaluation.duration")
    assert sdk.metrics()["feature_flag.evaluation.duration"].unit == "s"
    assert (point.count, point.sum) == (1, 0.002)
    assert point.explicit_bounds[0] == 0.0001
    assert dict(point.attributes) == {"feature_flag.key": "checkout"}


async def test_exposures_and_outcomes_are_recorded_but_are_no_evaluations(sdk):
    await emit(sdk, evaluated(kind="exposure"), evaluated(kind="outcome", evaluation_duration_ms=1.0))
    assert sum(counted(sdk, "feature_flag.analytics.events_recorded").values()) == 2
    assert sdk.points("feature_flag.evaluations") == []
    assert sdk.points("feature_flag.evaluation.duration") == []


async def test_no_targeting_key_reaches_a_metric(sdk):
    await emit(sdk, *(evaluated(targeting_key=f"user-{n}", evaluation_duration_ms=1.0) for n in range(50)))
    assert "user-" not in repr(sdk.metrics())
    assert len(sdk.points("feature_flag.evaluations")) == 1


async def test_flag_keys_beyond_the_limit_are_other_and_counted(sdk):
    sink = await emit(sdk, *(evaluated(f"flag-{n}", variant="v") for n in range(5)), max_flags=2)
    keys = {
        dict(labels)["feature_flag.key"]: value for labels, value in counted(sdk, "feature_flag.evaluations").items()
    }
    assert keys == {"flag-0": 1, "flag-1": 1, "__other__": 3}
    assert sink.failures() == {"flag_key_over_limit": 3}


async def test_variants_of_one_flag_do_not_take_the_place_of_anothers(sdk):
    hostile = [evaluated("hostile", variant=f"v{n}") for n in range(100)]
    sink = await emit(sdk, *hostile, evaluated("honest", variant="v50"), max_variants=3)
    seen = counted(sdk, "feature_flag.evaluations")
    assert len(seen) == 5  # three variants, the others together, and the honest flag's
    assert any(dict(labels).get("feature_flag.result.variant") == "v50" for labels in seen)
    assert sink.failures() == {"variant_over_limit": 97}


async def test_reasons_and_error_types_outside_the_known_ones_are_other(sdk):
    await emit(sdk, *(evaluated(reason=f"R{n}", error_type=f"E{n}") for n in range(20)))
    (labels,) = counted(sdk, "feature_flag.evaluations")
    assert dict(labels) == {
        "feature_flag.key": "checkout",
        "feature_flag.result.reason": "__other__",
        "error.type": "__other__",
    }


async def test_attribute_sets_beyond_the_limit_share_the_overflow_of_the_specification(sdk):
    events = [evaluated(f"flag-{n}", evaluation_duration_ms=1.0) for n in range(30)]
    sink = await emit(sdk, *events, max_attribute_sets=10)
    for name in ("feature_flag.evaluations", "feature_flag.analytics.events_recorded"):
        seen = counted(sdk, name)
        assert len(seen) == 10
        assert seen[(("otel.metric.overflow", True),)] == 21
    assert len(sdk.points("feature_flag.evaluation.duration")) == 10
    assert sink.failures() == {"attribute_set_over_limit": 63}


async def test_the_limit_stays_within_the_sdks_own(sdk):
    await emit(sdk, *(evaluated(f"flag-{n % 1_000}", variant=f"v{n // 1_000}") for n in range(4_000)))
    seen = counted(sdk, "feature_flag.evaluations")
    assert len(seen) == 2_000
    assert sum(seen.values()) == 4_000


async def test_an_excluded_attribute_is_on_no_metric_and_counts_towards_no_limit(sdk):
    sink = await emit(
        sdk,
        *(evaluated(variant=f"v{n}") for n in range(40)),
        exclude_attributes=["feature_flag.result.variant"],
        max_attribute_sets=2,
    )
    assert list(counted(sdk, "feature_flag.evaluations").values()) == [40]
    assert sink.failures() == {}


async def test_an_exemplar_shows_the_trace_the_event_was_recorded_in(sdk):
    sink = OTelSink(OTelOptions(create_spans=False), **sdk.emitters())
    freezer = Freezer(traceparent=sink.traceparent)
    with sdk.emitters()["tracer"].start_as_current_span("request") as request:
        inside = freezer.freeze(evaluated(evaluation_duration_ms=3.0))
    outside = freezer.freeze(evaluated())
    await sink.write(Batch("1", (inside, outside)))
    wanted = (request.get_span_context().trace_id, request.get_span_context().span_id)
    metrics = sdk.metrics()  # once: exemplars are gone when they were read
    for name in ("feature_flag.evaluations", "feature_flag.evaluation.duration"):
        (point,) = metrics[name].data.data_points
        assert [(exemplar.trace_id, exemplar.span_id) for exemplar in point.exemplars] == [wanted]


@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5) | st.none(), st.text(max_size=8)), max_size=60))
def test_with_any_labels_nothing_is_lost_and_the_limits_hold(triples):
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    sink = OTelSink(
        OTelOptions(create_spans=False, max_flags=4, max_variants=2, max_attribute_sets=7),
        meter=provider.get_meter("t"),
    )
    frozen = [Freezer().freeze(evaluated(key, reason, variant=variant)) for key, variant, reason in triples]
    sink.instruments.record([(one, {}) for one in frozen])  # type: ignore[misc]
    data = reader.get_metrics_data()
    if data is None:
        assert not triples
        return
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        if metric.name.endswith(("events_recorded", "evaluations")):
            points = metric.data.data_points
            assert len(points) <= 7
            assert sum(point.value for point in points) == len(triples)
    provider.shutdown()


@pytest.mark.parametrize("name", ["feature_flag.analytics.events_recorded", "feature_flag.analytics.batch_size"])
async def test_the_references_metrics_keep_their_unit(sdk, name):
    await emit(sdk, evaluated())
    assert sdk.metrics()[name].unit == "1"
