"""An evaluation that several hooks see is recorded once, and the first time that happens is logged."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from flag_analytics import Pipeline, open_pipeline
from flag_analytics_openfeature import AnalyticsHook, once
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.flag_evaluation import FlagEvaluationDetails, FlagEvaluationOptions, FlagType
from openfeature.hook import Hook, HookContext
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider

MEMORY: dict[str, Any] = {"collectors": {"memory": {}}}
FLAGS: dict[str, InMemoryFlag[Any]] = {"checkout": InMemoryFlag("on", {"on": True, "off": False})}


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Iterator[OpenFeatureClient]:
    domain = request.node.name
    getattr(api, "set_provider_and_wait", api.set_provider)(InMemoryProvider(FLAGS), domain)
    yield api.get_client(domain)
    api.clear_providers()
    api.clear_hooks()


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    with open_pipeline(MEMORY) as pipeline:
        yield pipeline


def evaluate(client: OpenFeatureClient, user: str = "user-1", hooks: list[Hook] | None = None) -> None:
    options = FlagEvaluationOptions(hooks=hooks or [])
    assert client.get_boolean_value("checkout", False, EvaluationContext(user), options) is True


def recorded(pipeline: Pipeline) -> int:
    stored: int = pipeline.collectors["memory"].stats().stored
    return stored


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [entry.getMessage() for entry in caplog.records if "recorded once" in entry.getMessage()]


def test_a_hook_that_a_notebook_s_cell_adds_again_records_once_and_warns_once(
    client: OpenFeatureClient, pipeline: Pipeline, caplog: pytest.LogCaptureFixture
):
    hooks = [AnalyticsHook(pipeline), AnalyticsHook(pipeline), AnalyticsHook(pipeline)]
    for hook in hooks:
        client.add_hooks([hook])
    for user in ("user-1", "user-2"):
        evaluate(client, user)
    assert recorded(pipeline) == 2
    assert [hook.repeated for hook in hooks] == [2, 2, 0]
    assert len(warnings_in(caplog)) == 1
    assert "user-1" not in caplog.text


def test_one_hook_added_twice_records_once(client: OpenFeatureClient, pipeline: Pipeline):
    hook = AnalyticsHook(pipeline)
    api.add_hooks([hook])
    client.add_hooks([hook])
    evaluate(client)
    assert (recorded(pipeline), hook.repeated) == (1, 1)


def test_a_hook_of_the_api_a_client_s_and_an_invocation_s_record_once(client: OpenFeatureClient, pipeline: Pipeline):
    api.add_hooks([AnalyticsHook(pipeline)])
    client.add_hooks([AnalyticsHook(pipeline, context_attributes=False)])
    evaluate(client, hooks=[AnalyticsHook(pipeline)])
    assert recorded(pipeline) == 1


async def test_an_asynchronous_evaluation_is_recorded_once(client: OpenFeatureClient, pipeline: Pipeline):
    api.add_hooks([AnalyticsHook(pipeline)])
    client.add_hooks([AnalyticsHook(pipeline)])
    users = [EvaluationContext(f"user-{number}") for number in range(20)]
    await asyncio.gather(*(client.get_boolean_value_async("checkout", False, user) for user in users))
    assert recorded(pipeline) == 20


def test_evaluations_of_many_threads_are_recorded_once_each(client: OpenFeatureClient, pipeline: Pipeline):
    hooks = [AnalyticsHook(pipeline), AnalyticsHook(pipeline)]
    client.add_hooks(list(hooks))

    def evaluate_often() -> None:
        for _ in range(200):
            evaluate(client)

    threads = [threading.Thread(target=evaluate_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (recorded(pipeline), hooks[0].repeated) == (800, 800)


def test_of_two_open_pipelines_of_equal_configuration_the_later_one_records(
    client: OpenFeatureClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    file = tmp_path / "flag-analytics.toml"
    file.write_text("[collectors.memory]\nmax_size = 77\n")
    with open_pipeline({"collectors": {"memory": {"max_size": 77}}}) as earlier, open_pipeline(file) as later:
        client.add_hooks([AnalyticsHook(earlier)])
        client.add_hooks([AnalyticsHook(later)])
        evaluate(client)
        assert (recorded(earlier), recorded(later)) == (0, 1)
    assert len(warnings_in(caplog)) == 1


def test_pipelines_of_different_configuration_record_each(client: OpenFeatureClient, caplog: pytest.LogCaptureFixture):
    other = {**MEMORY, "processors": [{"type": "redact", "attributes": ["email"]}]}
    with open_pipeline(MEMORY) as one, open_pipeline(other) as another:
        client.add_hooks([AnalyticsHook(one), AnalyticsHook(another)])
        evaluate(client)
        assert (recorded(one), recorded(another)) == (1, 1)
    assert not warnings_in(caplog)


def test_a_closed_pipeline_leaves_the_evaluation_to_the_open_one(client: OpenFeatureClient, pipeline: Pipeline):
    with open_pipeline(MEMORY) as closed:
        client.add_hooks([AnalyticsHook(closed)])  # a client's hooks come first
    api.add_hooks([AnalyticsHook(pipeline)])
    evaluate(client)
    assert recorded(pipeline) == 1


def test_equal_evaluations_one_after_the_other_are_each_recorded(client: OpenFeatureClient, pipeline: Pipeline):
    client.add_hooks([AnalyticsHook(pipeline), AnalyticsHook(pipeline)])
    for _ in range(3):
        evaluate(client)
    assert recorded(pipeline) == 3


def test_hooks_of_one_collector_record_once(client: OpenFeatureClient, pipeline: Pipeline):
    collector = pipeline.collectors["memory"]
    client.add_hooks([AnalyticsHook(collector), AnalyticsHook(collector)])
    evaluate(client)
    assert recorded(pipeline) == 1


def test_a_collector_that_cannot_be_referred_to_weakly_is_taken(client: OpenFeatureClient):
    @attrs.define(weakref_slot=False)
    class Recorded:
        events: list[Any] = attrs.field(factory=list)

        def record_nowait(self, event: Any) -> bool:
            self.events.append(event)
            return True

    collector = Recorded()
    hook = AnalyticsHook(collector)
    client.add_hooks([hook, hook])
    evaluate(client)
    assert len(collector.events) == 1


def test_options_that_refuse_to_be_compared_keep_pipelines_apart(pipeline: Pipeline):
    class Refuses:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError("compared")

        __hash__ = None  # type: ignore[assignment]

    with open_pipeline(MEMORY) as other:
        plan: Any = other.plan
        other.plan = attrs.evolve(plan, delivery={"x": Refuses()})
        pipeline.plan = attrs.evolve(plan, delivery={"x": Refuses()})
        assert AnalyticsHook(other)._once is not AnalyticsHook(pipeline)._once


def test_nothing_keeps_what_hooks_have_seen(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    gc.collect()
    before = len(once._known)
    pipeline = open_pipeline(MEMORY)
    hook = AnalyticsHook(pipeline)
    details = FlagEvaluationDetails("f", True)
    hook.finally_after(HookContext("f", FlagType.BOOLEAN, False, EvaluationContext()), details, {})
    latest = hook._once._latest.details
    assert len(once._known) == before + 1
    pipeline.close_sync()
    del details, hook, pipeline
    gc.collect()
    assert latest() is None
    assert len(once._known) == before
