"""``WriteConnection``: the delivery worker's one connection, with usable tables behind it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

from flag_analytics.processes import keep_inherited, renew_after_fork
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from .adoption import PAGE_ROWS
from .engine import EngineMaker
from .errors import CannotConnect, code_of, unavailable
from .memory import MemoryAnchor
from .options import DatabaseOptions
from .rebuilding import rebuild_page
from .setup import State, adopt_page
from .table_setup import FOLLOW_EVERY_SECONDS, LOG_PAUSE_SECONDS, TableSetup

__all__ = ["WriteConnection"]

_CLOSE_SECONDS = 1.0
SETTLE_SECONDS = 3 * FOLLOW_EVERY_SECONDS
"""How long another process may go on writing without counts after they have begun to be kept."""

logger = logging.getLogger("flag_analytics.database")


class WriteConnection:
    """Opens when it is needed, in the loop that needs it. Used by one task at a time."""

    def __init__(
        self,
        engines: EngineMaker,
        options: DatabaseOptions,
        setup: TableSetup,
        gate: AbstractAsyncContextManager[None],
        memory: MemoryAnchor,
    ) -> None:
        self._engines = engines
        self._options = options
        self._setup = setup
        self._gate = gate
        self._memory = memory
        self._complaint = ""
        self._begin()
        renew_after_fork(self._forget)

    def _begin(self) -> None:
        self._engine: AsyncEngine | None = None
        self._connection: AsyncConnection | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._adopting: asyncio.Task[None] | None = None
        self._completing: asyncio.Task[None] | None = None

    def _forget(self) -> None:
        keep_inherited(self._engine, self._connection, self._loop, self._adopting, self._completing)
        self._begin()

    @property
    def engine(self) -> AsyncEngine:
        """The engine of this connection; it has no pool, so that each further connection is a fresh one."""
        if self._engine is None:
            self._engine = self._engines.for_writing()
        return self._engine

    async def get(self) -> AsyncConnection:
        """Return the connection, with the tables set up.

        Raises:
            SinkUnavailable: the database does not answer, or (``SchemaOutdated``) the tables are not usable.
        """
        if self._connection is None:
            self._memory.hold()
            try:
                async with asyncio.timeout(self._options.connect_timeout_seconds):
                    self._connection = await self.engine.connect()
                self._loop = asyncio.get_running_loop()
            except Exception as error:
                failure = unavailable(error)
                if isinstance(failure, CannotConnect):
                    self._complain(failure)
                raise failure from None
        if not self._setup.ready:
            await self._set_up(self._connection)
        elif time.monotonic() >= self._setup.follow_at:
            await self._follow(self._connection)
        if self._setup.incomplete and self._completing is None:
            self._completing = asyncio.ensure_future(self._complete_counts())
        return self._connection

    async def _follow(self, connection: AsyncConnection) -> None:
        try:
            async with asyncio.timeout(self._options.statement_timeout_seconds):
                await self._setup.follow_rollups(connection)
        except Exception as error:
            await self.drop(broken=True)
            raise unavailable(error) from None

    def _complain(self, error: CannotConnect) -> None:
        if str(error) != self._complaint:
            self._complaint = str(error)
            logger.error("no event can be stored until the configuration is corrected: %s", error)

    async def _set_up(self, connection: AsyncConnection) -> None:
        try:
            state = await self._setup.for_writing(connection)
        except BaseException as error:
            await self.drop(broken=True)
            if not isinstance(error, Exception):
                raise
            raise unavailable(error) from None
        if state is State.ADOPTING and self._adopting is None and self._setup.may_take_over:
            self._adopting = asyncio.ensure_future(self._adopt_rows())

    async def _adopt_rows(self) -> None:
        """Move the rows of a table made by litestar-flags, beside the writing and at most half of the time."""
        most_rows = PAGE_ROWS
        while True:
            started = time.monotonic()
            try:
                async with self._gate, self.engine.connect() as connection:
                    work = adopt_page(connection, self._setup.tables, self._setup.family, most_rows)
                    more = await asyncio.wait_for(work, self._options.statement_timeout_seconds)
            except Exception as error:
                if isinstance(error, TimeoutError):
                    most_rows = max(1, most_rows // 4)
                logger.warning("rows of litestar-flags were not taken over: %s", code_of(error))
                await asyncio.sleep(LOG_PAUSE_SECONDS)
                continue
            if not more:
                return
            await asyncio.sleep(time.monotonic() - started)

    async def _complete_counts(self) -> None:
        """Count the events that were stored before counts were kept, beside the writing and half of the time."""
        await asyncio.sleep(SETTLE_SECONDS)
        done = False
        while not done:
            started = time.monotonic()
            try:
                async with self._gate, self.engine.connect() as connection:
                    page = rebuild_page(connection, self._setup.tables, self._setup.family, settles=True)
                    done = (await asyncio.wait_for(page, self._options.query_timeout_seconds)).done
            except Exception as error:
                logger.warning("stored events were not counted: %s", code_of(error))
                await asyncio.sleep(LOG_PAUSE_SECONDS)
            else:
                await asyncio.sleep(time.monotonic() - started)
        self._setup.incomplete = False
        self._completing = None

    async def reset(self) -> None:
        """Make the connection ready again after a statement that the database refused for its content."""
        if self._connection is not None:
            try:
                await asyncio.wait_for(self._connection.rollback(), _CLOSE_SECONDS)
            except Exception:
                await self.drop(broken=True)

    async def drop(self, *, broken: bool) -> None:
        """Close the connection; after a failure (``broken``) the tables are looked at anew as well."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if broken:
            self._setup.ready = False
        try:
            if broken:
                await asyncio.wait_for(connection.invalidate(), _CLOSE_SECONDS)
            await asyncio.wait_for(connection.close(), _CLOSE_SECONDS)
        except Exception as error:
            logger.debug("a connection was not closed: %s", code_of(error))

    async def close(self) -> None:
        """Close everything; a later use opens anew."""
        beside = {task for task in (self._adopting, self._completing) if task is not None}
        self._adopting = self._completing = None
        for task in beside:
            task.cancel()
        if beside:
            await asyncio.wait(beside, timeout=_CLOSE_SECONDS)
        async with self._gate:
            await self.drop(broken=False)
        self._setup.forget()
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.dispose()

    def closers(self) -> list[tuple[asyncio.AbstractEventLoop, Callable[[], Coroutine[Any, Any, None]]]]:
        """Return how to close what is open before a fork: the loop to do it in, and a coroutine function."""
        if self._connection is None or self._loop is None:
            return []
        return [(self._loop, partial(self.drop, broken=False))]
