"""What a user may do to the database, or to a collector, at an unlucky moment, and what it answers then."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
import warnings
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flag_analytics import AnalyticsAggregator
from flag_analytics.errors import ConfigError, PluginError, SinkUnavailable
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.pipeline import open_pipeline
from flag_analytics.reports import DeliveryOptions
from flag_analytics.sources import Window
from flag_analytics.testing.samples import plain_event
from flag_analytics_database import DatabaseAnalyticsCollector, DatabaseOptions, table_setup
from flag_analytics_database import collector as collector_module
from flag_analytics_database.setup import State
from sqlalchemy import create_engine, event
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

QUICK = DeliveryOptions(retry_initial_seconds=0.005, retry_max_seconds=0.02)
ALL_TIME = Window(None, datetime(2100, 1, 1, tzinfo=UTC))


def now_event(number: int = 0, **fields: Any) -> FlagEvaluationEvent:
    moment = datetime.now(UTC) - timedelta(seconds=60) + timedelta(microseconds=number)
    return plain_event(number, **({"timestamp": moment, "flag_key": "checkout"} | fields))


async def stored(collector: DatabaseAnalyticsCollector, *events: FlagEvaluationEvent) -> None:
    for one in events:
        await collector.record(one)
    assert await collector.flush()


# --- starting


async def test_the_tables_are_there_when_create_returns(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector_module, "_START_SECONDS", 20.0)  # on a busy machine
    collector = await DatabaseAnalyticsCollector.create(database.connection_string)
    assert await database.count() == 0
    engine = create_async_engine(database.url, poolclass=NullPool)
    async with AsyncSession(engine) as session:
        assert (await AnalyticsAggregator(session).get_flag_metrics("checkout")).total_evaluations == 0
    await engine.dispose()
    await collector.close()


async def test_a_start_waits_for_no_database_that_is_silent(server_database: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        collector = await DatabaseAnalyticsCollector.create(server_database.at(*silent.getsockname()))
        assert time.monotonic() - started < 1.0  # it waits 0.15
        await collector.close(0.05)


def test_a_configuration_may_require_the_database() -> None:
    url = "postgresql://127.0.0.1:1/none"
    with pytest.raises(PluginError, match=r"nothing listens there.*leave require_database out"):
        open_pipeline({"collectors": {"database": {"connection_string": url, "require_database": True}}})


async def test_a_database_that_is_required_and_there_is_used(database: Any) -> None:
    config = {"connection_string": database.connection_string, "require_database": True}
    async with open_pipeline({"collectors": {"database": config}}) as pipeline:
        pipeline.record_nowait(now_event())
        assert await pipeline.flush()


@pytest.mark.parametrize("argument", ["bogus", "pool_sizzle"])
@pytest.mark.parametrize("url", ["sqlite:///events.db", "postgresql://127.0.0.1/x"])
def test_an_argument_that_sqlalchemy_does_not_know_is_a_problem_of_the_configuration(url: str, argument: str) -> None:
    config = {"collectors": {"database": {"connection_string": url, "engine": {argument: 3}}}}
    with pytest.raises(ConfigError, match=f"engine: Invalid argument.*{argument}"):
        open_pipeline(config)


# --- connection strings


async def test_parameters_of_libpq_are_understood(postgresql: Any) -> None:
    parameters = "?sslmode=disable&application_name=shop&connect_timeout=3"
    collector = await DatabaseAnalyticsCollector.create(postgresql.connection_string + parameters)
    await stored(collector, now_event())
    names = await postgresql.run(
        "SELECT DISTINCT application_name FROM pg_stat_activity WHERE datname = current_database()"
    )
    assert ("shop",) in names
    await collector.close()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("postgresql://host/db?ssl_mode=disable", "parameter 'ssl_mode', which is not known: did you mean 'sslmode'?"),
        ("postgresql://host/db?connect_timeout=soon", "parameter 'connect_timeout': expected a number"),
        ("postgresql://user:p@CANARY@host/db", "write @ as %40"),
        ("sqlite://CANARY.db", "write sqlite:/// and the path"),
    ],
)
def test_a_connection_string_that_cannot_work_is_refused_without_a_word_of_its_secrets(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)) as caught:
        DatabaseOptions(connection_string=url)
    assert "CANARY" not in str(caught.value)


def test_a_scheme_may_be_in_capitals() -> None:
    assert DatabaseOptions(connection_string="POSTGRESQL://host/db").connection_string


async def test_a_host_that_does_not_exist_is_called_that() -> None:
    collector = await DatabaseAnalyticsCollector.create(
        "postgresql://user@no-such-host.invalid/db", create_tables=False
    )
    with pytest.raises(SinkUnavailable, match="EAI_"):
        await collector.get_events()
    await collector.close(0.05)


@pytest.mark.parametrize("wrong", [create_engine("sqlite://"), "sqlite:///events.db", None])
async def test_another_kind_of_engine_is_refused_with_what_is_expected(wrong: Any) -> None:
    with pytest.raises(TypeError, match="expected SQLAlchemy's AsyncEngine"):
        await DatabaseAnalyticsCollector.from_engine(wrong)


# --- an application's own sessions and connections


@pytest.fixture
async def applications_engine(database: Any) -> Any:
    engine = create_async_engine(database.url, poolclass=NullPool)
    yield engine
    await engine.dispose()


async def test_scoped_sessions_and_connections_are_event_sources(database: Any, applications_engine: Any) -> None:
    async with await DatabaseAnalyticsCollector.create(database.connection_string) as collector:
        await stored(collector, now_event())
    scoped = async_scoped_session(async_sessionmaker(applications_engine), asyncio.current_task)
    assert (await AnalyticsAggregator(scoped).get_flag_metrics("checkout")).total_evaluations == 1
    await scoped.remove()
    async with applications_engine.connect() as connection:
        assert (await AnalyticsAggregator(connection).get_flag_metrics("checkout")).total_evaluations == 1


async def test_synchronous_scoped_sessions_and_connections_are_event_sources(sqlite: Any) -> None:
    async with await DatabaseAnalyticsCollector.create(sqlite.connection_string) as collector:
        await stored(collector, now_event())
    engine = create_engine(f"sqlite:///{sqlite.url.database}", connect_args={"check_same_thread": False})
    scoped = scoped_session(sessionmaker(engine))
    assert (await AnalyticsAggregator(scoped).get_flag_metrics("checkout")).total_evaluations == 1
    scoped.remove()
    with engine.connect() as connection:
        assert (await AnalyticsAggregator(connection).get_flag_metrics("checkout")).total_evaluations == 1
    engine.dispose()


async def test_a_session_asks_at_most_two_statements(database: Any, applications_engine: Any) -> None:
    await database.store().open()
    statements: list[str] = []
    event.listen(applications_engine.sync_engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    async with AsyncSession(applications_engine) as session:
        await AnalyticsAggregator(session).get_flag_metrics("checkout")
    assert len(statements) == 2


async def test_a_session_without_our_table_says_what_to_do_and_nothing_of_the_question(
    applications_engine: Any,
) -> None:
    async with AsyncSession(applications_engine) as session:
        with pytest.raises(SinkUnavailable, match="run flag-analytics db upgrade") as caught:
            await AnalyticsAggregator(session).get_flag_metrics("CANARY")
    assert "CANARY" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_a_session_never_counts_a_part_of_the_rows(database: Any, applications_engine: Any) -> None:
    async with await DatabaseAnalyticsCollector.create(database.connection_string) as collector:
        await stored(collector, now_event())
    await database.run("CREATE TABLE analytics_events_litestar_flags (id INTEGER)")
    async with AsyncSession(applications_engine) as session:
        with pytest.raises(SinkUnavailable, match="being taken over from litestar-flags: ask again later"):
            await AnalyticsAggregator(session).get_flag_metrics("checkout")


# --- closing


async def test_every_question_that_close_meets_is_answered_or_refused(database: Any) -> None:
    for pause in (0.0, 0.001, 0.005, 0.02):
        collector = await DatabaseAnalyticsCollector.create(database.connection_string)
        await stored(collector, *(now_event(number) for number in range(50)))
        aggregator = AnalyticsAggregator(collector)
        asked = [asyncio.ensure_future(aggregator.get_flag_metrics("checkout")) for _ in range(20)]
        asked.append(asyncio.ensure_future(collector.get_events()))
        await asyncio.sleep(pause)
        await collector.close()
        async with asyncio.timeout(20.0):
            answers = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(answer) for answer in answers if isinstance(answer, BaseException)} <= {SinkUnavailable}


async def test_many_who_ask_while_one_closes_never_share_a_connection_between_threads(database: Any) -> None:
    collector = await DatabaseAnalyticsCollector.create(database.connection_string)
    await stored(collector, *(now_event(number) for number in range(200)))
    refusals: set[str] = set()
    stop = False

    async def ask() -> None:
        while not stop:
            try:
                await collector.get_events()
            except SinkUnavailable as error:
                refusals.add(error.code)
                await asyncio.sleep(0.001)  # a refusal comes at once: eight that ask again at once hold up the close

    asking = [asyncio.ensure_future(ask()) for _ in range(8)]
    for _ in range(5):
        await asyncio.sleep(0.02)
        await collector.close(1.0)
    stop = True
    await asyncio.wait_for(asyncio.gather(*asking), 20.0)
    assert refusals <= {"closed"}
    await collector.close()


async def test_a_create_that_is_cancelled_leaves_no_thread(server_database: Any) -> None:
    def threads() -> int:
        return sum(thread.name == "flag-analytics-database" for thread in threading.enumerate())

    before = threads()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for _ in range(3):
            work = DatabaseAnalyticsCollector.create(server_database.at(*silent.getsockname()))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(work, 0.02)
        async with asyncio.timeout(10.0):
            while threads() > before:  # noqa: ASYNC110 - the end of a thread is not announced
                await asyncio.sleep(0.01)


async def test_a_question_that_takes_too_long_is_refused_at_close(sqlite: Any) -> None:
    store = sqlite.store()
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def wait(_: Any) -> None:
        loop.call_soon_threadsafe(begun.set)
        await asyncio.sleep(3_600)

    asked = asyncio.ensure_future(store._questions.run(wait))
    await begun.wait()
    await store.close()
    with pytest.raises(SinkUnavailable, match="closed meanwhile"):
        await asyncio.wait_for(asked, 10.0)


async def test_a_caller_that_is_cancelled_is_cancelled(sqlite: Any) -> None:
    store = sqlite.store()
    asked = asyncio.ensure_future(store._questions.run(lambda _: asyncio.sleep(3_600)))
    await asyncio.sleep(0.05)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked


async def test_a_question_after_close_leaves_nothing_open(sqlite: Any) -> None:
    collector = await DatabaseAnalyticsCollector.create(sqlite.connection_string)
    await stored(collector, now_event())
    await collector.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (await AnalyticsAggregator(collector).get_flag_metrics("checkout")).total_evaluations == 1
    assert collector.event_source._questions._engine is None
    await collector.close()


# --- tables that vanish


GONE = "ALTER TABLE analytics_events RENAME TO elsewhere"
BACK = "ALTER TABLE elsewhere RENAME TO analytics_events"


async def test_tables_that_vanish_make_the_collector_unhealthy_and_are_waited_for(database: Any) -> None:
    collector = await DatabaseAnalyticsCollector.create(database.connection_string, delivery=QUICK)
    await stored(collector, now_event())
    await database.run(GONE)
    await collector.record(now_event(1))
    assert not await collector.flush(0.3)
    assert not await collector.health_check()
    await database.run(BACK)
    assert await collector.flush(10.0)
    assert await collector.health_check()
    await collector.close()
    assert await database.count() == 2


async def test_tables_that_stay_away_are_made_again(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    collector = await DatabaseAnalyticsCollector.create(database.connection_string, delivery=QUICK)
    await stored(collector, now_event())
    await database.run("DROP TABLE analytics_events")
    await collector.record(now_event(1))
    assert not await collector.flush(0.2)
    monkeypatch.setattr(table_setup, "GONE_SECONDS", 0.0)
    assert await collector.flush(10.0)
    await collector.close()
    assert await database.count() == 1


async def test_an_upgrade_makes_a_table_again_that_its_version_outlived(database: Any) -> None:
    await database.store().open()
    await database.run("DROP TABLE analytics_events")
    operator = database.store(create_tables=False)
    assert await operator.upgrade() is State.MISSING
    assert await database.count() == 0
    assert await operator.upgrade() is State.READY


async def test_a_table_that_was_dropped_is_made_at_the_next_start(database: Any) -> None:
    await database.store().open()
    await database.run("DROP TABLE analytics_events")
    async with await DatabaseAnalyticsCollector.create(database.connection_string) as collector:
        await stored(collector, now_event())
    assert await database.count() == 1


# --- partitions that the options know nothing of


@pytest.mark.parametrize(("made", "used"), [("month", None), (None, "month")])
async def test_an_event_sent_again_is_skipped_however_the_table_was_made(postgresql: Any, made: Any, used: Any) -> None:
    await postgresql.store(partition_by=made).open()
    collector = await DatabaseAnalyticsCollector.create(
        postgresql.connection_string, partition_by=used, delivery=QUICK, flush_interval_seconds=0.01
    )
    one = now_event()
    await stored(collector, one)
    await stored(collector, one, now_event(1))
    await collector.close()
    assert await postgresql.count() == 2


async def test_an_upgrade_needs_not_know_of_partitions(postgresql: Any, make_event: Any, batch_of: Any) -> None:
    store = postgresql.store(partition_by="month")
    await store.write(batch_of(make_event()))
    await _make_their_table(postgresql, [{"value": json.dumps({"value": number})} for number in range(3)])
    operator = postgresql.store()
    assert await operator.upgrade() is State.ADOPTING
    assert len(await operator.get_events()) == 4


# --- in memory


async def test_a_database_in_memory_outlives_a_write_that_fails(make_event: Any, batch_of: Any) -> None:
    collector = await DatabaseAnalyticsCollector.create("sqlite://", delivery=QUICK)
    await stored(collector, now_event())
    store = collector.event_source
    await store.close_reading()
    store._memory.reopen()
    store._memory.hold()
    await stored(collector, now_event(1))
    ((loop, _),) = store._writing.closers()
    asyncio.run_coroutine_threadsafe(store._writing.drop(broken=True), loop).result(5.0)
    await stored(collector, now_event(2))
    assert len(await collector.get_events()) >= 2
    await collector.close()


async def test_the_first_questions_to_a_database_in_memory_may_come_at_once() -> None:
    for _ in range(5):
        collector = await DatabaseAnalyticsCollector.create("sqlite://", create_tables=True)
        aggregator = AnalyticsAggregator(collector)
        await collector.record(now_event())
        answers = await asyncio.gather(*(aggregator.get_flag_metrics("checkout") for _ in range(5)))
        assert all(answer.total_evaluations in {0, 1} for answer in answers)
        await collector.close()


# --- rows of litestar-flags that are out of the ordinary


THEIR_TABLE = {
    "sqlite": "id CHAR(32), timestamp TIMESTAMP, value JSON, context_attributes JSON, created_at TIMESTAMP",
    "postgresql": "id UUID, timestamp TIMESTAMPTZ, value JSONB, context_attributes JSONB, created_at TIMESTAMPTZ",
    "mysql": "id BINARY(16), timestamp DATETIME, value JSON, context_attributes JSON, created_at DATETIME",
}


async def _make_their_table(database: Any, rows: list[dict[str, Any]]) -> None:
    """Make the table under the name it has while it is taken over, with these rows."""
    name = "analytics_events_litestar_flags"
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    moment: Any = now if database.family == "postgresql" else now.strftime("%Y-%m-%d %H:%M:%S")
    await database.run(
        f"CREATE TABLE {name} ({THEIR_TABLE[database.family]}, flag_key VARCHAR(255), reason VARCHAR(255), "
        "variant VARCHAR(255), targeting_key VARCHAR(255), evaluation_duration_ms DOUBLE PRECISION)"
    )
    for number, row in enumerate(rows):
        plain: Any = f"{number:032x}"
        key = bytes.fromhex(plain) if database.family == "mysql" else plain
        fields = {
            "value": "null",
            "context": "{}",
            "flag": "flag",
            "reason": "SPLIT",
            "variant": None,
            "user": None,
        } | row
        casts = (
            "CAST(:value AS JSONB), CAST(:context AS JSONB)" if database.family == "postgresql" else ":value, :context"
        )
        await database.run(
            f"INSERT INTO {name} (id, timestamp, value, context_attributes, created_at, flag_key, reason, "
            f"variant, targeting_key, evaluation_duration_ms) VALUES (:id, :at, {casts}, :at, :flag, :reason, "
            ":variant, :user, 1.5)",
            id=key, at=moment, **fields,
        )  # fmt: skip


def _deep(levels: int) -> Any:
    value: Any = "bottom"
    for _ in range(levels):
        value = {"down": value}
    return value


async def test_values_larger_and_deeper_than_new_ones_may_be_are_kept(
    database: Any, caplog: pytest.LogCaptureFixture
) -> None:
    values = ["x" * 70_000, _deep(12), 2**70, [1] * 40_000, {"é": "🚩" * 20_000}]
    contexts = [{"blob": "y" * 70_000}, _deep(20), {"n": 2**65}, {}, {}]
    await database.store().open()
    await _make_their_table(
        database,
        [
            {"value": json.dumps({"value": value}), "context": json.dumps(context)}
            for value, context in zip(values, contexts, strict=True)
        ],
    )
    store = database.store()
    assert await store.upgrade() is State.ADOPTING
    found = await store.get_events()
    assert [one.value for one in found] == values
    assert [one.context_attributes for one in found] == contexts
    assert not caplog.messages


async def test_a_key_that_has_to_be_shortened_is_said(sqlite: Any, caplog: pytest.LogCaptureFixture) -> None:
    await sqlite.store().open()
    await _make_their_table(sqlite, [{"flag": "k" * 255}, {}])
    await sqlite.store().upgrade()
    assert caplog.messages == ["1 rows of litestar-flags had to be changed to be taken over"]


async def test_a_row_that_no_index_takes_is_a_dead_letter_and_holds_up_no_other(postgresql: Any) -> None:
    import random

    wide = random.Random(5)
    fields = {
        name: "".join(chr(wide.randrange(0x10000, 0x1F000)) for _ in range(length))
        for name, length in {"flag": 190, "variant": 190, "user": 190, "reason": 100}.items()
    }
    await postgresql.store().open()
    await _make_their_table(postgresql, [{}, fields, {}])
    store = postgresql.store()
    await store.upgrade()
    assert len(await store.get_events()) == 2
    (letter,) = await store.read_dead_letters()
    assert (letter.code, letter.batch_id) == ("54000", "litestar-flags")
    assert await store.upgrade() is State.READY


# --- small things


@pytest.mark.parametrize("parameters", ["?mode=ro&uri=true", "?immutable=1&uri=true"])
async def test_a_file_that_can_only_be_read_is_not_healthy(sqlite: Any, parameters: str) -> None:
    await sqlite.store().open()
    url = f"sqlite+aiosqlite:///file:{sqlite.url.database}{parameters}"
    collector = await DatabaseAnalyticsCollector.create(url)
    assert not await collector.health_check()
    await collector.close()


@pytest.mark.parametrize("days", [0, -1, 1e9, float("inf")])
def test_a_retention_that_no_calendar_has_is_refused(days: float) -> None:
    with pytest.raises(ValueError, match="retention_days"):
        DatabaseOptions(connection_string="sqlite:///events.db", retention_days=days)


# --- a table that is changed from outside


CHANGE = "ALTER TABLE analytics_events ALTER COLUMN {column} TYPE {kind}"


async def test_the_next_question_after_a_column_changed_its_type_is_answered(
    postgresql: Any, make_event: Any, batch_of: Any
) -> None:
    store = postgresql.store()
    await store.write(batch_of(make_event()))
    engine = create_async_engine(postgresql.url)
    window = {"window_seconds": 1e9}
    for column, kind in (("variant", "varchar(200)"), ("kind", "integer")):
        assert len(await store.get_events()) == 1
        assert (await AnalyticsAggregator(engine).get_flag_metrics("checkout", **window)).total_evaluations == 1
        await postgresql.run(CHANGE.format(column=column, kind=kind))
        assert len(await store.get_events()) == 1
        assert (await AnalyticsAggregator(engine).get_flag_metrics("checkout", **window)).total_evaluations == 1
    await engine.dispose()


async def test_the_next_event_after_a_column_changed_its_type_is_stored(
    postgresql: Any, make_event: Any, batch_of: Any
) -> None:
    store = postgresql.store()
    for number, (column, kind) in enumerate([("kind", "integer"), ("variant", "varchar(200)"), ("kind", "bigint")]):
        await store.write(batch_of(make_event(number)))
        await postgresql.run(CHANGE.format(column=column, kind=kind))
    await store.write(batch_of(make_event(3)))
    assert await postgresql.count() == 4
