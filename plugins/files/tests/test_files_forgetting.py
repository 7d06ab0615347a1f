"""``forget``: every event of a person goes from every file, others stay as they are, and nothing is stored twice."""

from __future__ import annotations

import asyncio
import gzip
import json
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from flag_analytics import SinkUnavailable
from flag_analytics.protocols import Batch
from flag_analytics.sources import EventFilter
from flag_analytics.testing import plain_event
from flag_analytics.testing.subjects import Subject
from flag_analytics_files import FilesOptions, FilesSink, FilesSource, forgetting
from flag_analytics_files.stores import Directory

FORMATS = [{}, {"compression": "gzip"}, {"format": "parquet"}]


@pytest.fixture
def place(tmp_path) -> Path:
    return tmp_path / "events"


def sink_at(place, **options) -> FilesSink:
    return FilesSink(FilesOptions(location=place, **options))


def batch_of(sink, *users) -> Batch:
    return Subject(sink).batch(*(plain_event(number, targeting_key=user) for number, user in enumerate(users)))


def files_in(place) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.is_file())


async def users_in(place) -> list[str | None]:
    return [event.targeting_key for event in await FilesSource(place).get_events()]


@pytest.mark.parametrize("options", FORMATS)
async def test_a_person_goes_from_every_file_and_others_stay(place, options):
    sink = sink_at(place, **options)
    hostile = "o'hara\\\" \n é"
    await sink.write(batch_of(sink, "user-1", "user-2", None, hostile))
    await sink.write(batch_of(sink, "user-2", "user-3"))
    names = files_in(place)
    untouched = names[1].read_bytes()
    assert await sink.forget(["user-1", hostile, "", "nobody"]) == 2
    assert await sink.forget(["user-1", hostile]) == 0
    assert await users_in(place) == ["user-2", None, "user-2", "user-3"]
    assert files_in(place) == names
    assert names[1].read_bytes() == untouched


@pytest.mark.parametrize("options", FORMATS)
async def test_a_batch_that_comes_again_is_not_stored_again(place, options):
    sink = sink_at(place, **options)
    batch = batch_of(sink, "user-1", "user-1")
    await sink.write(batch)
    assert await sink.forget(["user-1"]) == 2
    await sink.write(batch)
    assert await users_in(place) == []
    assert len(files_in(place)) == 1


@pytest.mark.parametrize("options", FORMATS)
async def test_files_are_merged_and_read_after_a_person_is_gone(place, options):
    sink = sink_at(place, max_file_age=timedelta(microseconds=1), **options)
    for users in (["user-1"], ["user-2", "user-1"], ["user-3"]):
        await sink.write(batch_of(sink, *users))
        await sink.forget(["user-1"])
    await sink.close()
    assert await users_in(place) == ["user-2", "user-3"]


async def test_the_lines_of_others_stay_byte_for_byte(place):
    place.mkdir()
    others = b'not json\n{"flag_key": "f"}\r\n{"targeting_key": 1}\n{"targeting_key":"user-2","x": 1.0e3}'
    (place / "theirs.jsonl").write_bytes(b'{"targeting_key": "user-\\u0031"}\n' + others)
    assert await sink_at(place).forget(["user-1"]) == 1
    assert (place / "theirs.jsonl").read_bytes() == others


async def test_a_table_of_others_keeps_its_columns(place):
    import pyarrow as pa

    place.mkdir()
    pq.write_table(pa.table({"targeting_key": ["user-1", None], "more": [1, 2]}), place / "theirs.parquet")
    pq.write_table(pa.table({"more": [1]}), place / "without.parquet")
    assert await sink_at(place).forget(["user-1"]) == 1
    assert pq.read_table(place / "theirs.parquet").to_pylist() == [{"targeting_key": None, "more": 2}]


