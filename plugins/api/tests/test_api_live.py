"""``/live``: what happens, to clients that keep up; the others are dropped and counted, and the memory is bounded."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from flag_analytics_api import ApiOptions, live
from flag_analytics_api.app import create_api

SCOPE = {
    "type": "http",
    "method": "GET",
    "path": "/live",
    "root_path": "",
    "query_string": b"",
    "headers": [(b"host", b"localhost")],
    "client": ("127.0.0.1", 1),
}


class Stream:
    """A client of ``/live`` that reads when it likes: what it does not read holds up the server's ``send``."""

    def __init__(self, app, *, reads=True):
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.status = None
        self._reads = reads
        self._left = asyncio.Event()
        self.task = asyncio.create_task(app(dict(SCOPE), self._receive, self._send))

    async def _receive(self):
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message):
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif self._reads:
            self.messages.put_nowait(message["body"])
        else:
            await asyncio.Event().wait()

    async def next(self) -> dict:
        """Return the next message with data."""
        while True:
            async with asyncio.timeout(30):
                body = await self.messages.get()
            for line in body.decode().splitlines():
                if line.startswith("data: "):
                    return json.loads(line.removeprefix("data: "))

    async def leave(self):
        self._left.set()
        await self.task


@pytest.fixture
def streams(pipeline, monkeypatch):
    """Return a function that opens a stream; the source is read a hundred times a second."""
    monkeypatch.setattr(live, "POLL_SECONDS", 0.01)

    @asynccontextmanager
    async def opened(**options):
        app = create_api(pipeline, ApiOptions(guarded=True, **options))
        opened = []

        def stream(**how):
            opened.append(Stream(app, **how))
            return opened[-1]

        yield stream
        for each in opened:
            await each.leave()

    return opened


async def test_a_client_gets_each_new_event_once_and_the_ledger(streams, record, pipeline):
    record("before", age=60.0)
    async with streams() as stream:
        client = stream()
        assert (await client.next())["events"] == []
        record("first")
        record("second")
        found, ledger = [], None
        while len(found) < 2:
            message = await client.next()
            found += [event["flag"] for event in message["events"]]
            ledger = message["delivery"]
        for _ in range(3):
            found += [event["flag"] for event in (await client.next())["events"]]
    assert sorted(found) == ["first", "second"]
    assert ledger["recorded"] == pipeline.stats().recorded == 3
    assert ledger["live"]["clients"] == 1


async def test_events_beyond_what_a_message_holds_are_counted(streams, record):
    async with streams() as stream:
        client = stream()
        await client.next()
        for _ in range(150):
            record()
        shown = skipped = 0
        while shown + skipped < 150:
            message = await client.next()
            shown += len(message["events"])
            skipped += message["skipped"]
            assert len(message["events"]) <= 100
    assert shown + skipped == 150


async def test_people_are_not_shown_in_the_stream_either(streams, record):
    async with streams() as stream:
        client = stream()
        await client.next()
        record(targeting_key="ada", context_attributes={"plan": "gold"})
        events = []
        while not events:
            events = (await client.next())["events"]
    assert (events[0]["user"], events[0]["context"]) == (None, {})


async def test_a_client_that_does_not_read_is_dropped_and_counted_and_the_others_go_on(streams):
    async with streams() as stream:
        quick, slow = stream(), stream(reads=False)
        await slow.task
        counts = (await quick.next())["delivery"]["live"]
        while not counts["dropped"]:
            counts = (await quick.next())["delivery"]["live"]
    assert counts == {"clients": 1, "refused": 0, "dropped": 1}


async def test_a_stream_ends_by_itself_and_the_next_one_goes_on_where_it_was(streams, record, monkeypatch):
    async with streams() as stream:
        with monkeypatch.context() as patch:
            patch.setattr(live, "STREAM_SECONDS", 0.05)
            await stream().task
        record("between")
        again = stream()
        found = []
        while not found:
            found = [event["flag"] for event in (await again.next())["events"]]
    assert found == ["between"]


async def test_clients_beyond_the_limit_are_refused_and_counted(streams):
    async with streams(max_live_clients=2) as stream:
        first, _ = stream(), stream()
        await first.next()
        third = stream()
        await third.task
        assert third.status == 503
        counts = (await first.next())["delivery"]["live"]
        while not counts["refused"]:
            counts = (await first.next())["delivery"]["live"]


async def test_the_source_is_not_read_when_all_clients_have_left(streams, pipeline, monkeypatch):
    async with streams() as stream:
        client = stream()
        await client.next()
        await client.leave()
        others = [task for task in asyncio.all_tasks() if "LiveHub" in repr(task.get_coro())]
        await asyncio.wait(others)
        again = stream()
        await again.next()


async def test_a_source_that_fails_is_told_by_its_kind_and_the_stream_goes_on(streams, pipeline, monkeypatch):
    memory = pipeline.collectors["memory"]
    async with streams() as stream:
        client = stream()
        await client.next()

        async def fail(*_, **__):
            raise RuntimeError("secret words")

        with monkeypatch.context() as patch:
            patch.setattr(memory, "get_events", fail)
            message = await client.next()
            while "error" not in message:
                message = await client.next()
        assert message == {"error": "RuntimeError"}
        while "error" in message:
            message = await client.next()
        assert message["events"] == []
