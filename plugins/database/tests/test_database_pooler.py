"""Behind a pooler in transaction mode, no state of a session is relied on or left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from flag_analytics import AnalyticsAggregator
from flag_analytics.errors import SinkUnavailable
from flag_analytics.reports import DeliveryOptions
from flag_analytics_database import DatabaseAnalyticsCollector
from flag_analytics_database.errors import delivery_error, unavailable
from sqlalchemy import text
from sqlalchemy.engine import URL

from .local_servers import pgbouncer

pytestmark = pytest.mark.server

PREPARED = text("SELECT count(*) FROM pg_prepared_statements")
QUICK = DeliveryOptions(retry_initial_seconds=0.005, retry_max_seconds=0.05)


@pytest.fixture
def pooled(postgresql: Any) -> Iterator[URL]:
    """Give the URL of the test's database through pgbouncer."""
    with pgbouncer(postgresql.url) as port:
        yield postgresql.url.set(host="127.0.0.1", port=port)


def text_of(url: URL, parameters: str = "") -> str:
    return url.render_as_string(hide_password=False) + parameters


async def locks_and_statements(postgresql: Any) -> tuple[int, int]:
    """Return the advisory locks that any connection holds, and the sessions that pgbouncer keeps."""
    ((locks,),) = await postgresql.run("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
    ((sessions,),) = await postgresql.run(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    return int(locks), int(sessions)


async def start_and_ask(url: str, number: int, make_event: Any, **settings: Any) -> int:
    collector = await DatabaseAnalyticsCollector.create(
        url, flush_interval_seconds=0.05, delivery=QUICK, connect_timeout_seconds=30.0, **settings
    )
    try:
        await collector.record(make_event(number, flag_key=f"flag-{number}"))
        assert await collector.flush(30.0), collector.health()
        aggregator = AnalyticsAggregator(collector)
        answers = await asyncio.gather(
            *(aggregator.get_flag_metrics(f"flag-{number}", window_seconds=1e9) for _ in range(5))
        )
        return sum(answer.total_evaluations for answer in answers)
    finally:
        await collector.close()


async def test_twenty_starts_at_once_leave_no_lock_and_get_every_answer(
    postgresql: Any, pooled: URL, make_event: Any
) -> None:
    url = text_of(pooled, "?pgbouncer=true&connection_limit=1")
    answers = await asyncio.gather(*(start_and_ask(url, number, make_event) for number in range(20)))
    assert answers == [5] * 20
    locks, sessions = await locks_and_statements(postgresql)
    assert (locks, sessions > 0) == (0, True)  # the pooler's sessions are still there
    assert await postgresql.count() == 20


async def test_a_start_without_the_pooler_waits_for_no_lock_that_it_kept(
    postgresql: Any, pooled: URL, make_event: Any
) -> None:
    await start_and_ask(text_of(pooled), 1, make_event, pooler=True)
    async with asyncio.timeout(20.0):
        assert await start_and_ask(postgresql.connection_string, 2, make_event, table="another") == 5


async def test_events_and_questions_pass_a_pooler_that_changes_sessions(
    postgresql: Any, pooled: URL, make_event: Any, batch_of: Any
) -> None:
    settings = {"connection_string": text_of(pooled), "pooler": True}
    stores = [postgresql.store(**settings) for _ in range(3)]
    events = [make_event(number) for number in range(60)]
    for turn in range(10):
        writes = (
            store.write(batch_of(*events[index::3][: 2 * turn + 2], events[0])) for index, store in enumerate(stores)
        )
        await asyncio.gather(*writes, *(store.get_events() for store in stores))
    assert await stores[0].get_events() == events
    # Nothing stays prepared on the pooler's sessions.
    lines = await asyncio.gather(*(store._ask(PREPARED) for store in stores for _ in range(4)))
    assert {line[0][0] for line in lines} == {0}


@pytest.mark.parametrize("partition_by", [None, "month"])
async def test_tables_are_migrated_through_a_pooler(postgresql: Any, pooled: URL, partition_by: str | None) -> None:
    store = postgresql.store(connection_string=text_of(pooled, "?pgbouncer=true"), partition_by=partition_by)
    await store.upgrade()
    assert await postgresql.count() == 0
    assert (await locks_and_statements(postgresql))[0] == 0


@pytest.mark.parametrize("state", ["26000", "42P05"])
def test_a_statement_that_a_pooler_lost_names_the_option(state: str) -> None:
    class LostError(Exception):
        sqlstate = state

    for error in (unavailable(LostError()), delivery_error(LostError())):
        assert isinstance(error, SinkUnavailable)
        assert "set pooler = true" in str(error)
