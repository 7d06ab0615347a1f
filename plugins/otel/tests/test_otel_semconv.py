"""Log records: the semantic conventions' event, compared with the constants of their own package."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from flag_analytics.events import EvaluationReason, FlagEvaluationEvent
from flag_analytics.freezer import Freezer
from flag_analytics.protocols import Batch
from flag_analytics_otel import OTelHook, OTelOptions, OTelSink, attributes
from flag_analytics_otel.attributes import reason_code, stable_attributes
from opentelemetry.semconv._incubating.attributes import feature_flag_attributes as conventions
from opentelemetry.semconv.attributes import error_attributes, exception_attributes

MOMENT = datetime(2026, 1, 31, 12, 0, 0, 123_457, UTC)


def evaluated(
    value: Any = True, reason: Any = EvaluationReason.STATIC, variant: str | None = "on", **extra: Any
) -> Any:
    return FlagEvaluationEvent(MOMENT, "checkout", value, reason, variant, **extra)


def shown(event: FlagEvaluationEvent, *, record_values: bool = False) -> dict[str, Any]:
    return stable_attributes(Freezer().freeze(event), record_values=record_values)


def test_every_name_is_that_of_the_conventions():
    assert attributes.KEY == conventions.FEATURE_FLAG_KEY
    assert attributes.RESULT_VARIANT == conventions.FEATURE_FLAG_RESULT_VARIANT
    assert attributes.RESULT_VALUE == conventions.FEATURE_FLAG_RESULT_VALUE
    assert attributes.RESULT_REASON == conventions.FEATURE_FLAG_RESULT_REASON
    assert attributes.CONTEXT_ID == conventions.FEATURE_FLAG_CONTEXT_ID
    assert attributes.PROVIDER_NAME == conventions.FEATURE_FLAG_PROVIDER_NAME
    assert attributes.SET_ID == conventions.FEATURE_FLAG_SET_ID
    assert attributes.VERSION == conventions.FEATURE_FLAG_VERSION
    assert attributes.ERROR_MESSAGE == conventions.FEATURE_FLAG_ERROR_MESSAGE
    assert attributes.ERROR_TYPE == error_attributes.ERROR_TYPE
    assert attributes.EVENT_NAME == "feature_flag.evaluation"


def test_the_names_of_exceptions_are_those_of_the_conventions():
    assert attributes.EXCEPTION_TYPE == exception_attributes.EXCEPTION_TYPE
    assert attributes.EXCEPTION_MESSAGE == exception_attributes.EXCEPTION_MESSAGE
    assert attributes.EXCEPTION_STACKTRACE == exception_attributes.EXCEPTION_STACKTRACE


def test_every_reason_the_conventions_know_is_written_their_way():
    ours = {reason_code(reason) for reason in EvaluationReason}
    theirs = {reason.value for reason in conventions.FeatureFlagResultReasonValues}
    assert theirs <= ours
    assert ours - theirs == {"override"}  # the reference's own, as a custom value


def test_the_golden_event_with_everything():
    event = evaluated(
        targeting_key="user-1",
        flag_version="7",
        flag_set_id="shop",
        provider_name="flagd",
        context_attributes={"email": "never shown"},
    )
    assert shown(event) == {
        "feature_flag.key": "checkout",
        "feature_flag.result.reason": "static",
        "feature_flag.result.variant": "on",
        "feature_flag.context.id": "user-1",
        "feature_flag.provider.name": "flagd",
        "feature_flag.set.id": "shop",
        "feature_flag.version": "7",
    }


def test_the_golden_error():
    event = evaluated(False, EvaluationReason.ERROR, None, error_type="FLAG_NOT_FOUND", error_message="no checkout")
    assert shown(event) == {
        "feature_flag.key": "checkout",
        "feature_flag.result.reason": "error",
        "feature_flag.result.value": False,
        "error.type": "flag_not_found",
        "feature_flag.error.message": "no checkout",
    }


def test_an_error_without_a_type_is_general_and_its_message_does_not_repeat_it():
    assert shown(evaluated(reason="error"))["error.type"] == "general"
    told = shown(evaluated(reason="ERROR", error_type="GENERAL_ERROR", error_message="general"))
    assert told["error.type"] == "general"
    assert "feature_flag.error.message" not in told


def test_without_an_error_there_is_no_error_type():
    assert "error.type" not in shown(evaluated())


def test_the_value_is_required_without_a_variant_and_opt_in_with_one():
    assert "feature_flag.result.value" not in shown(evaluated())
    assert shown(evaluated(), record_values=True)["feature_flag.result.value"] is True
    assert shown(evaluated(variant=None))["feature_flag.result.value"] is True
    assert "feature_flag.result.variant" not in shown(evaluated(variant=None))


@pytest.mark.parametrize(
    ("value", "attribute"),
    [
        ("#ff0000", "#ff0000"),
        (3, 3),
        (0.5, 0.5),
        ({"a": {"b": [1, 2]}, "c": None}, {"a": {"b": [1, 2]}, "c": None}),
        ([1, 2.5, None], [1.0, 2.5, None]),
        ([1, "a"], '[1,"a"]'),
        ([], []),
    ],
)
def test_a_value_keeps_its_type(value, attribute):
    recorded = shown(evaluated(value, variant=None))["feature_flag.result.value"]
    assert recorded == attribute
    assert recorded.__class__ is attribute.__class__


def test_null_and_values_over_the_size_limit_are_left_out():
    assert "feature_flag.result.value" not in shown(evaluated(None, variant=None))
    assert "feature_flag.result.value" in shown(evaluated("x" * 4_094, variant=None))
    assert "feature_flag.result.value" not in shown(evaluated("x" * 4_095, variant=None))


def test_a_reason_of_ones_own_passes_in_lower_case():
    assert shown(evaluated(reason="PREREQUISITE_FAILED"))["feature_flag.result.reason"] == "prerequisite_failed"


async def test_the_log_record_is_an_event_with_the_time_and_trace_of_the_evaluation(sdk):
    sink = OTelSink(OTelOptions(semconv="stable"), **sdk.emitters())
    freezer = Freezer(clock=lambda: 1_769_860_900.25, traceparent=sink.traceparent)
    with sdk.emitters()["tracer"].start_as_current_span("request") as request:
        frozen = freezer.freeze(evaluated({"a": [1, 2]}, variant=None))
    await sink.write(Batch("1", (frozen,)))
    (log,) = sdk.logs()
    assert log.event_name == "feature_flag.evaluation"
    assert log.timestamp == 1_769_860_800_123_457_000
    assert log.observed_timestamp == 1_769_860_900_250_000_000
    assert (log.trace_id, log.span_id) == (request.get_span_context().trace_id, request.get_span_context().span_id)
    assert log.body is None
    assert log.severity_number is None
    assert dict(log.attributes)["feature_flag.result.value"] == {"a": (1, 2)}
    assert [span.name for span in sdk.spans()] == ["request"]  # the conventions know no span


@pytest.mark.parametrize(("semconv", "spans", "logs"), [("legacy", 1, 0), ("stable", 0, 1), ("both", 1, 1)])
async def test_each_mode_emits_its_own_signals(sdk, semconv, spans, logs):
    sink = OTelSink(OTelOptions(semconv=semconv), **sdk.emitters())
    await sink.write(Batch("1", (Freezer().freeze(evaluated()),)))
    assert (len(sdk.spans()), len(sdk.logs())) == (spans, logs)


REQUIRED = {
    "stable": {"feature_flag.key", "feature_flag.result.variant", "error.type", "feature_flag.result.reason"},
    "legacy": {"feature_flag.key", "feature_flag.reason", "feature_flag.variant"},
}


limited = pytest.mark.filterwarnings("ignore:Log record attributes were dropped due to limits")


@limited
@pytest.mark.parametrize("semconv", ["legacy", "stable"])
@pytest.mark.parametrize("options", ["plain", "mapper", "mutator"])
async def test_a_limit_of_four_attributes_keeps_those_that_matter_most(monkeypatch, make_sdk, semconv, options):
    monkeypatch.setenv("OTEL_ATTRIBUTE_COUNT_LIMIT", "4")
    sdk = make_sdk()
    more = {
        "plain": {},
        "mapper": {"attribute_mapper": lambda _: {f"app.{number}": number for number in range(5)}},
        "mutator": {"event_mutator": lambda telemetry: telemetry},
    }[options]
    sink = OTelSink(OTelOptions(semconv=semconv, record_values=True, **more), **sdk.emitters())
    event = evaluated(
        targeting_key="user-1",
        flag_version="7",
        flag_set_id="shop",
        provider_name="flagd",
        error_type="TYPE_MISMATCH",
        error_message="expected text",
        evaluation_duration_ms=1.5,
        kind="evaluation",
    )
    await sink.write(Batch("1", (Freezer().freeze(event),)))
    (emitted,) = [*sdk.spans(), *sdk.logs()]
    assert len(emitted.attributes) == 4
    assert REQUIRED[semconv] <= emitted.attributes.keys()


@limited
def test_a_limit_of_four_attributes_keeps_the_key_on_the_span_and_log_record_of_the_hook(monkeypatch, make_sdk):
    monkeypatch.setenv("OTEL_ATTRIBUTE_COUNT_LIMIT", "4")
    sdk = make_sdk()
    hook = OTelHook(**sdk.emitters(), semconv="both", record_values=True)
    span = hook.start_evaluation_span("checkout", SimpleNamespace(targeting_key="user-1"), "boolean")
    hook.end_with_error(span, LookupError("x"), "checkout")
    (span,), (log,) = sdk.spans(), sdk.logs()
    assert span.attributes["feature_flag.key"] == "checkout"
    assert span.attributes["feature_flag.reason"] == "ERROR"
    assert {"feature_flag.key", "error.type", "feature_flag.result.reason"} <= log.attributes.keys()
