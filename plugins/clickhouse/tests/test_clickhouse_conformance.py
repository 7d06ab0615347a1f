"""The ClickHouse collector and its sink keep what every backend promises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import pytest
from flag_analytics.testing import CollectorContract
from flag_analytics_clickhouse import ClickHouseAnalyticsCollector, ClickHouseStore
from flag_analytics_clickhouse.rows import EVENT_COLUMNS, event_from

pytestmark = pytest.mark.clickhouse


class ClickHouseContract(CollectorContract):
    repeats_after_failures = False
    # The engine behind the front shares two processors with the tests.
    patience_seconds = 60.0
    max_seconds = 600.0


class TestClickHouseStore(ClickHouseContract):
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    def collector(self, engine: Any) -> ClickHouseStore:
        return engine.store(**self.options)

    @pytest.fixture
    def faults(self, engine: Any) -> Any:
        return {
            "the connection breaks before the write": partial(broken, engine, "before"),
            "the connection breaks after the write": partial(broken, engine, "after"),
            "the server has too many parts": partial(broken, engine, 252),
        }

    async def stored(self, collector: Any) -> list[Any]:
        return await _in_order_of_writing(collector)


@contextmanager
def broken(engine: Any, when: str | int) -> Iterator[None]:
    engine.cut(when=when, times=1_000)
    try:
        yield
    finally:
        engine.mend()


@pytest.mark.chaos
class TestWithEveryIdLookedUp(TestClickHouseStore):
    idempotent = True
    options: ClassVar = {"look_up_ids": True}


@pytest.mark.chaos
class TestClickHouseAnalyticsCollector(ClickHouseContract):
    @pytest.fixture
    async def collector(self, engine: Any) -> ClickHouseAnalyticsCollector:
        return await ClickHouseAnalyticsCollector.create(
            engine.url, database=engine.database, flush_interval_seconds=0.05
        )

    async def stored(self, collector: Any) -> list[Any]:
        return await _in_order_of_writing(collector.event_source)


async def _in_order_of_writing(store: ClickHouseStore) -> list[Any]:
    """A table has an order by time; ids are made in the order of recording, and so tell that of writing."""
    rows = await store.ask(f"SELECT {', '.join(EVENT_COLUMNS)} FROM {store.tables.events} ORDER BY toString(event_id)")
    return [event_from(row) for row in rows]
