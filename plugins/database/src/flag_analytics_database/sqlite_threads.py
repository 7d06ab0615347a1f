"""Connects aiosqlite in a thread of ours: a real one under gevent and eventlet, and none where none can be had.

aiosqlite has a thread for each connection and a queue of calls for it. Python 3.12 starts no thread at the end of a
process: then each call is made in place.
"""

from __future__ import annotations

import contextlib
import sqlite3
from _queue import SimpleQueue  # the original, whatever a framework has made of ``queue``
from collections.abc import Callable
from typing import Any, TypeVar

from flag_analytics.processes import start_thread

__all__ = ["connect", "in_its_thread"]

_T = TypeVar("_T")


class _Connection(sqlite3.Connection):
    """Ends its transaction when it is closed.

    SQLite keeps a closed connection, with its locks, for as long as there is a statement of it: where a task was
    cancelled while it read, until the next garbage collection.
    """

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):  # it is closed already
            if self.in_transaction:
                self.rollback()
        super().close()


class _InPlace:
    """aiosqlite's queue of calls, which makes each at once: blocking the sink's own loop harms no other."""

    def put_nowait(self, call: Any) -> None:
        if not isinstance(call, tuple):
            return  # until aiosqlite 0.22: the end
        future, function = call
        try:
            result = function()
        except BaseException as error:
            if future is not None and not future.done():
                future.set_exception(error)
        else:
            if future is not None and not future.done():
                future.set_result(result)


class _Starter:
    """Starts a connection's thread, or lets the connection do without."""

    daemon = True

    def __init__(self, connection: Any, run: Callable[..., object], *arguments: object) -> None:
        self._connection = connection
        self._run = run
        self._arguments = arguments

    def start(self) -> None:
        if start_thread(self._run, *self._arguments, name="sqlite") is None:
            self._connection._tx = _InPlace()  # noqa: SLF001 - aiosqlite has no public name for it


async def in_its_thread(connection: Any, function: Callable[[sqlite3.Connection], _T]) -> _T:
    """Return the result of a function of an aiosqlite connection's own, called in its thread: one way for many calls.

    It is not interrupted where the caller is cancelled.
    """
    call = connection._execute  # noqa: SLF001 - aiosqlite has no public name for it, and each of its methods is this
    result: _T = await call(function, connection._conn)  # noqa: SLF001 - as above
    return result


def connect(*arguments: Any, **keywords: Any) -> Any:
    """Return an aiosqlite connection that is to be awaited; SQLAlchemy's ``async_creator_fn``."""
    import aiosqlite.core

    keywords.setdefault("factory", _Connection)
    connection: Any = aiosqlite.connect(*arguments, **keywords)
    calls: SimpleQueue[Any] = SimpleQueue()
    connection._tx = calls  # noqa: SLF001 - as above
    worker = getattr(aiosqlite.core, "_connection_worker_thread", None)  # since aiosqlite 0.22
    if worker is not None:
        connection._thread = _Starter(connection, worker, calls)  # noqa: SLF001 - as above
    else:  # it is a thread itself
        connection.start = _Starter(connection, connection.run).start
    return connection
