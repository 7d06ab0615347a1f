"""A real HTTP server that keeps what it is sent, and fails as it is told."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any, Self

from aiohttp import web

Reply = tuple[int, Any] | tuple[int, Any, Mapping[str, str]]


class Receiver:
    """Stores each event once by its id; ``replies`` are given before anything is stored, one for each request.

    Attributes:
        requests: Method, headers and body (decompressed and decoded) of each request.
        raw: Each request's body as it was sent.
        stored: Every event stored, by its id.
        repeated: How many events came again.
        replies: What the next requests are answered with, in place of storing.
        answer: If set, called with the decoded body of each further request; returns its reply, or None to store.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, Mapping[str, str], Any]] = []
        self.raw: list[bytes] = []
        self.stored: dict[str, Any] = {}
        self.repeated = 0
        self.replies: list[Reply] = []
        self.answer: Callable[[Any], Reply | None] = lambda _: None
        self.address = ("127.0.0.1", 0)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        return "http://{}:{}/events".format(*self.address)

    def store(self, events: Any) -> None:
        for event in events:
            key = event.get("event_id") or event["id"]
            self.repeated += key in self.stored
            self.stored.setdefault(key, event)

    async def _handle(self, request: web.Request) -> web.Response:
        raw = await request.read()
        self.raw.append(raw)
        encoded = gzip.decompress(raw) if request.headers.get("Content-Encoding") == "gzip" else raw
        body = json.loads(encoded) if encoded else None
        self.requests.append((request.method, request.headers.copy(), body))
        if request.method == "HEAD":
            return web.Response()
        reply = self.replies.pop(0) if self.replies else self.answer(body)
        if reply is None:
            self.store(body["events"] if isinstance(body, dict) and "events" in body else body)
            return web.json_response({})
        status, answer, *headers = reply
        if isinstance(answer, bytes):
            return web.Response(status=status, body=answer, headers=headers[0] if headers else None)
        return web.json_response(answer, status=status, headers=headers[0] if headers else None)

    async def _start(self) -> None:
        app = web.Application(client_max_size=2**28)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0.5, auto_decompress=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, *self.address)
        await site.start()
        self.address = self._runner.addresses[0][:2]

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10.0)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)
        self._loop.close()
