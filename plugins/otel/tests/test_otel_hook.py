"""``OTelHook`` in OpenFeature, with litestar-flags and by hand."""

import inspect
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from flag_analytics_otel import OTelHook
from litestar_flags import EvaluationContext as LitestarContext
from litestar_flags import FeatureFlagClient
from litestar_flags.contrib import otel as reference
from litestar_flags.models import FeatureFlag
from litestar_flags.results import EvaluationDetails
from litestar_flags.storage.memory import MemoryStorageBackend
from litestar_flags.types import ErrorCode, EvaluationReason, FlagStatus, FlagType
from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ProviderFatalError
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider
from opentelemetry.trace import INVALID_SPAN, StatusCode


def make_hook(sdk: Any, **options: Any) -> OTelHook:
    return OTelHook(**sdk.emitters(), **options)


@pytest.fixture
def openfeature() -> Iterator[Any]:
    flags = {
        "checkout": InMemoryFlag("on", {"on": True, "off": False}, flag_metadata={"version": "3", "flagSetId": "shop"}),
        "limits": InMemoryFlag("big", {"big": {"max": 5}}),
    }
    api.set_provider(InMemoryProvider(flags), "otel-tests")
    yield api.get_client("otel-tests")
    api.clear_providers()


@pytest.fixture
async def litestar() -> FeatureFlagClient:
    storage = MemoryStorageBackend()
    for key, flag_type, value in (("dark", FlagType.BOOLEAN, None), ("rate", FlagType.NUMBER, {"value": 0.5})):
        await storage.create_flag(
            FeatureFlag(
                key=key,
                name=key,
                flag_type=flag_type,
                status=FlagStatus.ACTIVE,
                default_enabled=True,
                default_value=value,
            )
        )
    return FeatureFlagClient(storage)


def test_parameters_and_methods_are_the_references():
    theirs = inspect.signature(reference.OTelHook).parameters
    ours = inspect.signature(OTelHook).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    assert {name for name in vars(reference.OTelHook) if not name.startswith("_")} <= set(dir(OTelHook))


def test_an_unknown_semconv_is_refused():
    with pytest.raises(ValueError, match="expected 'legacy'"):
        OTelHook(semconv="old")  # type: ignore[arg-type]


def test_as_an_openfeature_hook_it_makes_a_span_and_metrics(sdk, openfeature):
    openfeature.add_hooks([make_hook(sdk)])
    assert openfeature.get_boolean_value("checkout", False, EvaluationContext("user-1")) is True
    (span,) = sdk.spans()
    assert span.name == "feature_flag.evaluation"
    assert dict(span.attributes) == {
        "feature_flag.key": "checkout",
        "feature_flag.type": "boolean",
        "feature_flag.targeting_key": "user-1",
        "feature_flag.reason": "STATIC",
        "feature_flag.variant": "on",
    }
    (count,) = sdk.points("feature_flag.evaluation.count")
    assert (count.value, dict(count.attributes)) == (
        1,
        {"feature_flag.key": "checkout", "feature_flag.reason": "STATIC", "feature_flag.variant": "on"},
    )
    (latency,) = sdk.points("feature_flag.evaluation.latency")
    assert (latency.count, sdk.metrics()["feature_flag.evaluation.latency"].unit) == (1, "ms")
    assert 0 < latency.sum < 10_000


async def test_it_works_for_asynchronous_evaluations(sdk, openfeature):
    openfeature.add_hooks([make_hook(sdk)])
    assert await openfeature.get_object_value_async("limits", {}) == {"max": 5}
    assert sdk.spans()[0].attributes["feature_flag.type"] == "object"


def test_stable_emits_the_conventions_event_in_the_callers_trace(sdk, openfeature):
    openfeature.add_hooks([make_hook(sdk, semconv="stable")])
    with sdk.emitters()["tracer"].start_as_current_span("request") as request:
        openfeature.get_boolean_value("checkout", False, EvaluationContext("user-1"))
    (log,) = sdk.logs()
    assert log.event_name == "feature_flag.evaluation"
    assert dict(log.attributes) == {
        "feature_flag.key": "checkout",
        "feature_flag.result.reason": "static",
        "feature_flag.result.variant": "on",
        "feature_flag.context.id": "user-1",
        "feature_flag.provider.name": "In-Memory Provider",
        "feature_flag.set.id": "shop",
        "feature_flag.version": "3",
    }
    assert log.span_id == request.get_span_context().span_id
    assert [span.name for span in sdk.spans()] == ["request"]


def test_both_emits_the_event_in_the_evaluations_own_span(sdk, openfeature):
    openfeature.add_hooks([make_hook(sdk, semconv="both")])
    openfeature.get_boolean_value("checkout", False)
    (span,), (log,) = sdk.spans(), sdk.logs()
    assert log.span_id == span.context.span_id


