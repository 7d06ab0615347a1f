"""``ProcessorContract``: what a processor promises that changes or drops events before any sink sees them."""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import pytest

from ..events import FlagEvaluationEvent
from ..freezer import Freezer
from ..processing import as_event
from .samples import described, edge_case_values, foreign_event, hostile_events, plain_event, plain_events
from .threads import eager_switching, in_threads

__all__ = ["ProcessorContract"]

_IDENTITY = ("event_id", "timestamp", "kind")


class ProcessorContract:
    """Inherit it, and return your processor from the fixture ``processor``.

    Capabilities:
        changes: The fields that it may change; all others come out as they went in.
        drops: It returns None for some events.
        same_each_time: The same event comes out the same each time it goes in.
        max_seconds_each: The longest one call may take; it runs in the caller's thread.
        patience_seconds: How long one test may take before it counts as stuck.
        max_seconds: How long all tests of a class may take.
    """

    is_contract = True
    changes: ClassVar[frozenset[str]] = frozenset()
    drops: ClassVar[bool] = False
    same_each_time: ClassVar[bool] = True
    max_seconds_each: ClassVar[float] = 0.01
    patience_seconds: ClassVar[float] = 10.0
    max_seconds: ClassVar[float] = 40.0

    @pytest.fixture
    def processor(self) -> Any:
        """Return a new processor."""
        pytest.fail(f"{type(self).__name__} needs a fixture `processor` that returns a new processor")

    def test_it_returns_an_event_or_none(self, processor: Any) -> None:
        for event in plain_events(20):
            self._process(processor, event)

    def test_it_changes_only_the_fields_that_it_may(self, processor: Any) -> None:
        values = edge_case_values()
        for number, value in enumerate(values):
            event = plain_event(number, value=value, context_attributes={"a": value, "email": "a@example.org"})
            after = self._process(processor, event)
            if after is None:
                continue
            old, new = (described(_frozen(each), every_field=True) for each in (event, after))
            changed = {name for name in old if old[name] != new[name]}
            assert changed <= self.changes, f"changed {', '.join(sorted(changed - self.changes))}: see `changes`"

    def test_it_keeps_what_identifies_an_event(self, processor: Any) -> None:
        for event in plain_events(20):
            after = self._process(processor, event)
            if after is not None:
                for name in _IDENTITY:
                    assert getattr(after, name) == getattr(event, name) or name in self.changes, f"changed {name}"

    def test_it_leaves_the_callers_event_alone(self, processor: Any) -> None:
        context = {"email": "a@example.org", "plan": {"names": ["a"], "password": "b"}, "list": [{"token": 1}]}
        value = {"a": [1, {"password": "b"}]}
        event = plain_event(value=value, context_attributes=context)
        before = copy.deepcopy((value, context)), repr(event)
        self._process(processor, event)
        assert ((value, context), repr(event)) == before, "the caller's event, or something in it, was changed"

    def test_hostile_events_raise_nothing(self, processor: Any) -> None:
        for what, event in hostile_events():
            try:
                self._process(processor, event)
            except Exception as error:
                pytest.fail(f"an event with {what} raised {type(error).__name__}")

    def test_events_of_a_foreign_class_are_processed(self, processor: Any) -> None:
        for number in range(5):
            self._process(processor, as_event(foreign_event(number)))

    def test_the_same_event_comes_out_the_same(self, processor: Any) -> None:
        if not self.same_each_time:
            pytest.skip("not the same each time")
        for event in plain_events(50):
            first, second = self._process(processor, event), self._process(processor, event)
            assert (first is None) is (second is None), "kept once, and dropped once"
            if first is not None:
                assert described(_frozen(first), every_field=True) == described(_frozen(second), every_field=True)

    def test_it_drops_nothing_unless_it_says_so(self, processor: Any) -> None:
        if self.drops:
            pytest.skip("it drops some events")
        assert all(self._process(processor, event) is not None for event in plain_events(200)), "see `drops`"

    @pytest.mark.asyncio
    async def test_many_threads_may_use_it_at_once(self, processor: Any) -> None:
        async def use(thread: int) -> None:
            for number in range(100):
                event = plain_event(number, flag_key=f"thread-{thread}")
                after = self._process(processor, event)
                assert after is None or after.event_id == event.event_id, "an event came out in another one's place"

        with eager_switching():
            await in_threads([partial(use, thread) for thread in range(4)], self.patience_seconds)

    def test_it_takes_no_time(self, processor: Any) -> None:
        large = {f"attribute-{number}": ["x" * 50] * 10 for number in range(50)}
        took = []
        for number in range(20):
            event = plain_event(number, context_attributes=large)
            started = time.perf_counter()
            self._process(processor, event)
            took.append(time.perf_counter() - started)
        assert min(took) < self.max_seconds_each, f"one event takes {min(took) * 1_000:.1f} ms"

    def _process(self, processor: Callable[[Any], Any], event: Any) -> FlagEvaluationEvent | None:
        after = processor(event)
        if inspect.isawaitable(after):
            if inspect.iscoroutine(after):
                after.close()
            pytest.fail("it returned an awaitable: a processor is a plain function")
        assert after is None or hasattr(after, "flag_key"), (
            f"returned {type(after).__name__}: expected an event or None"
        )
        return after  # type: ignore[no-any-return]


def _frozen(event: Any) -> FlagEvaluationEvent:
    return Freezer().freeze(event).thaw()
