"""``get_events`` with a window or a filter returns what ``select`` does, by time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from flag_analytics import EventFilter, FlagEvaluationEvent, InMemoryAnalyticsCollector, Window

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def collector():
    collector = InMemoryAnalyticsCollector()
    for number in reversed(range(10)):
        moment = NOW - timedelta(minutes=number)
        context = {"plan": "gold" if number % 2 else "free"}
        collector.record_nowait(
            FlagEvaluationEvent(moment, f"flag-{number % 3}", number, "STATIC", context_attributes=context)
        )
    return collector


async def test_events_of_a_window_come_by_time_and_the_newest_where_there_is_a_limit(collector):
    window = Window(NOW - timedelta(minutes=5), NOW - timedelta(minutes=1))
    assert [event.value for event in await collector.get_events(window=window)] == [5, 4, 3, 2, 1]
    assert [event.value for event in await collector.get_events(limit=2, window=window)] == [2, 1]
    assert [event.value for event in await collector.get_events("flag-1", window=window)] == [4, 1]
    assert await collector.get_events(limit=0, window=window) == []


async def test_filtered_events_have_the_context_that_they_were_recorded_with(collector):
    found = await collector.get_events(where=EventFilter(context={"plan": "gold"}))
    assert [event.value for event in found] == [9, 7, 5, 3, 1]
    assert {event.context_attributes["plan"] for event in found} == {"gold"}


async def test_future_events_are_counted_with_and_without_digests(collector):
    assert await collector.count_future(NOW) == 0
    assert await collector.count_future(NOW - timedelta(minutes=3)) == 3
    for number in range(1_000):
        collector.record_nowait(FlagEvaluationEvent(NOW + timedelta(seconds=number), "many", number, "STATIC"))
    assert await collector.count_future(NOW + timedelta(seconds=499)) == 500
