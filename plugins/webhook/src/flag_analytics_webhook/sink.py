"""The sink that sends each batch as one HTTP request."""

from __future__ import annotations

import asyncio
import errno
import gzip
import re
import ssl
import time
from typing import Any

import aiohttp
import msgspec
from flag_analytics.errors import BadBatch, CommitUnknown, FatalConfiguration, SinkUnavailable
from flag_analytics.frozen import FrozenEvent
from flag_analytics.protocols import Batch
from flag_analytics.reports import DeliveryOptions

from .formats import FORMS
from .options import WebhookOptions
from .signing import signature_headers
from .statuses import verdict

__all__ = ["WebhookSink"]

_MAX_ANSWER_BYTES = 2**20
_MAX_CONNECT_SECONDS = 5.0
_sessions_of_the_parent: list[aiohttp.ClientSession | None] = []
"""Kept for good: a session that is collected would say goodbye on the parent's connections."""


class WebhookSink:
    """Sends a batch by POST; a batch that is sent again has the same ``webhook-id``, and its events their ids."""

    def __init__(self, options: WebhookOptions) -> None:
        self.options = options
        self._form = FORMS[options.format]
        self.delivery = DeliveryOptions(batch_size=self._form.batch_size, max_batch_bytes=self._form.max_batch_bytes)
        self._timeout = options.timeout.total_seconds()
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"WebhookSink(format={self.options.format!r})"

    async def write(self, batch: Batch) -> None:
        """Send the batch.

        Raises:
            BadBatch: the receiver refuses the batch or names events that it refuses, or an event cannot be encoded.
            SinkUnavailable: there is no connection, or the receiver asks for a pause.
            CommitUnknown: the connection broke before the answer, or the receiver failed.
            FatalConfiguration: the receiver does not know this sender, path or format.
        """
        events, items, refused = self._items(batch)
        if events:
            body = msgspec.json.encode(self._form.body(items, batch.id, self.options))
            error = await self._post(batch.id, body, events)
            if isinstance(error, BadBatch) and error.for_each:
                refused |= error.refused
                raise BadBatch(refused=refused, stored=error.stored, code=error.code)
            if error is not None:
                raise error
        if refused:
            stored = [event.event_id for event in events]
            raise BadBatch("some events cannot be encoded", refused=refused, stored=stored, code="encode")

    def _items(self, batch: Batch) -> tuple[list[FrozenEvent], list[Any], dict[str, str]]:
        """Return the events that can be sent, each in the receiver's form, and the reason for each of the others."""
        events: list[FrozenEvent] = []
        items: list[Any] = []
        refused: dict[str, str] = {}
        for event in batch:
            try:
                items.append(self._form.item(event, self.options))
            except Exception as error:
                refused[event.event_id] = type(error).__name__
            else:
                events.append(event)
        return events, items, refused

    async def _post(self, batch_id: str, body: bytes, events: list[FrozenEvent]) -> Exception | None:
        headers = {"Content-Type": self._form.content_type, **self._form.authorization(self.options.key)}
        if self.options.compression == "gzip":
            body = gzip.compress(body, 6, mtime=0)
            headers["Content-Encoding"] = "gzip"
        # A signature is over the id, a full stop and more, so the id holds none.
        message_id = re.sub(r"[^A-Za-z0-9_/-]", "_", batch_id)
        headers |= signature_headers(self.options.signing_secret, message_id, body, time.time())
        try:
            async with self._opened().post(
                self.options.url, data=body, headers=headers, allow_redirects=False
            ) as response:
                return verdict(response.status, response.headers, await _text_of(response), self._form, events)
        except aiohttp.InvalidURL:
            return FatalConfiguration("the URL cannot be read: check `url`", code="URL")
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return SinkUnavailable("no connection to the receiver", code=_code_of(error))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return CommitUnknown("the connection broke before the answer", code=_code_of(error))

    async def ping(self) -> None:
        """Ask for the URL's head on a fresh connection; any answer but a server's failure is one.

        Raises:
            SinkUnavailable: there is none.
        """
        try:
            async with (
                self._new_session() as session,
                session.head(self.options.url, allow_redirects=False) as response,
            ):
                failed = response.status >= 500 and response.status != 501
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise SinkUnavailable(code=_code_of(error)) from None
        if failed:
            raise SinkUnavailable(code=f"HTTP_{response.status}")

    async def close(self) -> None:
        """Close the connections."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()
            await asyncio.sleep(0)  # closed transports say so to the loop in its next round

    def after_fork_in_child(self) -> None:
        """Forget the parent's connections."""
        _sessions_of_the_parent.append(self._session)
        self._session = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._closed:
            raise SinkUnavailable("the sink is closed", code="closed")
        if self._session is None:
            self._session = self._new_session()
        return self._session

    def _new_session(self) -> aiohttp.ClientSession:
        context = ssl.create_default_context(cafile=self.options.ca_file) if self.options.ca_file else True
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=2, ssl=context, use_dns_cache=False),
            timeout=aiohttp.ClientTimeout(total=self._timeout, sock_connect=min(_MAX_CONNECT_SECONDS, self._timeout)),
            headers={"User-Agent": "flag-analytics-webhook", "Accept-Encoding": "identity", **self.options.headers},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            proxy=self.options.proxy,
        )


async def _text_of(response: aiohttp.ClientResponse) -> bytes:
    """Return the body of an answer; nothing of one that is too large, which is not read on."""
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_chunked(65_536):
        size += len(part)
        if size > _MAX_ANSWER_BYTES:
            response.close()
            return b""
        parts.append(part)
    return b"".join(parts)


def _code_of(error: BaseException) -> str:
    number = getattr(error, "errno", None)
    return errno.errorcode.get(number or 0, "") or type(error).__name__
