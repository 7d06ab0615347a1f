"""The store keeps what it is given, and answers queries."""

from __future__ import annotations

import asyncio
import math
import traceback

import msgspec
import pytest
from flag_analytics.errors import BadBatch, CommitUnknown, DeliveryError, FatalConfiguration, SinkUnavailable
from flag_analytics.weighting import weight_of
from flag_analytics_clickhouse import ClickHouseOptions, ClickHouseStore
from flag_analytics_clickhouse.schema import BUCKET_RATIO

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
        f"SELECT flag_key, sum(events), uniqCombined64Merge(16)(users) FROM {store.tables.sketches} GROUP BY flag_key"
    )
    assert sketches == [("checkout", 100, 10)]


async def test_values_are_bound_to_a_query(engine):
    store = engine.store()
    asked = "a'b\\\t\nc\0d“é"
    assert await store.ask("SELECT {text:String}, {many:Array(String)}", {"text": asked, "many": [asked]}) == [
        (asked, [asked])
    ]


async def test_an_event_that_cannot_be_encoded_is_named_and_the_others_are_stored(engine):
    store = engine.store()
    good, bad = engine.events(1), msgspec.structs.replace(engine.events(1)[0], targeting_key="\ud800")
    with pytest.raises(BadBatch) as raised:
        await store.write(engine.batch([*good, bad]))
    assert [*raised.value.refused] == [bad.event_id]
    assert await store.ask(f"SELECT count() FROM {store.tables.events}") == [(0,)]
    await store.write(engine.batch(good))
    assert await store.ask(f"SELECT count() FROM {store.tables.events}") == [(1,)]


@pytest.mark.parametrize(("code", "kind"), [(516, FatalConfiguration), (252, SinkUnavailable), (210, CommitUnknown)])
async def test_what_a_server_answers_tells_what_became_of_a_batch(engine, code, kind):
    store = engine.store()
    await store.open()
    engine.cut(when=code)
    with pytest.raises(SinkUnavailable if kind is SinkUnavailable else kind) as raised:
        await store.write(engine.batch(engine.events(1)))
    assert type(raised.value) is kind
    assert raised.value.code == str(code)


async def test_a_server_that_does_not_answer_stores_nothing_and_says_so():
    store = ClickHouseStore(ClickHouseOptions(url="http://127.0.0.1:9"))
    for work in (store.open(), store.ping(), store.ask("SELECT 1")):
        with pytest.raises(SinkUnavailable, match="nothing listens there") as raised:
            await work
        assert raised.value.code == "ECONNREFUSED"
    assert not await store.can_store()
    await store.close()


async def test_tables_that_were_dropped_are_made_again(engine):
    store = engine.store()
    await store.write(engine.batch(engine.events(2)))
    await store.command(f"DROP DATABASE {engine.database} SYNC", settle=False)
    batch = engine.batch(engine.events(3))
    with pytest.raises(SinkUnavailable):
        await store.write(batch)
    await store.write(batch)
    assert await store.ask(f"SELECT count() FROM {store.tables.events}") == [(3,)]


async def test_tables_are_only_made_where_that_is_allowed(engine):
    store = engine.store(create_tables=False)
    assert not await store.can_store()
    with pytest.raises(SinkUnavailable, match="set create_tables"):
        await store.open()
    assert await engine.store().can_store()
    await engine.store().ask("SELECT 1")
    assert await store.can_store()
    await store.write(engine.batch(engine.events(3)))
    assert await store.ask(f"SELECT count() FROM {store.tables.events}") == [(3,)]


async def test_many_starts_at_once_make_one_schema(engine):
    stores = [engine.store() for _ in range(8)]
    await asyncio.gather(*(store.open() for store in stores))
    await asyncio.gather(*(store.write(engine.batch(engine.events(5, start=5 * n))) for n, store in enumerate(stores)))
    store = stores[0]
    assert await store.ask(f"SELECT count() FROM {store.tables.events}") == [(40,)]
    assert await store.ask(f"SELECT sum(events) FROM {store.tables.counts}") == [(40,)]
    assert await store.ask(f"SELECT sum(events) FROM {store.tables.sketches}") == [(40,)]


