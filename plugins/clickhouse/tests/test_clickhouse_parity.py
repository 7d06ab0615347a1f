"""ClickHouse answers as the arithmetic over events in memory does: one law, all questions, random events."""

from __future__ import annotations

from typing import Any

import pytest
from flag_analytics.protocols import Batch
from flag_analytics.testing.parity import FEW, SourceParityContract, check_every_answer, every_question
from flag_analytics_clickhouse import ClickHouseStore
from hypothesis import settings

pytestmark = pytest.mark.clickhouse


@pytest.fixture
def store(engine: Any) -> ClickHouseStore:
    return engine.store()


@pytest.mark.timeout(900)
class TestClickHouseParity(SourceParityContract):
    # The engine shares two processors with the tests.
    patience_seconds = 600.0
    max_seconds = 1_800.0

    @pytest.fixture
    def source(self, store: ClickHouseStore) -> ClickHouseStore:
        return store

    async def replace_all(self, source: ClickHouseStore, batch: Batch) -> None:
        await _replace_all(source, batch)


@pytest.mark.chaos
@pytest.mark.timeout(14_400)
@every_question
@settings(FEW, max_examples=3_400)
async def test_every_answer_to_ten_thousand_questions_is_that_of_events_in_memory(
    store: ClickHouseStore, **asked: Any
) -> None:
    async def replace_all(batch: Batch) -> None:
        await _replace_all(store, batch)

    await check_every_answer(store, replace_all, **asked)


async def _replace_all(store: ClickHouseStore, batch: Batch) -> None:
    await store.open()
    await store.ask(f"TRUNCATE TABLE {store.tables.events}")
    if batch.events:
        await store.write(batch)
