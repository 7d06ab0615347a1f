"""``Questions``: a small pool of connections in a thread of its own, so that any loop can ask."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from flag_analytics.errors import SinkUnavailable
from flag_analytics.processes import keep_inherited, renew_after_fork, wait
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from .engine import EngineMaker
from .errors import closed_meanwhile, code_of, is_missing_table, unavailable
from .loop_thread import GRACE_SECONDS, LoopThread
from .memory import MemoryAnchor
from .options import DatabaseOptions
from .stale_plans import once_more
from .table_setup import TableSetup

__all__ = ["PATIENCE_SECONDS", "Questions"]

T = TypeVar("T")
Work = Callable[[AsyncConnection], Awaitable[T]]

PATIENCE_SECONDS = 0.1
"""How long a close waits for a question under way unless it is given more time."""
_LOCKED_PAUSE_SECONDS = 0.005


class Questions:
    """Does work over pooled connections, within ``query_timeout_seconds``; opens what it needs, also after a close."""

    def __init__(
        self,
        engines: EngineMaker,
        options: DatabaseOptions,
        setup: TableSetup,
        gate: AbstractAsyncContextManager[None],
        memory: MemoryAnchor,
    ) -> None:
        self.thread = LoopThread("database")
        self._engines = engines
        self._options = options
        self._setup = setup
        self._gate = gate
        self._memory = memory
        self._begin()
        renew_after_fork(self._forget)

    def _begin(self) -> None:
        self._engine: AsyncEngine | None = None
        self._settling = asyncio.Lock()
        self._asking: set[asyncio.Task[Any]] = set()
        """Questions under way, in their own loop."""
        self._refusing = False
        self._closed = False

    def _forget(self) -> None:
        keep_inherited(self._engine, self._asking)
        self._begin()

    async def run(self, work: Work[T], *, settle: bool = False) -> T:
        """Return the result of ``work``; ``settle`` sets the tables up first.

        Raises:
            SinkUnavailable: the database does not answer, or the store was closed meanwhile.
        """
        try:
            return await self.thread.run(self._answer(work, settle=settle))
        except Exception as error:
            if is_missing_table(error):
                self._setup.complete = False
            raise unavailable(error) from None

    def submit(self, work: Work[T], *, settle: bool = False) -> Future[T]:
        """Begin ``work``, for callers without a loop; the future raises what the driver raises."""
        return self.thread.submit(self._answer(work, settle=settle))

    def reopen(self) -> None:
        """Keep connections for further questions again after ``close``."""
        self._closed = False

    async def close(self, patience_seconds: float) -> None:
        """Wait for the questions under way, refuse those that take longer, and close the connections."""
        self._closed = True
        if self.thread.loop() is not None:
            with contextlib.suppress(SinkUnavailable):  # another close was quicker
                await self.thread.run(self._end(patience_seconds))
            self.thread.stop()
        await self.thread.ended()

    def close_sync(self, patience_seconds: float) -> None:
        """``close`` for callers without an event loop."""
        self._closed = True
        if self.thread.loop() is not None:
            with contextlib.suppress(SinkUnavailable, TimeoutError, CancelledError):
                wait(self.thread.submit(self._end(patience_seconds)), patience_seconds + GRACE_SECONDS)
            self.thread.stop()
        self.thread.join()

    def abandon(self) -> None:
        """Close without waiting, for a caller that was cancelled."""
        self._closed = True
        if self.thread.loop() is not None:
            ended = self.thread.submit(self._end(0.0))
            ended.add_done_callback(lambda _: self.thread.stop())

    def closers(self) -> list[tuple[asyncio.AbstractEventLoop, Callable[[], Coroutine[Any, Any, None]]]]:
        """Return how to close what is open before a fork: the loop to do it in, and a coroutine function."""
        loop = self.thread.loop()
        return [] if self._engine is None or loop is None else [(loop, self._close_pool)]

    async def _answer(self, work: Work[T], *, settle: bool) -> T:
        if self._refusing:
            raise closed_meanwhile()
        task = asyncio.current_task()
        assert task is not None
        self._asking.add(task)
        try:
            async with asyncio.timeout(self._options.query_timeout_seconds), self._gate:
                return await self._over_pool(work, settle=settle)
        finally:
            self._asking.discard(task)
            if self._closed and not self._asking:
                await self._close_pool()

    async def _over_pool(self, work: Work[T], *, settle: bool) -> T:
        self._memory.hold()
        if self._engine is None:
            self._engine = self._engines.for_reading()
            self._settling = asyncio.Lock()
        engine, settling = self._engine, self._settling
        while True:
            try:
                if settle and not self._setup.complete:
                    async with settling, engine.connect() as connection:
                        if not self._setup.complete:
                            await self._setup.for_questions(connection)
                return await once_more(lambda: _work_over(engine, work))
            except DBAPIError as error:
                if not (self._engines.in_memory and code_of(error).startswith("SQLITE_LOCKED")):
                    raise
            await asyncio.sleep(_LOCKED_PAUSE_SECONDS)  # a shared cache does not wait for locks itself

    async def _end(self, patience_seconds: float) -> None:
        self._refusing = True  # a new question would hold a connection of the pool that is closed here
        try:
            asking = tuple(self._asking)
            if asking:
                _, late = await asyncio.wait(asking, timeout=patience_seconds)
                for task in late & self._asking:  # the last one, once answered, closes the connections
                    task.cancel()
                if late:
                    await asyncio.wait(late, timeout=PATIENCE_SECONDS)
            await self._close_pool()
        finally:
            self._refusing = False

    async def _close_pool(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.dispose()


async def _work_over(engine: AsyncEngine, work: Work[T]) -> T:
    async with engine.connect() as connection:
        return await work(connection)
