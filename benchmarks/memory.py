"""What the in-memory collector costs: recording, metrics of one flag among many, and memory."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice
from typing import Any

from flag_analytics import AnalyticsAggregator, FlagEvaluationEvent
from flag_analytics.testing.samples import plain_event
from flag_analytics_memory import InMemoryAnalyticsCollector

from ._harness import Contender, Figure, Limit, Table, Timed, awaits, compare, installed, judge

_FLAGS = 20
_POOL = 1_000
_FLOOR = "an awaited coroutine that appends to a deque"
_PEER = "litestar-flags, at capacity 10,000"


def _event(number: int, **fields: Any) -> FlagEvaluationEvent:
    defaults: dict[str, Any] = {
        "timestamp": datetime.now(UTC) - timedelta(seconds=1) + timedelta(microseconds=number % 1_000_000),
        "flag_key": f"flag-{number % _FLAGS}",
        "value": number % 2 == 0,
        "variant": "treatment" if number % 3 else "control",
        "context_attributes": {},
        "evaluation_duration_ms": 0.1 + number % 97 / 50,
    }
    return plain_event(number, **(defaults | fields))


class _Floor:
    def __init__(self) -> None:
        self._events: deque[FlagEvaluationEvent] = deque(maxlen=10_000)

    async def record(self, event: FlagEvaluationEvent) -> None:
        self._events.append(event)


def _records(record: Callable[[Any], Awaitable[None]], events: list[FlagEvaluationEvent]) -> Timed:
    async def in_loop(operations: int) -> int:
        turns = islice(cycle(events), operations)
        started = time.perf_counter_ns()
        for event in turns:
            await record(event)
        return time.perf_counter_ns() - started

    return lambda operations: asyncio.run(in_loop(operations))


def _filled(capacity: int, events: list[FlagEvaluationEvent]) -> InMemoryAnalyticsCollector:
    collector = InMemoryAnalyticsCollector(capacity)
    for event in islice(cycle(events), capacity):
        collector.record_nowait(event)
    return collector


def _filled_peer(capacity: int, events: list[FlagEvaluationEvent]) -> Any:
    from litestar_flags.analytics import InMemoryAnalyticsCollector as Peer

    peer = Peer(max_size=capacity)
    peer._events = list(islice(cycle(events), capacity))  # noqa: SLF001 - to record them one by one takes minutes
    return peer


def record() -> Table:
    """Time ``await record(event)`` below capacity and at two capacities: the same, and near the least there is."""
    events = [_event(number) for number in range(_POOL)]
    contenders = [
        Contender(_FLOOR, _records(_Floor().record, events)),
        Contender("flag-analytics, below capacity", _records(InMemoryAnalyticsCollector(10**8).record, events)),
        Contender("flag-analytics, at capacity 10,000", _records(_filled(10_000, events).record, events)),
        Contender("flag-analytics, at capacity 100,000", _records(_filled(100_000, events).record, events)),
    ]
    limits = [Limit(contender.name, at_most=3.0, times=_FLOOR) for contender in contenders[1:]]
    limits += [
        Limit(contender.name, at_most=1.25, times="flag-analytics, below capacity") for contender in contenders[2:]
    ]
    return _beside_peer("await record(event), without a context", contenders, limits, events)


def record_with_context() -> Table:
    """Time the same for events with two context attributes, of which a snapshot has to be taken."""
    events = [_event(n, context_attributes={"plan": "premium", "country": "GB"}) for n in range(_POOL)]
    contenders = [
        Contender(_FLOOR, _records(_Floor().record, events)),
        Contender("flag-analytics, at capacity 10,000", _records(_filled(10_000, events).record, events)),
    ]
    return _beside_peer("await record(event), with two context attributes", contenders, [], events)


def _beside_peer(
    title: str, contenders: list[Contender], limits: list[Limit], events: list[FlagEvaluationEvent]
) -> Table:
    notes = []
    if installed("litestar_flags"):
        contenders.append(Contender(_PEER, _records(_filled_peer(10_000, events).record, events), most=5_000))
        limits.append(Limit("flag-analytics, at capacity 10,000", at_most=1 / 20, times=_PEER))
    else:
        notes.append("not installed: litestar_flags")
    return compare(title, contenders, limits=limits, notes=notes)


def flag_metrics() -> Table:
    """Time all metrics of a flag with 10,000 events among 200,000."""
    events = _with_strangers(10_000, 200_000)
    ours, peers = "flag-analytics, 10,000 of 200,000", "litestar-flags, 10,000 of 200,000"
    contenders = [Contender(ours, awaits(AnalyticsAggregator(_holding(events)).get_flag_metrics, "mine"))]
    if installed("litestar_flags"):
        from litestar_flags.analytics import AnalyticsAggregator as PeerAggregator

        aggregator = PeerAggregator(_filled_peer(len(events), events))
        contenders.append(Contender(peers, awaits(aggregator.get_flag_metrics, "mine")))
    return compare(
        "get_flag_metrics",
        contenders,
        limits=[Limit(ours, at_most=1 / 5, times=peers)],
        figures=[Figure("flag-analytics, the first time after recording", _first_time(events), "ms")],
        notes=[] if installed("litestar_flags") else ["not installed: litestar_flags"],
        round_ns=150_000_000,
    )


def flag_metrics_among_more() -> Table:
    """Time all metrics of a flag with 2,000 events, among others and among ten times as many others."""
    contenders = [
        Contender(
            f"flag-analytics, 2,000 of {total:,}",
            awaits(AnalyticsAggregator(_holding(_with_strangers(2_000, total))).get_flag_metrics, "mine"),
        )
        for total in (40_000, 400_000)
    ]
    few, many = (contender.name for contender in contenders)
    return compare("get_flag_metrics among more of others", contenders, limits=[Limit(many, at_most=1.2, times=few)])


def _holding(events: list[FlagEvaluationEvent]) -> InMemoryAnalyticsCollector:
    collector = InMemoryAnalyticsCollector(len(events))
    for event in events:
        collector.record_nowait(event)
    return collector


def _first_time(events: list[FlagEvaluationEvent]) -> float:
    took = []
    for _ in range(5):
        aggregator = AnalyticsAggregator(_holding(events))
        gc.collect()
        took.append(awaits(aggregator.get_flag_metrics, "mine")(1) / 1e6)
    return min(took)


def _with_strangers(count: int, total: int) -> list[FlagEvaluationEvent]:
    every = total // count
    return [
        _event(number, flag_key="mine") if number % every == 0 else _event(number) for number in range(count * every)
    ]


def memory() -> Table:
    """Measure what an event takes in the collector beside the event itself."""
    figures = [
        Figure(f"per event, {count:,} events of {flags} flags", _bytes_per_event(count, flags), "bytes", at_most=64)
        for count, flags in ((10_000, 20), (100_000, 20), (100_000, 1_000))
    ]
    return Table("memory beyond the events themselves", figures=figures, verdicts=judge(figures))


def _bytes_per_event(count: int, flags: int) -> float:
    keys = [f"flag-{number}" for number in range(flags)]
    events = [_event(number, flag_key=keys[number * 7919 % flags]) for number in range(count * 2)]
    collector = InMemoryAnalyticsCollector(count)
    gc.collect()
    tracemalloc.start()
    try:
        for event in events:  # twice the capacity: half of them leave again
            collector.record_nowait(event)
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(collector) == count
    return taken / count


BENCHMARKS = (record, record_with_context, flag_metrics, flag_metrics_among_more, memory)
