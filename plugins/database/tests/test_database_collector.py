"""The collector as applications use it: the reference's interface, engines, sessions, pipelines."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from flag_analytics.aggregator import AnalyticsAggregator
from flag_analytics.errors import SinkUnavailable
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.pipeline import open_pipeline
from flag_analytics.protocols import AnalyticsCollector
from flag_analytics.reports import DeliveryOptions
from flag_analytics.sources import EventFilter, Window
from flag_analytics.testing.samples import plain_event
from flag_analytics_database import DatabaseAnalyticsCollector, DatabaseOptions, DatabaseStore
from flag_analytics_database.plugin import flag_analytics_event_source
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool


def now_event(number: int = 0, **changes: Any) -> FlagEvaluationEvent:
    fields: dict[str, Any] = {
        "timestamp": datetime.now(UTC),
        "flag_key": "checkout",
        "value": number,
        "targeting_key": f"u{number % 4}",
        "variant": "ab"[number % 2],
        "evaluation_duration_ms": 1.0,
    }
    return plain_event(number, **(fields | changes))


async def test_it_works_as_the_reference_says(database: Any) -> None:
    collector = await DatabaseAnalyticsCollector.create(
        connection_string=database.connection_string,
        batch_size=100,
        flush_interval_seconds=5.0,
        create_tables=True,
        echo=False,
    )
    assert isinstance(collector, AnalyticsCollector)
    assert (collector.batch_size, collector.flush_interval_seconds) == (100, 5.0)
    for number in range(8):
        assert await collector.record(now_event(number)) is None
    assert await collector.get_buffer_size() in range(9)
    assert (await collector.flush()).stored == 8
    assert await collector.get_buffer_size() == 0
    assert await collector.health_check()
    aggregator = AnalyticsAggregator(collector)
    metrics = await aggregator.get_flag_metrics("checkout", window_seconds=3_600)
    assert metrics.total_evaluations == 8
    assert metrics.unique_users == 4
    assert metrics.variant_distribution == {"a": 4, "b": 4}
    assert metrics.reason_distribution == {"SPLIT": 8}
    assert metrics.latency_p50 == metrics.latency_p99 == 1.0
    report = await collector.close()
    assert report
    assert await collector.close() == report
    await collector.record(now_event())
    assert collector.stats().refused == {"closed": 1}
    assert collector.stats().balanced()


async def test_events_of_another_class_are_taken(database: Any) -> None:
    collector = await DatabaseAnalyticsCollector.create(database.connection_string)
    foreign = SimpleNamespace(
        timestamp=datetime(2026, 1, 1), flag_key="f", value={"a": None}, reason="STATIC", variant=None,  # noqa: DTZ001
        targeting_key=None, context_attributes={}, evaluation_duration_ms=0.0,
    )  # fmt: skip
    await collector.record(foreign)
    await collector.record(vars(foreign))
    await collector.record(object())  # no event at all: refused
    await collector.flush()
    found = await collector.get_events("f")
    assert [one.value for one in found] == [{"a": None}] * 2
    assert found[0].timestamp == datetime(2026, 1, 1, tzinfo=UTC)
    assert collector.stats().refused == {"error": 1}
    await collector.close()


async def test_a_batch_goes_when_it_is_full_and_when_it_has_waited(sqlite: Any) -> None:
    collector = await DatabaseAnalyticsCollector.create(
        sqlite.connection_string, batch_size=5, flush_interval_seconds=60.0
    )
    for number in range(5):
        await collector.record(now_event(number))
    await _until(lambda: collector.stats().sinks["database"].delivered == 5)
    await collector.close()
    waiting = await DatabaseAnalyticsCollector.create(sqlite.connection_string, flush_interval_seconds=0.01)
    await waiting.record(now_event())
    await _until(lambda: waiting.stats().sinks["database"].delivered == 1)
    await waiting.close()


async def _until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the worker is another thread
            await asyncio.sleep(0.005)


async def test_an_applications_own_engine_gives_url_and_arguments(database: Any) -> None:
    engine = create_async_engine(database.url, poolclass=NullPool)
    collector = await DatabaseAnalyticsCollector.from_engine(engine, batch_size=3, retention_days=10_000)
    await collector.record(now_event())
    assert await collector.flush()
    assert len(await collector.get_events()) == 1
    assert engine.sync_engine.pool.status() == "NullPool"
    await collector.close()
    assert await AnalyticsAggregator(engine).get_evaluation_rate("checkout", 10) == 0.1
    await engine.dispose()


async def test_an_engine_in_the_memory_of_one_connection_is_refused() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    with pytest.raises(ValueError, match="in-memory SQLite database, which no other connection can see: use a file"):
        await DatabaseAnalyticsCollector.from_engine(engine)
    await engine.dispose()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite+aiosqlite:///:memory:"])
async def test_a_database_in_memory_is_the_collectors_own(url: str) -> None:
    one, other = [await DatabaseAnalyticsCollector.create(url) for _ in range(2)]
    for number in range(300):
        await one.record(now_event(number))
    assert await one.flush()
    assert len(await one.get_events()) == 300
    assert await other.get_events() == []
    await one.close()
    await other.close()


async def test_a_plain_session_is_an_event_source(database: Any) -> None:
    collector = await DatabaseAnalyticsCollector.create(database.connection_string)
    for number in range(6):
        await collector.record(now_event(number, context_attributes={"environment": "test" if number % 2 else "live"}))
    await collector.close()
    engine = create_async_engine(database.url, poolclass=NullPool)
    async with AsyncSession(engine) as session:
        metrics = await AnalyticsAggregator(session).get_flag_metrics("checkout")
        assert metrics.total_evaluations == 6
        source = flag_analytics_event_source(session)
        assert source is not None
        window = Window(None, datetime.now(UTC) + timedelta(minutes=1))
        found = await source.summarise(["checkout"], window, where=EventFilter(environment="test"))
        assert found["checkout"].total == 3
    await engine.dispose()


async def test_a_synchronous_session_or_engine_is_asked_in_a_thread(sqlite: Any) -> None:
    collector = await DatabaseAnalyticsCollector.create(sqlite.connection_string)
    await collector.record(now_event())
    await collector.close()
    engine = create_engine(f"sqlite:///{sqlite.url.database}")
    assert (await AnalyticsAggregator(engine).get_flag_metrics("checkout")).total_evaluations == 1
    with Session(engine) as session:
        assert (await AnalyticsAggregator(session).get_flag_metrics("checkout")).total_evaluations == 1
    engine.dispose()


def test_other_objects_are_no_source_of_ours() -> None:
    assert flag_analytics_event_source(object()) is None


async def test_a_pipeline_composes_it_from_configuration(database: Any) -> None:
    config = {
        "collectors": {
            "database/one": {"connection_string": database.connection_string, "batch_size": 7},
            "database/two": {"connection_string": database.connection_string, "table": "second"},
        }
    }
    async with open_pipeline(config) as pipeline:
        assert isinstance(pipeline.collectors["database/one"], DatabaseStore)
        for number in range(20):
            pipeline.record_nowait(now_event(number))
        assert await pipeline.flush()
        metrics = await AnalyticsAggregator(pipeline.collectors["database/two"]).get_flag_metrics("checkout")
        assert metrics.total_evaluations == 20
    assert await database.count() == await database.count("second") == 20


async def test_durable_events_survive_in_a_spool_until_the_database_is_there(tmp_path: Any, make_event: Any) -> None:
    url = f"sqlite:///{(tmp_path / 'missing' / 'events.db').as_posix()}"
    delivery = DeliveryOptions(durability="spool", spool_directory=tmp_path / "spool")
    collector = await DatabaseAnalyticsCollector.create(url, delivery=delivery)
    for number in range(10):
        await collector.record(make_event(number))
    report = await collector.close(0.3)
    assert report.spooled == 10
    (tmp_path / "missing").mkdir()
    successor = await DatabaseAnalyticsCollector.create(url, delivery=delivery)
    async with asyncio.timeout(10.0):
        # What another process left is taken over beside the first flush, not before it.
        while len(await successor.get_events()) < 10:  # noqa: ASYNC110 - no event of this loop announces it
            await asyncio.sleep(0.01)
    assert (await successor.close()).spooled == 0


async def test_aiomysql_works_where_it_is_asked_for(mysql: Any) -> None:
    url = mysql.url.set(drivername="mysql+aiomysql").render_as_string(hide_password=False)
    collector = await DatabaseAnalyticsCollector.create(url)
    events = [now_event(number, context_attributes={"é🎏": "'\\%s"}) for number in range(10)]
    for event in events:
        await collector.record(event)
    assert await collector.flush()
    assert await collector.get_events() == events
    await collector.close()


async def test_require_database_fails_at_once_where_it_is_down() -> None:
    with pytest.raises(SinkUnavailable, match=r"does not answer \(ECONNREFUSED: nothing listens there\): start it"):
        await DatabaseAnalyticsCollector.create("postgresql://nobody@127.0.0.1:1/none", require_database=True)


async def test_leaving_the_block_closes_it(sqlite: Any) -> None:
    async with await DatabaseAnalyticsCollector.create(sqlite.connection_string) as collector:
        await collector.record(now_event())
    assert await sqlite.count() == 1
    assert collector.health()["status"] == "closed"
    assert collector.stats().balanced()


@pytest.mark.parametrize(
    ("table", "settings", "healthy"),
    [
        ("", {}, True),
        ("", {"create_tables": False}, False),
        ("CREATE TABLE analytics_events (id INTEGER)", {}, False),
        ("CREATE TABLE analytics_events (id INTEGER)", {"upgrade": True}, False),
    ],
)
async def test_it_is_healthy_where_its_tables_are_usable_or_may_be_made(
    database: Any, table: str, settings: dict[str, Any], healthy: bool
) -> None:
    if table:
        await database.run(table)
    async with await DatabaseAnalyticsCollector.create(database.connection_string, **settings) as collector:
        assert await collector.health_check() is healthy
        await collector.record(now_event())
        assert bool(await collector.flush(0.3 if not healthy else 30.0)) is healthy
        assert await collector.health_check() is healthy
        await collector.close(0.0)  # what cannot be stored is not waited for


# --- configuration


@pytest.mark.parametrize("field", ["table", "schema"])
@pytest.mark.parametrize("name", ["", "a b", "a;DROP TABLE b", 'a"', "1a", "a" * 64, "ä", "a\n", 7, "a.b"])
def test_only_plain_identifiers_name_a_table_or_schema(field: str, name: Any) -> None:
    with pytest.raises(ValueError, match=f"{field} must match"):
        DatabaseOptions(connection_string="sqlite://", **{field: name})


# --- secrets

CANARY = "s3cr3t-canary"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://user:{CANARY}@127.0.0.1:1/db",
        f"postgresql://user@127.0.0.1:1/db?password={CANARY}",
        f"mysql://user:{CANARY}@127.0.0.1:1/db",
        f"mysql+aiomysql://user@127.0.0.1:1/db?password={CANARY}",
    ],
)
async def test_no_secret_is_shown_when_a_database_does_not_answer(
    url: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    delivery = DeliveryOptions(retry_initial_seconds=0.01, retry_max_seconds=0.02)
    collector = await DatabaseAnalyticsCollector.create(url, flush_interval_seconds=0.01, delivery=delivery)
    await collector.record(now_event(targeting_key="canary@example.org"))
    await collector.flush(0.2)
    with pytest.raises(SinkUnavailable) as caught:
        await collector.get_events()
    store = collector.event_source
    texts = [repr(store), repr(store.options), repr(store.engines), repr(vars(collector)), repr(caught.value)]
    chain: BaseException | None = caught.value
    while chain is not None:
        texts.append(f"{chain!r} {chain}")
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    await collector.close(0.1)
    out, err = capfd.readouterr()
    texts += [out, err, caplog.text, repr(collector.stats())]
    assert not any(CANARY in text or "canary@" in text for text in texts)


async def test_no_event_content_is_shown_when_a_database_refuses_it(
    database: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    store = database.store()
    await store.upgrade()
    column = "targeting_key" if database.family != "sqlite" else "flag_key"
    poison = {
        "sqlite": f"CREATE TRIGGER t BEFORE INSERT ON analytics_events WHEN NEW.{column} LIKE '%canary%' "
        "BEGIN SELECT RAISE(ABORT, 'canary in the words of the driver'); END",
    }.get(database.family, f"ALTER TABLE analytics_events ADD CHECK ({column} NOT LIKE '%canary%')")
    await database.run(poison)
    collector = await DatabaseAnalyticsCollector.create(database.connection_string)
    await collector.record(now_event(targeting_key=CANARY, context_attributes={"flag": CANARY}))
    await collector.record(FlagEvaluationEvent(datetime.now(UTC), CANARY, 1, "SPLIT", targeting_key=CANARY))
    await collector.flush(5.0)
    stats = collector.stats()
    assert stats.sinks["database"].dead >= 1
    await collector.close()
    out, err = capfd.readouterr()
    assert "canary" not in out + err + caplog.text + repr(stats)
