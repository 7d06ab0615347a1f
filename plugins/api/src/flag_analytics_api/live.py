"""``/live``: what happens, as server-sent events; one reader of the source serves all clients.

A client that does not read is dropped and counted: what waits for it is bounded, and nothing waits for it.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.sources import EventFilter, Window
from starlette.types import Receive, Scope, Send

from .answers import Delivery, EventItem, Live
from .delivery import delivery_of
from .events import event_item, newest
from .problems import ProblemError, problem_response
from .service import Service

__all__ = ["LiveHub", "LiveMessage"]

POLL_SECONDS = 1.0
_OVERLAP = timedelta(seconds=30)
"""How far back a poll looks: events are stored some time after they happened."""
_MOST_EVENTS = 100
_MOST_REMEMBERED = 10_000
_AT_A_TIME = 10
_MOST_MESSAGES = 8
"""The most messages that wait for one client."""
STREAM_SECONDS = 15.0
"""How long one stream lasts; the browser opens the next one. A server that is told to end waits for open ones."""
_RETRY = b"retry: 250\n\n"
_ALL_KINDS = EventFilter(kinds=("evaluation", "exposure", "outcome"))
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
_encode = msgspec.json.Encoder().encode


class LiveMessage(msgspec.Struct, kw_only=True):
    """One message of the stream: the ledger, and the events that are new; ``skipped`` others are not shown."""

    events: list[EventItem]
    skipped: int
    delivery: Delivery


class _Client:
    """The messages that wait for one client."""

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self.too_slow = asyncio.Event()

    def offer(self, message: bytes) -> bool:
        """Let a message wait; return whether there was room."""
        if len(self._waiting) >= _MOST_MESSAGES:
            self._waiting.clear()
            self.too_slow.set()
            return False
        self._waiting.append(message)
        self._arrived.set()
        return True

    async def next(self) -> bytes:
        """Return the next message."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft()


class LiveHub:
    """Reads the source once a second while there are clients, and hands each message to all of them."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._clients: set[_Client] = set()
        self._refused = 0
        self._dropped = 0
        self._reader: asyncio.Task[None] | None = None
        self._seen: dict[str, None] = {}
        self._read_until = datetime.min.replace(tzinfo=UTC)

    def counts(self) -> Live:
        """Return how many clients there are and were."""
        return Live(len(self._clients), self._refused, self._dropped)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one client until it goes, or does not keep up."""
        if len(self._clients) >= self._service.options.max_live_clients:
            self._refused += 1
            error = ProblemError(503, "too many live streams are open: try again later", headers={"Retry-After": "10"})
            await problem_response(error)(scope, receive, send)
            return
        client = _Client()
        self._clients.add(client)
        self._start()
        tasks = {
            asyncio.create_task(_send_all(client, send)),
            asyncio.create_task(_gone(receive)),
            asyncio.create_task(client.too_slow.wait()),
        }
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._clients.discard(client)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self) -> None:
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        """Send what is new to every client, until there is none."""
        now = datetime.now(UTC)
        # A stream that ended a moment ago goes on where it was.
        since = self._read_until if now - self._read_until < _OVERLAP else now
        while self._clients and not self._service.pipeline.closed:
            try:
                async with asyncio.timeout(self._service.options.question_timeout_seconds):
                    message = await self._message(since)
            except Exception as error:
                # The class alone: a driver's words may quote anything. The stream goes on when the source answers.
                message = b"event: problem\ndata: %b\n\n" % _encode({"error": type(error).__name__})
            self._read_until = datetime.now(UTC)
            await self._hand_out(message)

    async def _hand_out(self, message: bytes) -> None:
        """Offer a message to all clients, a few at a time over the pause, so that others have their turn."""
        clients = list(self._clients)
        groups = max(1, math.ceil(len(clients) / _AT_A_TIME))
        for group in range(groups):
            for client in clients[group * _AT_A_TIME : (group + 1) * _AT_A_TIME]:
                if not client.offer(message):
                    self._clients.discard(client)
                    self._dropped += 1
            await asyncio.sleep(POLL_SECONDS / groups)

    async def _message(self, since: datetime) -> bytes:
        fresh = [event for event in await self._recent(since) if event.event_id not in self._seen]
        for event in fresh:
            self._seen[event.event_id or ""] = None
        while len(self._seen) > _MOST_REMEMBERED:
            del self._seen[next(iter(self._seen))]
        shown = [event_item(event, self._service.options) for event in fresh[:_MOST_EVENTS]]
        message = LiveMessage(
            events=shown, skipped=len(fresh) - len(shown), delivery=delivery_of(self._service, self.counts())
        )
        return b"data: %b\n\n" % _encode(message)

    async def _recent(self, since: datetime) -> list[FlagEvaluationEvent]:
        """Return the newest events since the stream began, as far back as they may still arrive."""
        collector: Any = self._service.collector
        if not callable(getattr(collector, "get_events", None)):
            return []
        now = datetime.now(UTC)
        window = Window(max(since, now - _OVERLAP), now)
        return await newest(collector, None, window, _ALL_KINDS, 10 * _MOST_EVENTS)


async def _send_all(client: _Client, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _RETRY, "more_body": True})
    try:
        async with asyncio.timeout(STREAM_SECONDS):
            while True:
                await send({"type": "http.response.body", "body": await client.next(), "more_body": True})
    except TimeoutError:
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
