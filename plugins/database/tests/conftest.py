"""A database of its own for each test, on every server that answers, and a TCP proxy that breaks connections."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from flag_analytics.events import EvaluationReason, FlagEvaluationEvent
from flag_analytics.freezer import Freezer
from flag_analytics.frozen import FrozenEvent
from flag_analytics.protocols import Batch
from flag_analytics.testing.samples import plain_event
from flag_analytics_database import DatabaseOptions, DatabaseStore
from sqlalchemy import make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

SERVERS = {
    "postgresql": ("FLAG_ANALYTICS_TEST_POSTGRES", "postgresql+asyncpg://postgres@127.0.0.1:5432/postgres"),
    "mysql": ("FLAG_ANALYTICS_TEST_MYSQL", "mysql+asyncmy://root@127.0.0.1:3306/test"),
}
_unreachable: dict[str, str] = {}
_DRIVERS = {"postgresql": "postgresql+asyncpg", "mysql": "mysql+asyncmy", "mariadb": "mysql+asyncmy"}


@attrs.frozen
class Database:
    """An empty database of one test."""

    family: str
    url: URL
    stores: list[DatabaseStore] = attrs.field(factory=list, repr=False)

    @property
    def connection_string(self) -> str:
        return self.url.render_as_string(hide_password=False)

    def at(self, host: str, port: int) -> str:
        return self.url.set(host=host, port=port).render_as_string(hide_password=False)

    def options(self, **settings: Any) -> DatabaseOptions:
        return DatabaseOptions(**{"connection_string": self.connection_string, **settings})

    def store(self, **settings: Any) -> DatabaseStore:
        made = DatabaseStore(self.options(**settings))
        self.stores.append(made)
        return made

    async def close(self) -> None:
        for store in self.stores:
            await store.close()

    async def run(self, statement: str, **parameters: Any) -> list[Any]:
        """Run SQL of the test's own, past everything that is tested."""
        engine = create_async_engine(self.url, poolclass=NullPool)
        try:
            async with engine.begin() as connection:
                result = await connection.execute(text(statement), parameters)
                return [tuple(row) for row in result] if result.returns_rows else []
        finally:
            await engine.dispose()

    async def count(self, table: str = "analytics_events") -> int:
        return int((await self.run(f"SELECT count(*) FROM {table}"))[0][0])


def _server(family: str) -> URL:
    variable, default = SERVERS[family]
    url = make_url(os.environ.get(variable) or default)
    return url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))


async def _administer(family: str, statement: str) -> None:
    engine = create_async_engine(_server(family), isolation_level="AUTOCOMMIT", poolclass=NullPool)
    try:
        async with asyncio.timeout(20), engine.connect() as connection:
            await connection.execute(text(statement))
    finally:
        await engine.dispose()


async def _create(family: str, name: str) -> None:
    if family in _unreachable:
        pytest.skip(_unreachable[family])
    # A collation that folds case and accents is what many servers have: ours must not depend on it.
    character_set = " CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci" if family == "mysql" else ""
    try:
        await _administer(family, f"CREATE DATABASE {name}{character_set}")
    except Exception as error:
        reason = f"no {family} server at {_server(family).host}:{_server(family).port}: {type(error).__name__}"
        if os.environ.get("FLAG_ANALYTICS_REQUIRE_SERVERS") == "1":
            pytest.fail(reason)
        _unreachable[family] = reason
        pytest.skip(reason)


async def _make_database(family: str, tmp_path: Path) -> AsyncIterator[Database]:
    if family == "sqlite":
        made = Database(family, make_url(f"sqlite+aiosqlite:///{(tmp_path / 'events.db').as_posix()}"))
        yield made
        await made.close()
        return
    name = f"fa_test_{uuid.uuid4().hex[:16]}"
    await _create(family, name)
    made = Database(family, _server(family).set(database=name))
    try:
        yield made
    finally:
        await made.close()
        force = " WITH (FORCE)" if family == "postgresql" else ""
        await _administer(family, f"DROP DATABASE IF EXISTS {name}{force}")


ALL = [
    "sqlite",
    pytest.param("postgresql", marks=pytest.mark.server),
    pytest.param("mysql", marks=pytest.mark.server),
]


