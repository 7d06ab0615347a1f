"""Connects aiosqlite where no thread can be started any more: Python 3.12 starts none at the end of a process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

__all__ = ["connect"]


class _InPlace:
    """aiosqlite's queue of calls, which makes each at once: blocking the sink's own loop harms no other."""

    def put_nowait(self, call: tuple[asyncio.Future[Any] | None, Callable[[], Any]]) -> None:
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

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._thread = connection._thread  # noqa: SLF001 - aiosqlite has no public name for it
        self._thread.daemon = True

    def start(self) -> None:
        try:
            self._thread.start()
        except RuntimeError:
            self._connection._tx = _InPlace()  # noqa: SLF001 - as above


def connect(*arguments: Any, **keywords: Any) -> Any:
    """Return an aiosqlite connection that is to be awaited; SQLAlchemy's ``async_creator_fn``."""
    import aiosqlite

    connection = aiosqlite.connect(*arguments, **keywords)
    if hasattr(connection, "_thread") and hasattr(connection, "_tx"):  # since aiosqlite 0.22
        connection._thread = _Starter(connection)  # type: ignore[assignment]  # noqa: SLF001
    else:
        connection.daemon = True  # type: ignore[attr-defined]  # it is a thread itself
    return connection
