"""Every database answers as the arithmetic over events in memory does: one law, all questions, random events."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import attrs
import pytest
from flag_analytics.protocols import Batch
from flag_analytics.sources import Window
from flag_analytics.testing.parity import FEW, SourceParityContract, check_every_answer, every_question
from flag_analytics_database import DatabaseStore
from hypothesis import settings


class TestDatabaseParity(SourceParityContract):
    @pytest.fixture
    def source(self, store: DatabaseStore) -> DatabaseStore:
        return store

    async def replace_all(self, source: DatabaseStore, batch: Batch) -> None:
        await _replace_all(source, batch)


@pytest.mark.chaos
@pytest.mark.timeout(14_400)
@every_question
@settings(FEW, max_examples=3_400)
async def test_every_answer_to_ten_thousand_questions_is_that_of_events_in_memory(
    store: DatabaseStore, **asked: Any
) -> None:
    async def replace_all(batch: Batch) -> None:
        await _replace_all(store, batch)

    await check_every_answer(store, replace_all, **asked)


async def _replace_all(store: DatabaseStore, batch: Batch) -> None:
    await store.open()
    await store._writing._connection.execute(store.tables.events.delete())  # type: ignore[union-attr]
    await store._writing._connection.commit()  # type: ignore[union-attr]
    if batch.events:
        await store.write(batch)


async def test_one_statement_answers_about_many_flags_after_a_look_at_what_was_removed(
    database: Any, make_event: Any, batch_of: Any
) -> None:
    store = database.store()
    keys = [f"flag-{number}" for number in range(200)]
    await store.write(batch_of(*(make_event(number, flag_key=key) for number, key in enumerate(keys))))
    asked: list[Any] = []
    raw = attrs.evolve(store.source.raw, ask=_counting(store.source.raw.ask, asked))
    source = attrs.evolve(store.source, raw=raw)
    window = Window(None, datetime(2027, 1, 1, tzinfo=UTC))
    assert len(await source.summarise(keys, window, percentiles=(50.0, 90.0, 99.0))) == 200
    assert len(asked) == 2
    await source.summarise(keys[:1], window, percentiles=(50.0,))
    assert len(asked) == 4
    await store.close()


def _counting(ask: Any, asked: list[Any]) -> Any:
    async def counted(query: Any) -> Any:
        asked.append(query)
        return await ask(query)

    return counted
