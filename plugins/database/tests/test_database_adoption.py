"""A table made by litestar-flags is taken over: every row, under its own id, whatever interrupts it."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flag_analytics.errors import SinkUnavailable
from flag_analytics.reports import DeliveryOptions
from flag_analytics_database import DatabaseAnalyticsCollector, adoption
from flag_analytics_database.counting import DAY_TOTALS
from flag_analytics_database.setup import State
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

# As advanced-alchemy's metadata creates it.
CREATE = """
CREATE TABLE analytics_events (
    id {id} NOT NULL,
    timestamp {time} NOT NULL,
    flag_key VARCHAR(255) NOT NULL,
    value JSON,
    reason VARCHAR(100) NOT NULL,
    variant VARCHAR(255),
    targeting_key VARCHAR(255),
    context_attributes JSON NOT NULL,
    evaluation_duration_ms {float},
    sa_orm_sentinel INTEGER,
    created_at {time} NOT NULL,
    updated_at {time} NOT NULL,
    CONSTRAINT pk_analytics_events PRIMARY KEY (id)
)
"""
INDEXES = {
    "ix_analytics_events_flag_timestamp": "flag_key, timestamp",
    "ix_analytics_events_flag_key": "flag_key",
    "ix_analytics_events_targeting_timestamp": "targeting_key, timestamp",
    "ix_analytics_events_timestamp": "timestamp",
    "ix_analytics_events_targeting_key": "targeting_key",
}
TYPES = {
    "sqlite": {"id": "BINARY(16)", "time": "DATETIME", "float": "FLOAT"},
    "postgresql": {"id": "UUID", "time": "TIMESTAMP WITH TIME ZONE", "float": "FLOAT"},
    "mysql": {"id": "BINARY(16)", "time": "DATETIME", "float": "FLOAT"},
}
START = datetime(2025, 6, 1, 8, 30, tzinfo=UTC)
VALUES = [True, None, {"a": 1, "b": [None]}, 2, "x", 1.5, [1], {"value": 1, "other": 2}]


def _id(number: int) -> uuid.UUID:
    return uuid.UUID(int=(number + 1) * 0x9E3779B97F4A7C15F39CC0605CEDC834 % 2**128)


def _stored(number: int) -> str | None:
    """Return the JSON that litestar-flags keeps: null, a dict as it is, anything else wrapped."""
    value = VALUES[number % len(VALUES)]
    if value is None:
        return "null" if number % 2 else None
    return json.dumps(value if isinstance(value, dict) else {"value": value})


async def _make_table(database: Any, rows: int) -> None:
    family = database.family
    time = (lambda moment: moment) if family == "postgresql" else (lambda moment: moment.strftime("%Y-%m-%d %H:%M:%S"))
    key = (_id) if family == "postgresql" else (lambda number: _id(number).bytes)
    engine = create_async_engine(database.url)
    async with engine.begin() as connection:
        await connection.execute(text(CREATE.format(**TYPES[family])))
        for name, columns in INDEXES.items():
            await connection.execute(text(f"CREATE INDEX {name} ON analytics_events ({columns})"))
        await connection.execute(
            text(
                "INSERT INTO analytics_events VALUES "
                "(:id, :at, :flag, :value, :reason, :variant, :user, :context, :duration, :sentinel, :now, :now)"
            ),
            [
                {
                    "id": key(number),
                    "at": time(START + timedelta(seconds=number)),
                    "flag": f"flag_{number % 3}" if number else "k" * 255,
                    "value": _stored(number),
                    "reason": ["SPLIT", "ERROR"][number % 2],
                    "variant": [None, "on"][number % 2],
                    "user": f"user-{number}" if number % 5 else None,
                    "context": json.dumps({"plan": "pro", "n": number}),
                    "duration": [1.5, None][number % 2],
                    "sentinel": number,
                    "now": time(START + timedelta(days=1)),
                }
                for number in range(rows)
            ],
        )
    await engine.dispose()


def _check(events: Sequence[Any], rows: int) -> None:
    assert len(events) == rows
    for number, event in enumerate(events):
        assert event.event_id == str(_id(number))
        assert event.timestamp == START + timedelta(seconds=number)
        assert event.value == VALUES[number % len(VALUES)]
        assert event.reason == ["SPLIT", "ERROR"][number % 2]
        assert event.variant == [None, "on"][number % 2]
        assert event.targeting_key == (f"user-{number}" if number % 5 else None)
        assert event.context_attributes == {"plan": "pro", "n": number}
        assert event.evaluation_duration_ms == [1.5, 0.0][number % 2]
        assert event.kind == "evaluation"
    assert events[0].flag_key.startswith("kkk")
    assert len(events[0].flag_key) == 190


async def test_every_row_is_kept_with_its_id_time_and_value(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adoption, "PAGE_ROWS", 7)
    await _make_table(database, 50)
    store = database.store()
    assert await store.upgrade() is State.LITESTAR_FLAGS
    _check(await store.get_events(), 50)
    assert await store.upgrade() is State.READY
    received = await database.run("SELECT DISTINCT received_at FROM analytics_events")
    assert received == [(int((START + timedelta(days=1)).timestamp()) * 1_000_000,)]
    await store.close()


async def test_the_first_event_takes_it_over_and_waits_for_no_row(
    database: Any, make_event: Any, batch_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adoption, "PAGE_ROWS", 7)
    await _make_table(database, 50)
    store = database.store()
    moving = asyncio.Event()
    real = store._writing._adopt_rows

    async def when_told() -> None:
        await moving.wait()
        await real()

    monkeypatch.setattr(store._writing, "_adopt_rows", when_told)
    await store.write(batch_of(make_event()))
    assert await database.count() == 1
    assert await database.count("analytics_events_litestar_flags") == 50
    moving.set()
    await asyncio.wait_for(store._writing._adopting, 20.0)
    assert await store.can_store()
    assert await database.count() == 51
    await database.run("DELETE FROM analytics_events WHERE flag_key = 'checkout'")
    _check(await store.get_events(), 50)
    with pytest.raises(DBAPIError):
        await database.count("analytics_events_litestar_flags")
    await store.close()


async def test_a_question_meanwhile_sees_every_row(database: Any, make_event: Any, batch_of: Any) -> None:
    await _make_table(database, 50)
    store = database.store()
    await store.write(batch_of(make_event()))
    assert len(await store.get_events()) == 51
    await store.close()


async def test_a_question_that_cannot_see_every_row_is_refused(database: Any) -> None:
    await _make_table(database, 5)
    writer = database.store()
    writer._writing._adopt_rows = lambda: asyncio.sleep(0)
    await writer.open()
    reader = database.store(create_tables=False)
    with pytest.raises(SinkUnavailable, match="being taken over from litestar-flags: ask again later"):
        await reader.get_events()
    _check(await writer.get_events(), 5)
    _check(await reader.get_events(), 5)
    for store in (writer, reader):
        await store.close()


async def test_a_failure_to_move_rows_holds_up_no_event_and_is_tried_again(
    sqlite: Any, make_event: Any, batch_of: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from flag_analytics_database import setup, write_connection

    failures = iter([True, True])
    real = adoption.move_next_page

    def failing(*arguments: Any) -> bool:
        if next(failures, False):
            raise OSError("secret words of the driver")
        return real(*arguments)

    monkeypatch.setattr(setup, "move_next_page", failing)
    monkeypatch.setattr(write_connection, "LOG_PAUSE_SECONDS", 0.01)
    await _make_table(sqlite, 10)
    store = sqlite.store()
    await store.write(batch_of(make_event()))
    await asyncio.wait_for(store._writing._adopting, 20.0)
    assert await sqlite.count() == 11
    assert [line for line in caplog.messages if "not taken over" in line] == [
        "rows of litestar-flags were not taken over: OSError"
    ] * 2
    await store.close()


async def test_a_question_alone_leaves_it_to_its_writers(database: Any) -> None:
    await _make_table(database, 3)
    store = database.store()
    with pytest.raises(SinkUnavailable, match="made by litestar-flags: the first event that is written takes it over"):
        await store.get_events()
    assert await store.can_store()
    await store.close()
    assert len(await database.run("SELECT id FROM analytics_events")) == 3


async def test_without_create_tables_it_is_refused_until_someone_asks(
    database: Any, make_event: Any, batch_of: Any
) -> None:
    await _make_table(database, 3)
    store = database.store(create_tables=False)
    with pytest.raises(SinkUnavailable, match=r"made by litestar-flags: .* or run flag-analytics db upgrade"):
        await store.write(batch_of(make_event()))
    assert await database.count() == 3
    await store.close()
    asked = database.store(create_tables=False, upgrade=True)
    await asked.write(batch_of(make_event()))
    assert len(await asked.get_events()) == 4
    await asked.close()


async def test_a_collector_is_not_healthy_on_a_table_it_may_not_take_over_and_says_why_once(
    database: Any, make_event: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await _make_table(database, 3)
    delivery = DeliveryOptions(retry_initial_seconds=0.01, retry_max_seconds=0.01, close_timeout_seconds=0.1)
    async with await DatabaseAnalyticsCollector.create(
        database.connection_string, create_tables=False, delivery=delivery
    ) as collector:
        assert not await collector.health_check()
        await collector.record(make_event())
        assert not await collector.flush(0.01)
        async with asyncio.timeout(20.0):
            while collector.stats().sinks["database"].attempts < 3:  # noqa: ASYNC110 - a thread counts them
                await asyncio.sleep(0.01)
        assert not await collector.health_check()
        settled = await DatabaseAnalyticsCollector.create(database.connection_string)
        assert await settled.health_check()
        await settled.close()
    said = [line for line in caplog.messages if "made by litestar-flags: the first event" in line]
    assert len(said) == 1


@pytest.mark.parametrize(
    "database",
    ["sqlite", pytest.param("postgresql", marks=pytest.mark.server)],
    indirect=True,
)
async def test_a_table_that_litestar_flags_made_and_filled_is_taken_over(database: Any, make_event: Any) -> None:
    """On MySQL it cannot make its table: its texts have no length there."""
    theirs = pytest.importorskip("litestar_flags.analytics.collectors.database", exc_type=ImportError)
    models = pytest.importorskip("litestar_flags.analytics.models", exc_type=ImportError)
    before = await theirs.DatabaseAnalyticsCollector.create(database.connection_string)
    events = [make_event(number, value=VALUES[number % len(VALUES)]) for number in range(40)]
    for event in events:
        await before.record(
            models.FlagEvaluationEvent(
                event.timestamp, event.flag_key, event.value, event.reason, event.variant, event.targeting_key,
                event.context_attributes, event.evaluation_duration_ms,
            )
        )  # fmt: skip
    await before.flush()
    await before.close()
    async with await DatabaseAnalyticsCollector.create(database.connection_string) as collector:
        await collector.record(make_event(40, value="new"))
        assert await collector.flush()
        found = await collector.get_events()
    assert [event.value for event in found] == [event.value for event in events] + ["new"]
    for given, kept in zip(events, found, strict=False):
        assert given.replace(event_id=kept.event_id) == kept


async def test_it_goes_on_from_wherever_it_was_interrupted(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from flag_analytics_database import setup

    monkeypatch.setattr(adoption, "PAGE_ROWS", 10)
    await _make_table(database, 45)
    calls = 0
    real = adoption.move_next_page

    def failing(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in {1, 3}:
            raise OSError("the machine is switched off")
        return real(*arguments)

    monkeypatch.setattr(setup, "move_next_page", failing)
    store = database.store()
    for _ in range(2):
        with pytest.raises(SinkUnavailable):
            await store.upgrade()
    assert await store.upgrade() is State.ADOPTING
    _check(await store.get_events(), 45)
    await store.close()


async def test_several_workers_may_take_it_over_at_once(database: Any, make_event: Any, batch_of: Any) -> None:
    await _make_table(database, 40)
    stores = [database.store() for _ in range(4)]

    async def until_written(store: Any) -> None:
        for _ in range(100):
            try:
                return await store.write(batch_of(make_event()))
            except SinkUnavailable:
                await asyncio.sleep(0.05)
        raise AssertionError("never")

    await asyncio.gather(*map(until_written, stores))
    assert len(await stores[0].get_events()) == 44
    for store in stores:
        await store.close()


async def test_rows_are_stored_and_removed_in_one_transaction(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = adoption._old_table

    def keeping(tables: Any) -> Any:
        table: Any = real(tables)
        table.delete = lambda: 1 / 0
        return table

    await _make_table(database, 5)
    store = database.store()
    with monkeypatch.context() as patch:
        patch.setattr(adoption, "_old_table", keeping)
        with pytest.raises(SinkUnavailable):
            await store.upgrade()
    assert (await database.count("analytics_events_litestar_flags"), await database.count()) == (5, 0)
    assert await store.upgrade() is State.ADOPTING
    _check(await store.get_events(), 5)
    await store.close()


async def test_the_rows_are_counted_where_counts_are_kept(database: Any) -> None:
    await _make_table(database, 40)
    store = database.store(rollups=True)
    await store.open()
    assert await store.upgrade() in {State.ADOPTING, State.READY}
    hours = f"FROM analytics_events_counts WHERE hour < {DAY_TOTALS // 2}"
    assert await database.run(f"SELECT sum(events) {hours}") == [(40,)]
    assert await store.rebuild_counts() == 0
