"""``MemoryAnchor``: keeps a SQLite database in memory alive while no other connection to it is open."""

from __future__ import annotations

import sqlite3

from flag_analytics.processes import keep_inherited, new_lock, renew_after_fork
from sqlalchemy.engine import URL

__all__ = ["MemoryAnchor"]


class MemoryAnchor:
    """One idle connection: a shared database in memory ends with its last connection. Does nothing for other URLs."""

    def __init__(self, url: URL, *, in_memory: bool) -> None:
        self._address: str | None = None
        if in_memory and str(url.database).startswith("file:"):
            parameters = "&".join(f"{name}={value}" for name, value in url.query.items() if name != "uri")
            self._address = f"{url.database}?{parameters}"
        self._begin()
        renew_after_fork(self._forget)

    def _begin(self) -> None:
        self._connection: sqlite3.Connection | None = None
        self._released = False
        self._lock = new_lock()

    def _forget(self) -> None:
        keep_inherited(self._connection)
        self._begin()

    def reopen(self) -> None:
        """Let ``hold`` have an effect again after ``release``."""
        self._released = False

    def hold(self) -> None:
        """Keep the database alive until ``release``."""
        if self._address is None:
            return
        with self._lock:
            if self._connection is None and not self._released:
                self._connection = sqlite3.connect(self._address, uri=True, check_same_thread=False)

    def release(self) -> None:
        """Let the database end with its last connection."""
        with self._lock:
            self._released = True
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
