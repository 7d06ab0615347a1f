"""The hook records what really happened in an evaluation, and an evaluation never notices."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from flag_analytics.events import EvaluationReason, FlagEvaluationEvent
from flag_analytics.freezer import Freezer
from flag_analytics_openfeature import AnalyticsHook, recording
from hypothesis import given
from hypothesis import strategies as st
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import FlagEvaluationDetails, FlagResolutionDetails, FlagType, Reason
from openfeature.hook import HookContext
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryMetadata, InMemoryProvider

USER = EvaluationContext("user-1", {"plan": "premium", "country": "GB"})


@attrs.define
class Recorded:
    """Keeps what it is given, in order."""

    events: list[FlagEvaluationEvent] = attrs.field(factory=list)

    def record_nowait(self, event: FlagEvaluationEvent) -> bool:
        self.events.append(event)
        return True


@attrs.define
class AsyncRecorded:
    """A foreign collector: asynchronous only."""

    events: list[FlagEvaluationEvent] = attrs.field(factory=list)

    async def record(self, event: FlagEvaluationEvent) -> None:
        self.events.append(event)


def _raise(*args: Any) -> Any:
    raise RuntimeError("the rule is broken: secret-42")


def _split(flag: InMemoryFlag[str], context: EvaluationContext) -> FlagResolutionDetails[str]:
    variant = "red" if context.targeting_key == "user-1" else "blue"
    return FlagResolutionDetails(flag.variants[variant], reason=Reason.SPLIT, variant=variant)


FLAGS: dict[str, InMemoryFlag[Any]] = {
    "checkout": InMemoryFlag("on", {"on": True, "off": False}),
    "colour": InMemoryFlag("red", {"red": "#f00", "blue": "#00f"}, context_evaluator=_split),
    "limits": InMemoryFlag("small", {"small": {"rows": 10, "tags": ["a"]}}),
    "broken": InMemoryFlag("on", {"on": True}, context_evaluator=_raise),
    "described": InMemoryFlag(
        "on", {"on": True}, {"contextId": "account-7", "flagSetId": "shop", "version": 12, "owner": "web"}
    ),
}


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Iterator[OpenFeatureClient]:
    domain = request.node.name
    getattr(api, "set_provider_and_wait", api.set_provider)(InMemoryProvider(FLAGS), domain)
    yield api.get_client(domain)
    api.clear_providers()
    api.clear_hooks()
    api.set_evaluation_context(EvaluationContext())


def test_an_evaluation_becomes_an_event_with_all_that_is_known_of_it(client: OpenFeatureClient):
    recorded = Recorded()
    client.add_hooks([AnalyticsHook(recorded)])
    before = datetime.now(UTC)

    assert client.get_string_value("colour", "#000", USER) == "#f00"

    [event] = recorded.events
    assert before <= event.timestamp <= datetime.now(UTC)
    assert event.timestamp.utcoffset() == timedelta(0)
    assert 0.0 < event.evaluation_duration_ms < 10_000.0
    assert event.to_dict() | {"timestamp": "", "event_id": "", "evaluation_duration_ms": 0.0} == {
        "timestamp": "",
        "flag_key": "colour",
        "value": "#f00",
        "reason": "SPLIT",
        "variant": "red",
        "targeting_key": "user-1",
        "context_attributes": {"plan": "premium", "country": "GB"},
        "evaluation_duration_ms": 0.0,
        "event_id": "",
        "error_type": None,
        "error_message": None,
        "flag_version": None,
        "flag_set_id": None,
        "provider_name": InMemoryMetadata().name,
        "kind": "evaluation",
        "sample_rate": 1.0,
    }
    assert event.reason is EvaluationReason.SPLIT


async def test_an_asynchronous_evaluation_becomes_the_same_event(client: OpenFeatureClient):
    recorded = Recorded()
    client.add_hooks([AnalyticsHook(recorded)])

    assert await client.get_object_value_async("limits", {}, USER) == {"rows": 10, "tags": ["a"]}

    [event] = recorded.events
    assert (event.flag_key, event.variant, event.reason) == ("limits", "small", "STATIC")
    assert event.value == {"rows": 10, "tags": ["a"]}
    assert event.targeting_key == "user-1"
    assert event.evaluation_duration_ms > 0.0


def test_concurrent_evaluations_keep_their_own_start_times(client: OpenFeatureClient):
    recorded = Recorded()
    hook = AnalyticsHook(recorded)
    outer, inner = _hook_context("outer"), _hook_context("inner")
    hook.before(outer, {})
    hook.before(inner, {})
    hook.finally_after(inner, FlagEvaluationDetails("checkout", True), {})
    hook.finally_after(outer, FlagEvaluationDetails("checkout", True), {})
    first, second = recorded.events
    assert 0.0 < first.evaluation_duration_ms < second.evaluation_duration_ms


def test_the_metadata_of_the_flag_names_context_set_and_version(client: OpenFeatureClient):
    recorded = Recorded()
    client.add_hooks([AnalyticsHook(recorded)])
    client.get_boolean_value("described", False, USER)
    [event] = recorded.events
    assert (event.targeting_key, event.flag_set_id, event.flag_version) == ("account-7", "shop", "12")


def test_the_context_of_api_client_and_invocation_is_merged(client: OpenFeatureClient):
    recorded = Recorded()
    client.add_hooks([AnalyticsHook(recorded)])
    api.set_evaluation_context(EvaluationContext("everyone", {"region": "eu", "plan": "free"}))
    client.context = EvaluationContext("client-user", {"plan": "team"})
    client.get_boolean_value("checkout", False, EvaluationContext(attributes={"beta": True}))
    [event] = recorded.events
    assert event.targeting_key == "client-user"
    assert event.context_attributes == {"region": "eu", "plan": "team", "beta": True}


def test_an_unknown_flag_is_an_error_event_with_the_default(client: OpenFeatureClient):
    recorded = Recorded()
    client.add_hooks([AnalyticsHook(recorded)])
    assert client.get_integer_value("nowhere", 7, USER) == 7
    [event] = recorded.events
    assert (event.flag_key, event.value, event.reason, event.error_type) == ("nowhere", 7, "ERROR", "FLAG_NOT_FOUND")
    assert event.error_message


def test_a_provider_that_raises_is_an_error_event(client: OpenFeatureClient):
    recorded = Recorded()
    client.add_hooks([AnalyticsHook(recorded)])
    assert client.get_boolean_value("broken", False, USER) is False
    [event] = recorded.events
    assert (event.reason, event.error_type) == (EvaluationReason.ERROR, "GENERAL")
    assert event.evaluation_duration_ms > 0.0


def test_a_value_of_the_wrong_type_is_an_error_event(client: OpenFeatureClient):
    recorded = Recorded()
    client.add_hooks([AnalyticsHook(recorded)])
    assert client.get_string_value("checkout", "none", USER) == "none"
    assert recorded.events[0].error_type == "TYPE_MISMATCH"


def test_an_error_without_a_code_is_a_general_one():
    assert _event_of(FlagEvaluationDetails("f", 1, reason=Reason.ERROR)).error_type == "GENERAL"


def test_no_reason_is_an_unknown_reason():
    assert _event_of(FlagEvaluationDetails("f", 1)).reason is EvaluationReason.UNKNOWN


def test_a_reason_of_the_provider_s_own_passes_through():
    assert _event_of(FlagEvaluationDetails("f", 1, reason="CANARY")).reason == "CANARY"


def test_an_evaluation_that_never_began_has_no_duration():
    recorded = Recorded()
    AnalyticsHook(recorded).finally_after(_hook_context(), FlagEvaluationDetails("f", 1), {})
    assert recorded.events[0].evaluation_duration_ms == 0.0


@pytest.mark.parametrize(
    ("chosen", "kept"),
    [(True, {"plan": "premium", "country": "GB"}), (False, {}), (["plan", "age"], {"plan": "premium"}), ([], {})],
)
def test_context_attributes_are_kept_as_chosen(client: OpenFeatureClient, chosen, kept):
    recorded = Recorded()
    client.add_hooks([AnalyticsHook(recorded, context_attributes=chosen)])
    client.get_boolean_value("checkout", False, USER)
    assert recorded.events[0].context_attributes == kept


@pytest.mark.parametrize("flag", ["checkout", "described"])
def test_the_targeting_key_can_be_left_out(client: OpenFeatureClient, flag):
    recorded = Recorded()
    client.add_hooks([AnalyticsHook(recorded, targeting_key=False)])
    client.get_boolean_value(flag, False, USER)
    assert recorded.events[0].targeting_key is None


def test_one_string_is_no_list_of_attribute_names():
    with pytest.raises(TypeError, match=r"expected True, False or several names"):
        AnalyticsHook(Recorded(), context_attributes="plan")


def test_a_target_that_cannot_record_is_refused_at_once():
    with pytest.raises(TypeError, match=r"object cannot record events: expected a pipeline"):
        AnalyticsHook(object())


def test_the_event_does_not_share_the_caller_s_attributes(client: OpenFeatureClient):
    recorded = Recorded()
    client.add_hooks([AnalyticsHook(recorded)])
    attributes = {"plan": "premium"}
    client.get_boolean_value("checkout", False, EvaluationContext("u", attributes))
    attributes["plan"] = "changed"
    assert recorded.events[0].context_attributes == {"plan": "premium"}


class _Fails:
    def record_nowait(self, event: FlagEvaluationEvent) -> None:
        raise ValueError(f"no room for {event.targeting_key}")


def test_a_target_that_raises_leaves_the_evaluation_alone_and_is_counted(client: OpenFeatureClient, caplog):
    hook = AnalyticsHook(_Fails())
    client.add_hooks([hook])
    details = client.get_boolean_details("checkout", False, USER)
    assert (details.value, details.reason, details.error_code) == (True, "STATIC", None)
    assert client.get_boolean_value("checkout", False, USER) is True
    assert hook.failures == {"ValueError": 2}
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("flag_analytics")]
    assert messages == ["could not record an evaluation: ValueError (1 failures so far)"], "once a minute, no content"


def test_an_application_s_logging_filter_that_raises_leaves_the_evaluation_alone(client: OpenFeatureClient):
    logger = logging.getLogger("flag_analytics.openfeature")
    logger.addFilter(_raise)
    try:
        client.add_hooks([AnalyticsHook(_Fails())])
        assert client.get_boolean_value("checkout", False, USER) is True
    finally:
        logger.removeFilter(_raise)


def test_a_context_without_hook_data_is_recorded_without_a_duration():
    recorded = Recorded()
    hook = AnalyticsHook(recorded)

    class Bare:
        flag_key = "f"
        evaluation_context = USER
        provider_metadata = None

    assert hook.before(Bare(), {}) is None
    hook.finally_after(Bare(), FlagEvaluationDetails("f", True), {})
    assert recorded.events[0].evaluation_duration_ms == 0.0
    assert hook.failures == {}


class _HostileMapping(Mapping[str, Any]):
    def __getitem__(self, name: str) -> Any:
        raise RuntimeError(name)

    def get(self, name: str, default: Any = None) -> Any:
        raise RuntimeError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(("a",))

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize(
    "metadata",
    [None, [], "text", 7, _HostileMapping(), {"contextId": object(), "version": [1], "flagSetId": {}}, {7: 8}],
    ids=lambda metadata: type(metadata).__name__,
)
def test_metadata_of_an_unexpected_type_does_not_matter(metadata):
    event = _event_of(FlagEvaluationDetails("f", 1, flag_metadata=metadata))
    assert (event.targeting_key, event.flag_version, event.flag_set_id) == ("user-1", None, None)


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.builds(object),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    value=_anything,
    variant=_anything,
    reason=_anything,
    metadata=_anything,
    error_code=_anything,
    message=_anything,
    targeting_key=_anything,
    attributes=_anything,
)
def test_whatever_a_provider_or_caller_puts_in_an_event_comes_out(
    value, variant, reason, metadata, error_code, message, targeting_key, attributes
):
    recorded = Recorded()
    hook = AnalyticsHook(recorded)
    context = _hook_context("any", EvaluationContext(targeting_key, attributes))
    hook.before(context, {})
    hook.finally_after(context, FlagEvaluationDetails("any", value, variant, metadata, reason, error_code, message), {})
    assert hook.failures == {}
    [event] = recorded.events
    assert Freezer().freeze(event).flag_key == "any"


async def test_an_asynchronous_collector_gets_its_events_from_the_running_loop(client: OpenFeatureClient):
    collector = AsyncRecorded()
    hook = AnalyticsHook(collector)
    client.add_hooks([hook])
    client.get_boolean_value("checkout", False, USER)
    await client.get_string_value_async("colour", "", USER)
    await asyncio.sleep(0)
    assert [event.flag_key for event in collector.events] == ["checkout", "colour"]
    assert hook.failures == {}


def test_an_asynchronous_collector_that_never_suspends_needs_no_loop(client: OpenFeatureClient):
    collector = AsyncRecorded()
    client.add_hooks([AnalyticsHook(collector)])
    client.get_boolean_value("checkout", False, USER)
    assert [event.flag_key for event in collector.events] == ["checkout"]


def test_a_synchronous_record_is_simply_called(client: OpenFeatureClient):
    recorded = Recorded()

    class Plain:
        def record(self, event: FlagEvaluationEvent) -> None:
            recorded.record_nowait(event)

    client.add_hooks([AnalyticsHook(Plain())])
    client.get_boolean_value("checkout", False, USER)
    assert len(recorded.events) == 1


class _Suspends:
    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.recorded = asyncio.Event()

    async def record(self, event: FlagEvaluationEvent) -> None:
        await self.go.wait()
        self.recorded.set()


def test_without_a_loop_a_collector_that_suspends_is_closed_and_counted(client: OpenFeatureClient):
    class Yields:
        async def record(self, event: FlagEvaluationEvent) -> None:
            await asyncio.sleep(0)

    hook = AnalyticsHook(Yields())
    client.add_hooks([hook])
    assert client.get_boolean_value("checkout", False, USER) is True
    assert hook.failures == {"no event loop": 1}


async def test_a_collector_that_waits_holds_no_evaluation_up(client: OpenFeatureClient):
    collector = _Suspends()
    hook = AnalyticsHook(collector)
    client.add_hooks([hook])
    assert await client.get_boolean_value_async("checkout", False, USER) is True
    assert not collector.recorded.is_set()
    collector.go.set()
    await asyncio.wait_for(collector.recorded.wait(), 5)
    assert hook.failures == {}


async def test_a_collector_s_own_timeout_never_cancels_the_application(client: OpenFeatureClient):
    finished = asyncio.Event()

    class Hasty:
        async def record(self, event: FlagEvaluationEvent) -> None:
            try:
                async with asyncio.timeout(0.001):
                    await asyncio.Event().wait()
            finally:
                finished.set()

    hook = AnalyticsHook(Hasty())
    client.add_hooks([hook])
    assert await client.get_boolean_value_async("checkout", False, USER) is True
    await asyncio.wait_for(finished.wait(), 5)
    await asyncio.sleep(0)
    assert hook.failures == {"TimeoutError": 1}


async def test_events_that_wait_for_the_loop_are_bounded_and_the_rest_counted(
    client: OpenFeatureClient, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(recording, "MAX_SCHEDULED", 5)
    collector = AsyncRecorded()
    hook = AnalyticsHook(collector)
    client.add_hooks([hook])
    for _ in range(8):
        assert client.get_boolean_value("checkout", False, USER) is True
    await asyncio.sleep(0)
    assert len(collector.events) == 5
    assert hook.failures == {"overflow": 3}


class _WaitsForever:
    async def record(self, event: FlagEvaluationEvent) -> None:
        await asyncio.Event().wait()


def test_tasks_that_their_loop_cancels_are_counted(client: OpenFeatureClient):
    hook = AnalyticsHook(_WaitsForever())
    client.add_hooks([hook])

    async def evaluate() -> None:
        client.get_boolean_value("checkout", False, USER)

    for _ in range(3):
        asyncio.run(evaluate())  # run() cancels what is left when it ends
    assert hook.failures == {"cancelled": 3}


@pytest.mark.usefixtures("caplog")  # asyncio itself complains of what a closed loop leaves behind
def test_tasks_of_a_loop_that_was_just_closed_make_room_again(
    client: OpenFeatureClient, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(recording, "MAX_SCHEDULED", 2)
    hook = AnalyticsHook(_WaitsForever())
    client.add_hooks([hook])

    async def evaluate() -> None:
        client.get_boolean_value("checkout", False, USER)
        await asyncio.sleep(0)

    for _ in range(6):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(evaluate())
        loop.close()
    assert hook.failures == {"loop closed": 4}
    client.hooks.clear()
    del hook
    gc.collect()


def test_failures_are_counted_exactly_over_threads():
    hook = AnalyticsHook(_Fails())

    def evaluate() -> None:
        for _ in range(500):
            hook.finally_after(_hook_context(), FlagEvaluationDetails("f", 1), {})

    threads = [threading.Thread(target=evaluate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert hook.failures == {"ValueError": 2_000}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_while_the_hook_is_counting_blocks_no_thread():
    hook = AnalyticsHook(_Fails())
    with hook._lock:
        child = os.fork()
        if child == 0:
            hook.finally_after(_hook_context(), FlagEvaluationDetails("f", 1), {})
            os._exit(0 if hook.failures == {"ValueError": 1} else 1)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def _hook_context(flag_key: str = "f", context: EvaluationContext = USER) -> HookContext:
    return HookContext(flag_key, FlagType.BOOLEAN, False, context)


def _event_of(details: FlagEvaluationDetails[Any]) -> FlagEvaluationEvent:
    recorded = Recorded()
    hook = AnalyticsHook(recorded)
    hook.finally_after(_hook_context(details.flag_key), details, {})
    assert hook.failures == {}
    return recorded.events[0]


def test_an_error_code_keeps_openfeature_s_name():
    assert _event_of(FlagEvaluationDetails("f", 1, error_code=ErrorCode.PARSE_ERROR)).error_type == "PARSE_ERROR"
