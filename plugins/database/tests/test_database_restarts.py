"""A server that restarts, or ends the connections it finds idle: the next flush succeeds after one retry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flag_analytics.reports import DeliveryOptions
from flag_analytics_database import DatabaseAnalyticsCollector

from .local_servers import Cluster, postgresql_cluster

QUICK = DeliveryOptions(retry_initial_seconds=0.005, retry_max_seconds=0.05)
END_OTHER_CONNECTIONS = {
    "postgresql": (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ),
    "mysql": "SELECT concat('KILL ', id) FROM information_schema.processlist WHERE db = database() "
    "AND id <> connection_id()",
}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with postgresql_cluster() as made:
        yield made


async def store_one_more(collector: DatabaseAnalyticsCollector, event: Any) -> Any:
    """Return the sink's ledger after one more event was recorded and flushed."""
    await collector.record(event)
    assert await collector.flush(20.0)
    return collector.stats().sinks["database"]


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restarted_server_costs_the_next_flush_one_retry(cluster: Cluster, make_event: Any, mode: str) -> None:
    collector = await DatabaseAnalyticsCollector.create(
        cluster.connection_string, flush_interval_seconds=60.0, delivery=QUICK
    )
    assert (await store_one_more(collector, make_event())).retries == 0
    assert len(await collector.get_events()) == 1
    for turn in (1, 2):
        cluster.control("restart", mode)
        ledger = await store_one_more(collector, make_event(turn))
        assert ledger.retries == turn
        assert len(await collector.get_events()) == turn + 1
    assert (ledger.delivered, ledger.dead, ledger.dropped) == (3, 0, {})
    assert (await collector.close()).complete


async def test_connections_that_the_server_ends_cost_the_next_flush_one_retry(
    server_database: Any, make_event: Any
) -> None:
    collector = await DatabaseAnalyticsCollector.create(
        server_database.connection_string, flush_interval_seconds=60.0, delivery=QUICK
    )
    assert (await store_one_more(collector, make_event())).retries == 0
    for turn in (1, 2):
        ended = await server_database.run(END_OTHER_CONNECTIONS[server_database.family])
        assert ended
        for (statement,) in ended if server_database.family == "mysql" else []:
            await server_database.run(statement)
        ledger = await store_one_more(collector, make_event(turn))
        assert ledger.retries == turn
        assert len(await collector.get_events()) == turn + 1
    assert (ledger.delivered, ledger.dead, ledger.dropped) == (3, 0, {})
    assert (await collector.close()).complete
