"""``LoopThread``: a daemon thread with an event loop, so that a pool of connections serves callers from any loop."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from flag_analytics.processes import (
    DaemonExecutor,
    keep_inherited,
    new_event_loop,
    new_lock,
    renew_after_fork,
    start_thread,
    submit,
    wait_for_end,
)
from flag_analytics.waiting import in_thread, is_trio

from .errors import closed_meanwhile

__all__ = ["GRACE_SECONDS", "LoopThread"]

T = TypeVar("T")

GRACE_SECONDS = 1.0
"""How long work under way may continue after ``stop``; then it is cancelled."""

logger = logging.getLogger("flag_analytics.database")


class LoopThread:
    """Runs coroutines in a loop of its own; starts with the first one, and anew in a forked child.

    An asynchronous connection belongs to the loop that made it, and a caller's loop may be closed by the next call.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._begin()
        renew_after_fork(self._forget)

    def _begin(self) -> None:
        self._lock = new_lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ending: threading.Thread | None = None

    def _forget(self) -> None:
        keep_inherited(self._loop)
        self._begin()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of ``work``; cancelling the caller cancels it.

        Raises:
            SinkUnavailable: the thread was stopped, and the work took longer than ``GRACE_SECONDS``.
        """
        future = self.submit(work)
        if is_trio():
            try:
                return await in_thread(future.result)
            except BaseException:
                future.cancel()
                raise
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise closed_meanwhile() from None

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin ``work``; the future is for callers without a loop.

        Raises:
            SinkUnavailable: the thread is ending; its connections must not be used in another one.
            RuntimeError: no thread can be started.
        """
        with self._lock:  # as in ``stop``: work begun before the stop is finished
            if self._ending is not None and self._ending.is_alive():
                work.close()
                raise closed_meanwhile()
            if self._loop is None:
                loop = new_event_loop()
                self._thread = start_thread(_serve, loop, name=self._name)
                if self._thread is None:
                    loop.close()
                    work.close()
                    raise RuntimeError("no thread can be started")
                self._loop = loop
            return submit(work, self._loop)

    def loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the loop, if it is running."""
        return self._loop

    def stop(self) -> None:
        """End the thread, if there is one; the next coroutine starts another."""
        with self._lock:
            loop, self._loop = self._loop, None
            if loop is not None:
                self._ending = self._thread
                loop.call_soon_threadsafe(loop.stop)

    async def ended(self) -> None:
        """Wait until a stopped thread has ended, for at most twice ``GRACE_SECONDS``."""
        if is_trio():
            await in_thread(self.join)
            return
        ends = time.monotonic() + 2 * GRACE_SECONDS
        while self._ending is not None and self._ending.is_alive() and time.monotonic() < ends:  # noqa: ASYNC110
            await asyncio.sleep(0.001)  # the end of a thread sets nothing that a loop could wait for

    def join(self) -> None:
        """``ended`` for callers without an event loop."""
        if self._ending is not None:
            wait_for_end(self._ending, 2 * GRACE_SECONDS)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    # Debug mode and the default handler both quote rows and the words of drivers.
    loop.set_debug(False)
    loop.set_exception_handler(_log_class_only)
    loop.set_default_executor(DaemonExecutor())  # a silent name server does not hold up the end of the process
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(_finish())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


async def _finish() -> None:
    """Let the work under way end, for its callers."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=GRACE_SECONDS)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)


def _log_class_only(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    logger.warning("something failed beside a question: %s", type(context.get("exception")).__name__)
