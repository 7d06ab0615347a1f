"""``EventStream``: stored events read back in their order, a page at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from typing import Any

from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.sources import EventFilter, Window
from sqlalchemy import Executable, and_, or_, select

from .conditions import conditions
from .queries import events_query
from .rows import event_from
from .schema import Tables

__all__ = ["PAGE_EVENTS", "EventStream"]

PAGE_EVENTS = 1_000
"""How many events are held at a time."""


class EventStream:
    """Events by time, then by id: iterate over it in flat memory, or await it for a list.

    ::

        async for event in collector.get_events("checkout"):
            ...
        newest = await collector.get_events(limit=100)

    Each page is a question of its own, from where the last one ended: a reader that takes its time holds no
    transaction, lock or connection meanwhile. Events that are stored while it reads may or may not be seen.
    """

    def __init__(
        self,
        ask: Callable[[Executable], Awaitable[Sequence[Any]]],
        tables: Tables,
        family: str,
        *,
        flag_key: str | None,
        window: Window | None,
        where: EventFilter | None,
        limit: int | None,
    ) -> None:
        self._ask = ask
        self._tables = tables
        self._family = family
        self._limit = limit
        self._conditions = conditions(tables, family, window, where)
        if flag_key is not None:
            self._conditions.insert(0, tables.events.c.flag_key == flag_key)

    def __await__(self) -> Generator[Any, None, list[FlagEvaluationEvent]]:
        return self._all().__await__()

    async def _all(self) -> list[FlagEvaluationEvent]:
        return [event async for event in self]

    async def __aiter__(self) -> AsyncIterator[FlagEvaluationEvent]:
        columns = self._tables.events.c
        after: Any = None
        left = self._limit
        if left is not None:
            if left < 1:
                return
            oldest = await self._oldest_of_newest(left)
            if oldest is not None:
                after = self._from(*oldest, inclusive=True)
        while left is None or left > 0:
            page = min(PAGE_EVENTS, left) if left is not None else PAGE_EVENTS
            query = events_query(self._tables, self._family).where(*self._conditions)
            if after is not None:
                query = query.where(after)
            rows = await self._ask(query.order_by(columns.timestamp, columns.event_id).limit(page))
            for row in rows:
                yield event_from(row)
            if len(rows) < page:
                return
            if left is not None:
                left -= len(rows)
            after = self._from(rows[-1].timestamp, rows[-1].event_id, inclusive=False)

    async def _oldest_of_newest(self, count: int) -> tuple[int, str] | None:
        """Return time and id of the first of the ``count`` newest events, or None if there are not so many."""
        columns = self._tables.events.c
        query = (
            select(columns.timestamp, columns.event_id)
            .where(*self._conditions)
            .order_by(columns.timestamp.desc(), columns.event_id.desc())
            .offset(count - 1)
            .limit(1)
        )
        rows = await self._ask(query)
        return (rows[0].timestamp, rows[0].event_id) if rows else None

    def _from(self, timestamp: int, event_id: str, *, inclusive: bool) -> Any:
        columns = self._tables.events.c
        # Not a comparison of row values: MySQL finds no index for one.
        follows = columns.event_id >= event_id if inclusive else columns.event_id > event_id
        return and_(columns.timestamp >= timestamp, or_(columns.timestamp > timestamp, follows))
