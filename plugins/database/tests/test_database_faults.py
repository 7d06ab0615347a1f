"""What becomes of events when the database is slow, silent, gone, locked, or loses an answer."""

from __future__ import annotations

import asyncio
import math
import os
import sqlite3
import subprocess
import sys
import textwrap
import time
from typing import Any

import pytest
from flag_analytics.reports import DeliveryOptions
from flag_analytics_database import DatabaseAnalyticsCollector

QUICK = DeliveryOptions(
    retry_initial_seconds=0.005,
    retry_max_seconds=0.05,
    attempt_timeout_seconds=2.0,
)
ANSWERS = {"postgresql": b"COPY 100", "mysql": b"Records: 100  Duplicates: 0"}
"""What the server says once a batch of a hundred new events is committed."""

# SQLite has no server to lose; everything else is the same on all.
POISON = {
    "sqlite": (
        "CREATE TRIGGER no_poison BEFORE INSERT ON analytics_events WHEN NEW.targeting_key = 'poison' "
        "BEGIN SELECT RAISE(ABORT, 'secret words of the driver'); END"
    ),
    "postgresql": "ALTER TABLE analytics_events ADD CHECK (targeting_key <> 'poison')",
    "mysql": "ALTER TABLE analytics_events ADD CHECK (targeting_key <> 'poison')",
}


def ledger(collector: DatabaseAnalyticsCollector) -> Any:
    return collector.stats().sinks["database"]


@pytest.mark.parametrize("cuts", [pytest.param(20, id="short"), pytest.param(100, id="long", marks=pytest.mark.chaos)])
async def test_lost_answers_store_each_event_once(server_database: Any, proxy: Any, make_event: Any, cuts: int) -> None:
    url = server_database.at("127.0.0.1", proxy.port)
    collector = await DatabaseAnalyticsCollector.create(url, flush_interval_seconds=60.0, delivery=QUICK)
    proxy.cut_before_answer = ANSWERS[server_database.family]
    for batch in range(cuts):
        proxy.cuts = 1
        for number in range(100):
            await collector.record(make_event(batch * 100 + number))
        assert await collector.flush()
        assert proxy.cuts == 0
    stats = ledger(collector)
    await collector.close()
    assert stats.commit_unknown == cuts
    assert stats.delivered == 100 * cuts
    assert stats.balanced()
    rows = await server_database.run("SELECT count(*), count(DISTINCT event_id) FROM analytics_events")
    assert rows == [(100 * cuts, 100 * cuts)]


async def test_a_database_that_is_down_at_start_delays_nothing_and_loses_nothing(
    server_database: Any, proxy: Any, make_event: Any
) -> None:
    proxy.mode = "refuse"
    started = time.monotonic()
    collector = await DatabaseAnalyticsCollector.create(
        server_database.at("127.0.0.1", proxy.port), flush_interval_seconds=0.01, delivery=QUICK
    )
    for number in range(250):
        await collector.record(make_event(number))
    assert time.monotonic() - started < 0.5
    assert not await collector.flush(0.3)
    assert not await collector.health_check()
    assert await collector.get_buffer_size() == 250
    proxy.mode = "pass"
    assert await collector.flush(5.0)
    assert await collector.health_check()
    await collector.close()
    assert await server_database.count() == 250


async def test_a_silent_database_holds_up_neither_recording_nor_close(
    server_database: Any, proxy: Any, make_event: Any
) -> None:
    proxy.mode = "swallow"
    collector = await DatabaseAnalyticsCollector.create(
        server_database.at("127.0.0.1", proxy.port), flush_interval_seconds=0.01, delivery=QUICK
    )
    for number in range(100):
        collector.record_nowait(make_event(number))
    started = time.monotonic()
    report = await collector.close(0.5)
    assert time.monotonic() - started < 1.5
    assert not report
    assert report.dropped == {"closed": 100}


async def test_a_database_that_falls_silent_is_given_up_on_in_time(
    server_database: Any, proxy: Any, make_event: Any
) -> None:
    url = server_database.at("127.0.0.1", proxy.port)
    collector = await DatabaseAnalyticsCollector.create(
        url, flush_interval_seconds=0.01, delivery=QUICK, statement_timeout_seconds=0.3, connect_timeout_seconds=1.0
    )
    await collector.record(make_event())
    assert await collector.flush()
    proxy.mode = "swallow"
    await collector.record(make_event(1))
    assert not await collector.flush(0.6)
    proxy.mode = "pass"
    proxy.cut_all()
    assert await collector.flush(5.0)
    await collector.close()
    assert await server_database.count() == 2