async def test_a_damaged_file_is_told_once_all_others_are_done(place):
    sink = sink_at(place)
    place.mkdir()
    (place / "a.jsonl.gz").write_bytes(gzip.compress(b"{}")[:-9])
    (place / "b.parquet").write_bytes(b"PAR1")
    await sink.write(batch_of(sink, "user-1", "user-2"))
    with pytest.raises(SinkUnavailable, match="2 files are damaged"):
        await sink.forget(["user-1"])
    assert json.loads(files_in(place)[-1].read_bytes())["targeting_key"] == "user-2"


async def test_an_interrupted_erasure_is_done_when_it_is_asked_for_again(place, monkeypatch):
    sink = sink_at(place)
    for _ in range(3):
        await sink.write(batch_of(sink, "user-1", "user-2"))
    replace, calls = Directory.replace, []

    async def failing(self, *arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise SinkUnavailable("the disk is full")
        return await replace(self, *arguments)

    monkeypatch.setattr(Directory, "replace", failing)
    with pytest.raises(SinkUnavailable):
        await sink.forget(["user-1"])
    assert await sink.forget(["user-1"]) == 2
    assert await users_in(place) == ["user-2"] * 3


async def test_a_file_that_is_merged_meanwhile_is_looked_at_again(place, monkeypatch):
    """A merge has read its parts, the person is erased from them, and then the whole is written."""
    sink = sink_at(place)
    for _ in range(2):
        await sink.write(batch_of(sink, "user-1", "user-2"))
    read, both, erased = asyncio.Event(), asyncio.Event(), asyncio.Event()
    put, replace = Directory.put, Directory.replace

    async def slow(self, path, body):
        if "_merges" not in path:
            read.set()
            await erased.wait()
        return await put(self, path, body)

    async def counted(self, *arguments):
        done = await replace(self, *arguments)
        if not any(b"user-1" in path.read_bytes() for path in files_in(place)):
            both.set()
        return done

    monkeypatch.setattr(Directory, "put", slow)
    monkeypatch.setattr(Directory, "replace", counted)
    merging = asyncio.create_task(sink.close())
    await read.wait()
    forgetting_ = asyncio.create_task(sink.forget(["user-1"]))
    await both.wait()
    erased.set()
    await merging
    assert await forgetting_ == 4
    assert await users_in(place) == ["user-2", "user-2"]


async def test_a_merge_whose_process_has_ended_is_waited_for_a_while(place, monkeypatch):
    sink = sink_at(place)
    await sink.write(batch_of(sink, "user-1"))
    monkeypatch.setattr(forgetting, "MERGE_ENDS_SECONDS", 0.3)

    async def ending(self, path, body):
        raise SinkUnavailable("no")

    await sink.write(batch_of(sink, "user-1"))
    put = Directory.put

    async def only_intents(self, path, body):
        return await (put if "_merges" in path else ending)(self, path, body)

    monkeypatch.setattr(Directory, "put", only_intents)
    await sink.close()
    assert await asyncio.wait_for(sink.forget(["user-1"]), 10) == 2


async def test_a_file_that_has_changed_meanwhile_is_not_replaced(place):
    store = Directory(place)
    await store.put("a.jsonl", b"1")
    assert not await store.replace("a.jsonl", b"0", b"2")
    assert not await store.replace("b.jsonl", b"0", b"2")
    assert await store.replace("a.jsonl", b"1", b"2")
    assert [(path.name, path.read_bytes()) for path in files_in(place)] == [("a.jsonl", b"2")]


async def test_an_empty_file_has_no_events(place):
    sink = sink_at(place)
    await sink.write(batch_of(sink, "user-1"))
    await sink.forget(["user-1"])
    source = FilesSource(place)
    assert await source.get_events(where=EventFilter(targeting_key="user-1")) == []
    await sink.write(batch_of(sink, "user-2"))
    assert await users_in(place) == ["user-2"]


async def test_a_file_that_others_change_all_the_time_is_said(place, monkeypatch):
    sink = sink_at(place)
    await sink.write(batch_of(sink, "user-1"))

    async def never(self, *_):
        return False

    monkeypatch.setattr(Directory, "replace", never)
    with pytest.raises(SinkUnavailable, match="changed by others all the time"):
        await sink.forget(["user-1"])
