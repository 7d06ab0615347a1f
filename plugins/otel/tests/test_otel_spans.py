"""Spans: the reference's attributes, the evaluation's times and trace."""

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import msgspec
import pytest
from flag_analytics.errors import BadBatch
from flag_analytics.events import EvaluationReason, FlagEvaluationEvent
from flag_analytics.freezer import Freezer
from flag_analytics.protocols import Batch
from flag_analytics.testing.samples import plain_event
from flag_analytics_otel import OTelOptions, OTelSink, Telemetry
from flag_analytics_otel.attributes import checked_value, evaluation_times
from flag_analytics_otel.sink import _Pauses
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.metrics import NoOpMeter
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, NoOpTracer, SpanContext, StatusCode, use_span

MOMENT = datetime(2026, 1, 31, 12, 0, 0, 123_457, UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NANOSECONDS = 1_769_860_800_123_457_000


event = partial(
    plain_event,
    timestamp=MOMENT,
    flag_key="checkout",
    value=True,
    reason=EvaluationReason.TARGETING_MATCH,
    variant="on",
    targeting_key="user-1",
    context_attributes={},
    evaluation_duration_ms=1.5,
)


async def emit(sdk: Any, *events: FlagEvaluationEvent, **options: Any) -> OTelSink:
    sink = OTelSink(OTelOptions(**options), **sdk.emitters())
    freezer = Freezer(traceparent=sink.traceparent)
    await sink.write(Batch("1", tuple(freezer.freeze(one) for one in events)))
    return sink


async def test_a_span_has_the_six_attributes_of_the_reference_and_no_value(sdk):
    await emit(sdk, event())
    (span,) = sdk.spans()
    assert span.name == "feature_flag.analytics.event"
    assert dict(span.attributes) == {
        "feature_flag.key": "checkout",
        "feature_flag.reason": "TARGETING_MATCH",
        "feature_flag.variant": "on",
        "feature_flag.targeting_key": "user-1",
        "feature_flag.event_timestamp": "2026-01-31T12:00:00.123457+00:00",
        "feature_flag.evaluation_duration_ms": 1.5,
    }


async def test_what_an_event_does_not_have_is_no_attribute(sdk):
    await emit(sdk, event(variant=None, targeting_key=None, evaluation_duration_ms=0.0))
    (span,) = sdk.spans()
    assert set(span.attributes) == {"feature_flag.key", "feature_flag.reason", "feature_flag.event_timestamp"}


@pytest.mark.parametrize(
    ("value", "text"), [(True, "True"), ({"a": [1, None]}, "{'a': [1, None]}"), ("x" * 256, "x" * 256), (None, "None")]
)
async def test_a_value_is_recorded_as_text_where_wanted(sdk, value, text):
    await emit(sdk, event(value=value), record_values=True)
    assert sdk.spans()[0].attributes["feature_flag.value"] == text


async def test_a_value_of_over_256_characters_is_left_out(sdk):
    await emit(sdk, event(value="x" * 257), record_values=True)
    assert "feature_flag.value" not in sdk.spans()[0].attributes


async def test_start_and_end_are_the_evaluation_to_the_nanosecond(sdk):
    await emit(sdk, event(evaluation_duration_ms=0.000_123))
    (span,) = sdk.spans()
    assert span.end_time == NANOSECONDS
    assert span.start_time == NANOSECONDS - 123


@given(
    st.integers(0, 2**62 // 1_000).map(lambda microseconds: EPOCH + timedelta(microseconds=microseconds)),
    st.integers(0, 10**9),
)
def test_times_lose_nothing_to_floats(moment, microseconds):
    frozen = Freezer().freeze(event(timestamp=moment, evaluation_duration_ms=microseconds / 1_000))
    start, end = evaluation_times(frozen)
    assert EPOCH + timedelta(microseconds=end // 1_000) == moment
    assert end % 1_000 == 0
    assert end - start == min(microseconds * 1_000, end)


@pytest.mark.parametrize("moment", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
@pytest.mark.parametrize("duration", [-5.0, 0.0, 1e300])
async def test_times_that_otlp_cannot_express_are_moved_to_the_nearest(sdk, moment, duration):
    await emit(sdk, event(timestamp=moment, evaluation_duration_ms=duration))
    (span,) = sdk.spans()
    assert 0 <= span.start_time <= span.end_time < 2**63


async def test_an_error_has_error_status_and_others_have_none(sdk):
    await emit(
        sdk,
        event(reason=EvaluationReason.ERROR, error_message="no such flag"),
        event(reason=EvaluationReason.ERROR),
        event(reason="DEFAULT", error_type="FLAG_NOT_FOUND"),
        event(),
    )
    assert [(span.status.status_code, span.status.description) for span in sdk.spans()] == [
        (StatusCode.ERROR, "no such flag"),
        (StatusCode.ERROR, "general"),
        (StatusCode.ERROR, "flag_not_found"),
        (StatusCode.UNSET, None),
    ]


async def test_a_span_is_a_trace_of_its_own_linked_to_the_one_it_was_recorded_in(sdk):
    sink = OTelSink(OTelOptions(), **sdk.emitters())
    freezer = Freezer(traceparent=sink.traceparent)
    tracer = sdk.emitters()["tracer"]
    with tracer.start_as_current_span("request a") as first:
        in_first = freezer.freeze(event())
    with tracer.start_as_current_span("request b") as second:
        in_second = freezer.freeze(event())
        # The caller that fills the batch is not the parent.
        await sink.write(Batch("1", (in_first, in_second)))
    made = [span for span in sdk.spans() if span.name == "feature_flag.analytics.event"]
    assert [span.parent for span in made] == [None, None]
    assert [[link.context.span_id for link in span.links] for span in made] == [
        [first.get_span_context().span_id],
        [second.get_span_context().span_id],
    ]
    traces = {span.context.trace_id for span in made}
    assert len(traces) == 2
    assert not traces & {first.get_span_context().trace_id, second.get_span_context().trace_id}


async def test_a_child_belongs_to_the_trace_it_was_recorded_in(sdk):
    sink = OTelSink(OTelOptions(parent="child"), **sdk.emitters())
    freezer = Freezer(traceparent=sink.traceparent)
    with sdk.emitters()["tracer"].start_as_current_span("request") as request:
        frozen = freezer.freeze(event())
    await sink.write(Batch("1", (frozen,)))
    span = sdk.spans()[-1]
    assert span.parent.span_id == request.get_span_context().span_id
    assert span.context.trace_id == request.get_span_context().trace_id
    assert span.links == ()


@pytest.mark.parametrize("parent", ["link", "child"])
async def test_an_event_recorded_outside_any_trace_is_a_root_without_links(sdk, parent):
    sink = OTelSink(OTelOptions(parent=parent), **sdk.emitters())
    frozen = Freezer(traceparent=sink.traceparent).freeze(event())
    with sdk.emitters()["tracer"].start_as_current_span("another request"):
        await sink.write(Batch("1", (frozen,)))
    span = sdk.spans()[0]
    assert span.parent is None
    assert span.links == ()


@pytest.mark.parametrize(
    "text", ["", "00", "00-zz-11-01", f"00-{0:032x}-{1:016x}-01", f"00-{1:032x}-{1:016x}", "é" * 55, "00-" * 30]
)
async def test_a_broken_trace_context_is_no_trace_context(sdk, text):
    frozen = msgspec.structs.replace(Freezer().freeze(event()), traceparent=text)
    await OTelSink(OTelOptions(), **sdk.emitters()).write(Batch("1", (frozen,)))
    (span,) = sdk.spans()
    assert span.links == ()


async def test_create_spans_false_makes_metrics_only(sdk):
    await emit(sdk, event(), create_spans=False)
    assert sdk.spans() == []
    assert sdk.points("feature_flag.evaluations")[0].value == 1


async def test_an_exposure_is_marked_as_one(sdk):
    await emit(sdk, event(kind="exposure"), semconv="both")
    assert sdk.spans()[0].attributes["feature_flag.event_kind"] == "exposure"
    assert sdk.logs() == []  # feature_flag.evaluation means an evaluation


async def test_mapper_exclude_list_and_mutator_shape_what_is_emitted(sdk):
    def mutate(telemetry: Telemetry) -> Telemetry:
        telemetry.name = "renamed"
        telemetry.attributes["signal"] = telemetry.signal
        return telemetry

    await emit(
        sdk,
        event(context_attributes={"plan": "pro"}),
        semconv="both",
        attribute_mapper=lambda one: {"plan": one.context_attributes["plan"], "feature_flag.key": "mapped"},
        exclude_attributes=["feature_flag.targeting_key", "feature_flag.context.id"],
        event_mutator=mutate,
    )
    (span,), (log,) = sdk.spans(), sdk.logs()
    assert (span.name, log.event_name) == ("renamed", "renamed")
    for attributes, signal in ((span.attributes, "span"), (log.attributes, "log")):
        assert attributes["plan"] == "pro"
        assert attributes["feature_flag.key"] == "mapped"
        assert attributes["signal"] == signal
        assert not {"feature_flag.targeting_key", "feature_flag.context.id"} & set(attributes)


async def test_a_mutator_can_drop_an_event(sdk):
    sink = await emit(
        sdk, event(), event(flag_key="kept"), event_mutator=lambda one: one if "kept" in str(one.attributes) else None
    )
    assert [span.attributes["feature_flag.key"] for span in sdk.spans()] == ["kept"]
    assert sink.failures() == {"dropped_by_mutator": 1}


async def test_a_failing_mapper_adds_nothing_and_a_failing_mutator_lets_nothing_out(sdk):
    def fail(_one: Any) -> Any:
        raise RuntimeError

    sink = await emit(sdk, event(), attribute_mapper=fail)
    assert len(sdk.spans()) == 1
    assert sink.failures() == {"mapper_failed": 1}
    sink = await emit(sdk, event(), event_mutator=fail)
    assert len(sdk.spans()) == 1
    assert sink.failures() == {"mutator_failed": 1}


async def test_attributes_the_sdk_cannot_take_are_left_out_and_counted(sdk, caplog):
    sink = await emit(
        sdk,
        event(),
        attribute_mapper=lambda _one: {
            "object": object(),
            "": 1,
            7: 1,
            "mixed": [1, "a"],
            "none": None,
            "fine": [1, 2],
        },
    )
    assert sdk.spans()[0].attributes["fine"] == (1, 2)
    assert sink.failures() == {"attribute_refused": 5}
    assert caplog.records == []


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.just(object()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=8,
)


@given(ANYTHING)
def test_otlp_can_encode_every_value_that_is_taken_from_user_code(value):
    checked = checked_value(value)
    if checked is not None:
        context = SpanContext(1, 1, is_remote=False)
        (group,) = encode_spans([ReadableSpan("s", context, attributes={"a": checked})]).resource_spans
        (attribute,) = group.scope_spans[0].spans[0].attributes
        assert attribute.value.WhichOneof("value")


@given(ANYTHING)
def test_any_value_of_a_mutator_is_plain_and_bounded(value):
    checked = checked_value(value, depth=10)
    assert (
        msgspec.json.decode(msgspec.json.encode(checked)) == checked or "nan" in repr(checked) or "inf" in repr(checked)
    )


def test_a_mapping_that_holds_itself_ends_somewhere():
    endless: dict[str, Any] = {}
    endless["again"] = endless
    assert "again" in checked_value(endless, depth=10)


async def test_text_subclasses_become_plain_text(sdk):
    await emit(sdk, event(), attribute_mapper=lambda one: {"reason": EvaluationReason.SPLIT, "odd": "\ud800"})
    attributes = sdk.spans()[0].attributes
    assert (attributes["reason"], attributes["reason"].__class__) == ("SPLIT", str)
    assert attributes["odd"] == "?"


def test_a_foreign_span_that_raises_costs_an_event_its_trace_and_no_more(sdk):
    class Odd(NonRecordingSpan):
        def get_span_context(self) -> Any:
            raise RuntimeError

    sink = OTelSink(OTelOptions(), **sdk.emitters())
    with use_span(Odd(INVALID_SPAN_CONTEXT)):
        assert sink.traceparent() is None


async def test_events_without_an_sdk_are_counted():
    sink = OTelSink(OTelOptions(), tracer=NoOpTracer(), meter=NoOpMeter("none"))
    frozen = Freezer().freeze(event())
    with pytest.raises(BadBatch) as caught:
        await sink.write(Batch("1", (frozen,)))
    assert caught.value.refused == {frozen.event_id: "no_sdk"}
    assert sink.failures() == {"no_sdk": 1}


async def test_an_event_that_cannot_be_turned_into_telemetry_is_refused_and_the_others_are_emitted(sdk):
    sink = OTelSink(OTelOptions(), **sdk.emitters())
    good = Freezer().freeze(event(flag_key="good"))
    bad = msgspec.structs.replace(Freezer().freeze(event(flag_key="bad")), timestamp=None)
    with pytest.raises(BadBatch) as caught:
        await sink.write(Batch("1", (bad, good)))
    assert caught.value.refused == {bad.event_id: "AttributeError"}
    assert caught.value.stored == {good.event_id}
    assert [span.attributes["feature_flag.key"] for span in sdk.spans()] == ["good"]
    assert sink.failures() == {"refused": 1}


def test_a_flush_pauses_after_each_half_millisecond_of_work():
    now, pauses = [0.0], []
    pause = _Pauses(clock=lambda: now[0], sleep=pauses.append)
    for _ in range(100):
        now[0] += 0.0003
        pause()
    assert len(pauses) == 50


async def test_an_sdk_that_raises_for_one_event_does_not_hold_up_the_others(sdk):
    class Broken(SpanProcessor):
        def on_end(self, span: Any) -> None:
            if span.attributes["feature_flag.key"] == "bad":
                raise RuntimeError

    sdk.tracer_provider.add_span_processor(Broken())
    sink = await emit(sdk, event(flag_key="bad"), event(flag_key="good"))
    assert sdk.spans()[-1].attributes["feature_flag.key"] == "good"
    assert sink.failures() == {"emit_failed": 1}
    assert sum(point.value for point in sdk.points("feature_flag.evaluations")) == 2


def test_one_string_is_no_list_of_names():
    with pytest.raises(TypeError, match="several names"):
        OTelOptions(exclude_attributes="feature_flag.value")


@pytest.mark.parametrize(
    "wrong",
    [{"semconv": "new"}, {"parent": "x"}, {"batch_size": -1}, {"flush_interval": -1.0}, {"max_attribute_sets": 1}],
)
def test_an_option_outside_its_range_is_refused(wrong):
    with pytest.raises(ValueError):
        OTelOptions(**wrong)
