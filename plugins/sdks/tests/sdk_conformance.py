"""What every adapter must do, with the real SDK, offline: one table of cases, and the faults that surround them.

A test module gives an ``Sdk``, with its table of cases, and inherits ``AdapterConformance``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import attrs
import pytest
from flag_analytics import open_pipeline
from flag_analytics.testing.children import can_fork, run_in_child

CASES = ("hit", "miss", "wrong type", "disabled", "split", "error")
USERS = [f"user-{number}" for number in range(8)]


@attrs.frozen
class Client:
    """An SDK's client with or without an adapter.

    Attributes:
        evaluate: Asks for the flag of a case for a user, and returns what the application would get.
        failures: The adapter's.
    """

    evaluate: Callable[[str, str], Any]
    failures: Callable[[], dict[str, int]] = dict


@attrs.frozen
class Case:
    """What to ask the SDK, and what must arrive.

    Attributes:
        flag: The flag's key.
        expected: Fields of the event, beside ``targeting_key`` and its ``value``, which is what the application got;
            None where the SDK says nothing that an adapter could see.
    """

    flag: str
    expected: Mapping[str, Any] | None


def case(flag: str, **expected: Any) -> Case:
    """Return the case of a flag whose event has these fields."""
    return Case(flag, expected)


@attrs.frozen(kw_only=True)
class Sdk:
    """One SDK.

    Attributes:
        provider_name: The event's.
        cases: One for each of ``CASES``.
        open: Opens a client that records into a pipeline; with None, a client without an adapter.
        attributes: The attributes that each user has there.
        settle: Waits until the SDK has told of all evaluations.
        value_of: Returns the event's value for an answer of the SDK.
    """

    provider_name: str
    cases: Mapping[str, Case]
    open: Callable[..., AbstractContextManager[Client]]
    attributes: Mapping[str, Any] = {"plan": "team"}
    settle: Callable[[], None] = lambda: None
    value_of: Callable[[Any], Any] = lambda answer: answer


class Exploding:
    """A pipeline in whose place something raises."""

    def record_nowait(self, event: Any) -> Any:
        raise RuntimeError("a sink exploded")


def events_of(pipeline: Any) -> list[Any]:
    collector = pipeline.collectors["memory"]
    return asyncio.run(collector.get_events())


class AdapterConformance:
    """Inherit, and give ``sdk``."""

    sdk: ClassVar[Sdk]

    @pytest.fixture
    def plain(self):
        with self.sdk.open(None) as client:
            return {case: client.evaluate(case, "user-1") for case in CASES}

    @pytest.fixture
    def pipeline(self):
        with open_pipeline({"collectors": {"memory": {}}}) as pipeline:
            yield pipeline

    @pytest.fixture
    def events_of_a_round(self):
        """Return how many events all cases make together, those of prerequisites included."""
        with open_pipeline({"collectors": {"memory": {}}}) as pipeline:
            with self.sdk.open(pipeline) as client:
                for name in CASES:
                    client.evaluate(name, "user-1")
                self.sdk.settle()
            return len(events_of(pipeline))

    def test_the_table_names_every_case(self):
        assert tuple(self.sdk.cases) == CASES

    @pytest.mark.parametrize("name", CASES)
    def test_an_evaluation_is_recorded_and_its_answer_unchanged(self, name, plain, pipeline):
        case = self.sdk.cases[name]
        with self.sdk.open(pipeline) as client:
            answer = client.evaluate(name, "user-1")
            self.sdk.settle()
        assert answer == plain[name]
        assert client.failures() == {}
        events = [event for event in events_of(pipeline) if event.flag_key == case.flag]
        assert len(events) == (case.expected is not None)
        for event in events:
            value = self.sdk.value_of(answer)
            wanted = {
                "value": value,
                "targeting_key": "user-1",
                "provider_name": self.sdk.provider_name,
                **case.expected,
            }
            assert {field: getattr(event, field) for field in wanted} == wanted

    def test_attributes_and_the_targeting_key_are_kept_as_asked(self, pipeline):
        with self.sdk.open(pipeline, context_attributes=["plan"], targeting_key=False) as client:
            client.evaluate("hit", "user-1")
            self.sdk.settle()
        (event,) = events_of(pipeline)
        assert event.targeting_key is None
        assert event.context_attributes == self.sdk.attributes

    def test_no_attributes_are_kept_where_none_are_asked_for(self, pipeline):
        with self.sdk.open(pipeline, context_attributes=False) as client:
            client.evaluate("hit", "user-1")
            self.sdk.settle()
        (event,) = events_of(pipeline)
        assert event.context_attributes == {}
        assert event.targeting_key == "user-1"

    def test_a_closed_pipeline_changes_no_answer(self, plain, pipeline, events_of_a_round):
        pipeline.close_sync()
        with self.sdk.open(pipeline) as client:
            answers = {case: client.evaluate(case, "user-1") for case in CASES}
            self.sdk.settle()
        assert answers == plain
        assert client.failures() == {}
        assert pipeline.stats().refused == {"closed": events_of_a_round}

    def test_an_exploding_sink_changes_no_answer_and_is_counted(self, plain, caplog, events_of_a_round):
        with self.sdk.open(Exploding()) as client:
            answers = {case: client.evaluate(case, "user-1") for case in CASES}
            self.sdk.settle()
        assert answers == plain
        assert client.failures() == {"RuntimeError": events_of_a_round}
        logged = [record for record in caplog.records if record.name == "flag_analytics.sdks"]
        assert len(logged) == 1, "at most one message a minute"
        assert "user-1" not in logged[0].getMessage()

    def test_eight_threads_lose_and_repeat_nothing(self, pipeline):
        with self.sdk.open(pipeline) as client:

            def work(user):
                return [client.evaluate("hit", f"{user}-{number}") for number in range(25)]

            with ThreadPoolExecutor(len(USERS)) as threads:
                answers = list(threads.map(work, USERS))
            self.sdk.settle()
        assert client.failures() == {}
        wanted = {f"{user}-{number}" for user in USERS for number in range(25)}
        assert sum(map(len, answers)) == len(wanted)
        assert sorted(event.targeting_key for event in events_of(pipeline)) == sorted(wanted)

    async def test_tasks_of_an_event_loop_record_each_their_own_evaluation(self, pipeline):
        with self.sdk.open(pipeline) as client:

            async def work(user):
                await asyncio.sleep(0)
                return client.evaluate("hit", user)

            await asyncio.gather(*map(work, USERS))
            await asyncio.to_thread(self.sdk.settle)
        assert client.failures() == {}
        events = await pipeline.collectors["memory"].get_events()
        assert sorted(event.targeting_key for event in events) == USERS

    @pytest.mark.skipif(not can_fork(), reason="this system has no fork")
    def test_a_forked_child_records_its_own_evaluations(self, pipeline):
        with self.sdk.open(pipeline) as client:
            client.evaluate("hit", "parent")
            self.sdk.settle()

            def child() -> None:
                client.evaluate("hit", "child")
                self.sdk.settle()
                assert client.failures() == {}
                assert "child" in [event.targeting_key for event in events_of(pipeline)]

            run_in_child(child, 20)
            client.evaluate("hit", "after")
            self.sdk.settle()
        users = [event.targeting_key for event in events_of(pipeline)]
        assert sorted(users) == ["after", "parent"]
