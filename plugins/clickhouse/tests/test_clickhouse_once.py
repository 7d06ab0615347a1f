"""Each event is stored once, in its table and in the rollups, whatever happens to answers."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from flag_analytics.errors import CommitUnknown, DeliveryError, SinkUnavailable

pytestmark = pytest.mark.clickhouse


async def figures(store):
    """Return the events, the ids, and what both rollups count."""
    ((rows, ids),) = await store.ask(f"SELECT count(), uniqExact(event_id) FROM {store.tables.events}")
    ((counted,),) = await store.ask(f"SELECT sum(events) FROM {store.tables.counts}")
    ((sketched,),) = await store.ask(f"SELECT sum(events) FROM {store.tables.sketches}")
    return rows, ids, counted, sketched


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_batch_whose_answer_was_lost_is_stored_once(engine, when):
    store = engine.store()
    await store.open()
    batch = engine.batch(engine.events(50))
    engine.cut(when=when, times=2)
    for _ in range(2):
        with pytest.raises(CommitUnknown):
            await store.write(batch)
    await store.write(batch)
    assert await figures(store) == (50, 50, 50, 50)


async def test_a_batch_that_was_stored_long_ago_is_recognised_by_its_ids(engine):
    store = engine.store(deduplication_window=10)
    await store.open()
    batch = engine.batch(engine.events(50))
    engine.cut(when="after")
    with pytest.raises(CommitUnknown):
        await store.write(batch)
    for number in range(20):
        await store.write(engine.batch(engine.events(1, start=100 + number)))
    await store.write(batch)
    assert await figures(store) == (70, 70, 70, 70)


async def test_the_window_is_really_overrun_in_these_tests(engine):
    store = engine.store(deduplication_window=10)
    await store.open()
    batch = engine.batch(engine.events(50))
    engine.cut(when="after")
    with pytest.raises(CommitUnknown):
        await store.write(batch)
    for number in range(20):
        await store.write(engine.batch(engine.events(1, start=100 + number)))
    store._writer._remembers = always  # what trusts the token
    await store.write(batch)
    assert await figures(store) == (120, 70, 120, 120)


async def always(*_):
    return True


async def test_a_view_that_failed_gets_what_it_lacks_when_the_batch_comes_again(engine):
    store = engine.store()
    await store.open()
    batch = engine.batch(engine.events(50))
    broken = store.tables.local("_counts")
    await store.command(f"ALTER TABLE {broken} ADD CONSTRAINT broken CHECK events > 1000")
    with pytest.raises(DeliveryError):
        await store.write(batch)
    await store.command(f"ALTER TABLE {broken} DROP CONSTRAINT broken")
    await store.write(batch)
    assert await figures(store) == (50, 50, 50, 50)


async def test_a_batch_that_is_cut_into_others_is_stored_once(engine):
    store = engine.store()
    await store.open()
    whole = engine.batch(engine.events(50), id="whole")
    engine.cut(when="after")
    with pytest.raises(CommitUnknown):
        await store.write(whole)
    await store.write(engine.batch(whole.events[:20], id="whole.-20"))
    await store.write(engine.batch(whole.events[20:], id="whole.20-"))
    assert await figures(store) == (50, 50, 50, 50)


async def test_events_of_a_process_that_ended_are_stored_once(engine):
    first = engine.store()
    await first.open()
    events = engine.events(50)
    engine.cut(when="after")
    with pytest.raises(CommitUnknown):
        await first.write(engine.batch(events[:30]))
    await first.close()
    second = engine.store()
    await second.write(engine.batch(events))
    assert await figures(second) == (50, 50, 50, 50)


async def test_an_insert_of_an_earlier_process_is_waited_for(engine):
    store = engine.store()
    await store.open()
    old = [msgspec.structs.replace(event, received_at=0.0) for event in engine.events(1)]
    real, store._writing.rows = store._writing.rows, under_way(store._writing.rows)
    with pytest.raises(SinkUnavailable) as raised:
        await store.write(engine.batch(old))
    assert raised.value.code == "under_way"
    store._writing.rows = real
    await store.write(engine.batch(old))
    assert await figures(store) == (1, 1, 1, 1)


async def test_a_user_who_may_not_read_system_tables_stores_each_event_once_too(engine):
    store = engine.store()
    await store.open()
    batch = engine.batch(engine.events(50))
    engine.cut(when="after")
    with pytest.raises(CommitUnknown):
        await store.write(batch)
    engine.cut(when=497, match="system.parts")
    await store.write(batch)
    assert await figures(store) == (50, 50, 50, 50)


def under_way(rows):
    async def asked(sql, parameters=None, settings=None):
        return [(1,)] if "system.processes" in sql else await rows(sql, parameters, settings)

    return asked


async def test_a_batch_is_one_block_in_each_month(engine):
    store = engine.store()
    moments = [datetime(2026, month, 1, tzinfo=UTC) - timedelta(microseconds=1) for month in (3, 4)]
    moments += [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC), datetime(1969, 7, 20, tzinfo=UTC)]
    await store.write(engine.batch([engine.event(number, timestamp=moment) for number, moment in enumerate(moments)]))
    parts = await store.ask(
        "SELECT partition, sum(rows) FROM system.parts WHERE database = {database:String} AND table = {table:String} "
        "AND active GROUP BY partition ORDER BY partition",
        {"database": store.tables.database, "table": store.tables.name},
    )
    assert parts == [("0", 3), ("202602", 1), ("202603", 1)]
    assert await figures(store) == (5, 5, 5, 5)


async def test_an_event_that_comes_twice_is_stored_once_where_ids_are_looked_up(engine):
    store = engine.store(look_up_ids=True)
    events = engine.events(30)
    await store.write(engine.batch(events[:20]))
    await store.write(engine.batch([*events, *events]))
    assert await figures(store) == (30, 30, 30, 30)


async def run_schedule(engine, seed, steps):
    """Write under faults: cut answers, refusals, batches cut into others, new processes, and an overrun window."""
    chance = random.Random(seed)
    store = engine.store(deduplication_window=6)
    await store.open()
    waiting, made, faults = [], 0, 0
    for step in range(steps):
        if chance.random() < 0.6:
            size = chance.randrange(1, 40)
            spread = timedelta(days=chance.choice([0, 0, 0, 40]))
            events = [
                engine.event(made + n, timestamp=engine.event(made + n).timestamp + spread * n) for n in range(size)
            ]
            waiting.append(engine.batch(events, id=f"batch-{step}"))
            made += size
        if chance.random() < 0.5:
            engine.cut(when=chance.choice(["before", "after", "after", 252]), match="INSERT INTO", times=1)
        if waiting and chance.random() < 0.2:
            whole = waiting.pop(chance.randrange(len(waiting)))
            middle = len(whole) // 2
            waiting += [
                engine.batch(some, id=f"{whole.id}.{n}")
                for n, some in enumerate((whole.events[:middle], whole.events[middle:]))
                if some
            ]
        if chance.random() < 0.1:
            await store.close()
            store = engine.store(deduplication_window=6)
            everything = [event for batch in waiting for event in batch]
            waiting = [engine.batch(everything, id=f"recovered-{step}")] if everything else []
        for batch in chance.sample(waiting, min(len(waiting), 2)):
            try:
                await store.write(batch)
            except DeliveryError:
                faults += 1
            else:
                waiting.remove(batch)
    engine.mend()
    for batch in waiting:
        await store.write(batch)
    assert await figures(store) == (made, made, made, made)
    return faults


@pytest.mark.parametrize("seed", range(2))
async def test_a_short_schedule_of_faults_loses_and_doubles_nothing(engine, seed):
    assert await run_schedule(engine, seed, 30) > 3


@pytest.mark.chaos
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("seed", range(100, 120))
async def test_a_long_schedule_of_faults_loses_and_doubles_nothing(engine, seed):
    assert await run_schedule(engine, seed, 300) > 30
