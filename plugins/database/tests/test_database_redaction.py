"""No event content reaches a log, at any level, of any library in between."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import aiosqlite
import attrs
import msgspec
import pytest
from flag_analytics.errors import BadBatch, DeliveryError
from flag_analytics.protocols import Batch
from flag_analytics.reports import DeadLetter, DeliveryOptions
from flag_analytics.sources import EventFilter, Window
from flag_analytics_database import DatabaseAnalyticsCollector
from sqlalchemy.ext.asyncio import create_async_engine

CANARY = "canary7f3a"
EVERYTHING = Window(None, datetime(3000, 1, 1, tzinfo=UTC))
TALKATIVE = ("", "sqlalchemy", "sqlalchemy.engine", "sqlalchemy.pool", "aiosqlite", "asyncio", "asyncpg", "asyncmy")
ALWAYS_REFUSED = {
    "sqlite": (
        "CREATE TRIGGER refuse_all BEFORE INSERT ON analytics_events WHEN NEW.variant LIKE '%refused' "
        "BEGIN SELECT RAISE(ABORT, 'no'); END"
    ),
    "postgresql": "ALTER TABLE analytics_events ADD CHECK (variant NOT LIKE '%refused')",
    "mysql": "ALTER TABLE analytics_events ADD CHECK (variant NOT LIKE '%refused')",
}


@attrs.define(eq=False)
class Listener(logging.Handler):
    lines: list[str] = attrs.field(factory=list)

    def __attrs_pre_init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@contextlib.contextmanager
def everything_logged() -> Iterator[list[str]]:
    """Give every line that any logger gets, all loggers being at DEBUG."""
    listener = Listener()
    before = {name: logging.getLogger(name).level for name in TALKATIVE}
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.DEBUG)
    logging.getLogger().addHandler(listener)
    try:
        yield listener.lines
    finally:
        logging.getLogger().removeHandler(listener)
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def canary_in_every_field(make_event: Any, number: int, **changes: Any) -> Any:
    fields = {
        "flag_key": f"flag-{CANARY}",
        "value": {"value": CANARY},
        "reason": f"REASON-{CANARY}",
        "variant": f"variant-{CANARY}",
        "targeting_key": f"{CANARY}@example.com",
        "context_attributes": {f"name-{CANARY}": CANARY, "list": [CANARY]},
        "error_type": f"type-{CANARY}",
        "error_message": f"message-{CANARY}",
        "flag_version": f"version-{CANARY}",
        "flag_set_id": f"set-{CANARY}",
        "provider_name": f"provider-{CANARY}",
    }
    return make_event(number, **(fields | changes))


def words_of(error: BaseException | None) -> str:
    """Return what a traceback of an exception would show."""
    words = []
    while error is not None:
        words.append(f"{error!r} {vars(error)}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(words)


@pytest.mark.parametrize("echo", [False, True], ids=["quiet", "echo"])
async def test_no_event_content_is_logged_at_any_level(
    database: Any, make_event: Any, batch_of: Any, echo: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    await (operator := database.store()).upgrade()
    await operator.close()
    await database.run(ALWAYS_REFUSED[database.family])
    with everything_logged() as lines:
        store = database.store(echo=echo, retention_days=3_000)
        batch = batch_of(*(canary_in_every_field(make_event, number) for number in range(20)))
        await store.open()
        await store.write(batch)
        await store.write(batch)
        refused = batch_of(canary_in_every_field(make_event, 99, variant=f"{CANARY}-refused"))
        with pytest.raises(DeliveryError) as raised:
            await store.write(refused)
        await store.write_dead_letters([DeadLetter("database", refused.events[0], "BadBatch", "23514", "b", 1.0)])
        await store.ping()
        flag_key = f"flag-{CANARY}"
        summaries = await store.summarise([flag_key], EVERYTHING, percentiles=(50.0,))
        assert summaries[flag_key].total == 20
        await store.list_flags(EVERYTHING, where=EventFilter(context={f"name-{CANARY}": CANARY}))
        await store.count_steps(flag_key, Window(datetime(2020, 1, 1, tzinfo=UTC), EVERYTHING.end), 1e8)
        assert len(await store.get_events(flag_key)) == 20
        assert await store.prune(datetime(2030, 1, 1, tzinfo=UTC)) == 21
        await store.close()
    assert CANARY not in words_of(raised.value)
    assert any("INSERT INTO" in line for line in lines)  # something was listening
    printed = capsys.readouterr()
    assert [line for line in [*lines, printed.out, printed.err] if CANARY in line] == []


async def test_a_collector_logs_no_event_content(database: Any, make_event: Any) -> None:
    with everything_logged() as lines:
        collector = await DatabaseAnalyticsCollector.create(
            database.connection_string, delivery=DeliveryOptions(retry_initial_seconds=0.01)
        )
        await collector.record(canary_in_every_field(make_event, 1))
        assert await collector.flush()
        assert len(await collector.get_events()) == 1
        await collector.close()
        engine = create_async_engine(database.connection_string)
        collector = await DatabaseAnalyticsCollector.from_engine(engine)
        await collector.record(canary_in_every_field(make_event, 2))
        assert await collector.flush()
        assert len(await collector.get_events()) == 2
        await collector.close()
        await engine.dispose()
    assert [line for line in lines if CANARY in line] == []


async def test_an_applications_own_connections_log_as_they_did(sqlite: Any, make_event: Any, batch_of: Any) -> None:
    with everything_logged() as lines:
        store = sqlite.store()
        await store.write(batch_of(canary_in_every_field(make_event, 1)))
        async with aiosqlite.connect(sqlite.url.database) as own:
            await own.execute("SELECT 'a statement of the application'")
        engine = create_async_engine(sqlite.url)
        async with engine.connect() as connection:
            (await connection.exec_driver_sql("SELECT 'a row of the application'")).all()
        await engine.dispose()
        await store.close()
    assert any("a statement of the application" in line for line in lines if "aiosqlite" in line)
    assert any("Row ('a row of the application',)" in line for line in lines)
    assert [line for line in lines if CANARY in line] == []


async def test_mysql_refuses_what_it_would_cut(mysql: Any, make_event: Any, batch_of: Any) -> None:
    """Even where the server is set to store what is left of a value, and to warn of it with the value's own words."""
    with everything_logged() as lines:
        store = mysql.store(engine={"connect_args": {"init_command": "SET sql_mode = ''"}})
        (event,) = batch_of(canary_in_every_field(make_event, 1)).events
        with pytest.raises(BadBatch) as raised:
            await store.write(Batch("b", (msgspec.structs.replace(event, variant=CANARY * 100),)))
        assert raised.value.code == "mysql-1406"
        await store.close()
    assert [line for line in lines if CANARY in line] == []


async def test_the_thread_of_questions_names_no_content_of_what_fails_beside_them(
    sqlite: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = sqlite.store()

    async def fail_beside() -> None:
        loop = asyncio.get_running_loop()
        assert not loop.get_debug()
        loop.call_exception_handler({"message": CANARY, "exception": ValueError(CANARY)})

    await store._questions.thread.run(fail_beside())
    await store.close()
    assert caplog.messages == ["something failed beside a question: ValueError"]
