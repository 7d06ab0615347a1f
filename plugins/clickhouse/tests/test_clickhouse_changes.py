"""What operators and people ask for: events forgotten with their part in the rollups, old ones removed without it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from flag_analytics.reports import DeadLetter

pytestmark = pytest.mark.clickhouse


async def counted(store):
    """Return what the counts say, and what the events say."""
    columns = "flag_key, hour, variant, reason, environment"
    sums = "sum(events) AS events, sum(weight), sum(errors), sum(error_weight)"
    rolled = await store.ask(
        f"SELECT {columns}, {sums} FROM {store.tables.counts} GROUP BY {columns} HAVING events != 0 ORDER BY ALL"
    )
    made = store.tables.select_counts(store.tables.events)
    raw = await store.ask(f"SELECT {columns}, {sums} FROM ({made}) GROUP BY {columns} ORDER BY ALL")
    return rolled, raw


async def sketched(store):
    """Return what the sketches say, and what they would say if they were made now."""
    merged = (
        "SELECT flag_key, day, sum(events) AS events, uniqCombined64Merge(16)(users), sumMap(durations) FROM {} "
        "GROUP BY flag_key, day HAVING events != 0 ORDER BY flag_key, day"
    )
    made = f"({store.tables.select_sketches(store.tables.events)})"
    return await store.ask(merged.format(store.tables.sketches)), await store.ask(merged.format(made))


async def test_a_persons_events_go_with_their_part_in_the_rollups(engine, monkeypatch):
    monkeypatch.setattr("flag_analytics_clickhouse.changing.PAGE_ROWS", 7)
    store = engine.store()
    hostile = "o'hara\" -- \\ \t é"
    events = [
        engine.event(
            number,
            targeting_key=["anna", "bert", hostile][number % 3],
            flag_key=["a", "b'\\"][number % 2],
            sample_rate=0.5,
            error_type="TYPE_MISMATCH" if number % 5 == 0 else None,
            timestamp=engine.event().timestamp + timedelta(hours=number),
        )
        for number in range(60)
    ]
    await store.write(engine.batch(events))
    letters = [
        DeadLetter("clickhouse", event, "BadBatch", "27", "b", 1.0) for event in engine.events(1, targeting_key="anna")
    ]
    await store.write_dead_letters(letters)
    assert await store.forget(["anna", hostile, ""]) == 41
    assert await store.forget(["anna", hostile]) == 0
    assert await store.ask(f"SELECT targeting_key, count() FROM {store.tables.events} GROUP BY ALL") == [("bert", 20)]
    assert await store.read_dead_letters() == []
    rolled, raw = await counted(store)
    assert rolled == raw
    kept, made = await sketched(store)
    assert kept == made


async def test_forgetting_that_was_interrupted_goes_on(engine):
    store = engine.store()
    await store.write(engine.batch(engine.events(30)))
    for cut in ("INSERT INTO", "DELETE WHERE"):
        engine.cut(when="after", match=cut)
        with pytest.raises(Exception, match="does not answer"):
            await store.forget(["user-1"])
        engine.mend()
    await store.forget(["user-1"])
    rolled, raw = await counted(store)
    assert rolled == raw
    kept, made = await sketched(store)
    assert kept == made
    assert await store.ask(f"SELECT count() FROM {store.tables.events}") == [(27,)]


async def test_pruning_removes_events_and_keeps_what_the_rollups_know(engine):
    store = engine.store()
    events = engine.events(48, targeting_key="anna", flag_key="a")
    await store.write(
        engine.batch([engine.event(n, timestamp=engine.event().timestamp + timedelta(hours=n)) for n in range(48)])
    )
    await store.write_dead_letters([DeadLetter("clickhouse", events[0], "BadBatch", "27", "b", 1.0)])
    before = engine.event().timestamp + timedelta(hours=30)
    rolled, _ = await counted(store)
    assert await store.count_older(before) == 31
    assert await store.prune(before) == 31
    assert await store.prune(before) == 0
    assert await store.ask(f"SELECT count() FROM {store.tables.events}") == [(18,)]
    assert (await counted(store))[0] == rolled
    # A day that is no longer whole keeps its sketch but for the person's events and durations.
    await store.forget(["user-1"])
    ((events, users),) = await store.ask(
        f"SELECT sum(events), uniqCombined64Merge(16)(users) FROM {store.tables.sketches}"
    )
    assert (events, users) == (48 - 2, 10)


async def test_dead_letters_are_kept_once(engine):
    store = engine.store()
    letters = [
        DeadLetter("clickhouse", event, "BadBatch", "27", "b", 1.0 + n) for n, event in enumerate(engine.events(3))
    ]
    await store.write_dead_letters(letters)
    await store.write_dead_letters(letters)
    found = await store.read_dead_letters()
    assert [letter.event.event_id for letter in found] == [letter.event.event_id for letter in letters]
    assert [letter.event.thaw() for letter in found] == [letter.event.thaw() for letter in letters]
    assert [letter.event.event_id for letter in await store.read_dead_letters(1)] == [letters[-1].event.event_id]


async def test_retention_is_what_the_options_say_at_each_start(engine):
    async def text(store, suffix=""):
        asked = {"database": store.tables.database, "name": store.tables.name + suffix}
        ((found,),) = await store.ask(
            "SELECT create_table_query FROM system.tables WHERE database = {database:String} AND name = {name:String}",
            asked,
        )
        return found

    store = engine.store()
    assert "TTL" not in await text(store)
    store = engine.store(retention_days=30, rollup_retention_days=400)
    assert "toIntervalDay(30)" in await text(store)
    assert "toIntervalDay(400)" in await text(store, "_counts")
    store = engine.store(retention_days=36_500)
    assert "toIntervalDay(36500)" in await text(store)
    assert "TTL" not in await text(store, "_sketches")
    store = engine.store()
    assert "TTL" not in await text(store)


async def test_what_is_older_than_the_retention_goes(engine):
    store = engine.store(retention_days=30)
    moments = [-40, -31, -29, 0]
    now = engine.now()
    events = [engine.event(n, timestamp=now + timedelta(days=days)) for n, days in enumerate(moments)]
    await store.write(engine.batch(events))
    await store.command(f"OPTIMIZE TABLE {store.tables.local('')} FINAL")
    assert await store.ask(f"SELECT count() FROM {store.tables.events}") == [(2,)]
    assert await store.ask(f"SELECT sum(events) FROM {store.tables.counts}") == [(4,)]
