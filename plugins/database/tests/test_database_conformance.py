"""The database collector and its sink keep what every backend promises."""

from __future__ import annotations

from typing import Any

import pytest
from flag_analytics.testing import CollectorContract
from flag_analytics_database import DatabaseAnalyticsCollector, DatabaseStore


class DatabaseContract(CollectorContract):
    idempotent = True
    # The servers are shared with other tests, and the machine may be busy.
    patience_seconds = 60.0
    max_seconds = 600.0


class TestDatabaseStore(DatabaseContract):
    @pytest.fixture
    def collector(self, database: Any) -> DatabaseStore:
        return database.store()

    async def stored(self, collector: Any) -> list[Any]:
        return await _in_order_of_writing(collector)


class TestDatabaseAnalyticsCollector(DatabaseContract):
    @pytest.fixture
    async def collector(self, database: Any) -> DatabaseAnalyticsCollector:
        return await DatabaseAnalyticsCollector.create(database.connection_string, flush_interval_seconds=0.05)

    async def stored(self, collector: Any) -> list[Any]:
        return await _in_order_of_writing(collector.event_source)


async def _in_order_of_writing(store: DatabaseStore) -> list[Any]:
    """A table has an order by time; ids are made in the order of recording, and so tell that of writing."""
    events = [event async for event in store.get_events()]
    return sorted(events, key=lambda event: event.event_id)