async def test_idle_connections_that_are_killed_cost_one_retry(
    server_database: Any, proxy: Any, make_event: Any
) -> None:
    collector = await DatabaseAnalyticsCollector.create(
        server_database.at("127.0.0.1", proxy.port), flush_interval_seconds=0.01, delivery=QUICK
    )
    await collector.record(make_event())
    assert await collector.flush()
    assert len(await collector.get_events()) == 1
    proxy.cut_all()
    await collector.record(make_event(1))
    assert await collector.flush()
    assert ledger(collector).retries == 1
    assert len(await collector.get_events()) == 2
    await collector.close()


async def test_a_table_that_is_gone_for_a_while_costs_no_event(database: Any, make_event: Any) -> None:
    collector = await DatabaseAnalyticsCollector.create(
        database.connection_string, flush_interval_seconds=0.01, delivery=QUICK
    )
    await collector.record(make_event())
    assert await collector.flush()
    await database.run("ALTER TABLE analytics_events RENAME TO elsewhere")
    for number in range(1, 1_000):
        await collector.record(make_event(number))
    assert not await collector.flush(0.5)
    stats = ledger(collector)
    assert stats.dead <= 100
    assert stats.retries > 1
    await database.run("ALTER TABLE elsewhere RENAME TO analytics_events")
    assert await collector.flush(10.0)
    assert ledger(collector).dead == 0
    await collector.close()
    assert await database.count() == 1_000


@pytest.mark.parametrize("poison", [1, 3, 10])
async def test_bad_events_are_found_and_all_others_stored(database: Any, make_event: Any, poison: int) -> None:
    await (operator := database.store()).upgrade()
    await operator.close()
    await database.run(POISON[database.family])
    collector = await DatabaseAnalyticsCollector.create(database.connection_string, batch_size=1_000, delivery=QUICK)
    bad = {(number * 97 + 13) % 1_000 for number in range(poison)}
    assert len(bad) == poison
    for number in range(1_000):
        await collector.record(make_event(number, targeting_key="poison" if number in bad else f"u{number}"))
    await collector.flush(60.0)
    stats = ledger(collector)
    await collector.close()
    assert stats.dead == poison
    assert stats.delivered == 1_000 - poison
    assert stats.attempts <= 2 * poison * math.ceil(math.log2(1_000)) + 1
    assert await database.count() == 1_000 - poison
    codes = await database.run("SELECT DISTINCT code, error FROM analytics_events_dead_letters")
    expected = {"sqlite": "SQLITE_CONSTRAINT_TRIGGER", "postgresql": "23514", "mysql": "mysql-4025"}
    assert [code for code, _ in codes] == [expected[database.family]]
    assert await database.count("analytics_events_dead_letters") == poison


async def test_an_event_too_wide_for_an_index_is_set_aside(postgresql: Any, make_event: Any) -> None:
    import random

    def wide(seed: int) -> str:
        return "".join(map(chr, random.Random(seed).choices(range(0x20000, 0x2A000), k=190)))

    collector = await DatabaseAnalyticsCollector.create(
        postgresql.connection_string, flush_interval_seconds=0.01, delivery=QUICK
    )
    for number in range(99):
        await collector.record(make_event(number))
    await collector.record(make_event(flag_key=wide(1), variant=wide(2), targeting_key=wide(3), reason=wide(4)))
    await collector.flush(5.0)
    stats = ledger(collector)
    await collector.close()
    assert (stats.delivered, stats.dead) == (99, 1)
    assert await postgresql.run("SELECT code FROM analytics_events_dead_letters") == [("54000",)]


