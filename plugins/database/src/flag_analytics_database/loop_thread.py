"""A daemon thread with an event loop, so that a pool of connections serves callers from any loop."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from flag_analytics.processes import DaemonExecutor

from .errors import closed_meanwhile

__all__ = ["LoopThread"]

T = TypeVar("T")

GRACE_SECONDS = 1.0
"""How long what still runs when the thread is told to end may take; then it is cancelled."""

logger = logging.getLogger("flag_analytics.database")


class LoopThread:
    """Runs coroutines in a loop of its own; starts with the first one, and anew in a forked child.

    An asynchronous connection belongs to the loop that made it. Questions come from any number of loops, each of
    which may be gone by the next question, so the connections live here.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: threading.Thread | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what ``work`` returns; cancelling the caller cancels it.

        Raises:
            SinkUnavailable: the thread was told to end, and the work took longer than that waits for.
        """
        future = self.submit(work)
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
            SinkUnavailable: the thread is just ending; its connections must not be used in another one.
        """
        if self._pid != os.getpid():
            # Only the thread that forked exists in the child: a lock that another one held would never be released.
            self._lock = threading.Lock()
            self._loop = self._thread = self._ending = None
            self._pid = os.getpid()
        with self._lock:  # as in stop: what is begun before the loop is told to end is seen to its end
            if self._ending is not None and self._ending.is_alive():
                work.close()
                raise closed_meanwhile()
            if self._loop is None:
                loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_serve, args=(loop,), name=self._name, daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:  # no thread to be had, or the interpreter is ending
                    loop.close()
                    work.close()
                    raise
                self._loop = loop
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the loop, if it is running."""
        return self._loop if self._pid == os.getpid() else None

    def stop(self) -> None:
        """End the thread, if there is one; the next coroutine starts another."""
        if self._pid != os.getpid():
            return
        with self._lock:
            loop, self._loop = self._loop, None
            if loop is not None:
                self._ending = self._thread
                loop.call_soon_threadsafe(loop.stop)

    async def ended(self) -> None:
        """Wait until a thread that was told to end has ended; never much longer than it lets its work go on."""
        ends = time.monotonic() + 2 * GRACE_SECONDS
        while self._ending is not None and self._ending.is_alive() and time.monotonic() < ends:  # noqa: ASYNC110
            await asyncio.sleep(0.001)  # a thread's end sets nothing that a loop could wait for


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    # Debug mode and the usual handler both quote what passes through the loop: rows, and the words of drivers.
    loop.set_debug(False)
    loop.set_exception_handler(_say_class_only)
    loop.set_default_executor(DaemonExecutor())  # a name server that is silent does not hold up the end of the process
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(_finish())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


async def _finish() -> None:
    """Let what was begun come to its end: whoever asked waits for it."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=GRACE_SECONDS)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)


def _say_class_only(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    logger.warning("something failed beside a question: %s", type(context.get("exception")).__name__)
