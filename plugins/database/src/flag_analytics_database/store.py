"""``DatabaseStore``: what the delivery engine writes batches to, and what answers questions about them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from flag_analytics.canonical import canonical_key
from flag_analytics.errors import SinkUnavailable
from flag_analytics.metrics import canonical_filter
from flag_analytics.protocols import Batch
from flag_analytics.reports import DeadLetter, DeliveryOptions
from flag_analytics.sources import PARTS, EventFilter, FlagActivity, FlagSummary, TimeStep, Window
from sqlalchemy import Executable, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from .adoption import PAGE_ROWS
from .dead_letters import letter_from, letter_row
from .engine import EngineMaker, from_options, is_in_memory
from .errors import SchemaOutdated, closed_meanwhile, code_of, delivery_error, is_missing_table, unavailable
from .fork_gate import ForkGate
from .loop_thread import LoopThread
from .options import DatabaseOptions
from .partitions import Period, create_partitions
from .reading import EventStream
from .retention import cutoff, drop_old_partitions, prune, prune_some
from .schema import Tables, tables_named
from .setup import State, adopt_page, as_they_are, incomplete, prepare, refuse_unusable, state_of, upgrade
from .source import DatabaseSource
from .urls import masked
from .writers import BatchWriter, writer_for
from .writers.any_driver import insert_once

__all__ = ["DatabaseStore"]

T = TypeVar("T")

_LOG_PAUSE_SECONDS = 60.0
PATIENCE_SECONDS = 0.1
"""How long a close waits for a question under way, where nobody gives it more time."""
GONE_SECONDS = 30.0
"""How long tables that vanished while they were used are waited for before they are made again."""

logger = logging.getLogger("flag_analytics.database")

_inherited: list[object] = []
"""What a forked child has of its parent's: kept for good, since closing it would speak on the parent's connection."""


class DatabaseStore:
    """A ``BatchSink`` and an ``EventSource`` over one set of tables. Creating it opens nothing.

    Batches are written over one connection that belongs to the delivery worker's loop; questions go over a small pool
    that lives in a thread of its own, so that they can be asked from any loop, and before or after any delivery.
    """

    def __init__(self, options: DatabaseOptions, engines: EngineMaker | None = None) -> None:
        self.options = options
        self.delivery: DeliveryOptions = options.delivery()
        self.engines = engines or from_options(options)
        self.family = self.engines.family
        self.partition_by: Period | None = options.partition_by if self.family == "postgresql" else None
        self.tables = tables_named(options.table, options.schema, self.partition_by is not None)
        self.source = DatabaseSource(self._ask, self.family, self.tables)
        self.pruned = 0
        """Events removed by retention since the start."""
        self._writer = self._new_writer()
        self._questions = LoopThread("flag-analytics-database")
        # Servers take a connection's end for what it is; only a file has locks that a child would inherit.
        self._in_memory = self.family == "sqlite" and is_in_memory(self.engines.url)
        on_disk = self.family == "sqlite" and not self._in_memory
        self._gate = ForkGate(self._open_connections) if on_disk else contextlib.nullcontext()
        self._complaint = ""
        self._complain_at = 0.0
        self._forget()

    def _forget(self) -> None:
        """Start with no connection: at first, and in a forked child."""
        self._pid = os.getpid()
        self._write_engine: AsyncEngine | None = None
        self._connection: AsyncConnection | None = None
        self._read_engine: AsyncEngine | None = None
        self._writing_loop: asyncio.AbstractEventLoop | None = None
        self._ready = False
        self._complete = False
        """Whether every row is where questions look for it, and not still in a table made by litestar-flags."""
        self._take_over: asyncio.Task[None] | None = None
        self._anchoring = threading.Lock()
        self._anchor: sqlite3.Connection | None = None
        """What keeps a database in memory alive while no other connection is open."""
        self._settling: asyncio.Lock | None = None
        self._refusing = False
        self._begun: Future[None] | None = None
        self._asking: set[asyncio.Task[Any]] = set()
        """Questions under way, in their own loop."""
        self._made = False
        """Whether this process has seen usable tables."""
        self._gone_since: float | None = None
        self._closed = False
        self._partitioned = False
        self._prune_at = 0.0
        self._partitions_at = 0.0

    def _own(self) -> None:
        if self._pid != os.getpid():
            mine = (self._write_engine, self._connection, self._read_engine, self._take_over, self._anchor)
            _inherited.append(mine)
            self._forget()

    def __repr__(self) -> str:
        schema = f", schema={self.tables.schema!r}" if self.tables.schema else ""
        return f"DatabaseStore({masked(self.engines.url)}, table={self.tables.name!r}{schema})"

    # --- the sink: called by the delivery worker, in its loop

    async def open(self) -> None:
        """Connect and set the tables up as far as the options allow.

        Raises:
            SinkUnavailable: the database does not answer, or (``SchemaOutdated``) the tables are not usable.
        """
        self._own()
        self._closed = False
        async with self._gate:
            await self._connected()

    async def write(self, batch: Batch) -> None:
        """Store the batch in one transaction; ids that are stored already stay as they are."""
        self._own()
        async with self._gate:
            await self._write(batch)

    async def _write(self, batch: Batch) -> None:
        connection = await self._connected()
        try:
            await asyncio.wait_for(self._writer.write(connection, batch.events), self.options.statement_timeout_seconds)
        except BaseException as error:
            await self._disconnect(broken=True)
            if not isinstance(error, Exception):
                raise
            raise delivery_error(error) from None
        await self._keep_house(connection)

    async def ping(self) -> None:
        """Raise unless the database answers on a fresh connection."""
        self._own()
        try:
            async with self._gate:
                await asyncio.wait_for(_ping(self._writing_engine()), self.options.connect_timeout_seconds)
        except Exception as error:
            raise unavailable(error) from None

    async def write_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Keep refused events in a table of their own, as JSON in plain ASCII."""
        self._own()
        rows = [letter_row(letter) for letter in letters]
        async with self._gate:
            connection = await self._connected()
            try:
                async with asyncio.timeout(self.options.statement_timeout_seconds):
                    if self.family == "sqlite":  # whose statements commit themselves otherwise
                        await connection.exec_driver_sql("BEGIN IMMEDIATE")
                    await connection.execute(insert_once(self.tables.dead_letters, self.family), rows)
                    await connection.commit()
            except Exception as error:
                await self._disconnect(broken=True)
                raise delivery_error(error) from None

    async def close(self) -> None:
        """Release every connection; a question that is asked afterwards opens a new one."""
        self._own()
        take_over, self._take_over = self._take_over, None
        if take_over is not None:
            take_over.cancel()
            await asyncio.wait({take_over}, timeout=1.0)
        async with self._gate:
            await self._disconnect(broken=False)
        self._ready = self._made = False
        engine, self._write_engine = self._write_engine, None
        if engine is not None:
            await engine.dispose()
        await self.close_reading()

    # --- the source: called from anywhere

    async def summarise(
        self,
        flag_keys: Sequence[str],
        window: Window,
        *,
        parts: frozenset[str] = PARTS,
        percentiles: Sequence[float] = (),
        where: EventFilter | None = None,
    ) -> Mapping[str, FlagSummary]:
        """Return a summary for each flag that has events in the window: one statement for all of them."""
        return await self.source.summarise(flag_keys, window, parts=parts, percentiles=percentiles, where=where)

    async def list_flags(self, window: Window, *, where: EventFilter | None = None) -> Sequence[FlagActivity]:
        """Return every flag with events in the window, by key."""
        return await self.source.list_flags(window, where=where)

    async def count_steps(
        self, flag_key: str, window: Window, step_seconds: float, *, where: EventFilter | None = None
    ) -> Mapping[int, TimeStep]:
        """Return, by number, the steps of the window that have events."""
        return await self.source.count_steps(flag_key, window, step_seconds, where=where)

    async def count_future(self, now: datetime) -> int:
        """Return how many stored events are dated after ``now``."""
        return await self.source.count_future(now)

    def get_events(
        self,
        flag_key: str | None = None,
        limit: int | None = None,
        *,
        window: Window | None = None,
        where: EventFilter | None = None,
    ) -> EventStream:
        """Return stored events by time: of one flag, the newest ``limit``, in a window, passing a filter.

        Iterate over the result with ``async for`` in flat memory, or await it for a list. Without a filter events of
        every kind are returned.
        """
        return EventStream(
            self._ask,
            self.tables,
            self.family,
            flag_key=None if flag_key is None else canonical_key(flag_key),
            window=window,
            where=None if where is None else canonical_filter(where),
            limit=limit,
        )

    async def read_dead_letters(self, limit: int = 1_000) -> list[DeadLetter]:
        """Return the newest ``limit`` refused events that the table holds, in the order they were given up.

        Raises:
            SinkUnavailable: the database does not answer.
        """
        dead = self.tables.dead_letters
        newest = select(dead).order_by(dead.c.at.desc(), dead.c.event_id.desc()).limit(limit)
        return [letter_from(row) for row in reversed(await self._ask(newest, settle=True))]

    async def require(self) -> None:
        """Return if the database answers a question.

        Raises:
            SinkUnavailable: it does not; the message says why.
        """
        try:
            await self._ask(text("SELECT 1"), settle=False)
        except SinkUnavailable as error:
            await self.close_reading()
            raise _required(error) from None

    def require_now(self) -> None:
        """``require`` for callers without an event loop; waits at most ``connect_timeout_seconds``, or a little longer.

        Raises:
            SinkUnavailable: it does not; the message says why.
        """
        asked = self._questions.submit(self._answer(_ping_over, settle=False))
        try:
            asked.result(self.options.connect_timeout_seconds + 1.0)
        except Exception as error:
            asked.cancel()
            self._questions.stop()
            raise _required(unavailable(error)) from None

    async def begin(self, seconds: float) -> None:
        """Set the tables up, where that is allowed and the database answers; wait at most so long for it."""
        if not self.options.create_tables:
            return
        self._begun = begun = self._questions.submit(self._answer(_ping_over, settle=True))
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def tell(_: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(done.set)

        begun.add_done_callback(tell)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), seconds)

    async def can_store(self) -> bool:
        """Return whether the database answers, with tables that are usable or may be made so; changes nothing.

        Why they are not is logged, at most once a minute.
        """

        async def look(connection: AsyncConnection) -> None:
            state = await connection.run_sync(state_of, self.tables)
            refuse_unusable(state, self.tables, create=self._may_create, may_upgrade=self.options.upgrade)

        try:
            self._refuse_read_only()
            await self._with_connection(look)
        except SchemaOutdated as error:
            self._complain(error)
            return False
        except Exception:
            return False
        return True

    def _refuse_read_only(self) -> None:
        url = self.engines.url
        if self.family != "sqlite":
            return
        path = Path((url.database or "").removeprefix("file:"))
        read_only = url.query.get("mode") == "ro" or "immutable" in url.query
        if read_only or (path.exists() and not os.access(path, os.W_OK)):
            raise SinkUnavailable("the file is read-only", code="SQLITE_READONLY")

    def _complain(self, error: SchemaOutdated) -> None:
        words, now = str(error), time.monotonic()
        if words != self._complaint or now >= self._complain_at:
            self._complaint, self._complain_at = words, now + _LOG_PAUSE_SECONDS
            logger.warning("%s", words)

    async def upgrade(self) -> State:
        """Bring the tables to the newest version, keeping every row; return what was found."""
        return await self._with_connection(
            lambda connection: upgrade(connection, self.tables, self.family, partition_by=self.partition_by)
        )

    def is_missing_file(self) -> bool:
        """Return whether this is a SQLite file that nobody has made yet; asking it anything would make it."""
        database = self.engines.url.database or ""
        if self.family != "sqlite" or database.startswith("file:"):
            return False
        return not Path(database).exists()

    async def prune(self, before: datetime) -> int:
        """Remove everything dated before ``before``; return how many rows went."""
        return await self._with_connection(lambda connection: prune(connection, self.tables, self.family, before))

    async def close_reading(self, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Release the connections that questions go over; one that is asked later releases its own.

        Questions under way are waited for so long, and refused then.
        """
        self._own()
        self._closed = True
        if self._begun is not None:
            self._begun.cancel()
        if self._questions.loop() is not None:
            with contextlib.suppress(SinkUnavailable):  # another close was quicker
                await self._questions.run(self._end_questions(patience_seconds))
            self._questions.stop()
        await self._questions.ended()
        anchor, self._anchor = self._anchor, None
        if anchor is not None:
            anchor.close()

    # --- connections

    def _open_connections(self) -> list[tuple[asyncio.AbstractEventLoop, Callable[[], Coroutine[Any, Any, None]]]]:
        """Return how to close what is open, each in its own loop."""
        found: list[tuple[asyncio.AbstractEventLoop, Callable[[], Coroutine[Any, Any, None]]]] = []
        if self._pid != os.getpid():
            return found
        if self._connection is not None and self._writing_loop is not None:
            found.append((self._writing_loop, partial(self._disconnect, broken=False)))
        asking_loop = self._questions.loop()
        if self._read_engine is not None and asking_loop is not None:
            found.append((asking_loop, self._close_readers))
        return found

    def abandon(self) -> None:
        """Release what ``begin`` opened, for a caller that was cancelled: without waiting for it."""
        self._closed = True
        if self._begun is not None:
            self._begun.cancel()
        if self._questions.loop() is not None:
            ended = self._questions.submit(self._end_questions(0.0))
            ended.add_done_callback(lambda _: self._questions.stop())

    async def _end_questions(self, patience_seconds: float) -> None:
        """Wait for the questions under way, refuse those that take too long, and close their connections."""
        self._refusing = True  # else a new one would hold a connection of the pool that is closed here
        try:
            asking = tuple(self._asking)
            if asking:
                _, late = await asyncio.wait(asking, timeout=patience_seconds)
                for task in late:
                    task.cancel()
                if late:
                    await asyncio.wait(late, timeout=PATIENCE_SECONDS)
            await self._close_readers()
        finally:
            self._refusing = False

    async def _close_readers(self) -> None:
        engine, self._read_engine, self._settling = self._read_engine, None, None
        if engine is not None:
            await engine.dispose()

    def _hold_memory(self) -> None:
        """Keep a database in memory alive: it ends with its last connection, and one that fails is closed."""
        url = self.engines.url
        if not (self._in_memory and str(url.database).startswith("file:")):
            return
        with self._anchoring:
            if self._anchor is None and not self._closed:
                parameters = "&".join(f"{name}={value}" for name, value in url.query.items() if name != "uri")
                self._anchor = sqlite3.connect(f"{url.database}?{parameters}", uri=True, check_same_thread=False)

    def _writing_engine(self) -> AsyncEngine:
        if self._write_engine is None:
            self._write_engine = self.engines.for_writing()
        return self._write_engine

    async def _connected(self) -> AsyncConnection:
        """Return the writer's connection, with the tables set up."""
        if self._connection is None:
            self._hold_memory()
            try:
                async with asyncio.timeout(self.options.connect_timeout_seconds):
                    self._connection = await self._writing_engine().connect()
                self._writing_loop = asyncio.get_running_loop()
            except Exception as error:
                raise unavailable(error) from None
        if not self._ready:
            try:
                state = await self._set_up(self._connection, take_over=True)
            except BaseException as error:
                await self._disconnect(broken=True)
                if isinstance(error, SchemaOutdated):
                    self._complain(error)
                if not isinstance(error, Exception):
                    raise
                raise unavailable(error) from None
            self._ready = True
            if state is State.ADOPTING and self._take_over is None and self._may_take_over:
                self._take_over = asyncio.ensure_future(self._take_rows_over())
        return self._connection

    @property
    def _may_take_over(self) -> bool:
        return self.options.create_tables or self.options.upgrade

    @property
    def _may_create(self) -> bool:
        """Whether missing tables may be made now. Those that vanished may be back soon: a rename, a restore."""
        gone_for = 0.0 if self._gone_since is None else time.monotonic() - self._gone_since
        return self.options.create_tables and (not self._made or gone_for >= GONE_SECONDS)

    async def _set_up(self, connection: AsyncConnection, *, take_over: bool) -> State:
        try:
            state = await prepare(
                connection,
                self.tables,
                self.family,
                create=self._may_create,
                may_upgrade=self.options.upgrade,
                take_over=take_over,
                partition_by=self.partition_by,
            )
        except SchemaOutdated:
            if self._made and self._gone_since is None:
                self._gone_since = time.monotonic()
            raise
        self._use(await as_they_are(connection, self.tables, self.family))
        self._made, self._gone_since = True, None
        await connection.rollback()
        return state

    def _use(self, tables: Tables) -> None:
        """Take the tables with the key that they have in the database, whatever the options made of it."""
        self._partitioned = "timestamp" in tables.events.primary_key
        if tables is not self.tables:
            self.tables = tables
            self.source = DatabaseSource(self._ask, self.family, tables)
            self._writer = self._new_writer()

    def _new_writer(self) -> BatchWriter:
        return writer_for(self.family, self.engines.url.get_driver_name(), self.tables)

    async def _take_rows_over(self) -> None:
        """Move the rows of a table made by litestar-flags, beside the writing and half of the time at most."""
        most_rows = PAGE_ROWS
        while True:
            started = time.monotonic()
            try:
                async with self._gate, self._writing_engine().connect() as connection:
                    work = adopt_page(connection, self.tables, self.family, most_rows)
                    more = await asyncio.wait_for(work, self.options.statement_timeout_seconds)
            except Exception as error:
                if isinstance(error, TimeoutError):
                    most_rows = max(1, most_rows // 4)
                logger.warning("rows of litestar-flags were not taken over: %s", code_of(error))
                await asyncio.sleep(_LOG_PAUSE_SECONDS)
                continue
            if not more:
                return
            await asyncio.sleep(time.monotonic() - started)

    async def _settle(self, connection: AsyncConnection) -> None:
        """Make sure that questions see every row. A table made by litestar-flags is for writers to take over."""
        ends = time.monotonic() + self.options.query_timeout_seconds / 2
        state = await self._set_up(connection, take_over=self.options.upgrade)
        while state is State.ADOPTING:
            if not self._may_take_over or time.monotonic() > ends:
                raise incomplete(self.tables)
            if not await adopt_page(connection, self.tables, self.family):
                break
        self._ready = self._complete = True

    async def _disconnect(self, *, broken: bool) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if broken:  # what is there is looked at anew
            self._ready = False
        try:
            if broken:
                await asyncio.wait_for(connection.invalidate(), 1.0)
            await asyncio.wait_for(connection.close(), 1.0)
        except Exception as error:
            logger.debug("a connection was not closed: %s", code_of(error))

    async def _ask(self, query: Executable, *, settle: bool = True) -> Sequence[Any]:
        """Run one statement over the pool for questions; ``settle`` sets missing tables up first."""

        async def ask(connection: AsyncConnection) -> Sequence[Any]:
            return (await connection.execute(query)).all()

        return await self._with_connection(ask, settle=settle)

    async def _with_connection(self, work: Callable[[AsyncConnection], Awaitable[T]], *, settle: bool = False) -> T:
        self._own()
        try:
            return await self._questions.run(self._answer(work, settle=settle))
        except Exception as error:
            if is_missing_table(error):
                self._complete = False
            raise unavailable(error) from None

    async def _answer(self, work: Callable[[AsyncConnection], Awaitable[T]], *, settle: bool) -> T:
        """Do some work over the pool for questions, in its loop and within the time for it."""
        if self._refusing:
            raise closed_meanwhile()
        task = asyncio.current_task()
        assert task is not None
        self._asking.add(task)
        try:
            async with asyncio.timeout(self.options.query_timeout_seconds), self._gate:
                return await self._over_pool(work, settle=settle)
        finally:
            self._asking.discard(task)
            if self._closed and not self._asking:
                await self._close_readers()

    async def _over_pool(self, work: Callable[[AsyncConnection], Awaitable[T]], *, settle: bool) -> T:
        self._hold_memory()
        if self._read_engine is None:
            self._read_engine = self.engines.for_reading()
            self._settling = asyncio.Lock()
        engine, settling = self._read_engine, self._settling
        assert settling is not None
        while True:
            try:
                if settle and not self._complete:
                    async with settling, engine.connect() as connection:
                        if not self._complete:
                            await self._settle(connection)
                async with engine.connect() as connection:
                    return await work(connection)
            except DBAPIError as error:
                if not (self._in_memory and code_of(error).startswith("SQLITE_LOCKED")):
                    raise
            await asyncio.sleep(0.005)  # a shared cache does not wait for locks itself

    # --- house keeping, between batches

    async def _keep_house(self, connection: AsyncConnection) -> None:
        """Make partitions ahead of time and remove a few old events; a failure waits for the next time."""
        now = time.monotonic()
        try:
            if self._partitioned and self.partition_by is not None and now >= self._partitions_at:
                self._partitions_at = now + 3_600
                await connection.run_sync(create_partitions, self.tables, self.partition_by)
                await connection.commit()
            if self.options.retention_days is not None and now >= self._prune_at:
                await self._prune_a_little(connection, self.options.retention_days)
        except Exception as error:
            self._prune_at = now + self.options.prune_interval_seconds
            logger.warning("old events were not removed: %s", code_of(error))
            await self._disconnect(broken=True)

    async def _prune_a_little(self, connection: AsyncConnection, retention_days: float) -> None:
        before = cutoff(retention_days)
        async with asyncio.timeout(self.options.statement_timeout_seconds):
            gone = await drop_old_partitions(connection, self.tables, self.family, before)
            gone += await prune_some(connection, self.tables, self.family, before)
        self.pruned += gone
        if gone == 0:
            self._prune_at = time.monotonic() + self.options.prune_interval_seconds


async def _ping(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await _ping_over(connection)


async def _ping_over(connection: AsyncConnection) -> None:
    await connection.execute(text("SELECT 1"))


def _required(error: SinkUnavailable) -> SinkUnavailable:
    return SinkUnavailable(f"{error}: start it, or leave require_database out", code=error.code)
