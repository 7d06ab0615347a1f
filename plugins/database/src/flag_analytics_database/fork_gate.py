"""No SQLite file stays open across a fork: its connections are closed before, and opened again when they are needed.

SQLite keeps the locks of a process on a file in that process's memory, shared by all connections to the file. A child
would inherit them as they were: it would wait for ever for the parent's writer, or believe to hold what it does not and
damage the file (https://www.sqlite.org/howtocorrupt.html, section 2.6). Nothing that the child does can help that.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import attrs

__all__ = ["ForkGate"]

_PATIENCE_SECONDS = 1.0
"""The longest a fork is held up, by a slow query for example; what is open then stays open."""

_gates: weakref.WeakSet[ForkGate] = weakref.WeakSet()


@attrs.define(eq=False)
class ForkGate:
    """Passed by everything that uses connections: ``async with gate``. Forks wait until nobody does.

    Attributes:
        open_connections: Returns, for what is open, the loop it belongs to and the coroutine function that closes it.
    """

    open_connections: Callable[[], list[tuple[asyncio.AbstractEventLoop, Callable[[], Coroutine[Any, Any, Any]]]]]
    _changed: threading.Condition = attrs.field(init=False, factory=threading.Condition)
    _users: int = attrs.field(init=False, default=0)
    _closed: bool = attrs.field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        _gates.add(self)

    async def __aenter__(self) -> None:
        while not self._enter():  # noqa: ASYNC110
            # The loop must run on, since it is what closes the connections; threads cannot set an asyncio.Event.
            await asyncio.sleep(0.001)

    async def __aexit__(self, *_: object) -> None:
        with self._changed:
            self._users -= 1
            self._changed.notify_all()

    def _enter(self) -> bool:
        with self._changed:
            if not self._closed:
                self._users += 1
            return not self._closed

    def shut(self, deadline: float) -> None:
        """Let nobody in any more, wait for those who are inside, and close what is open."""
        with self._changed:
            self._closed = True
            if not self._changed.wait_for(lambda: self._users == 0, max(0.0, deadline - time.monotonic())):
                return
        try:
            here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        for loop, close in self.open_connections():
            if loop is here or not loop.is_running():  # nobody can run it there
                continue
            work = asyncio.run_coroutine_threadsafe(close(), loop)
            try:
                work.result(max(0.0, deadline - time.monotonic()))
            except Exception:
                work.cancel()  # then it stays open; a fork is never refused

    def reopen(self) -> None:
        """Let everybody in again."""
        with self._changed:
            self._closed = False

    def renew(self) -> None:
        """Forget who was inside: they are in the parent, and so is whoever held the lock."""
        self._changed = threading.Condition()
        self._users = 0
        self._closed = False


def _before_fork() -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for gate in tuple(_gates):
        gate.shut(deadline)


def _after_fork_in_parent() -> None:
    for gate in tuple(_gates):
        gate.reopen()


def _after_fork_in_child() -> None:
    for gate in tuple(_gates):
        gate.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
