"""``/events``: single events, a page at a time, or all of a window as a file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from flag_analytics.canonical import canonical_key
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.sources import EventFilter, Window
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from .answers import EventItem, Events
from .csv_text import CSV, attachment, csv_text
from .options import ApiOptions
from .parameters import EventsQuery, read_query, where_of
from .problems import ProblemError
from .service import Service, pack_cursor, unpack_cursor

__all__ = ["event_item", "events", "newest"]

_MOST_AT_ONE_MOMENT = 5_000
_EXPORT_PAGE = 500
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LATEST_MICROS = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_EARLIEST_MICROS = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
JSON_LINES = "application/x-ndjson"
_COLUMNS = EventItem.__struct_fields__
_encode = msgspec.json.Encoder().encode

Page = tuple[list[FlagEvaluationEvent], "Place | None"]
Place = tuple[int, str, int]
"""The last event of a page: its time in microseconds, its id, and how many events of that time were given."""


async def events(service: Service, request: Request) -> Response:
    """Answer ``/events``."""
    query = read_query(EventsQuery, request.query_params)
    asked = service.asked(query)
    where = where_of(query, service.options)
    flag = None if query.flag is None else canonical_key(query.flag)
    after = _place_in(query.cursor) if query.cursor else None
    window = Window(asked.start, asked.end)
    collector = service.collector
    if not callable(getattr(collector, "get_events", None)):
        raise ProblemError(501, "the collector answers questions but does not give its events back")
    if query.format != "json":
        return _export(service, flag, window, where, query.format)

    async def found() -> Events:
        page, last = await _page(collector, flag, window, where, query.limit, after)
        return Events(
            events=[event_item(event, service.options) for event in page],
            people_shown=service.options.show_people,
            next_cursor=None if last is None else pack_cursor(*last),
            **await service.envelope(asked, estimated=any(event.sample_rate < 1 for event in page)),
        )

    return await service.answer(f"events {request.url.query}", found)


async def newest(
    collector: Any, flag: str | None, window: Window, where: EventFilter | None, limit: int
) -> list[FlagEvaluationEvent]:
    """Return the newest events of a window, the newest first."""
    found: Sequence[FlagEvaluationEvent] = await collector.get_events(flag, limit, window=window, where=where)
    return sorted(found, key=_order, reverse=True)


def _order(event: FlagEvaluationEvent) -> tuple[datetime, str]:
    return (event.timestamp, event.event_id or "")


async def _page(
    collector: Any, flag: str | None, window: Window, where: EventFilter | None, limit: int, after: Place | None
) -> Page:
    """Return the events after a place, the newest first, and the place where they end if there are more."""
    known = 0
    if after is None:
        found = await newest(collector, flag, window, where, limit + 1)
    else:
        micros, event_id, known = after
        moment = _EPOCH + micros * _MICROSECOND
        window = Window(window.start, min(window.end, moment))
        found = await newest(collector, flag, window, where, limit + known + 1)
        found = [event for event in found if _order(event) < (moment, event_id)]
    page, more = found[:limit], len(found) > limit
    if not page or not more:
        return page, None
    last = page[-1]
    at_once = sum(event.timestamp == last.timestamp for event in page)
    if after is not None and last.timestamp == _EPOCH + after[0] * _MICROSECOND:
        at_once += known
    return page, ((last.timestamp - _EPOCH) // _MICROSECOND, last.event_id or "", at_once)


def _place_in(cursor: str) -> Place:
    micros, event_id, known = unpack_cursor(cursor, tuple[int, str, int])
    if not _EARLIEST_MICROS <= micros <= _LATEST_MICROS or known < 0:
        raise ProblemError(400, "cursor cannot be read", parameter="cursor", expected="next_cursor of an answer")
    if known > _MOST_AT_ONE_MOMENT:
        raise ProblemError(
            400,
            "too many events happened at one moment to go on by pages",
            parameter="cursor",
            expected=f"at most {_MOST_AT_ONE_MOMENT:,} events of one moment: export them with format=csv",
        )
    return micros, event_id, known


def event_item(event: FlagEvaluationEvent, options: ApiOptions) -> EventItem:
    """Return an event as it is shown."""
    context = dict(event.context_attributes)
    if not options.show_people:
        context = {name: context[name] for name in options.shown_attributes if name in context}
    return EventItem(
        id=event.event_id or "",
        at=event.timestamp,
        flag=event.flag_key,
        kind=event.kind,
        variant=event.variant,
        reason=str(event.reason),
        value=event.value,
        user=event.targeting_key if options.show_people else None,
        context=context,
        duration_ms=event.evaluation_duration_ms,
        error_type=event.error_type,
        provider=event.provider_name,
        flag_version=event.flag_version,
        sample_rate=event.sample_rate,
    )


def _export(service: Service, flag: str | None, window: Window, where: EventFilter | None, form: str) -> Response:
    """Stream the events of a window, the newest first, a page at a time."""
    headers = attachment(f"events.{form}")
    media_type = CSV if form == "csv" else JSON_LINES
    return StreamingResponse(_pages(service, flag, window, where, form), headers=headers, media_type=media_type)


async def _pages(
    service: Service, flag: str | None, window: Window, where: EventFilter | None, form: str
) -> AsyncIterator[bytes]:
    left = service.options.max_export_events
    after: Place | None = None
    if form == "csv":
        yield csv_text(_COLUMNS, ())
    while left > 0:
        page, after = await _page(service.collector, flag, window, where, min(_EXPORT_PAGE, left), after)
        items = [event_item(event, service.options) for event in page]
        if form == "csv":
            yield csv_text(_COLUMNS, map(msgspec.structs.astuple, items), header=False)
        else:
            yield b"".join(_encode(item) + b"\n" for item in items)
        left -= len(page)
        if after is None:
            return