@pytest.fixture(params=ALL)
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    async for made in _make_database(request.param, tmp_path):
        yield made


@pytest.fixture(params=ALL[1:])
async def server_database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    async for made in _make_database(request.param, tmp_path):
        yield made


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[Database]:
    async for made in _make_database("sqlite", tmp_path):
        yield made


@pytest.fixture
async def postgresql(tmp_path: Path) -> AsyncIterator[Database]:
    async for made in _make_database("postgresql", tmp_path):
        yield made


@pytest.fixture
async def mysql(tmp_path: Path) -> AsyncIterator[Database]:
    async for made in _make_database("mysql", tmp_path):
        yield made


@pytest.fixture
async def store(database: Database) -> DatabaseStore:
    return database.store()


NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


def event(number: int = 0, **changes: Any) -> FlagEvaluationEvent:
    fields: dict[str, Any] = {
        "timestamp": NOW + timedelta(microseconds=number),
        "flag_key": "checkout",
        "value": number,
        "reason": EvaluationReason.SPLIT,
        "variant": "ab"[number % 2],
        "targeting_key": f"user-{number}",
        "context_attributes": {"plan": "pro", "n": number},
        "evaluation_duration_ms": 0.5 + number,
    }
    return plain_event(number, **(fields | changes))


@pytest.fixture
def make_event() -> Callable[..., FlagEvaluationEvent]:
    return event


@pytest.fixture
def batch_of() -> Callable[..., Batch]:
    """Makes a batch of events as the delivery engine does: frozen."""
    freezer = Freezer(clock=NOW.timestamp)

    def make(*events: Any) -> Batch:
        frozen: tuple[FrozenEvent, ...] = tuple(freezer.freeze(one) for one in events)
        return Batch("batch-1", frozen)

    return make


@attrs.define
class Proxy:
    """A TCP proxy in front of a server that can be told to fail.

    ``mode`` is ``pass``, ``refuse`` (the connection is reset at once) or ``swallow`` (nothing comes through any more).
    ``cut_before_answer`` holds what a server's answer must contain for the connection to be cut in its place, as many
    times as ``cuts`` says: the server has done its work and the client does not hear of it.
    """

    target: tuple[str, int]
    mode: str = "pass"
    delay_seconds: float = 0.0
    cut_before_answer: bytes = b""
    cuts: int = 0
    connections: int = 0
    server: asyncio.Server | None = None
    open: set[asyncio.StreamWriter] = attrs.field(factory=set)
    tasks: set[asyncio.Task[None]] = attrs.field(factory=set)

    @property
    def port(self) -> int:
        assert self.server is not None
        return int(self.server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def stop(self) -> None:
        assert self.server is not None
        self.server.close()
        self.cut_all()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def cut_all(self) -> None:
        for writer in list(self.open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open.add(writer)
        if self.mode == "refuse":
            writer.transport.abort()
            return
        if self.mode == "swallow":
            await self._track(reader.read(-1))
            return
        server_reader, server_writer = await asyncio.open_connection(*self.target)
        self.open.add(server_writer)
        there = self._pump(reader, server_writer, answers=False)
        back = self._pump(server_reader, writer, answers=True)
        await asyncio.gather(self._track(there), self._track(back), return_exceptions=True)
        for end in (writer, server_writer):
            self.open.discard(end)
            end.transport.abort()

    async def _track(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        await task

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        try:
            while data := await reader.read(65_536):
                if self.mode == "swallow":
                    continue
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                if answers and self.cuts and self.cut_before_answer in data:
                    self.cuts -= 1
                    break
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # the other end is gone, which is what this is for
        writer.transport.abort()


@pytest.fixture
async def proxy(server_database: Database) -> AsyncIterator[Proxy]:
    made = Proxy((server_database.url.host or "127.0.0.1", server_database.url.port or 0))
    await made.start()
    yield made
    await made.stop()


@pytest.fixture(autouse=True)
def _utc_is_not_local_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No answer may depend on the time zone of the machine."""
    import time

    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    if hasattr(time, "tzset"):
        time.tzset()
    yield
    monkeypatch.undo()
    if hasattr(time, "tzset"):
        time.tzset()
