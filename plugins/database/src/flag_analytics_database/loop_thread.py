"""A daemon thread with an event loop, so that a pool of connections serves callers from any loop."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["LoopThread"]

T = TypeVar("T")

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
        self._pid = 0

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what ``work`` returns; cancelling the caller cancels it."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._running_loop()))

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._pid != os.getpid():
            # Only the thread that forked exists in the child: a lock that another one held would never be released.
            self._lock = threading.Lock()
            self._loop = None
            self._pid = os.getpid()
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_serve, args=(self._loop,), name=self._name, daemon=True).start()
            return self._loop

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
            loop.call_soon_threadsafe(loop.stop)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    # Debug mode and the usual handler both quote what passes through the loop: rows, and the words of drivers.
    loop.set_debug(False)
    loop.set_exception_handler(_say_class_only)
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


def _say_class_only(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    logger.warning("something failed beside a question: %s", type(context.get("exception")).__name__)
