"""The store keeps what it is given, and answers queries."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.clickhouse


async def test_a_batch_is_stored_with_its_counts_and_sketches(engine):
    store = engine.store()
    await store.write(engine.batch(engine.events(100)))
    assert await store.ask(f"SELECT count() FROM {store.tables.events}") == [(100,)]
    counts = await store.ask(
        f"SELECT variant, environment, sum(events), sum(weight) FROM {store.tables.counts} GROUP BY ALL ORDER BY ALL"
    )
    assert counts == [("off", "production", 50, 50_000_000), ("on", "production", 50, 50_000_000)]
    sketches = await store.ask(
        f"SELECT flag_key, sum(events), uniqCombined64Merge(17)(users) FROM {store.tables.sketches} GROUP BY flag_key"
    )
    assert sketches == [("checkout", 100, 10)]


async def test_values_are_bound_to_a_query(engine):
    store = engine.store()
    asked = "a'b\\\t\nc\0d“é"
    assert await store.ask("SELECT {text:String}, {many:Array(String)}", {"text": asked, "many": [asked]}) == [
        (asked, [asked])
    ]
