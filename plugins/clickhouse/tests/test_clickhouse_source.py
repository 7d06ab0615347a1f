"""Questions are answered by the server, events come back in their order, and no value gets into a statement."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flag_analytics.aggregator import AnalyticsAggregator
from flag_analytics.errors import SinkUnavailable
from flag_analytics.metrics import canonical_filter
from flag_analytics.registry import default_registry
from flag_analytics.sources import EventFilter, Grouping, Window
from flag_analytics.testing import EventSourceContract
from flag_analytics_clickhouse import ClickHouseAnalyticsCollector, ClickHouseStore
from flag_analytics_clickhouse.json_values import attribute_name
from flag_analytics_clickhouse.parameters import Parameters
from flag_analytics_clickhouse.queries import Query, summary_query
from flag_analytics_clickhouse.reading import EventStream

pytestmark = pytest.mark.clickhouse

START = datetime(2026, 11, 1, tzinfo=UTC)
ALL_TIME = Window(None, datetime.max.replace(tzinfo=UTC))
HOSTILE = ["'", '"', "\\", "';--", "{v0:String}", "%", "\n\t", "\x01", "é🎏", "`", "}", "?", "$1", "NULL"]


class TestClickHouseSource(EventSourceContract):
    patience_seconds = 60.0
    max_seconds = 600.0

    @pytest.fixture
    def source(self, engine: Any) -> ClickHouseStore:
        return engine.store()


async def test_a_collector_is_an_event_source(engine):
    async with await ClickHouseAnalyticsCollector.create(engine.url, database=engine.database) as collector:
        for number in range(10):
            collector.record_nowait(engine.event(number))
        assert await collector.flush()
        source = default_registry().event_source_for(collector)
        metrics = await AnalyticsAggregator(source).get_flag_metrics("checkout", None)
        assert (metrics.total_evaluations, metrics.unique_users) == (10, 10)
        assert len(await collector.get_events("checkout")) == 10


@pytest.mark.parametrize("text", HOSTILE)
async def test_any_text_is_found_by_itself_and_only_by_itself(engine, text):
    store = engine.store()
    fields = {"flag_key": text, "variant": text, "reason": text, "targeting_key": text, "provider_name": text}
    own = engine.event(
        **fields, flag_version=text, flag_set_id=text, context_attributes={text: text, "environment": text}
    )
    other = engine.event(1, flag_key=text, context_attributes={text: text + "x"})
    await store.write(engine.batch([own, other]))
    context = {text: text}
    filters: list[dict[str, Any]] = [
        {"context": context},
        {"environment": text},
        *({name: text} for name in ("provider_name", "variant", "reasons", "flag_version", "flag_set_id")),
    ]
    for wanted in filters:
        found = await store.get_events(where=EventFilter(**wanted))
        assert [event.event_id for event in found] == [own.event_id], wanted
    for by in ("variant", "reason", "flag_version", "environment", f"context.{text}"):
        summary = await store.summarise([text], ALL_TIME, percentiles=(50.0,), group_by=Grouping(by))
        assert sum(group.total for group in summary[text].groups.values()) == 2, by


def test_a_statement_is_the_same_whatever_the_values_are(engine):
    tables = engine.store().tables
    asked = [
        summary_query(
            tables,
            [text],
            ALL_TIME,
            frozenset({"users", "latency"}),
            (50.0,),
            canonical_filter(EventFilter(variant=text + "x", context={text + "x": [text, {"k" + text: text}]})),
            Grouping(f"context.{text}"),
        )
        for text in HOSTILE
    ]
    assert len({query.sql for query in asked}) == 1


def test_names_of_attributes_are_bound_too():
    parameters = Parameters()
    assert "secret" not in attribute_name(parameters, "secret")


async def test_an_error_of_a_question_has_no_content(engine):
    store = engine.store()
    await store.open()
    await store.ask(f"DROP TABLE {store.tables.events} SYNC")
    with pytest.raises(SinkUnavailable) as caught:
        await store.summarise(["canary-flag"], ALL_TIME, where=EventFilter(variant="canary-variant"))
    assert "canary" not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"


async def test_events_come_by_time_and_id_a_page_at_a_time(engine):
    store = engine.store()
    moments = [START + timedelta(minutes=37 * (number // 3)) for number in range(40)]
    hot = [START + timedelta(hours=3, microseconds=number % 5) for number in range(30)]
    events = [engine.event(number, timestamp=moment) for number, moment in enumerate([*moments, *hot])]
    await store.write(engine.batch(events))
    in_order = sorted(events, key=lambda event: (event.timestamp, event.event_id))
    asked: list[Query] = []

    async def ask(query: Query) -> Any:
        asked.append(query)
        return await store._ask(query)

    def stream(limit: int | None = None, window: Window | None = None, page: int = 7) -> EventStream:
        return EventStream(ask, store.tables, flag_key=None, window=window, where=None, limit=limit, page_events=page)

    def ids(found: Any) -> list[str]:
        return [event.event_id for event in found]

    for page in (1, 7, 100):
        assert ids(await stream(page=page)) == ids(in_order)
    for limit in (0, 1, 6, 7, 8, 69, 70, 71):
        assert ids(await stream(limit)) == ids(in_order[70 - min(limit, 70) :])
    window = Window(in_order[5].timestamp, in_order[-5].timestamp)
    within = [event for event in in_order if window.start <= event.timestamp <= window.end]
    assert ids(await stream(window=window)) == ids(within)
    asked.clear()
    assert await anext(aiter(stream()))
    assert len(asked) == 2, "the events of other hours were not asked for"


async def test_questions_come_from_any_thread_and_loop_at_once(engine):
    store = engine.store()
    await store.write(engine.batch(engine.events(20)))

    def ask() -> Any:
        return asyncio.run(store.list_flags(ALL_TIME))

    found = await asyncio.gather(*(asyncio.to_thread(ask) for _ in range(4)), store.list_flags(ALL_TIME))
    assert [[flag.count for flag in flags] for flags in found] == [[20]] * 5
