"""Notices when an event loop stands still, whatever else the machine is busy with."""

from __future__ import annotations

import asyncio
import threading
import time
from types import TracebackType
from typing import Self

__all__ = ["LoopWatch"]

_TICK_SECONDS = 0.005


class LoopWatch:
    """Measures, as ``longest`` in seconds, how long the running loop did not get to anything else.

    ``async with LoopWatch() as watch``. A thread looks whether the loop's heart has beaten, and counts only the time in
    which it got to run itself: on a machine that is busy with something else, both are late. The heart counts the
    processor time of the loop's own thread, which no other program takes part in.
    """

    def __init__(self) -> None:
        self.longest = 0.0
        self._beats = 0
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True, name="flag-analytics loop watch")
        self._heart: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._heart = asyncio.create_task(self._beat())
        await asyncio.sleep(0)
        self._watcher.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._heart is not None
        self._heart.cancel()
        self._done.set()
        await asyncio.to_thread(self._watcher.join)

    async def _beat(self) -> None:
        while True:
            self._beats += 1
            before = time.thread_time()
            await asyncio.sleep(_TICK_SECONDS)
            self.longest = max(self.longest, time.thread_time() - before)

    def _watch(self) -> None:
        seen = self._beats
        still = 0.0
        before = time.monotonic()
        while not self._done.wait(_TICK_SECONDS):
            now = time.monotonic()
            # At most what a fair tick takes: what is beyond it the machine has taken from this thread, too.
            tick = min(now - before, 2 * _TICK_SECONDS)
            before = now
            still = 0.0 if self._beats != seen else still + tick
            seen = self._beats
            self.longest = max(self.longest, still)