def test_a_failed_evaluation_has_error_status_and_the_error_code(sdk, openfeature):
    openfeature.add_hooks([make_hook(sdk, semconv="both")])
    assert openfeature.get_boolean_value("missing", True) is True
    (span,), (log,) = sdk.spans(), sdk.logs()
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["feature_flag.error_code"] == "FLAG_NOT_FOUND"
    assert log.attributes["error.type"] == "flag_not_found"
    assert log.attributes["feature_flag.result.value"] is True
    (count,) = sdk.points("feature_flag.evaluation.count")
    assert count.attributes["feature_flag.error_code"] == "FLAG_NOT_FOUND"


def test_a_broken_sdk_does_not_turn_a_good_evaluation_into_the_default(sdk, openfeature):
    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    hook = OTelHook(Broken(), sdk.emitters()["meter"])  # type: ignore[arg-type]
    openfeature.add_hooks([hook])
    assert openfeature.get_boolean_value("checkout", False) is True
    # finally_after, finding no span, tries once more to start one.
    assert hook.failures() == {"before_failed": 1, "finally_after_failed": 1}


class Raising(InMemoryProvider):
    def resolve_boolean_details(self, flag_key: str, default_value: bool, evaluation_context: Any = None) -> Any:
        raise LookupError("no such table")


@pytest.mark.parametrize("semconv", ["stable", "both"])
def test_the_exception_of_an_evaluation_is_on_the_log_record(sdk, semconv):
    api.set_provider(Raising({}), "otel-raising")
    client = api.get_client("otel-raising")
    client.add_hooks([make_hook(sdk, semconv=semconv)])
    assert client.get_boolean_value("checkout", True) is True
    (log,) = sdk.logs()
    assert log.attributes["error.type"] == "general"
    assert log.attributes["exception.type"] == "LookupError"
    assert log.attributes["exception.message"] == "no such table"
    assert log.attributes["exception.stacktrace"].endswith("LookupError: no such table\n")
    assert [event.name for span in sdk.spans() for event in span.events] == ["exception"] * (semconv == "both")
    api.clear_providers()


async def test_the_exception_of_an_observed_client_is_on_the_log_record(sdk):
    class HostileError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    class Broken:
        async def get_boolean_details(self, *_arguments: Any) -> Any:
            raise HostileError

    with pytest.raises(HostileError):
        await make_hook(sdk, semconv="both").observe(Broken()).get_boolean_value("f")
    (log,) = sdk.logs()
    assert log.attributes["exception.type"].endswith("HostileError")
    assert [span.name for span in sdk.spans()] == ["feature_flag.evaluation"]


def test_an_evaluation_without_an_exception_has_none_on_its_log_record(sdk, openfeature):
    openfeature.add_hooks([make_hook(sdk, semconv="stable")])
    openfeature.get_boolean_value("checkout", True)
    assert not [name for name in sdk.logs()[0].attributes if name.startswith("exception")]


def test_a_provider_that_is_not_ready_is_seen_without_a_duration(sdk):
    class Never(InMemoryProvider):
        def initialize(self, evaluation_context: EvaluationContext) -> None:
            raise ProviderFatalError

    api.set_provider(Never({}), "otel-never")
    client = api.get_client("otel-never")
    client.add_hooks([make_hook(sdk)])
    assert client.get_boolean_value("checkout", True) is True
    (span,) = sdk.spans()
    assert span.attributes["feature_flag.error_code"] == "PROVIDER_FATAL"
    assert sdk.points("feature_flag.evaluation.latency") == []
    api.clear_providers()


def test_a_span_ends_even_if_the_result_raises(sdk):
    class Hostile:
        flag_key = "f"

        @property
        def reason(self) -> str:
            raise RuntimeError

    hook = make_hook(sdk)
    hook.end_evaluation_span(hook.start_evaluation_span("f"), Hostile())
    assert [span.name for span in sdk.spans()] == ["feature_flag.evaluation"]
    assert hook.failures() == {"end_evaluation_span_failed": 1}


@pytest.mark.parametrize(
    "metadata", [None, 7, {"version": object()}, {"contextId": ["a"], "flagSetId": 3.5}, {"version": float("nan")}]
)
def test_metadata_of_any_type_does_no_harm(sdk, metadata):
    hook = make_hook(sdk, semconv="both")
    context = SimpleNamespace(flag_key="f", flag_type=None, evaluation_context=None, provider_metadata=None)
    details = SimpleNamespace(
        flag_key="f",
        value=object(),
        reason=None,
        variant="\ud800",
        error_code=None,
        error_message=None,
        flag_metadata=metadata,
    )
    hook.before(hook_context=context, hints={})
    hook.finally_after(hook_context=context, details=details, hints={})
    assert hook.failures() == {}
    (span,), (log,) = sdk.spans(), sdk.logs()
    assert span.attributes["feature_flag.reason"] == "UNKNOWN"
    assert log.attributes["feature_flag.result.variant"] == "\ufffd"


