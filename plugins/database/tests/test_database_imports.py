"""An import has a name, under which its events, and only those, can be removed again."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flag_analytics.errors import BadBatch
from flag_analytics.reports import DeliveryOptions
from flag_analytics_database import DatabaseAnalyticsCollector, DatabaseStore, imports

QUICK = DeliveryOptions(retry_initial_seconds=0.005, retry_max_seconds=0.05)


async def imported(database: Any, name: str, batch: Any, **settings: Any) -> DatabaseStore:
    store = database.store(**settings)
    await store.start_import(name)
    await store.write(batch)
    return store


@pytest.mark.parametrize("partition_by", [None, "month"])
async def test_an_import_is_listed_and_undone_alone(
    database: Any, make_event: Any, batch_of: Any, partition_by: str | None
) -> None:
    events = [make_event(number) for number in range(30)]
    live = database.store(partition_by=partition_by)
    await live.write(batch_of(*events[:10]))
    await imported(database, "a", batch_of(*events[5:20]), partition_by=partition_by)
    store = await imported(database, "b", batch_of(*events[15:]), partition_by=partition_by)
    await live.write(batch_of(*events))
    a, b = await store.list_imports()
    assert (a.name, a.events, a.first_event, a.last_event) == ("a", 10, events[10].timestamp, events[19].timestamp)
    assert (b.name, b.events, b.first_event, b.last_event) == ("b", 10, events[20].timestamp, events[29].timestamp)
    assert a.started_at <= b.started_at <= datetime.now(UTC)
    assert await store.undo_import("a") == 10
    assert await store.get_events() == events[:10] + events[20:]
    assert await store.undo_import("a") is None
    assert [each.name for each in await store.list_imports()] == ["b"]


async def test_an_import_of_the_same_events_brings_none(database: Any, make_event: Any, batch_of: Any) -> None:
    batch = batch_of(*(make_event(number) for number in range(20)))
    store = await imported(database, "a", batch)
    await store.write(batch)
    await imported(database, "a", batch)
    await imported(database, "b", batch)
    assert [(each.name, each.events) for each in await store.list_imports()] == [("a", 20), ("b", 0)]
    assert await store.undo_import("b") == 0
    assert await database.count() == 20


@pytest.mark.parametrize(
    "changes",
    [
        {"variant": "other"}, {"targeting_key": None}, {"value": 1}, {"value": True}, {"flag_key": "other"},
        {"context_attributes": {"plan": "free"}}, {"evaluation_duration_ms": 7.0}, {"error_type": "GENERAL"},
        {"kind": "exposure"}, {"sample_rate": 0.5}, {"timestamp": datetime(2026, 1, 1, tzinfo=UTC)},
    ],
)  # fmt: skip
async def test_an_id_that_is_stored_with_other_content_is_refused_and_the_others_stored(
    database: Any, make_event: Any, batch_of: Any, changes: dict[str, Any]
) -> None:
    first = make_event(0, value=1.0)
    store = await imported(database, "a", batch_of(first))
    changed = make_event(0, **({"value": 1.0} | changes), event_id=first.event_id)
    with pytest.raises(BadBatch) as caught:
        await imported(database, "b", batch_of(make_event(1), changed, make_event(2)))
    assert caught.value.refused == {first.event_id: "other_content"}
    assert len(caught.value.stored) == 2
    assert await database.count() == 3
    assert first in await store.get_events()


async def test_members_of_a_context_have_no_order(database: Any, make_event: Any, batch_of: Any) -> None:
    one = make_event(context_attributes={"a": {"b": 1, "c": 2}, "d": 3})
    other = make_event(context_attributes={"d": 3, "a": {"c": 2, "b": 1}}, event_id=one.event_id)
    await imported(database, "a", batch_of(one))
    await imported(database, "b", batch_of(other))
    assert await database.count() == 1


async def test_an_id_twice_in_one_import_is_stored_once_or_refused(
    database: Any, make_event: Any, batch_of: Any
) -> None:
    one = make_event()
    await imported(database, "a", batch_of(one, one))
    other = make_event(variant="x")
    with pytest.raises(BadBatch):
        await imported(database, "b", batch_of(other, make_event(variant="y", event_id=other.event_id)))
    assert await database.count() == 2


async def test_an_import_is_replaced_by_undoing_it_first(database: Any, make_event: Any, batch_of: Any) -> None:
    first = make_event(0)
    store = await imported(database, "a", batch_of(first))
    assert await store.undo_import("a") == 1
    corrected = make_event(0, variant="right", event_id=first.event_id)
    await imported(database, "a", batch_of(corrected))
    assert await store.get_events() == [corrected]
    assert [each.events for each in await store.list_imports()] == [1]


async def test_a_large_import_is_removed_in_pages_and_can_be_cut_short(
    database: Any, make_event: Any, batch_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "PAGE_ROWS", 100)
    same_time = [make_event(0, flag_key=f"f{number}") for number in range(350)]
    store = await imported(database, "a", batch_of(*same_time))
    await database.store().write(batch_of(*(make_event(1) for _ in range(5))))
    _, after = await store._questions.run(lambda connection: store._remove_page("a", None, connection), settle=True)
    assert after is not None
    assert [each.events for each in await store.list_imports()] == [250]
    assert await store.undo_import("a") == 250
    assert await database.count() == 5
    assert await store.list_imports() == []


async def test_imports_at_once_store_each_event_once(database: Any, make_event: Any, batch_of: Any) -> None:
    events = [make_event(number) for number in range(200)]

    async def one(name: str, start: int) -> None:
        store = database.store(connect_timeout_seconds=20.0)
        await store.start_import(name)
        for number in range(start, start + 100, 20):
            await store.write(batch_of(*events[number : number + 40]))

    await database.store().open()
    await asyncio.gather(one("a", 0), one("a", 40), one("b", 60), one("b", 80))
    found = await database.store().list_imports()
    assert sorted(each.name for each in found) == ["a", "b"]
    assert await database.count() == sum(each.events for each in found) == 200


async def test_a_collector_imports_through_its_delivery(database: Any, make_event: Any) -> None:
    first = make_event(0)
    async with await DatabaseAnalyticsCollector.create(database.connection_string, delivery=QUICK) as collector:
        await collector.start_import("first")
        for event in (first, make_event(1)):
            await collector.record(event)
        assert await collector.flush(20.0)
        await collector.start_import("second")
        await collector.record(make_event(0, variant="other", event_id=first.event_id))
        for number in range(2, 50):
            await collector.record(make_event(number))
        await collector.flush(20.0)
        ledger = collector.stats().sinks["database"]
        assert (ledger.delivered, ledger.dead, ledger.pending) == (50, 1, 0)
        assert {each.name: each.events for each in await collector.list_imports()} == {"first": 2, "second": 48}
        (letter,) = await collector.event_source.read_dead_letters()
        assert letter.code == "other_content"
        assert await collector.undo_import("second") == 48
    assert await database.count() == 2


async def test_the_rows_of_a_batch_after_an_import_belong_to_none(
    database: Any, make_event: Any, batch_of: Any
) -> None:
    """Also on the same connection: MySQL's is in another mode for imports."""
    store = await imported(database, "a", batch_of(make_event(0)))
    store._import_id = None
    await store.write(batch_of(make_event(1)))
    await store.write(batch_of(make_event(1 + 1), make_event(3, timestamp=datetime.now(UTC) - timedelta(days=400))))
    assert await database.run("SELECT count(*) FROM analytics_events WHERE import_id IS NULL") == [(3,)]
    assert await store.undo_import("a") == 1


@pytest.mark.parametrize("name", ["Importé 🎏.csv", "x" * 500, "a'; DROP TABLE b", ""])
async def test_any_text_is_a_name(database: Any, make_event: Any, batch_of: Any, name: str) -> None:
    store = await imported(database, name, batch_of(make_event()))
    assert len(await store.list_imports()) == 1
    assert await store.undo_import(name) == 1
