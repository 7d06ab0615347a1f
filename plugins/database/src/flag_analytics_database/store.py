"""``DatabaseStore``: the sink that delivery writes batches to, and the source that answers questions about them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from flag_analytics.canonical import canonical_key
from flag_analytics.errors import BadBatch, ConfigError, ConfigProblem, SinkUnavailable
from flag_analytics.frozen import FrozenEvent
from flag_analytics.metrics import canonical_filter
from flag_analytics.outcomes import Outcomes
from flag_analytics.processes import renew_after_fork, wait
from flag_analytics.protocols import Batch
from flag_analytics.reports import DeadLetter, DeliveryOptions
from flag_analytics.sources import EventFilter, Exposures, FlagActivity, FlagSummary, TimeStep, Window
from flag_analytics.waiting import in_thread, is_trio
from sqlalchemy import Executable, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from .counting import HOUR
from .dead_letters import letter_from, letter_row
from .engine import EngineMaker, from_options
from .errors import CannotConnect, SchemaOutdated, code_of, delivery_error, is_statement_timeout, unavailable
from .fork_gate import ForkGate
from .housekeeping import Housekeeping
from .imports import Import, Page, Place, begin_import, imports_query, remove_page, store_import
from .memory import MemoryAnchor
from .once import store_counted, unless_crossed
from .options import DatabaseOptions
from .people import empty_log, forget_some, forgotten_letters
from .questions import PATIENCE_SECONDS, Questions
from .reading import EventStream
from .rebuilding import Rebuilt, drop_rollups, rebuild_page
from .retention import count_old, prune
from .rollup_state import EVER, follow
from .rollups.answers import RolledUpSource
from .rollups.background import Background
from .rollups.compaction import compact_some
from .rows import micros, unfit
from .schema import Tables
from .setup import State, upgrade
from .source import DatabaseSource
from .table_setup import TableSetup
from .urls import masked
from .write_connection import WriteConnection
from .writers import writer_for
from .writers.any_driver import insert_once

__all__ = ["DatabaseStore"]

logger = logging.getLogger("flag_analytics.database")


class DatabaseStore:
    """A ``BatchSink`` and an ``EventSource`` over one set of tables. Creating it opens nothing.

    Batches are written over one connection that belongs to the delivery worker's loop; questions go over a small pool
    in a thread of its own, so that they can be asked from any loop, before or after any delivery.
    """

    any_loop = True
    rolls_up = True

    def __init__(self, options: DatabaseOptions, engines: EngineMaker | None = None) -> None:
        self.options = options
        self.delivery: DeliveryOptions = options.delivery()
        self.engines = engines or from_options(options)
        self.family = self.engines.family
        for warning in self.engines.warnings:
            logger.warning("%s", warning)
        self._setup = TableSetup(options, self.family, self._use)
        # Servers notice the end of a connection; only a file has locks that a child would inherit.
        on_disk = self.family == "sqlite" and not self.engines.in_memory
        gate = ForkGate(self._closers) if on_disk else contextlib.nullcontext()
        self._gate = gate
        self._memory = MemoryAnchor(self.engines.url, in_memory=self.engines.in_memory)
        self._writing = WriteConnection(self.engines, options, self._setup, gate, self._memory)
        self._questions = Questions(self.engines, options, self._setup, gate, self._memory)
        self._housekeeping = Housekeeping(options, self._setup)
        self._background = Background(self._begin_compacting)
        self._import_id: int | None = None
        self._use(self._setup.tables)
        self._forget()
        renew_after_fork(self._forget)

    def _forget(self) -> None:
        self._begun: Future[None] | None = None
        self._background.forget()

    def _use(self, tables: Tables) -> None:
        self.source = RolledUpSource(DatabaseSource(self._ask, self.family, tables))
        self._writer = writer_for(self.family, self.engines.url.get_driver_name(), tables)

    def _closers(self) -> Any:
        return [*self._writing.closers(), *self._questions.closers()]

    def __repr__(self) -> str:
        schema = f", schema={self.tables.schema!r}" if self.tables.schema else ""
        return f"DatabaseStore({masked(self.engines.url)}, table={self.tables.name!r}{schema})"

    @property
    def tables(self) -> Tables:
        return self._setup.tables

    @property
    def pruned(self) -> int:
        """Events removed by retention since the start."""
        return self._housekeeping.pruned

    # --- the sink: called by the delivery worker, in its loop

    async def open(self) -> None:
        """Connect and set the tables up as far as the options allow.

        Raises:
            SinkUnavailable: the database does not answer, or (``SchemaOutdated``) the tables are not usable.
        """
        self._memory.reopen()
        self._questions.reopen()
        async with self._gate:
            await self._writing.get()

    async def write(self, batch: Batch) -> None:
        """Store the batch in one transaction; ids that are stored already stay as they are."""
        async with self._gate:
            connection = await self._writing.get()
            try:
                await asyncio.wait_for(self._store(connection, batch.events), self.options.statement_timeout_seconds)
            except Exception as error:
                failure = unfit(batch.events) or delivery_error(error)
                if isinstance(failure, BadBatch):
                    await self._writing.reset()
                else:
                    await self._writing.drop(broken=True)
                if is_statement_timeout(error):
                    raise TimeoutError(str(failure)) from None  # delivery halves a batch that takes too long each time
                raise failure from None
            except BaseException:
                await self._writing.drop(broken=True)
                raise
            await self._keep_house(connection)

    async def _store(self, connection: AsyncConnection, events: tuple[FrozenEvent, ...]) -> None:
        tables, writer, counted = self.tables, self._writer, self._setup.counted
        if self._import_id is not None:
            await store_import(connection, tables, self.family, writer, self._import_id, events, counted=counted)
        elif counted:
            await store_counted(connection, tables, self.family, writer, events)
        else:
            await writer.write(connection, events)

    async def _keep_house(self, connection: AsyncConnection) -> None:
        if self._setup.counted:
            self._background.go_on()
        try:
            await self._housekeeping.run(connection)
        except Exception as error:
            self._housekeeping.postpone()
            logger.warning("old events were not removed: %s", code_of(error))
            await self._writing.drop(broken=True)

    async def ping(self) -> None:
        """Raise unless the database answers on a fresh connection."""
        deadline = asyncio.timeout(self.options.connect_timeout_seconds)
        try:
            async with self._gate, deadline, self._writing.engine.connect() as connection:
                await _ping(connection)
        except Exception as error:
            raise unavailable(error) from None

    async def write_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Keep refused events in a table of their own, as JSON in plain ASCII."""
        rows = [letter_row(letter) for letter in letters]
        async with self._gate:
            connection = await self._writing.get()
            try:
                async with asyncio.timeout(self.options.statement_timeout_seconds):
                    if self.family == "sqlite":  # whose statements commit themselves otherwise
                        await connection.exec_driver_sql("BEGIN IMMEDIATE")
                    await connection.execute(insert_once(self.tables.dead_letters, self.family), rows)
                    await connection.commit()
            except Exception as error:
                await self._writing.drop(broken=True)
                raise delivery_error(error) from None

    async def close(self) -> None:
        """Release every connection; a question that is asked afterwards opens a new one."""
        await self._writing.close()
        await self.close_reading()

    # --- the source: called from anywhere

    async def summarise(self, flag_keys: Sequence[str], window: Window, **asked: Any) -> Mapping[str, FlagSummary]:
        """Return a summary for each flag that has events in the window: one statement for all of them."""
        return await self.source.summarise(flag_keys, window, **asked)

    async def get_exposures(self, flag_key: str, window: Window, *, where: EventFilter | None = None) -> Exposures:
        """Return users by the variant that they saw first."""
        return await self.source.get_exposures(flag_key, window, where=where)

    async def get_outcomes(
        self, flag_key: str, metric: str, window: Window, *, where: EventFilter | None = None
    ) -> Outcomes:
        """Return what the flag's users did, by the variant that they saw first."""
        return await self.source.get_outcomes(flag_key, metric, window, where=where)

    async def list_flags(self, window: Window, **asked: Any) -> Sequence[FlagActivity]:
        """Return every flag with events in the window, by key."""
        return await self.source.list_flags(window, **asked)

    async def count_steps(
        self, flag_key: str, window: Window, step_seconds: float, **asked: Any
    ) -> Mapping[int, TimeStep]:
        """Return, by number, the steps of the window that have events."""
        return await self.source.count_steps(flag_key, window, step_seconds, **asked)

    async def count_future(self, now: datetime) -> int:
        """Return the number of stored events dated after ``now``."""
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
        """Return the newest ``limit`` refused events that the table holds, oldest first.

        Raises:
            SinkUnavailable: the database does not answer.
        """
        dead = self.tables.dead_letters
        newest = select(dead).order_by(dead.c.at.desc(), dead.c.event_id.desc()).limit(limit)
        return [letter_from(row) for row in reversed(await self._ask(newest))]

    async def forget(self, targeting_keys: Sequence[str]) -> int:
        """Remove all events and dead letters of these targeting keys; return how many rows went.

        It works in pages of 2,000 rows, and can be interrupted and called again. What is recorded meanwhile may stay.

        Raises:
            SinkUnavailable: the database does not answer, or another process reads an older state of a SQLite file.
        """
        keys = sorted({canonical_key(key) for key in targeting_keys} - {""})
        if not keys:
            return 0
        removed = await self._questions.run(
            partial(forgotten_letters, tables=self.tables, targeting_keys=keys), settle=True
        )
        some = partial(forget_some, tables=self.tables, family=self.family, targeting_keys=keys)
        more = True
        while more:
            count, more = await self._questions.run(some, settle=True)
            removed += count
        if self.family == "sqlite" and not self.engines.in_memory:
            await self._questions.run(empty_log)
        return removed

    async def _ask(self, query: Executable) -> Sequence[Any]:
        """Run one statement over the pool for questions, with the tables set up."""

        async def ask(connection: AsyncConnection) -> Sequence[Any]:
            return (await connection.execute(query)).all()

        return await self._questions.run(ask, settle=True)

    async def close_reading(self, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Release the connections that questions go over; questions under way have ``patience_seconds`` to end."""
        if self._begun is not None:
            self._begun.cancel()
        await self._questions.close(patience_seconds)
        self._memory.release()

    def close_reading_sync(self, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """``close_reading`` for callers without an event loop."""
        if self._begun is not None:
            self._begun.cancel()
        self._questions.close_sync(patience_seconds)
        self._memory.release()

    # --- imports

    async def start_import(self, name: str) -> None:
        """Let each event that is stored from now on, and is new, belong to the import of this name.

        An import that exists goes on. An event whose id is stored with other content is refused: it becomes a dead
        letter with the code ``other_content``.

        Raises:
            SinkUnavailable: the database does not answer.
        """
        self._import_id = await self._questions.run(
            lambda connection: begin_import(connection, self.tables, self.family, name), settle=True
        )

    async def list_imports(self) -> list[Import]:
        """Return all imports, the oldest first.

        Raises:
            SinkUnavailable: the database does not answer.
        """
        return [Import.of(row) for row in await self._ask(imports_query(self.tables))]

    async def undo_import(self, name: str) -> int | None:
        """Remove the events that an import brought, and the import; return their number, None without such an import.

        It works in pages of 2,000 events, and can be interrupted and called again.

        Raises:
            SinkUnavailable: the database does not answer.
        """
        removed = 0
        after: Place | None = None
        while True:
            page = await self._questions.run(partial(self._remove_page, name, after), settle=True)
            if page is None:
                return None
            count, after = page
            removed += count
            if after is None:
                return removed

    async def _remove_page(self, name: str, after: Place | None, connection: AsyncConnection) -> Page | None:
        page = partial(remove_page, connection, self.tables, self.family, name, after)
        return await unless_crossed(connection, page)

    # --- starting

    async def require(self) -> None:
        """Return if the database answers.

        Raises:
            SinkUnavailable: it does not; the message says why.
        """
        try:
            await self._questions.run(_ping)
        except SinkUnavailable as error:
            await self.close_reading()
            raise _required(error) from None

    def require_now(self) -> None:
        """``require`` for callers without an event loop; waits at most ``connect_timeout_seconds`` and a second.

        Raises:
            SinkUnavailable: it does not; the message says why.
        """
        asked = self._questions.submit(_ping)
        try:
            wait(asked, self.options.connect_timeout_seconds + 1.0)
        except Exception as error:
            asked.cancel()
            self._questions.thread.stop()
            raise _required(unavailable(error)) from None

    async def begin(self, seconds: float) -> None:
        """Begin to set the tables up, if ``create_tables`` allows it; wait at most ``seconds`` for it.

        Raises:
            ConfigError: no connection is possible with these settings.
        """
        if not self.options.create_tables:
            return
        self._begun = begun = self._questions.submit(_ping, settle=True)
        if is_trio():
            await in_thread(concurrent.futures.wait, [begun], seconds)
            await self._settle_begun(begun)
            return
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def tell(_: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the caller's loop is closed
                loop.call_soon_threadsafe(done.set)

        begun.add_done_callback(tell)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), seconds)
        await self._settle_begun(begun)

    async def _settle_begun(self, begun: Future[Any]) -> None:
        error = begun.exception() if begun.done() and not begun.cancelled() else None
        failure = None if error is None else unavailable(error)
        if isinstance(failure, CannotConnect):
            await self.close_reading()
            raise ConfigError([ConfigProblem("", str(failure))], "database") from None

    def abandon(self) -> None:
        """Release without waiting what ``begin`` opened, for a caller that was cancelled."""
        if self._begun is not None:
            self._begun.cancel()
        self._questions.abandon()

    # --- operating

    async def can_store(self) -> bool:
        """Return whether the database answers, with tables that are usable or may be made so; changes nothing.

        The reason for unusable tables is logged, at most once a minute.
        """
        try:
            self._refuse_read_only()
            await self._questions.run(self._setup.check)
        except SchemaOutdated as error:
            self._setup.complain(error)
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

    async def upgrade(self) -> State:
        """Bring the tables to the newest version, keeping every row; return their state before."""
        setup = self._setup
        return await self._questions.run(
            lambda connection: upgrade(connection, setup.tables, self.family, partition_by=setup.partition_by)
        )

    def is_missing_file(self) -> bool:
        """Return whether this is a SQLite file that does not exist yet; a question would create it."""
        database = self.engines.url.database or ""
        if self.family != "sqlite" or database.startswith("file:"):
            return False
        return not Path(database).exists()

    async def compact(self, most: int = 200) -> int:
        """Make at most ``most`` summaries of finished days that are missing or stale; return how many were made.

        None means that there is nothing more to do.

        Raises:
            SinkUnavailable: the database does not answer.
        """
        return await self._questions.run(partial(self._compact, most), settle=True)

    def _begin_compacting(self, most: int) -> Future[int]:
        return self._questions.submit(partial(self._compact, most))

    async def _compact(self, most: int, connection: AsyncConnection) -> int:
        now, experiments = int(time.time() * 1_000_000), frozenset(map(canonical_key, self.options.rollup_experiments))
        return await compact_some(connection, self.tables, self.family, now, most, experiments)

    async def count_older(self, before: datetime) -> int:
        """Return how many events and dead letters ``prune`` would remove."""
        return await self._questions.run(lambda connection: count_old(connection, self.tables, before))

    async def rebuild_counts(self, since: datetime | None = None, tell: Callable[[Rebuilt], None] | None = None) -> int:
        """Count the stored events anew, of all time or of the hours from ``since`` on; return how many cells changed.

        Counts are kept from now on if they were not. It goes back in time, in pages; an interrupted call is continued
        by the next one. Writers need not stop. Hours of which events were pruned keep the counts that they have.

        Args:
            since: The first time that is wanted.
            tell: Called after each page.

        Raises:
            SinkUnavailable: the database does not answer.
        """
        first = EVER if since is None else micros(since) // HOUR * HOUR
        await self._questions.run(partial(follow, tables=self.tables, family=self.family, switch_on=True), settle=True)
        corrected, done = 0, False
        while not done:
            page = partial(rebuild_page, tables=self.tables, family=self.family, since=first)
            rebuilt = await self._questions.run(page, settle=True)
            corrected, done = corrected + rebuilt.corrected, rebuilt.done
            if tell is not None:
                tell(rebuilt)
        return corrected

    async def drop_rollups(self) -> None:
        """Remove counts and sketches, and keep none until an option or ``rebuild_counts`` asks for them again.

        Raises:
            SinkUnavailable: the database does not answer.
        """
        await self._questions.run(partial(drop_rollups, tables=self.tables, family=self.family), settle=True)

    async def prune(self, before: datetime) -> int:
        """Remove every event and dead letter dated before ``before``; return the number of rows removed."""
        return await self._questions.run(lambda connection: prune(connection, self.tables, self.family, before))


async def _ping(connection: AsyncConnection) -> None:
    await connection.execute(text("SELECT 1"))


def _required(error: SinkUnavailable) -> SinkUnavailable:
    return SinkUnavailable(f"{error}: start it, or leave require_database out", code=error.code)