async def test_tables_of_a_later_release_are_refused(engine):
    store = engine.store()
    await store.open()
    await store.command(f"INSERT INTO {store.tables.state} SELECT 'schema', '99', {2**62}")
    later = engine.store()
    with pytest.raises(SinkUnavailable, match="version 99 and this release knows 1") as raised:
        await later.write(engine.batch(engine.events(1)))
    assert raised.value.code == "schema"


async def test_nothing_of_an_event_is_in_an_error_or_a_log(engine, caplog):
    caplog.set_level("DEBUG")
    store, canary = engine.store(), "kanarien" + "vogel"  # a traceback quotes this file
    events = engine.events(3, targeting_key=canary, flag_key=canary, value=canary)
    errors = []
    for when in ("before", "after", 27, 252):
        engine.cut(when=when)
        try:
            await store.write(engine.batch(events))
        except DeliveryError as error:
            errors.append("".join(traceback.format_exception(error)))
    engine.mend()
    for sql in ("SELECT throwIf({text:String} != '', {text:String})", "SELECT {text:Int64}"):
        with pytest.raises(SinkUnavailable) as raised:
            await store.ask(sql, {"text": canary})
        errors.append("".join(traceback.format_exception(raised.value)))
    assert len(errors) == 6
    assert canary not in "".join(errors)
    assert canary not in caplog.text


async def test_sampled_events_count_with_their_weight(engine):
    store = engine.store()
    await store.write(engine.batch([*engine.events(3, sample_rate=0.25), *engine.events(2, start=10, sample_rate=0.3)]))
    weight = 3 * weight_of(0.25) + 2 * weight_of(0.3)
    assert await store.ask(f"SELECT sum(weight) FROM {store.tables.counts}") == [(weight,)]
    assert await store.ask(f"SELECT sum(weight) FROM {store.tables.events}") == [(weight,)]


async def test_a_middle_of_a_bucket_is_at_most_one_percent_off(engine):
    store = engine.store()
    durations = [10.0**power * factor for power in range(-300, 300, 7) for factor in (1.0, 1.013, 3.7, 9.99)]
    await store.write(engine.batch(engine.event(n, evaluation_duration_ms=ms) for n, ms in enumerate(durations)))
    ((buckets,),) = await store.ask(f"SELECT sumMap(durations) FROM {store.tables.sketches}")
    found = sorted(bucket for bucket, weight in buckets.items() for _ in range(weight // 1_000_000))
    for bucket, wanted in zip(found, sorted(durations), strict=True):
        middle = 2 * math.exp(bucket * math.log(BUCKET_RATIO)) / (BUCKET_RATIO + 1)
        assert middle == pytest.approx(wanted, rel=0.0101)


@pytest.mark.parametrize("days", [1, 30])
async def test_users_are_within_one_percent_at_two_sigma_however_many_days_are_merged(engine, days):
    store = engine.store()
    errors = []
    for users in (1_000, 20_000, 150_000, 1_000_000):
        for salt in range(8):
            # As the view does it: a state for each day, merged; each user is seen on some of the days.
            ((found,),) = await store.ask(
                "SELECT uniqCombined64Merge(16)(users) FROM (SELECT uniqCombined64StateIf(16)("
                "concat({salt:String}, toString(intDiv(number, 2))), 1) AS users FROM numbers({seen:UInt64}) "
                "GROUP BY number * 7 % {days:UInt64})",
                {"salt": f"{salt}-", "seen": 2 * users, "days": days},
            )
            errors.append(found / users - 1)
    assert math.sqrt(sum(error**2 for error in errors) / len(errors)) <= 0.005
    assert max(map(abs, errors)) <= 0.015
