"""Keeps event content out of the logs of drivers and of SQLAlchemy, whatever level an application sets for them.

==============  ===========================================  =========================================================
logger          what it would write                          what is done about it, for our own connections alone
==============  ===========================================  =========================================================
aiosqlite       DEBUG: each call with all rows               records from the threads of our connections are dropped
asyncmy         WARNING: the server's warnings, which quote  the session keeps none, and is strict: what would be a
                values                                       warning is an error, which the batch's answer reports
sqlalchemy      DEBUG: each row of an answer; ERROR: what a  a logger of a name of its own, without rows and without
                driver said when a connection was closed     the texts of exceptions; statements have no parameters
asyncpg,        nothing                                      nothing
aiomysql
==============  ===========================================  =========================================================

asyncio quotes the arguments of slow callbacks in its debug mode; see ``loop_thread``.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["LOGGING_NAME", "STRICT_SESSION", "guard_engine", "guard_sqlite_thread"]

LOGGING_NAME = "flag_analytics"
"""The last part of the names of our engines' loggers: ``sqlalchemy.engine.Engine.flag_analytics``."""

STRICT_SESSION = "SET SESSION max_error_count = 0, sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES')"
"""For MySQL and MariaDB: a value is stored as it is or refused, never cut and warned of."""

_here = threading.local()


class _NotFromOurThreads(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002
        return not getattr(_here, "ours", False)


class _WithoutContent(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.exc_info = record.exc_text = None
        return record.levelno > logging.DEBUG


_not_from_our_threads = _NotFromOurThreads()
_without_content = _WithoutContent()


def guard_engine(engine: AsyncEngine) -> None:
    """Let an engine log statements and events of its pool at most; it must have a ``logging_name`` of its own."""
    for speaker in (engine.sync_engine, engine.sync_engine.pool):
        logger: Any = speaker.logger
        # With ``echo`` it is a wrapper around the logger.
        getattr(logger, "logger", logger).addFilter(_without_content)
    logging.getLogger("aiosqlite").addFilter(_not_from_our_threads)


def guard_sqlite_thread(connection: Any) -> None:
    """Mark the thread of a new SQLite connection as ours: aiosqlite logs there what it does."""
    # A function called from SQL runs in that thread, whatever the driver's version calls it.
    connection.create_function("flag_analytics_mark_thread", 0, _mark)
    cursor = connection.cursor()
    cursor.execute("SELECT flag_analytics_mark_thread()")
    cursor.close()
    connection.create_function("flag_analytics_mark_thread", 0, None)


def _mark() -> None:
    _here.ours = True
