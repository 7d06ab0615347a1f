"""An object store keeps the promises of a directory: against a server that speaks S3, behind a proxy that breaks it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from pathlib import Path
from typing import ClassVar

import pytest
from flag_analytics import FatalConfiguration, FlagEvaluationEvent, SinkUnavailable
from flag_analytics.protocols import Batch
from flag_analytics.testing import CollectorContract, EventSourceContract, plain_event, plain_events
from flag_analytics.testing.subjects import Subject
from flag_analytics_files import FilesOptions, FilesSink, FilesSource
from flag_analytics_files.naming import FileName
from flag_analytics_files.stores import open_store

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def s3():
    """A process of its own: what it does with its sockets is not the collector's doing."""
    command = [sys.executable, "-c", "from moto.server import main; main(['-H', '127.0.0.1', '-p', '0'])"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        said = ""
        while (found := re.search(r"http://127\.0\.0\.1:(\d+)", said)) is None:
            line = server.stderr.readline()
            assert line, f"the server ended: {said}"
            said += line
        threading.Thread(target=server.stderr.read, daemon=True).start()  # it logs each request
        yield "127.0.0.1", int(found[1])
        server.kill()


_buckets = iter(range(1_000_000))


@pytest.fixture
def bucket(s3):
    name = f"bucket-{next(_buckets)}"
    request = urllib.request.Request("http://{}:{}/{}".format(*s3, name), method="PUT")
    urllib.request.urlopen(request).read()
    return name


def options_of(address, bucket, **options):
    storage = {
        "endpoint": "http://{}:{}".format(*address),
        "region": "us-east-1",
        "access_key_id": "key",
        "secret_access_key": "secret",
    }
    return FilesOptions(location=f"s3://{bucket}/flags", storage=storage, **options)


async def rows_in(options) -> list[dict]:
    store = open_store(options)
    paths = [path for path in await store.paths("") if path.startswith("date=")]
    return [json.loads(line) for path in paths for line in (await store.get(path)).splitlines()]


class TestS3(CollectorContract):
    repeats_after_failures = False
    survives_fork = False
    max_seconds = 60.0

    @pytest.fixture
    def server_address(self, s3):
        return s3

    @pytest.fixture
    def collector(self, fault_proxy, bucket, s3):
        self.direct = options_of(s3, bucket)
        return FilesSink(options_of(fault_proxy.address, bucket))

    async def stored(self, collector):
        return [FlagEvaluationEvent.from_dict(row) for row in await rows_in(self.direct)]


class TestSourceOfS3(EventSourceContract):
    idempotent = True
    options: ClassVar[dict] = {"format": "parquet"}

    @pytest.fixture
    def source(self, s3, bucket):
        self.sink = FilesSink(options_of(s3, bucket, **self.options))
        return FilesSource(self.sink.options)

    async def fill(self, source, events):
        await Subject(self.sink).store(*events)

    async def empty(self, source):
        await self.sink.close()


async def test_a_name_is_given_once(s3, bucket):
    store = open_store(options_of(s3, bucket))
    assert await store.put("date=2026-01-31/a.jsonl", b"1")
    assert not await store.put("date=2026-01-31/a.jsonl", b"2")
    assert await store.get("date=2026-01-31/a.jsonl") == b"1"
    assert await store.get("date=2026-01-31/b.jsonl") is None
    await store.delete("date=2026-01-31/a.jsonl")
    await store.delete("date=2026-01-31/a.jsonl")
    assert await store.paths("") == []


async def test_an_object_that_has_changed_meanwhile_is_not_replaced(s3, bucket, monkeypatch):
    store = open_store(options_of(s3, bucket))
    await store.put("a.jsonl", b"1")
    assert not await store.replace("a.jsonl", b"0", b"2")
    assert not await store.replace("b.jsonl", b"0", b"2")
    assert await store.replace("a.jsonl", b"1", b"2")
    get, read = store._obstore.get_async, asyncio.Event()

    async def slow(*arguments):
        answer = await get(*arguments)
        if not read.is_set():
            read.set()
            await store.replace("a.jsonl", b"2", b"3")
        return answer

    monkeypatch.setattr(store._obstore, "get_async", slow)
    assert not await store.replace("a.jsonl", b"2", b"4")
    assert (await store.paths(""), await store.get("a.jsonl")) == (["a.jsonl"], b"3")


@pytest.mark.parametrize("options", [{}, {"format": "parquet"}])
async def test_a_person_is_erased_from_objects_and_from_the_copies_of_a_reader(s3, bucket, options):
    sink = FilesSink(options_of(s3, bucket, **options))
    source = FilesSource(sink.options)
    users = ["user-1", "user-2"] * 2
    batch = Subject(sink).batch(*(plain_event(n, targeting_key=user) for n, user in enumerate(users)))
    await sink.write(batch)
    assert len(await source.get_events()) == 4
    assert await sink.forget(["user-1"]) == 2
    assert [event.targeting_key for event in await source.get_events()] == ["user-2"] * 2
    copies = [path for path in source._place.rglob("*") if path.is_file()]
    assert len(copies) == 1
    await sink._store.delete(FileName.of_batch(batch.id, batch.events, sink.options.suffix).path)
    assert await source.get_events() == []
    assert not copies[0].exists()


async def test_recovered_events_are_looked_for_in_the_store(s3, bucket):
    options = options_of(s3, bucket)
    first = FilesSink(options)
    batch = Subject(first).batch(*plain_events(4))
    await first.write(batch)
    await FilesSink(options).write(Batch("cut", batch.events[1:]))
    assert Counter(row["flag_key"] for row in await rows_in(options)) == Counter(f"flag-{n}" for n in range(4))


async def test_small_objects_are_merged(s3, bucket):
    options = options_of(s3, bucket)
    sink = FilesSink(options)
    for number in range(5):
        await Subject(sink).store(plain_event(number))
    await sink.close()
    assert len(await open_store(options).paths("")) == 1
    assert [row["flag_key"] for row in await rows_in(options)] == [f"flag-{number}" for number in range(5)]


async def test_a_store_that_is_not_there_is_unavailable_and_no_url_is_told(bucket):
    sink = FilesSink(options_of(("127.0.0.1", 9), bucket))
    with pytest.raises(SinkUnavailable) as caught:
        await Subject(sink).store(plain_event())
    assert "127.0.0.1" not in f"{caught.value!r}{caught.value.code}"
    with pytest.raises(SinkUnavailable):
        await sink.ping()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
async def test_a_forked_child_is_told_that_it_cannot_use_the_store(s3, bucket):
    sink = FilesSink(options_of(s3, bucket))
    await Subject(sink).store(plain_event())
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            asyncio.new_event_loop().run_until_complete(sink.ping())
        except FatalConfiguration as error:
            os.write(writer, error.code.encode())
        finally:
            os._exit(0)
    await asyncio.to_thread(os.waitpid, child, 0)
    assert os.read(reader, 100) == b"forked"
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.chaos)])
def test_kills_lose_nothing_and_store_nothing_twice_in_s3(s3, bucket, tmp_path, kills, files_kills):
    options = options_of(s3, bucket)
    plain = {"location": options.location, "storage": dict(options.storage), "max_file_age": 0.05}
    durable = files_kills.kill_often(plain, Path(tmp_path), kills)
    found = Counter(int(row["flag_key"]) for row in asyncio.run(rows_in(options)))
    assert not durable - found.keys(), "lost"
    assert set(found.values()) == {1}, "stored twice"
