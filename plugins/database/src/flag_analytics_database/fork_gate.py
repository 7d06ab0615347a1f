"""``ForkGate``: closes a SQLite file's connections before each fork; they open again when they are needed.

SQLite keeps the locks of a process on a file in that process's memory, shared by all connections to the file. A child
inherits them as they were: it waits for ever for the parent's writer, or writes without the lock and damages the file
(https://www.sqlite.org/howtocorrupt.html, section 2.6). The child cannot repair that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from flag_analytics.processes import guard_forks, new_condition, submit

__all__ = ["Closers", "ForkGate"]

Closers = Callable[[], list[tuple[asyncio.AbstractEventLoop, Callable[[], Coroutine[Any, Any, Any]]]]]
"""Returns, for each open connection, the loop that it belongs to and a coroutine function that closes it."""


class ForkGate:
    """Entered around each use of connections: ``async with gate``. A fork waits until all uses have ended.

    It waits a second at most, for a slow query for example; connections that are in use then stay open.
    """

    def __init__(self, closers: Closers) -> None:
        self._closers = closers
        self.after_fork_in_child()
        guard_forks(self)

    async def __aenter__(self) -> None:
        while not self._enter():  # noqa: ASYNC110
            # The loop must keep running, since it closes the connections; threads cannot set an asyncio.Event.
            await asyncio.sleep(0.001)

    async def __aexit__(self, *_: object) -> None:
        with self._changed:
            self._users -= 1
            self._changed.notify_all()

    def _enter(self) -> bool:
        with self._changed:
            if not self._shut:
                self._users += 1
            return not self._shut

    def before_fork(self, deadline: float) -> None:
        """Admit no further uses, wait for those under way, and close the open connections."""
        with self._changed:
            self._shut = True
            if not self._changed.wait_for(lambda: self._users == 0, max(0.0, deadline - time.monotonic())):
                return
        try:
            here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        for loop, close in self._closers():
            if loop is here or not loop.is_running():  # it cannot be run there while this waits
                continue
            work = submit(close(), loop)
            try:
                work.result(max(0.0, deadline - time.monotonic()))
            except Exception:
                work.cancel()  # the connection stays open; a fork is never refused

    def after_fork_in_parent(self) -> None:
        """Admit uses again."""
        with self._changed:
            self._shut = False

    def after_fork_in_child(self) -> None:
        """Begin without uses: those under way are the parent's."""
        self._changed = new_condition()
        self._users = 0
        self._shut = False