def test_hostile_details_are_counted_and_never_raise(sdk):
    hook = make_hook(sdk)
    hook.before(hook_context=None, hints={})
    hook.error(hook_context=None, exception=RuntimeError(), hints={})
    hook.finally_after(hook_context=None, details=None, hints={})
    assert hook.start_evaluation_span("f", context=0) is not INVALID_SPAN
    hook.end_evaluation_span(None, None)  # type: ignore[arg-type]
    assert hook.failures()["end_evaluation_span_failed"] == 1


async def test_before_and_after_around_the_litestar_client_as_the_reference_shows(sdk, litestar):
    hook = make_hook(sdk, record_values=True)
    context = LitestarContext(targeting_key="user-1")
    span = await hook.before_evaluation("dark", context, "boolean")
    result = await litestar.get_boolean_details("dark", context=context)
    await hook.after_evaluation(span, result)
    (made,) = sdk.spans()
    assert made.attributes["feature_flag.reason"] == "STATIC"
    assert made.attributes["feature_flag.value"] == "True"
    assert made.attributes["feature_flag.targeting_key"] == "user-1"


async def test_an_observed_litestar_client_answers_the_same_and_is_seen(sdk, litestar):
    hook = make_hook(sdk, semconv="both")
    observed = hook.observe(litestar)
    assert await observed.is_enabled("dark") is await litestar.is_enabled("dark")
    assert await observed.get_number_value("rate") == await litestar.get_number_value("rate")
    assert await observed.get_string_value("missing", "x") == "x"
    assert await observed.get_object_value("missing", {"a": 1}) == {"a": 1}
    assert await observed.get_flags(["dark"]) == await litestar.get_flags(["dark"])
    assert set(await observed.get_all_flags()) == {"dark", "rate"}
    assert observed.storage is litestar.storage
    keys = [span.attributes["feature_flag.key"] for span in sdk.spans()]
    assert keys == ["dark", "rate", "missing", "missing", "dark", "dark", "rate"]
    assert sdk.logs()[2].attributes["error.type"] == "flag_not_found"
    latencies = {
        point.attributes["feature_flag.key"]: point.count for point in sdk.points("feature_flag.evaluation.latency")
    }
    assert latencies == {"dark": 1, "rate": 1, "missing": 2}  # bulk evaluations have no duration of their own
    async with observed as same:
        assert same is observed


async def test_a_client_that_raises_still_raises_and_the_span_ends_with_the_error(sdk):
    class Broken:
        async def get_boolean_details(self, *_arguments: Any) -> Any:
            raise LookupError("secret")

    hook = make_hook(sdk)
    with pytest.raises(LookupError):
        await hook.observe(Broken()).get_boolean_value("f")
    (span,) = sdk.spans()
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["feature_flag.error_code"] == "GENERAL_ERROR"
    assert span.events[0].name == "exception"


async def test_results_and_errors_read_as_in_the_reference(sdk):
    hook = make_hook(sdk)
    failed = EvaluationDetails(
        value=False,
        flag_key="f",
        reason=EvaluationReason.ERROR,
        error_code=ErrorCode.TYPE_MISMATCH,
        error_message="expected a string",
    )
    hook.record_evaluation("f", failed, LitestarContext(targeting_key="u"), "string")
    await hook.on_error(hook.start_evaluation_span("f"), RuntimeError("x"), "f")
    first, second = sdk.spans()
    assert first.attributes["feature_flag.error_message"] == "expected a string"
    assert first.status.description == "expected a string"
    assert second.attributes["feature_flag.reason"] == "ERROR"
    codes = {point.attributes["feature_flag.error_code"] for point in sdk.points("feature_flag.evaluation.count")}
    assert codes == {"TYPE_MISMATCH", "GENERAL_ERROR"}


def test_a_hook_keeps_nothing_of_evaluations_that_never_end(sdk):
    hook = make_hook(sdk)
    for _ in range(100):
        hook.start_evaluation_span("f")
    assert not any(isinstance(kept, dict | list | set) and len(kept) >= 100 for kept in vars(hook).values())


def test_hostile_flag_keys_do_not_grow_the_hooks_metrics(sdk):
    hook = make_hook(sdk, max_flags=5)
    for n in range(50):
        details = EvaluationDetails(value=True, flag_key=f"f{n}", reason=EvaluationReason.STATIC)
        hook.record_evaluation(f"f{n}", details)
    assert len(sdk.points("feature_flag.evaluation.count")) == 6
    assert hook.failures() == {"flag_key_over_limit": 45}
