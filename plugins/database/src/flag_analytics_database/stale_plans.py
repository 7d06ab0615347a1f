"""``once_more``: a question that meets a table which another connection has just changed is asked again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError

from .errors import code_of

__all__ = ["once_more"]

T = TypeVar("T")

_STALE_PLAN = "0A000"
"""PostgreSQL: "cached plan must not change result type"; SQLAlchemy forgets its plans with the first such error."""


async def once_more(ask: Callable[[], Awaitable[T]]) -> T:
    """Return the answer of ``ask``, called again if the plan of a prepared statement was out of date."""
    try:
        return await ask()
    except DBAPIError as error:
        if code_of(error) != _STALE_PLAN:
            raise
    return await ask()
