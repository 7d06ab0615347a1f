"""Old events go: in small batches, by partitions where there are some, and nothing else with them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from flag_analytics.reports import DeadLetter
from flag_analytics.sources import EXACT, Accuracy, Window
from flag_analytics_database import DatabaseAnalyticsCollector, retention
from flag_analytics_database.partitions import create_partitions

NOW = datetime.now(UTC)


async def test_pruning_removes_what_is_older_in_batches(
    database: Any, make_event: Any, batch_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH_ROWS", 10)
    store = database.store()
    old = [make_event(timestamp=NOW - timedelta(days=40 + number)) for number in range(25)]
    limit = NOW - timedelta(days=30)
    kept = [make_event(timestamp=limit), make_event(timestamp=NOW)]
    await store.write(batch_of(*old, *kept))
    letters = [
        DeadLetter("db", batch_of(event).events[0], "BadBatch", "22000", "b", event.timestamp.timestamp())
        for event in (old[0], kept[1])
    ]
    await store.write_dead_letters(letters)
    assert await store.prune(limit) == 26
    assert await store.get_events() == kept
    assert await database.count("analytics_events_dead_letters") == 1
    assert await store.prune(limit) == 0
    await store.close()


async def test_without_rollups_an_answer_says_since_when_events_are_kept(
    database: Any, make_event: Any, batch_of: Any
) -> None:
    store = database.store()
    times = [NOW - timedelta(days=days) for days in (40, 1)]
    await store.write(batch_of(*(make_event(timestamp=at, targeting_key="u") for at in times)))
    limit = NOW - timedelta(days=30)
    everything, kept = Window(None, NOW), Window(limit, NOW)
    assert (await store.summarise(["checkout"], everything))["checkout"].accuracy == EXACT
    assert await store.prune(limit) == 1
    found = (await store.summarise(["checkout"], everything))["checkout"]
    assert (found.total, found.accuracy) == (1, Accuracy(complete_since=limit))
    assert (await store.get_exposures("checkout", everything)).accuracy.complete_since == limit
    assert (await store.list_flags(everything))[0].accuracy.complete_since == limit
    assert (await store.summarise(["checkout"], kept))["checkout"].accuracy == EXACT
    await store.close()


async def test_a_collector_prunes_between_its_batches(database: Any, make_event: Any) -> None:
    collector = await DatabaseAnalyticsCollector.create(
        database.connection_string, flush_interval_seconds=0.01, retention_days=30, prune_interval_seconds=0.001
    )
    for _number in range(20):
        await collector.record(make_event(timestamp=NOW - timedelta(days=31)))
    assert await collector.flush()
    for _number in range(3):
        await collector.record(make_event(timestamp=NOW))
        assert await collector.flush()
    assert await database.count() == 3
    assert collector.event_source.pruned == 20
    assert collector.stats().sinks["database"].balanced()
    await collector.close()


async def test_a_failing_prune_fails_no_batch(database: Any, make_event: Any, batch_of: Any) -> None:
    store = database.store(retention_days=1)
    await store.open()
    await database.run("ALTER TABLE analytics_events_dead_letters RENAME TO gone")
    await store.write(batch_of(make_event()))
    await store.write(batch_of(make_event(timestamp=NOW)))
    assert len(await store.get_events()) >= 1
    await store.close()


@pytest.mark.parametrize("period", ["day", "month"])
async def test_partitions_take_events_in_and_are_dropped_whole(
    postgresql: Any, make_event: Any, batch_of: Any, period: str
) -> None:
    store = postgresql.store(partition_by=period, retention_days=None)
    await store.open()
    connection = store._writing._connection
    await connection.run_sync(create_partitions, store.tables, period, date(2025, 1, 5))
    await connection.commit()
    past = [make_event(timestamp=datetime(2025, 1, 6, 12, tzinfo=UTC)) for _ in range(5)]
    long_ago = make_event(timestamp=datetime(2001, 1, 1, tzinfo=UTC))
    future = make_event(timestamp=datetime(2200, 1, 1, tzinfo=UTC))
    batch = batch_of(*past, long_ago, future, make_event(timestamp=NOW))
    await store.write(batch)
    await store.write(batch)
    assert len(await store.get_events()) == 8
    names = await _partition_names(postgresql)
    inside = "analytics_events_p20250106" if period == "day" else "analytics_events_p20250101"
    assert inside in names
    assert await postgresql.count(inside) == 5
    assert await postgresql.count("analytics_events_rest") == 2
    assert await store.prune(datetime(2025, 6, 1, tzinfo=UTC)) == 6
    assert inside not in await _partition_names(postgresql)
    assert len(await store.get_events()) == 2
    summary = await store.summarise(["checkout"], _window(), percentiles=(50.0,))
    assert summary["checkout"].total == 2
    await store.close()


def _window() -> Any:
    from flag_analytics.sources import Window

    return Window(None, datetime(3000, 1, 1, tzinfo=UTC))


async def _partition_names(database: Any) -> set[str]:
    rows = await database.run(
        "SELECT c.relname FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid "
        "WHERE inhparent = 'analytics_events'::regclass"
    )
    return {name for (name,) in rows}


async def test_partitions_are_made_again_without_harm(postgresql: Any, make_event: Any, batch_of: Any) -> None:
    store = postgresql.store(partition_by="month")
    await store.write(batch_of(make_event(timestamp=NOW)))
    before = await _partition_names(postgresql)
    assert len(before) == 4
    store._housekeeping._partitions_at = 0.0
    await store.write(batch_of(make_event(timestamp=NOW)))
    assert await _partition_names(postgresql) == before
    # A period that has events in the default partition keeps them there.
    await store.write(batch_of(make_event(timestamp=datetime(2001, 1, 1, tzinfo=UTC))))
    connection = store._writing._connection
    assert await connection.run_sync(create_partitions, store.tables, "month", date(2001, 1, 1)) == 2
    await connection.commit()
    assert len(await store.get_events()) == 3
    await store.close()