async def test_a_sqlite_file_locked_by_another_writer_is_waited_for(sqlite: Any, make_event: Any) -> None:
    collector = await DatabaseAnalyticsCollector.create(
        sqlite.connection_string, flush_interval_seconds=0.01, delivery=QUICK, statement_timeout_seconds=0.2
    )
    await collector.record(make_event())
    assert await collector.flush()
    other = sqlite3.connect(sqlite.url.database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for number in range(1, 50):
        started = time.perf_counter()
        collector.record_nowait(make_event(number))
        assert time.perf_counter() - started < 0.1
    assert not await collector.flush(0.6)
    assert await collector.health_check()
    other.execute("ROLLBACK")
    other.close()
    assert await collector.flush(5.0)
    await collector.close()
    assert await sqlite.count() == 50


TWO_WRITERS = """
import asyncio, sys
from datetime import UTC, datetime
from flag_analytics import FlagEvaluationEvent
from flag_analytics_database import DatabaseAnalyticsCollector

async def main():
    collector = await DatabaseAnalyticsCollector.create(sys.argv[1], batch_size=200, flush_interval_seconds=0.01)
    for number in range(int(sys.argv[2])):
        await collector.record(FlagEvaluationEvent(datetime.now(UTC), "flag", number, "SPLIT"))
        if number % 100 == 0:
            await asyncio.sleep(0)
    report = await collector.close(30.0)
    assert report, report
asyncio.run(main())
"""


@pytest.mark.parametrize(
    "events", [pytest.param(3_000, id="short"), pytest.param(10_000, id="long", marks=pytest.mark.chaos)]
)
async def test_two_processes_may_write_one_sqlite_file(sqlite: Any, events: int) -> None:
    command = [sys.executable, "-c", TWO_WRITERS, sqlite.connection_string, str(events)]
    running = [await asyncio.create_subprocess_exec(*command) for _ in range(2)]
    assert [await asyncio.wait_for(process.wait(), 60) for process in running] == [0, 0]
    rows = await sqlite.run("SELECT count(*), count(DISTINCT event_id) FROM analytics_events")
    assert rows == [(2 * events, 2 * events)]


FORK = textwrap.dedent(
    """
    import asyncio, os, sys
    from datetime import UTC, datetime
    from flag_analytics import FlagEvaluationEvent
    from flag_analytics.sources import Window
    from flag_analytics_database import DatabaseAnalyticsCollector

    EVERYTHING = Window(None, datetime(3000, 1, 1, tzinfo=UTC))

    async def record(collector, flag):
        for number in range(200):
            await collector.record(FlagEvaluationEvent(datetime.now(UTC), flag, number, "SPLIT"))
        assert await collector.flush(20.0), collector.stats()

    async def ask(collector):
        return (await collector.event_source.summarise(["parent"], EVERYTHING))["parent"].total

    collector = asyncio.run(DatabaseAnalyticsCollector.create(sys.argv[1], flush_interval_seconds=0.01))
    asyncio.run(record(collector, "parent"))
    assert asyncio.run(ask(collector)) == 200
    children = []
    for child in range(3):
        pid = os.fork()
        if pid == 0:
            asyncio.run(record(collector, f"child-{child}"))
            assert asyncio.run(ask(collector)) == 200
            asyncio.run(collector.close())
            os._exit(0)
        children.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert codes == [0, 0, 0], codes
    asyncio.run(record(collector, "after"))
    assert asyncio.run(ask(collector)) == 200
    asyncio.run(collector.close())
    """
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
async def test_parent_and_children_each_have_connections_of_their_own(database: Any) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, database.connection_string],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    rows = await database.run("SELECT flag_key, count(*) FROM analytics_events GROUP BY flag_key ORDER BY flag_key")
    assert rows == [("after", 200), ("child-0", 200), ("child-1", 200), ("child-2", 200), ("parent", 200)]


FORK_BESIDE_A_WRITER = textwrap.dedent(
    """
    import asyncio, os, sys, threading
    from datetime import UTC, datetime
    from flag_analytics import FlagEvaluationEvent
    from flag_analytics_database import DatabaseAnalyticsCollector

    def event(flag):
        return FlagEvaluationEvent(datetime.now(UTC), flag, 1, "SPLIT")

    async def child_life(collector):
        await collector.record(event("child"))
        assert await collector.flush(5.0), collector.stats()
        assert len(await collector.get_events("child")) >= 1
        await collector.close()

    collector = asyncio.run(DatabaseAnalyticsCollector.create(sys.argv[1], 50, 0.001))
    stopped = threading.Event()
    sent = 0

    def record():
        global sent
        while not stopped.is_set():
            for _ in range(100):
                collector.record_nowait(event("parent"))
            sent += 100
            stopped.wait(0.005)

    def ask():
        async def ask_on():
            while not stopped.is_set():
                await collector.get_events("parent", 100)
        asyncio.run(ask_on())

    threads = [threading.Thread(target=record), threading.Thread(target=ask)]
    for thread in threads:
        thread.start()
    codes = []
    for _ in range(20):
        stopped.wait(0.03)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                asyncio.run(child_life(collector))
                code = 0
            finally:
                os._exit(code)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    stopped.set()
    for thread in threads:
        thread.join()
    report = asyncio.run(collector.close(20.0))
    assert codes == [0] * 20, codes
    assert report and report.stored == sent, (report, sent)
    print(sent)
    """
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
async def test_a_child_forked_beside_a_busy_writer_stores_its_events_in_the_same_file(sqlite: Any) -> None:
    """SQLite keeps a process's locks in its memory: a child that inherited the writer's would wait for ever."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK_BESIDE_A_WRITER, sqlite.connection_string],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    rows = await sqlite.run("SELECT flag_key, count(*) FROM analytics_events GROUP BY flag_key ORDER BY flag_key")
    assert rows == [("child", 20), ("parent", int(done.stdout))]
    assert await sqlite.run("PRAGMA integrity_check") == [("ok",)]


async def test_a_fork_does_not_wait_long_for_a_slow_question(sqlite: Any, make_event: Any, batch_of: Any) -> None:
    store = sqlite.store()
    await store.write(batch_of(make_event()))
    async with store._gate:
        started = time.monotonic()
        store._gate.before_fork(started + 1.0)
        store._gate.after_fork_in_parent()
        assert 0.9 < time.monotonic() - started < 1.5
    assert len(await store.get_events()) == 1
