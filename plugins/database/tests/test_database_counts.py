"""The table of counts says what the events say, whatever is written, repeated or removed."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flag_analytics.events import EvaluationReason
from flag_analytics_database import DatabaseOptions, DatabaseStore, rebuilding, write_connection
from flag_analytics_database.count_statements import cell_from, cells_query
from flag_analytics_database.counting import CELL_COLUMNS, DAY_TOTALS, HOUR, count, with_day_totals
from flag_analytics_database.rollup_state import EVER, NEVER
from flag_analytics_database.writers.any_driver import CoreWriter
from sqlalchemy import select

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
ENVIRONMENTS: list[Any] = [
    {}, {"environment": None}, {"environment": ""}, {"environment": "production"}, {"environment": "Production"},
    {"environment": 5}, {"environment": 5.0}, {"environment": True}, {"environment": ["a", {"b": 1}]},
    {"environment": "a\"b\\c'd é 🎏\n"}, {"environment": "x" * 190}, {"environment": "x" * 191},
    {"environment": "é" * 96}, {"Environment": "other"}, {"nested": {"environment": "inner"}, "environment": "outer "},
    {"environment": "__none__"}, {"environment": 1e300}, {"environment": 2**60}, {"environment": -0.5e-9},
]  # fmt: skip


async def cells(store: DatabaseStore) -> list[Any]:
    """Return the table of counts."""
    columns = [store.tables.counts.c[name] for name in CELL_COLUMNS]
    return sorted(tuple(row) for row in await store._ask(select(*columns)))


async def by_hour(store: DatabaseStore) -> list[Any]:
    """Return the table of counts without the totals of days."""
    return [cell for cell in await cells(store) if cell[0] < DAY_TOTALS // 2]


async def recounted(store: DatabaseStore) -> list[Any]:
    """Return what the events themselves say."""
    return with_day_totals(map(cell_from, await store._ask(cells_query(store.tables, store.family))))


def figures(found: Sequence[Any]) -> list[Any]:
    """Return cells without the bounds of their times."""
    return [cell[:9] for cell in found]


async def balanced(store: DatabaseStore) -> bool:
    return await cells(store) == await recounted(store)


def hostile(make_event: Any) -> list[Any]:
    """Return events of all sorts."""
    events = [make_event(number, context_attributes=context) for number, context in enumerate(ENVIRONMENTS)]
    times = [
        datetime(1, 1, 1, tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), NOW,
        NOW.replace(minute=0, second=0, microsecond=0), NOW.replace(minute=59, second=59, microsecond=999_999),
    ]  # fmt: skip
    events += [make_event(timestamp=at) for at in times]
    events += [make_event(variant=variant) for variant in (None, "", "default", "a", "A", "a ", "é", "v" * 190)]
    events += [make_event(flag_key=key) for key in ("checkout", "Checkout", "checkout ", "f" * 190, "", "🎏")]
    events += [make_event(reason=reason) for reason in EvaluationReason]
    events += [make_event(error_type=kind) for kind in (None, "", "GENERAL")]
    events += [make_event(reason=EvaluationReason.ERROR, error_type=kind) for kind in (None, "GENERAL")]
    events += [make_event(sample_rate=rate, error_type="X") for rate in (1.0, 0.5, 1 / 3, 0.07, 1e-6, 1e-9)]
    events += [make_event(kind=kind) for kind in ("evaluation", "exposure", "outcome")]
    return events


async def test_every_event_counts_in_its_cell_and_sql_says_the_same(
    database: Any, make_event: Any, batch_of: Any
) -> None:
    store = database.store(rollups=True)
    batch = batch_of(*hostile(make_event))
    await store.write(batch)
    assert await cells(store) == count(batch.events)
    assert await recounted(store) == count(batch.events)
    hours = await by_hour(store)
    assert sum(cell[5] for cell in hours) == len(batch.events) - 1
    assert all(cell[0] % HOUR == 0 and 0 <= cell[9] - cell[0] < HOUR for cell in hours)


async def test_nothing_is_counted_where_it_was_not_asked_for(database: Any, make_event: Any, batch_of: Any) -> None:
    store = database.store()
    await store.write(batch_of(make_event()))
    assert await cells(store) == []
    assert await database.count("analytics_events_rollup_state") == 0


async def test_a_table_that_was_made_for_it_is_counted_for_all_time(
    database: Any, make_event: Any, batch_of: Any
) -> None:
    await (store := database.store(rollups=True)).write(batch_of(make_event()))
    assert dict(await database.run("SELECT name, value FROM analytics_events_rollup_state"))["counted_since"] == EVER
    assert await balanced(store)


async def test_a_writer_counts_in_a_table_where_another_one_does(database: Any, make_event: Any, batch_of: Any) -> None:
    running = database.store()
    await running.write(batch_of(make_event(0)))
    await (first := database.store(rollups=True)).write(batch_of(make_event(1)))
    state = dict(await database.run("SELECT name, value FROM analytics_events_rollup_state"))
    assert state["counted_since"] == NEVER
    await database.store().write(batch_of(make_event(2)))
    running._setup.follow_at = 0.0
    await running.write(batch_of(make_event(3)))
    assert sum(cell[5] for cell in await by_hour(first)) == 3


@pytest.mark.parametrize("partition_by", [None, "month"])
async def test_a_batch_that_is_repeated_in_other_company_counts_once(
    database: Any, make_event: Any, batch_of: Any, partition_by: str | None
) -> None:
    store = database.store(rollups=True, partition_by=partition_by)
    events = [make_event(number, variant="abc"[number % 3]) for number in range(60)]
    for start, end in ((0, 20), (0, 20), (10, 30), (25, 26), (29, 60), (0, 60)):
        await store.write(batch_of(*events[start:end]))
    await store.write(batch_of(*events[:3], *events[:3], make_event(60), events[5]))
    one = make_event(61)
    await store.write(batch_of(one, one))
    assert sum(cell[5] for cell in await by_hour(store)) == await database.count() == 62
    assert await balanced(store)


async def test_a_batch_of_many_rows_and_cells_counts_once(database: Any, make_event: Any, batch_of: Any) -> None:
    store = database.store(rollups=True)
    events = [make_event(number, flag_key=f"flag-{number}") for number in range(2_100)]
    await store.write(batch_of(*events))
    await store.write(batch_of(*events, make_event(5_000)))
    assert await balanced(store)
    assert len(await by_hour(store)) == 2_101


async def test_an_import_counts_and_its_undoing_takes_its_part_out_again(
    database: Any, make_event: Any, batch_of: Any
) -> None:
    store = database.store(rollups=True)
    kept = [make_event(number) for number in range(10)]
    await store.write(batch_of(*kept))
    before = await cells(store)
    importing = database.store(rollups=True)
    await importing.start_import("a")
    others = [make_event(timestamp=NOW - timedelta(hours=number), flag_key="old") for number in range(30)]
    await importing.write(batch_of(*kept, *others))
    await importing.write(batch_of(*others))
    assert sum(cell[5] for cell in await by_hour(store)) == 40
    assert await balanced(store)
    assert await importing.undo_import("a") == 30
    assert await cells(store) == before


async def test_a_person_that_is_forgotten_is_taken_out_of_the_counts(
    database: Any, make_event: Any, batch_of: Any
) -> None:
    store = database.store(rollups=True)
    events = hostile(make_event)
    await store.write(
        batch_of(*events, *(make_event(targeting_key="they", context_attributes=c) for c in ENVIRONMENTS))
    )
    await store.write(batch_of(make_event(targeting_key="they", flag_key="theirs", sample_rate=0.25)))
    assert await store.forget(["they"]) == len(ENVIRONMENTS) + 1
    assert figures(await cells(store)) == figures(await recounted(store))
    assert not any(cell[1] == "theirs" for cell in await cells(store))


async def test_pruning_keeps_the_counts(database: Any, make_event: Any, batch_of: Any) -> None:
    store = database.store(rollups=True)
    await store.write(batch_of(*(make_event(timestamp=NOW - timedelta(days=number)) for number in range(10))))
    before = await cells(store)
    assert await store.prune(NOW - timedelta(days=4)) == 5
    assert await cells(store) == before


@pytest.mark.parametrize("writers", [8])
async def test_writers_of_the_same_events_at_once_count_each_once(
    database: Any, make_event: Any, batch_of: Any, writers: int
) -> None:
    events = [make_event(number, flag_key=f"flag-{number % 7}") for number in range(300)]
    await database.store(rollups=True).open()

    async def deliver(worker: int) -> None:
        store = database.store(connect_timeout_seconds=30.0, statement_timeout_seconds=30.0)
        for number in range(12):
            start = (worker * 37 + number * 23) % 250
            some = events[start : start + 50]
            await store.write(batch_of(*(reversed(some) if worker % 2 else some)))

    await asyncio.gather(*(deliver(worker) for worker in range(writers)))
    store = database.store()
    assert await balanced(store)
    assert sum(cell[5] for cell in await by_hour(store)) == await database.count()


async def test_a_constraint_of_the_users_own_is_no_reason_to_try_for_ever(
    server_database: Any, make_event: Any, batch_of: Any
) -> None:
    from flag_analytics.errors import BadBatch

    store = server_database.store(rollups=True)
    await store.open()
    await server_database.run("CREATE UNIQUE INDEX once ON analytics_events (targeting_key)")
    await store.write(batch_of(make_event(1)))
    with pytest.raises(BadBatch):
        await store.write(batch_of(make_event(1), make_event(2)))
    await store.write(batch_of(make_event(2)))
    assert await balanced(store)


async def state(database: Any) -> dict[str, int]:
    return dict(await database.run("SELECT name, value FROM analytics_events_rollup_state"))


@pytest.mark.parametrize("partition_by", [None, "month"])
async def test_events_that_were_stored_before_are_counted_by_a_rebuild_in_pages(
    database: Any, make_event: Any, batch_of: Any, monkeypatch: pytest.MonkeyPatch, partition_by: str | None
) -> None:
    monkeypatch.setattr(rebuilding, "PAGE_ROWS", 7)
    store = database.store(partition_by=partition_by)
    await store.write(batch_of(*hostile(make_event)))
    await store.write(batch_of(*(make_event(timestamp=NOW - timedelta(minutes=17 * number)) for number in range(90))))
    told: list[Any] = []
    corrected = await store.rebuild_counts(tell=told.append)
    assert corrected == len(await by_hour(store)) == sum(page.corrected for page in told)
    assert await balanced(store)
    assert len(told) > 5
    assert [page.since for page in told] == sorted({page.since for page in told}, reverse=True)
    assert (await state(database))["counted_since"] == EVER
    assert await store.rebuild_counts() == 0


async def test_a_rebuild_since_a_time_leaves_the_hours_before_alone_and_makes_the_others_right(
    database: Any, make_event: Any, batch_of: Any
) -> None:
    store = database.store(rollups=True)
    await store.write(batch_of(*(make_event(timestamp=NOW - timedelta(hours=number)) for number in range(10))))
    await database.run("UPDATE analytics_events_counts SET events = events + 5, weight = 3")
    assert await store.rebuild_counts(NOW - timedelta(hours=4)) == 5
    wrong = [cell[0] for cell in await by_hour(store) if cell[5] != 1]
    assert len(wrong) == 5
    assert max(wrong) < (NOW - timedelta(hours=4)).timestamp() * 1e6
    assert await store.rebuild_counts() == 5
    assert await balanced(store)


async def test_a_rebuild_that_was_interrupted_goes_on_where_it_was(
    database: Any, make_event: Any, batch_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "PAGE_ROWS", 3)
    store = database.store()
    await store.write(batch_of(*(make_event(timestamp=NOW - timedelta(hours=number)) for number in range(20))))
    pages: list[Any] = []

    def stop_soon(page: Any) -> None:
        pages.append(page)
        if len(pages) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await store.rebuild_counts(tell=stop_soon)
    assert (await state(database))["counted_since"] == pages[-1].since
    assert await store.rebuild_counts(tell=pages.append) == 20 - sum(page.corrected for page in pages[:3])
    assert len({page.since for page in pages}) == len(pages)
    assert await balanced(store)


async def test_a_rebuild_of_the_first_minute_does_not_settle_what_other_writers_left_out(
    database: Any, make_event: Any, batch_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "PAGE_ROWS", 3)
    unaware, store = database.store(), database.store(rollups=True)
    await unaware.write(batch_of(*(make_event(timestamp=NOW - timedelta(hours=number)) for number in range(20))))
    await store.open()

    def page(settles: bool) -> Any:
        return store._questions.run(
            lambda connection: rebuilding.rebuild_page(connection, store.tables, store.family, settles=settles)
        )

    assert not (await page(settles=False)).done
    await unaware.write(batch_of(make_event(timestamp=NOW)))  # it has not looked since then
    assert not (await page(settles=True)).done
    assert not (await page(settles=False)).done  # both go on together
    while not (await page(settles=True)).done:
        pass
    assert await balanced(store)
    assert await state(database) == {"counted_since": EVER}


async def test_rebuilds_at_once_beside_writing_and_erasing_end_right(
    database: Any, make_event: Any, batch_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "PAGE_ROWS", 20)

    def some(kind: str, hours: int) -> Any:
        return batch_of(
            *(make_event(timestamp=NOW - timedelta(hours=n % hours), targeting_key=kind) for n in range(40))
        )

    patient = {"connect_timeout_seconds": 30.0, "statement_timeout_seconds": 30.0}
    await database.store().write(some("before", 24))
    await (counting := database.store(rollups=True, **patient)).write(some("kept", 12))

    async def rebuild() -> None:
        await database.store(**patient).rebuild_counts()

    async def write(kind: str) -> None:
        store = database.store(**patient)
        for _ in range(5):
            await store.write(some(kind, 24))

    async def forget() -> None:
        store = database.store(**patient)
        for _ in range(3):
            await store.forget(["before", "gone"])

    await asyncio.gather(rebuild(), rebuild(), rebuild(), write("gone"), write("kept"), forget())
    await counting.forget(["gone"])
    assert figures(await cells(counting)) == figures(await recounted(counting))
    assert (await state(database))["counted_since"] == EVER


async def test_a_writer_completes_the_counts_of_a_table_with_events_by_itself(
    database: Any, make_event: Any, batch_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_connection, "SETTLE_SECONDS", 0.01)
    monkeypatch.setattr(rebuilding, "PAGE_ROWS", 10)
    await database.store().write(batch_of(*(make_event(timestamp=NOW - timedelta(hours=n)) for n in range(50))))
    store = database.store(rollups=True)
    await store.write(batch_of(make_event()))
    if (completing := store._writing._completing) is not None:
        await completing
    assert await state(database) == {"counted_since": EVER}
    assert await balanced(store)


async def test_nothing_is_pruned_that_is_not_counted_yet(database: Any, make_event: Any, batch_of: Any) -> None:
    await database.store().write(batch_of(*(make_event(timestamp=NOW - timedelta(days=n)) for n in range(10))))
    store = database.store(rollups=True, retention_days=1)
    await store.write(batch_of(make_event(timestamp=datetime.now(UTC))))
    assert await database.count() == 11
    before = NOW.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=4)
    assert await store.prune(NOW - timedelta(days=4)) == 5
    assert sum(cell[5] for cell in await by_hour(store)) == 11
    assert (await state(database))["pruned_before"] == int(before.timestamp()) * 1_000_000


async def test_a_rebuild_keeps_the_counts_of_what_was_pruned(database: Any, make_event: Any, batch_of: Any) -> None:
    store = database.store(rollups=True)
    await store.write(batch_of(*(make_event(timestamp=NOW - timedelta(hours=n / 2)) for n in range(40))))
    before = await cells(store)
    assert await store.prune(NOW - timedelta(hours=6)) > 0
    assert await store.rebuild_counts() == 0
    assert await cells(store) == before
    late = make_event(timestamp=NOW - timedelta(hours=15))
    await store.write(batch_of(late))
    assert await store.rebuild_counts() == 0
    assert sum(cell[5] for cell in await by_hour(store)) == 41


async def test_old_counts_are_removed_by_whole_days_where_that_is_wanted(
    database: Any, make_event: Any, batch_of: Any
) -> None:
    store = database.store(rollups=True, rollup_retention_days=5, prune_interval_seconds=0.0001)
    now = datetime.now(UTC)
    events = [make_event(timestamp=now - timedelta(days=number)) for number in range(10)]
    await store.write(batch_of(*events))
    for _ in range(10):
        await store.write(batch_of(events[0]))
    kept = await cells(store)
    assert 5 <= len(await by_hour(store)) <= 6
    assert kept[0][0] >= (now - timedelta(days=6)).timestamp() * 1e6
    assert await database.count() == 10
    assert await store.rebuild_counts() == 0
    assert await cells(store) == kept


async def test_rollups_are_dropped_and_made_again(database: Any, make_event: Any, batch_of: Any) -> None:
    store = database.store(rollups=True)
    await store.write(batch_of(*hostile(make_event)))
    before = await cells(store)
    await store.drop_rollups()
    assert (await cells(store), await state(database)) == ([], {})
    await database.store().write(batch_of(make_event(timestamp=NOW + timedelta(days=1))))
    assert await cells(store) == []
    await store.rebuild_counts()
    assert set(before) < set(await cells(store))
    assert await balanced(store)


async def test_a_write_that_is_given_up_anywhere_leaves_no_lock_behind(
    sqlite: Any, make_event: Any, batch_of: Any
) -> None:
    store = sqlite.store(rollups=True)
    known = [make_event(number) for number in range(10)]
    await store.write(batch_of(*known))
    other = sqlite3.connect(sqlite.url.database, isolation_level=None, timeout=1.0)
    for ticks in range(60):
        writing = asyncio.ensure_future(store.write(batch_of(*known, make_event(100 + ticks))))
        for _ in range(ticks):
            await asyncio.sleep(0.0001)
        writing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writing
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
    other.close()
    assert await balanced(store)


async def test_other_drivers_of_the_servers_count_as_exactly(
    server_database: Any, make_event: Any, batch_of: Any
) -> None:
    stores = [server_database.store(rollups=True) for _ in range(4)]
    for store in stores:
        await store.open()
        store._writer = CoreWriter(store.tables, store.family)
    events = [make_event(number, flag_key=f"flag-{number % 3}") for number in range(60)]
    await asyncio.gather(*(store.write(batch_of(*events[10 * n : 10 * n + 30])) for n, store in enumerate(stores)))
    await stores[0].start_import("a")
    await stores[0].write(batch_of(*events, events[0]))
    assert await balanced(stores[0])
    assert sum(cell[5] for cell in await by_hour(stores[0])) == await server_database.count() == 60


async def test_a_database_in_memory_is_counted_and_rebuilt(make_event: Any, batch_of: Any) -> None:
    store = DatabaseStore(DatabaseOptions(connection_string="sqlite+aiosqlite://", rollups=True))
    await store.write(batch_of(*(make_event(number) for number in range(30))))
    await store.write(batch_of(*(make_event(number) for number in range(30))))
    assert await store.rebuild_counts() == 0
    assert await balanced(store)
    await store.close()


async def test_processes_at_once_count_each_event_once(database: Any) -> None:
    await database.store(rollups=True).open()
    command = [sys.executable, "-c", WRITER, database.connection_string]
    running = [await asyncio.create_subprocess_exec(*command) for _ in range(2)]
    assert [await asyncio.wait_for(process.wait(), 120) for process in running] == [0, 0]
    store = database.store()
    assert await balanced(store)
    assert sum(cell[5] for cell in await by_hour(store)) == await database.count() == 600


WRITER = """
import asyncio, sys
from datetime import UTC, datetime
from uuid import UUID
from flag_analytics import FlagEvaluationEvent
from flag_analytics_database import DatabaseAnalyticsCollector

async def main():
    collector = await DatabaseAnalyticsCollector.create(sys.argv[1], batch_size=50, flush_interval_seconds=0.01)
    for number in range(600):
        at = datetime(2026, 3, 1, number % 3, tzinfo=UTC)
        event = FlagEvaluationEvent(at, f"flag-{number % 5}", number, "SPLIT", event_id=str(UUID(int=number + 1)))
        await collector.record(event)
        if number % 40 == 0:
            await asyncio.sleep(0.001)
    report = await collector.close(60.0)
    assert report, report
asyncio.run(main())
"""
