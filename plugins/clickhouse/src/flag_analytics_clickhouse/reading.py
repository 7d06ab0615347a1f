"""``EventStream``: stored events read back in their order, some at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from typing import Any

from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.sources import EventFilter, Window

from .queries import Query, events_query, hours_query, nth_newest_query
from .rows import EVENT_COLUMNS, event_from
from .schema import HOUR_MICROS, Tables

__all__ = ["PAGE_EVENTS", "EventStream"]

PAGE_EVENTS = 10_000
"""How many events are held at a time."""
_ID, _TIMESTAMP = EVENT_COLUMNS.index("event_id"), EVENT_COLUMNS.index("timestamp")


class EventStream:
    """Events by time, then by id: iterate over it in flat memory, or await it for a list.

    ::

        async for event in collector.get_events("checkout"):
            ...
        newest = await collector.get_events(limit=100)

    The table is in the order of flags, so that events by time are found span by span: neighbouring hours that have a
    page of events together. Each page is a question of its own. Events that are stored while it reads may or may not be
    seen.
    """

    def __init__(
        self,
        ask: Callable[[Query], Awaitable[Sequence[Any]]],
        tables: Tables,
        *,
        flag_key: str | None,
        window: Window | None,
        where: EventFilter | None,
        limit: int | None,
        page_events: int = PAGE_EVENTS,
    ) -> None:
        self._ask = ask
        self._tables = tables
        self._asked = (flag_key, window, where)
        self._limit = limit
        self._page_events = page_events

    def __await__(self) -> Generator[Any, None, list[FlagEvaluationEvent]]:
        return self._all().__await__()

    async def _all(self) -> list[FlagEvaluationEvent]:
        return [event async for event in self]

    async def __aiter__(self) -> AsyncIterator[FlagEvaluationEvent]:
        left = self._limit
        after: tuple[int, str] | None = None
        if left is not None:
            if left < 1:
                return
            # After the one before the oldest of the newest: then that one is included.
            rows = await self._ask(nth_newest_query(self._tables, *self._asked, left + 1))
            after = rows[0] if rows else None
        hours = await self._ask(hours_query(self._tables, *self._asked, after))
        for span in _spans(hours, self._page_events):
            full = True
            while full and (left is None or left > 0):
                size = self._page_events if left is None else min(self._page_events, left)
                query = events_query(self._tables, *self._asked, span=span, after=after, limit=size)
                rows = await self._ask(query)
                for row in rows:
                    yield event_from(row)
                if rows:
                    after = (rows[-1][_TIMESTAMP], str(rows[-1][_ID]))
                full = len(rows) == size
                left = None if left is None else left - len(rows)


def _spans(hours: Sequence[tuple[int, int]], events: int) -> list[tuple[int, int]]:
    """Return the spans of time, in microseconds, that have about so many events each; a full hour has its own."""
    spans: list[tuple[int, int]] = []
    held = 0
    for hour, count in hours:
        if spans and held + count <= events:
            spans[-1] = (spans[-1][0], hour + HOUR_MICROS)
            held += count
        else:
            spans.append((hour, hour + HOUR_MICROS))
            held = count
    return spans
