"""The in-memory collector: the newest events, exactly, whatever threads record and read at once."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import random
import sys
import threading
import weakref
from collections import deque
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import attrs
import pytest
from flag_analytics.aggregator import AnalyticsAggregator
from flag_analytics.events import EvaluationReason, FlagEvaluationEvent
from flag_analytics.freezer import Freezer
from flag_analytics.frozen import FrozenEvent
from flag_analytics.metrics import Digest, StepTally, Tally, activity, select
from flag_analytics.protocols import AnalyticsCollector, InlineSink, RecordResult
from flag_analytics.sources import EventFilter, EventSource, Window
from flag_analytics.testing.samples import plain_event
from flag_analytics_memory import InMemoryAnalyticsCollector, MemoryStats
from flag_analytics_memory.packing import PackedDigest
from flag_analytics_memory.plugin import MemoryOptions, flag_analytics_register_collectors
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
EVER = Window(None, NOW + timedelta(days=365))


def event(number: int = 0, **fields: Any) -> FlagEvaluationEvent:
    defaults: dict[str, Any] = {
        "timestamp": NOW + timedelta(seconds=number),
        "flag_key": f"flag-{number % 3}",
        "value": number,
        "variant": None,
        "context_attributes": {},
        "evaluation_duration_ms": 0.5,
    }
    return plain_event(number, **(defaults | fields))


async def values(collector: InMemoryAnalyticsCollector, *arguments: Any) -> list[Any]:
    return [found.value for found in await collector.get_events(*arguments)]


# --- first in, first out


@pytest.mark.parametrize("max_size", [1, 2, 5, 63, 64, 65, 511, 512, 513, 5_000])
@pytest.mark.parametrize("count", [0, 1, 64, 700, 5_001])
async def test_the_newest_events_are_kept_in_order_and_the_others_counted(max_size: int, count: int) -> None:
    collector = InMemoryAnalyticsCollector(max_size)
    for number in range(count):
        await collector.record(event(number))
    kept = list(range(count))[-max_size:]
    assert len(collector) == len(kept)
    assert await values(collector) == kept
    assert await values(collector, "flag-1") == [number for number in kept if number % 3 == 1]
    assert await collector.get_event_count("flag-2") == sum(number % 3 == 2 for number in kept)
    assert collector.stats().evicted == count - len(kept)


async def test_a_limit_gives_the_most_recent_events_in_order() -> None:
    collector = InMemoryAnalyticsCollector(3_000)
    for number in range(2_000):
        await collector.record(event(number))
    assert await values(collector, None, 3) == [1_997, 1_998, 1_999]
    assert await values(collector, "flag-0", 2) == [1_995, 1_998]
    assert await values(collector, None, 1_500) == list(range(500, 2_000))
    assert await values(collector, None, 9_999) == list(range(2_000))
    assert await values(collector, "none", 2) == []
    assert await values(collector, None, 0) == []
    with pytest.raises(ValueError, match="limit is -1: expected at least 0"):
        await collector.get_events(limit=-1)


@pytest.mark.parametrize("max_size", [0, -1])
def test_a_size_below_one_is_refused(max_size: int) -> None:
    with pytest.raises(ValueError, match=f"max_size is {max_size}: expected at least 1"):
        InMemoryAnalyticsCollector(max_size)


@pytest.mark.parametrize("max_size", [True, 1.5, "10", None])
def test_a_size_that_is_no_integer_is_refused(max_size: Any) -> None:
    with pytest.raises(TypeError, match="expected an integer, the most events to keep"):
        InMemoryAnalyticsCollector(max_size)


async def test_the_reference_defaults_hold() -> None:
    collector = InMemoryAnalyticsCollector()
    assert collector.max_size == 10_000
    assert isinstance(collector, AnalyticsCollector)
    assert isinstance(collector, InlineSink)
    assert isinstance(collector, EventSource)
    assert repr(collector) == "<InMemoryAnalyticsCollector: 0 of at most 10000 events>"


class Model(RuleBasedStateMachine):
    """The collector beside a bounded deque, under any sequence of operations, with its counters."""

    def __init__(self) -> None:
        super().__init__()
        self.collector = InMemoryAnalyticsCollector(70)
        self.model: deque[int] = deque(maxlen=70)
        self.recorded = self.evicted = self.cleared = self.refused = 0
        self.closed = False

    @rule(count=st.integers(1, 150), context=st.sampled_from([{}, {"a": 1}, {"a": [1]}]))
    def record(self, count: int, context: dict[str, Any]) -> None:
        for _ in range(count):
            number = self.recorded
            self.recorded += 1
            outcome = self.collector.record_nowait(event(number, context_attributes=context))
            assert bool(outcome) is not self.closed
            if self.closed:
                self.refused += 1
            else:
                self.evicted += len(self.model) == 70
                self.model.append(number)

    @rule()
    def clear(self) -> None:
        asyncio.run(self.collector.clear())
        self.cleared += len(self.model)
        self.model.clear()

    @rule(really=st.integers(0, 4))
    def close(self, really: int) -> None:
        if really == 0:
            asyncio.run(self.collector.close())
            self.closed = True
            self.cleared += len(self.model)
            self.model.clear()

    @rule(limit=st.none() | st.integers(0, 80), flag=st.none() | st.integers(0, 3))
    def read(self, limit: int | None, flag: int | None) -> None:
        expected = [number for number in self.model if flag is None or number % 3 == flag]
        key = None if flag is None else f"flag-{flag}"
        found = asyncio.run(values(self.collector, key, limit))
        assert found == (expected if limit is None else expected[len(expected) - min(limit, len(expected)) :])
        assert asyncio.run(self.collector.get_event_count(key)) == len(expected)

    @invariant()
    def the_counters_balance(self) -> None:
        assert len(self.collector) == len(self.model)
        stats = self.collector.stats()
        assert stats.accepted == stats.stored + stats.evicted + stats.cleared
        assert (stats.stored, stats.evicted, stats.cleared) == (len(self.model), self.evicted, self.cleared)
        assert stats.refused == ({"closed": self.refused} if self.refused else {})


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=30, stateful_step_count=15, deadline=None)


# --- what is stored stays as it was


async def test_a_plain_event_is_kept_as_it_is_and_an_other_one_is_equal() -> None:
    collector = InMemoryAnalyticsCollector()
    events = [
        event(0),
        event(1, context_attributes={"plan": "pro", "n": 1, "ok": None}),
        event(2, value={"a": [1, None]}, context_attributes={"deep": {"x": [True]}}),
        event(3, error_message="x" * 300, provider_name="flagd", kind="exposure", sample_rate=0.5),
    ]
    for one in events:
        await collector.record(one)
    found = await collector.get_events()
    assert found == events
    assert found[0] is events[0]


async def test_a_context_filled_after_recording_is_not_stored_nor_found() -> None:
    collector = InMemoryAnalyticsCollector()
    context: dict[str, Any] = {}
    await collector.record(event(context_attributes=context))
    context["environment"] = "prod"
    assert (await collector.get_events())[0].context_attributes == {}
    where = EventFilter(environment="prod")
    assert await collector.summarise(["flag-0"], EVER, where=where) == {}
    assert collector.stats().sanitised == {}
    (found,) = await collector.get_events()
    found.context_attributes["late"] = True  # type: ignore[index]
    assert (await collector.get_events())[0].context_attributes == {}


@pytest.mark.parametrize("empty", [None, (), b"", "", 0, False, frozenset()])
async def test_no_context_of_any_kind_is_an_empty_one(empty: Any) -> None:
    collector = InMemoryAnalyticsCollector()
    await collector.record(event(context_attributes=empty))
    assert (await collector.get_events())[0].context_attributes == {}
    assert await collector.summarise(["flag-0"], EVER, where=EventFilter(environment="prod")) == {}


async def test_an_event_recorded_again_is_stored_again() -> None:
    collector = InMemoryAnalyticsCollector()
    naive = event(1, timestamp=NOW.replace(tzinfo=None))
    for one in (event(0), naive, naive, naive):
        await collector.record(one)
    assert await collector.get_event_count() == 4
    assert {found.timestamp for found in await collector.get_events("flag-1")} == {NOW}
    assert collector.stats().sanitised == {"naive_timestamp": 3}


# --- the canonical form

odd_texts = st.sampled_from(["", "a", "b", "a\0", "\ud800", "x" * 191, "x" * 500, "naïve", "a\nb", "\u200b"])


class Plan(StrEnum):
    A = "a"
    LONG = "x" * 200


class Shouting(str):
    __slots__ = ()

    def __str__(self) -> str:
        return str.__str__(self).upper()


odd_keys = odd_texts | st.sampled_from([None, 5, b"a", ["a"], Plan.A, Plan.LONG, Shouting("a"), {"a": 1}])
odd_times = st.sampled_from([NOW, NOW.replace(tzinfo=None), "2026-01-31T12:00:00+00:00", datetime(1, 1, 1, tzinfo=UTC)])
odd_values = st.sampled_from([None, True, 1, 2**70, 1.5, float("nan"), "a", "a\0", "x" * 300, [1], {"a": {}}, b"a"])
odd_events = st.builds(
    FlagEvaluationEvent,
    odd_times,
    odd_keys,
    odd_values,
    st.sampled_from([EvaluationReason.ERROR, "SPLIT", "", "a\0", None, 5, "x" * 300]),
    odd_keys,
    odd_keys,
    st.dictionaries(odd_texts, odd_values, max_size=2) | st.sampled_from([None, [1], {1: 2}, {Plan.A: 1}]),
    st.sampled_from([0.0, 1.5, -1.0, 3, float("nan"), float("inf"), "2.5", None, True]),
    error_type=odd_keys,
    error_message=odd_keys,
    flag_version=odd_keys,
    flag_set_id=odd_keys,
    provider_name=odd_keys,
    kind=st.sampled_from(["evaluation", "outcome", "odd", None]),
    sample_rate=st.sampled_from([1.0, 1, 0.5, 2.0, None]),
)


def fields_of(some: FlagEvaluationEvent) -> dict[str, Any]:
    return some.to_dict()


@given(st.lists(odd_events, max_size=12), st.booleans())
@settings(deadline=None)
async def test_whatever_is_recorded_is_read_in_its_canonical_form(recorded: list[Any], read_early: bool) -> None:
    collector = InMemoryAnalyticsCollector()
    for one in recorded:
        await collector.record(one)
        if read_early:
            len(collector)
    freezer = Freezer()
    expected = [freezer.freeze(one).thaw() for one in recorded]
    found = await collector.get_events()
    assert [fields_of(one) for one in found] == [fields_of(one) for one in expected]
    assert {type(one.reason) for one in found} <= {EvaluationReason, str}
    # What a frozen event counts beside, the skew of its clock, is no change.
    counted = {kind: n for kind, n in freezer.changes().items() if kind != "clock_skew"}
    assert collector.stats().sanitised == counted
    for key in {one.flag_key for one in expected}:
        assert [fields_of(one) for one in await collector.get_events(key)] == [
            fields_of(one) for one in expected if one.flag_key == key
        ]


odd_names = st.sampled_from(["plan", "a", Plan.A, Shouting("a"), "a\0", "naïve", "", "\ud800", 1, "x" * 101])
odd_attributes = odd_values | odd_texts | st.sampled_from([Plan.A, Shouting("a"), "a\\b", "x" * 101, 2**63, [1, []]])


@given(st.lists(st.dictionaries(odd_names, odd_attributes, max_size=20), max_size=8))
@settings(deadline=None)
async def test_a_context_with_names_that_are_known_is_read_in_its_canonical_form(contexts: list[Any]) -> None:
    collector = InMemoryAnalyticsCollector()
    await collector.record(event(context_attributes=dict.fromkeys(["plan", "a", "naïve", ""], "x")))
    freezer = Freezer()
    expected = []
    for context in contexts:
        one = event(context_attributes=context)
        expected.append(freezer.freeze(one).thaw())
        await collector.record(one)
        context.clear()
    assert [fields_of(one) for one in (await collector.get_events())[1:]] == [fields_of(one) for one in expected]
    assert collector.stats().sanitised == {kind: n for kind, n in freezer.changes().items() if kind != "clock_skew"}


@given(st.lists(odd_events, max_size=12))
@settings(deadline=None)
async def test_record_and_record_nowait_do_the_same(recorded: list[Any]) -> None:
    one, other = InMemoryAnalyticsCollector(5), InMemoryAnalyticsCollector(5)
    for some in recorded:
        await one.record(some)
        assert other.record_nowait(some) is RecordResult.ACCEPTED
    assert [fields_of(some) for some in await one.get_events()] == [
        fields_of(some) for some in await other.get_events()
    ]
    assert one.stats() == other.stats()


async def test_flags_whose_keys_mean_the_same_are_one_flag_in_order_of_arrival() -> None:
    collector = InMemoryAnalyticsCollector(200)
    keys = ["a\ufffd", "a\0", "a\ufffd", Plan.A, "a", Plan.A, "a\0"] * 40
    for number, key in enumerate(keys):
        await collector.record(event(number, flag_key=key))
        if number == 100:
            assert await collector.get_event_count("a") == 3 * 14
    kept = range(len(keys) - 200, len(keys))
    assert await values(collector, "a") == [number for number in kept if keys[number] == "a"]
    assert await values(collector, "a\0") == [number for number in kept if keys[number] != "a"]
    assert await values(collector) == list(kept)


async def test_a_frozen_event_is_taken_as_it_is() -> None:
    collector = InMemoryAnalyticsCollector()
    frozen: FrozenEvent = Freezer().freeze(event(value={"a": 1}))
    assert collector.record_nowait(frozen) is RecordResult.ACCEPTED
    assert await collector.get_events() == [frozen.thaw()]


# --- any thread, any loop, forks


def test_eight_threads_record_at_once_and_not_one_event_is_lost_or_reordered() -> None:
    collector = InMemoryAnalyticsCollector(3_000)
    begin = threading.Barrier(9)

    def record(thread: int) -> None:
        begin.wait()
        for number in range(2_000):
            collector.record_nowait(event(number, flag_key=f"thread-{thread}", value=[thread, number]))

    def read() -> None:
        begin.wait()
        for _ in range(50):
            stats = collector.stats()
            assert stats.accepted == stats.stored + stats.evicted
            assert stats.stored <= 3_000

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=record, args=(thread,)) for thread in range(8)]
        threads.append(threading.Thread(target=read))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(interval)
    stats = collector.stats()
    assert (stats.accepted, stats.stored, stats.evicted) == (16_000, 3_000, 13_000)
    for thread in range(8):
        numbers = [number for _, number in asyncio.run(values(collector, f"thread-{thread}"))]
        assert numbers == sorted(numbers)


def test_a_record_never_waits_for_the_lock() -> None:
    collector = InMemoryAnalyticsCollector(5_000)
    with collector._lock:  # as in a signal handler that interrupts a reader of the same thread
        for number in range(2_000):
            assert collector.record_nowait(event(number))
    assert asyncio.run(values(collector)) == list(range(2_000))


def test_a_refusal_never_waits_either() -> None:
    collector = InMemoryAnalyticsCollector()
    asyncio.run(collector.close())
    with collector._lock:
        assert collector.record_nowait(event()) is RecordResult.CLOSED
    assert collector.stats().refused == {"closed": 1}
    assert collector.stats().refused == {"closed": 1}


def test_what_slips_in_while_another_thread_closes_is_counted() -> None:
    collector = InMemoryAnalyticsCollector()
    fresh = collector._fresh  # what a thread holds that has just seen the collector open
    asyncio.run(collector.close())
    fresh.append(event())
    stats = collector.stats()
    assert (stats.accepted, stats.stored, stats.cleared) == (1, 0, 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_starts_empty_though_a_lock_was_held() -> None:
    collector = InMemoryAnalyticsCollector(100)
    naive = event(0, timestamp=NOW.replace(tzinfo=None))
    collector.record_nowait(naive)
    assert collector.stats().sanitised == {"naive_timestamp": 1}
    with collector._lock:
        child = os.fork()
        if child == 0:
            new = MemoryStats(accepted=0, stored=0, evicted=0, cleared=0, refused={}, sanitised={})
            works = collector.stats() == new and bool(collector.record_nowait(event(7))) and len(collector) == 1
            os._exit(0 if works else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert asyncio.run(values(collector)) == [0]


def test_a_collector_without_references_is_released() -> None:
    collector = InMemoryAnalyticsCollector()
    collector.record_nowait(event())
    watched = weakref.ref(collector)
    del collector
    gc.collect()
    assert watched() is None


# --- bounds


def test_many_flags_leave_nothing_behind_when_their_events_have_left() -> None:
    collector = InMemoryAnalyticsCollector(1_000)
    for number in range(20_000):
        collector.record_nowait(event(number, flag_key=f"flag-{number}", variant=f"variant-{number}"))
    assert len(collector._log.flag_keys()) == 1_000
    held = sum(len(segment.events) for segment in collector._log._segments)
    assert held == 1_000
    assert len(collector._variants) <= 1_000


def test_what_waits_and_what_is_held_too_long_are_bounded() -> None:
    collector = InMemoryAnalyticsCollector(10_000)
    for number in range(50_000):
        collector.record_nowait(event(number))
        assert len(collector._fresh) <= 512
    held = sum(len(segment.events) for segment in collector._log._segments)
    assert 10_000 <= held <= 11_024


@pytest.mark.parametrize("field", ["flag_key", "variant", "targeting_key", "value", "error_message"])
async def test_no_long_text_is_kept_whole(field: str) -> None:
    collector = InMemoryAnalyticsCollector()
    await collector.record(event(**{field: "x" * 5_000_000}))
    assert await collector.get_event_count() == 1
    (kept,) = next(collector._log.everything())
    assert sum(len(text) for text in map(str, attrs_of(kept))) < 70_000


def attrs_of(kept: Any) -> list[Any]:
    return [getattr(kept, name) for name in kept.__struct_fields__]


# --- answers


events_of_two_flags = st.lists(
    st.builds(
        event,
        st.integers(-20, 20),
        flag_key=st.sampled_from(["a", "b"]),
        variant=st.sampled_from([None, "", "on"]),
        targeting_key=st.sampled_from([None, "", "u", "v"]),
        reason=st.sampled_from([EvaluationReason.ERROR, "SPLIT", "MINE"]),
        context_attributes=st.sampled_from([{}, {"environment": "prod"}, {"environment": "prod", "a": [1]}]),
        evaluation_duration_ms=st.sampled_from([0.0, 0.1, 2.0, 3.5]),
        kind=st.sampled_from(["evaluation", "outcome"]),
    ),
    max_size=30,
)


@given(events_of_two_flags, st.integers(-25, 25), st.none() | st.just(EventFilter(environment="prod")))
@settings(deadline=None)
async def test_every_answer_is_that_of_the_arithmetic_over_all_events(
    recorded: list[FlagEvaluationEvent], start: int, where: EventFilter | None
) -> None:
    collector = InMemoryAnalyticsCollector()
    for one in recorded:
        await collector.record(one)
    window = Window(NOW + timedelta(seconds=start), NOW + timedelta(seconds=15))
    frozen = [Freezer().freeze(one) for one in recorded]
    by_flag = {key: select([one for one in frozen if one.flag_key == key], window, where) for key in ("a", "b")}
    present = {key: found for key, found in by_flag.items() if found}
    summaries = await collector.summarise(["a", "b", "c"], window, percentiles=(0.0, 50.0, 99.0), where=where)
    assert summaries.keys() == present.keys()
    for key, found in present.items():
        tally = Tally()
        tally.add(found)
        assert summaries[key] == tally.summary((0.0, 50.0, 99.0))
        steps = StepTally(window, 7)
        steps.add(found)
        assert await collector.count_steps(key, window, 7, where=where) == steps.steps()
    assert await collector.list_flags(window, where=where) == [activity(key, found) for key, found in present.items()]
    assert await collector.count_future(NOW) == sum(one.timestamp > NOW for one in frozen)


async def test_a_long_answer_lets_other_tasks_have_their_turn() -> None:
    collector = InMemoryAnalyticsCollector(30_000)
    for number in range(30_000):
        collector.record_nowait(event(number, flag_key="flag"))
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(count_turns())
    assert (await AnalyticsAggregator(collector).get_flag_metrics("flag", None)).total_evaluations == 30_000
    other.cancel()
    assert turns >= 2


# --- the plugin


def test_the_plugin_offers_a_collector_named_memory() -> None:
    (backend,) = flag_analytics_register_collectors()
    assert backend.name == "memory"
    collector = backend.create(backend.options(max_size=5))
    assert isinstance(collector, InMemoryAnalyticsCollector)
    assert collector.max_size == 5
    assert backend.create(MemoryOptions()).max_size == 10_000
    assert attrs.has(backend.options)


@pytest.mark.parametrize(("max_size", "error"), [(0, ValueError), ("5", TypeError), (True, TypeError)])
def test_the_options_check_the_size(max_size: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="max_size is"):
        MemoryOptions(max_size=max_size)


async def test_answers_stay_exact_while_events_come_and_leave_and_digests_are_kept() -> None:
    numbers = random.Random(7)
    collector = InMemoryAnalyticsCollector(2_000)
    model: deque[FlagEvaluationEvent] = deque(maxlen=2_000)
    windows = [Window(NOW + timedelta(seconds=start), NOW + timedelta(seconds=6_000)) for start in (-1, 3_000, 5_500)]
    filters = [None, EventFilter(kinds=("outcome",)), EventFilter(variant="on"), EventFilter(environment="prod")]
    for number in range(6_000):
        one = event(
            number - numbers.randrange(300),
            flag_key=numbers.choice(["a", "a", "b", "c\0"]),
            variant=numbers.choice([None, "", "on"]),
            targeting_key=numbers.choice([None, "", *(f"user-{n}" for n in range(50))]),
            reason=numbers.choice([EvaluationReason.ERROR, "SPLIT"]),
            evaluation_duration_ms=numbers.choice([0.0, numbers.random()]),
            kind="outcome" if number > 4_000 and number % 90 == 0 else "evaluation",
            context_attributes={"environment": "prod"} if number % 40 == 0 else {},
        )
        model.append(one)
        await collector.record(one)
        if number % 700 == 0 or number in {5_998, 5_999}:
            frozen = [Freezer().freeze(kept) for kept in model]
            for window, where in itertools.product([*windows, *windows[:1]], filters):
                await check_answers(collector, frozen, window, where)


async def check_answers(
    collector: InMemoryAnalyticsCollector, frozen: list[FrozenEvent], window: Window, where: EventFilter | None
) -> None:
    by_flag: dict[str, list[Any]] = {}
    for one in select(frozen, window, where):
        by_flag.setdefault(one.flag_key, []).append(one)
    expected = {}
    for key, found in by_flag.items():
        tally = Tally()
        tally.add(found)
        expected[key] = tally.summary((50.0, 90.0))
    keys = ["a", "b", "c\ufffd", "d"]
    assert await collector.summarise(keys, window, percentiles=(50.0, 90.0), where=where) == expected
    assert await collector.list_flags(window, where=where) == [activity(key, by_flag[key]) for key in sorted(by_flag)]


async def test_a_question_is_answered_as_of_the_moment_it_was_asked() -> None:
    collector = InMemoryAnalyticsCollector(12_000)
    for number in range(12_000):
        collector.record_nowait(event(number, flag_key="flag"))
    question = asyncio.create_task(AnalyticsAggregator(collector).get_flag_metrics("flag", None))
    await asyncio.sleep(0)  # the first slice is counted
    assert not question.done()
    for number in range(500):
        collector.record_nowait(event(number, flag_key="flag"))
    assert (await question).total_evaluations == 12_000
    await collector.clear()
    assert (await AnalyticsAggregator(collector).get_flag_metrics("flag", None)).total_evaluations == 0


@given(st.lists(st.sampled_from(["", "u", "naïve 🚩", "x" * 190])), st.lists(st.floats(0.1, 10)))
def test_a_packed_digest_gives_the_same_summary(users: list[str], durations: list[float]) -> None:
    recorded = [event(targeting_key=user) for user in users]
    recorded += [event(evaluation_duration_ms=duration, kind="exposure") for duration in durations] or [event()]
    digest = Digest.of(recorded)
    packed = PackedDigest.of(digest).unpack()
    one, other = Tally(), Tally()
    one.merge(digest)
    other.merge(packed)
    assert one.summary((50.0,)) == other.summary((50.0,))
    assert (packed.kinds, packed.last_seen) == (digest.kinds, digest.last_seen)
