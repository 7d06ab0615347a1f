"""A batch is a file, an event is stored once whatever comes again, and often flushed files become few."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from flag_analytics import (
    AnalyticsAggregator,
    ConfigError,
    Delivery,
    FlagEvaluationEvent,
    PluginError,
    SinkUnavailable,
    SourceError,
    open_pipeline,
)
from flag_analytics.protocols import Batch
from flag_analytics.sources import EventFilter, Window
from flag_analytics.testing import plain_event, plain_events
from flag_analytics.testing.subjects import Subject
from flag_analytics_files import FilesOptions, FilesSink, FilesSource
from flag_analytics_files.naming import FileName, days_between, micros


@pytest.fixture
def place(tmp_path) -> Path:
    return tmp_path / "events"


def sink_at(place, **options) -> FilesSink:
    return FilesSink(FilesOptions(location=place, **options))


def files_in(place) -> list[str]:
    return sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file())


def lines_in(file: Path) -> list[str]:
    return file.read_text("utf-8").splitlines()


def stored_in(place) -> list[str]:
    """Return the files that have their name: a slow machine may not have removed what they were written as yet."""
    return [path for path in files_in(place) if not path.endswith(".part")]


def flags_in(place) -> Counter[str]:
    return Counter(json.loads(line)["flag_key"] for file in stored_in(place) for line in lines_in(place / file))


def batch_of(sink, *events) -> Batch:
    return Subject(sink).batch(*events)


def of_an_earlier_process(batch: Batch) -> Batch:
    """Return the batch as if its events had been accepted an hour ago, and came out of a spool."""
    return Batch(
        f"spool-{batch.id}",
        tuple(msgspec.structs.replace(event, received_at=event.received_at - 3_600) for event in batch),
    )


async def test_a_line_is_an_event_as_to_dict_has_it(place):
    sink = sink_at(place)
    batch = batch_of(sink, *plain_events(3))
    await sink.write(batch)
    (file,) = files_in(place)
    assert [json.loads(line) for line in (place / file).read_text("utf-8").splitlines()] == [
        event.to_dict() for event in batch
    ]
    name = FileName.read(file)
    assert (name.count, name.suffix) == (3, ".jsonl")
    assert (name.first, name.last) == (micros(batch.events[0].received_at), micros(batch.events[2].received_at))


def test_a_thousand_events_recorded_one_by_one_are_one_file(place):
    delivery = Delivery({"files": sink_at(place)})
    for number in range(1_000):
        delivery.record_nowait(plain_event(number))
        if number % 100 == 0:
            time.sleep(0.001)
    assert delivery.close_sync(10.0).stored == 1_000
    assert len(files_in(place)) == 1


def test_a_file_holds_no_more_than_it_may(place):
    delivery = Delivery({"files": sink_at(place, max_file_events=100)})
    for number in range(1_000):
        delivery.record_nowait(plain_event(number))
    assert delivery.flush_sync(10.0)
    delivery.close_sync()
    assert [FileName.read(file).count for file in files_in(place)] == [100] * 10


def test_a_file_is_written_when_its_first_event_is_old_enough(place):
    delivery = Delivery({"files": sink_at(place, max_file_age=timedelta(milliseconds=50))})
    delivery.record_nowait(plain_event())
    deadline = time.monotonic() + 10.0
    while not (place.exists() and stored_in(place)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(stored_in(place)) == 1
    delivery.close_sync()


def test_a_program_that_flushes_after_every_event_leaves_few_files(place):
    delivery = Delivery({"files": sink_at(place)})
    for number in range(250):
        delivery.record_nowait(plain_event(number, flag_key=f"flag-{number:03}"))
        assert delivery.flush_sync(10.0)
    delivery.close_sync(10.0)
    assert len(files_in(place)) <= 3
    assert flags_in(place) == Counter(f"flag-{number:03}" for number in range(250))


async def test_a_batch_that_comes_again_is_stored_once(place):
    sink, other = sink_at(place), sink_at(place)
    batch = batch_of(sink, *plain_events(3))
    for each in (sink, sink, other):
        await each.write(batch)
    assert flags_in(place) == Counter(f"flag-{number}" for number in range(3))


async def test_a_recovered_event_is_looked_for_in_the_files_of_its_time(place):
    first = sink_at(place)
    batch = of_an_earlier_process(batch_of(first, *plain_events(4)))
    await first.write(batch)
    second = sink_at(place)
    # Another process cuts its batches in other places.
    await second.write(Batch("cut-1", batch.events[:1]))
    await second.write(Batch("cut-2", (*batch.events[1:], *batch_of(second, plain_event(9)).events)))
    assert flags_in(place) == Counter([*(f"flag-{number}" for number in range(4)), "flag-9"])


@pytest.mark.parametrize("options", [{"compression": "gzip"}, {"format": "parquet"}])
async def test_a_recovered_event_is_found_in_every_format(place, options):
    first = sink_at(place, **options)
    batch = of_an_earlier_process(batch_of(first, *plain_events(4)))
    await first.write(batch)
    await sink_at(place, **options).write(Batch("cut", batch.events[1:3]))
    assert len(files_in(place)) == 1


class LosesAnswers:
    """A store that stores, and then says that it may not have."""

    def __init__(self, store) -> None:
        self.store = store
        self.lost = 0

    def __getattr__(self, name):
        return getattr(self.store, name)

    async def put(self, path, body):
        await self.store.put(path, body)
        self.lost += 1
        raise SinkUnavailable(code="LOST")


async def test_a_batch_whose_answer_was_lost_is_stored_once_however_it_is_cut(place):
    sink = sink_at(place)
    batch = batch_of(sink, *plain_events(4))
    await sink.write(batch_of(sink, plain_event(8)))
    store, sink._store = sink._store, LosesAnswers(sink._store)
    with pytest.raises(SinkUnavailable):
        await sink.write(batch)
    sink._store = store
    await sink.write(Batch(f"{batch.id}.-2", batch.events[:2]))
    await sink.write(Batch(f"{batch.id}.2-", batch.events[2:]))
    assert flags_in(place) == Counter([*(f"flag-{number}" for number in range(4)), "flag-8"])


async def test_a_write_that_is_cancelled_and_repeated_is_stored_once(place):
    sink = sink_at(place)
    batch = batch_of(sink, *plain_events(4))
    for _ in range(20):
        writing = asyncio.ensure_future(sink.write(batch))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait([writing])
    await sink.write(batch)
    await asyncio.sleep(0.05)  # threads of cancelled attempts may still be at it
    assert flags_in(place) == Counter(f"flag-{number}" for number in range(4))


async def test_a_merge_that_was_cut_short_is_finished_at_the_next_start(place):
    sink = sink_at(place)
    for number in range(3):
        await sink.write(batch_of(sink, plain_event(number)))
    store = sink._store

    async def fail(path):
        raise SinkUnavailable(code="GONE")

    store.delete = fail
    await sink.close()
    assert set(flags_in_events(place).values()) == {2}, "the parts are beside the whole"
    source = FilesSource(sink.options)
    assert len(await source.get_events()) == 3, "a reader counts each once"
    again = sink_at(place)
    await again.write(batch_of(again, plain_event(7)))
    assert flags_in(place) == Counter(["flag-0", "flag-1", "flag-2", "flag-7"])
    assert not list((place / "_merges").iterdir())


def flags_in_events(place) -> Counter[str]:
    return Counter(
        json.loads(line)["flag_key"]
        for file in files_in(place)
        if file.startswith("date=")
        for line in (place / file).read_text("utf-8").splitlines()
    )


async def test_a_merge_is_never_of_other_processes_files(place):
    first, second = sink_at(place), sink_at(place)
    for number in range(2):
        await first.write(batch_of(first, plain_event(number)))
        await second.write(batch_of(second, plain_event(number + 10)))
    await second.close()
    assert sorted(FileName.read(file).count for file in files_in(place)) == [1, 1, 2]


async def test_what_an_ended_process_left_unfinished_is_removed_after_an_hour(place):
    day = place / "date=2026-01-31"
    day.mkdir(parents=True)
    old, new = day / ".old.part", day / ".new.part"
    for file in (old, new):
        file.write_bytes(b"{")
    os.utime(old, (time.time() - 600,) * 2)
    sink = sink_at(place)
    await sink._store.paths("")
    assert files_in(place) == ["date=2026-01-31/.new.part"]


async def test_a_directory_that_cannot_be_written_to_is_unavailable(place):
    place.write_text("a file", "utf-8")
    sink = sink_at(place)
    with pytest.raises(SinkUnavailable) as caught:
        await sink.write(batch_of(sink, plain_event()))
    assert caught.value.code in {"ENOTDIR", "EEXIST", "ENOENT"}


def test_days_are_listed_from_the_day_before_the_first_time():
    day = 86_400_000_000
    assert list(days_between(20 * day, 21 * day)) == ["date=1970-01-20/", "date=1970-01-21/", "date=1970-01-22/"]


# -- reading -----------------------------------------------------------------------------------------------------------


async def test_a_line_that_is_no_event_is_left_out(place):
    sink = sink_at(place)
    await sink.write(batch_of(sink, *plain_events(2)))
    (file,) = files_in(place)
    with (place / file).open("a", encoding="utf-8") as torn:
        torn.write('{"event_id": "x", "flag_k\n\n[1]\n"text"\n{"flag_key": null, "event_id": "y"}\n{"event_')
    assert [event.flag_key for event in await FilesSource(place).get_events()] == ["flag-0", "flag-1"]


async def test_a_file_of_another_tool_is_read(place):
    place.mkdir()
    (place / "mine.jsonl").write_text(
        '{"timestamp": "2026-01-31T12:00:00Z", "flag_key": "a", "value": "on", "reason": "SPLIT"}\n'
        '{"timestamp": "2026-01-31T13:00:00+01:00", "flag_key": "a", "value": 1.0, "reason": "X", "event_id": "1"}\n',
        "utf-8",
    )
    first, second = await FilesSource(place / "mine.jsonl").get_events()
    assert (first.value, first.context_attributes, first.kind) == ("on", {}, "evaluation")
    assert (second.timestamp, second.value) == (first.timestamp, 1.0)


async def test_paths_with_quotes_are_read(tmp_path):
    sink = sink_at(tmp_path / "it's quoted; --")
    await sink.write(batch_of(sink, plain_event()))
    assert len(await FilesSource(sink.options).get_events()) == 1


def test_a_source_needs_something_to_read(tmp_path):
    with pytest.raises(SourceError, match="no file or directory"):
        FilesSource(tmp_path / "nothing")


async def test_a_pipeline_answers_from_its_files(place):
    with open_pipeline({"collectors": {"files": {"location": str(place)}}}) as pipeline:
        pipeline.record_nowait(FlagEvaluationEvent.now("dark_mode", value=True, reason="STATIC", targeting_key="u"))
        pipeline.flush_sync()
        metrics = await pipeline.aggregator.get_flag_metrics("dark_mode")
    assert (metrics.total_evaluations, metrics.unique_users) == (1, 1)


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "collectors.files.location: is required"),
        ({"location": "x", "format": "parket"}, "did you mean 'parquet'"),
        ({"location": "x", "max_file_age": 0}, "more than 0 seconds"),
        ({"location": "x", "max_file_bytes": "many"}, "64 MiB"),
    ],
)
def test_an_option_that_is_wrong_is_named(options, says):
    with pytest.raises(ConfigError) as caught:
        open_pipeline({"collectors": {"files": options}})
    assert says in str(caught.value)


@pytest.mark.parametrize("storage", [{"regoin": "geheim"}, {"endpoint": "geheim"}])
def test_settings_that_the_store_does_not_know_are_refused_without_being_shown(storage):
    with pytest.raises(PluginError) as caught:
        FilesSink(FilesOptions(location="s3://bucket/x", storage={**storage, "nix": "geheim"}))
    assert "geheim" not in str(caught.value)
    assert "geheim" not in repr(FilesOptions(location="s3://bucket/x", storage=storage))


# -- as a source of its own --------------------------------------------------------------------------------------------


async def test_a_path_alone_is_enough_for_an_aggregator(place):
    sink = sink_at(place, format="parquet")
    await sink.write(batch_of(sink, *plain_events(3)))
    (file,) = files_in(place)
    for path in (place, place / file, str(place / file)):
        metrics = await AnalyticsAggregator(path).get_flag_metrics("flag-1", None)
        assert metrics.total_evaluations == 1
    with pytest.raises(SourceError, match="cannot read events from"):
        AnalyticsAggregator("events.xlsx")


async def test_a_source_in_configuration_is_asked_and_not_written_to(place):
    sink = sink_at(place)
    await sink.write(batch_of(sink, *plain_events(3)))
    before = files_in(place)
    config = {"collectors": {"memory": {}}, "sources": {"files": {"location": str(place)}}}
    async with open_pipeline(config) as pipeline:
        pipeline.record_nowait(plain_event(7))
        assert pipeline.aggregator.source_name == "files"
        assert repr(pipeline.aggregator) == "AnalyticsAggregator(files)"
        assert (await pipeline.aggregator.get_flag_metrics("flag-1", None)).total_evaluations == 1
        assert (await pipeline.aggregator_of("memory").get_flag_metrics("flag-7", None)).total_evaluations == 1
        with pytest.raises(SourceError, match="no source or collector 'nix': it has files, memory"):
            pipeline.aggregator_of("nix")
        assert list(pipeline.stats().sinks) == ["memory"]
    assert files_in(place) == before


async def test_events_are_given_back_in_the_order_of_their_files_or_by_time_in_a_window(place):
    sink = sink_at(place)
    moment = plain_event().timestamp
    late = [plain_event(n, timestamp=moment + timedelta(seconds=9 - n)) for n in range(3)]
    await sink.write(batch_of(sink, *late, plain_event(7, timestamp=moment, kind="outcome")))
    source = FilesSource(place)

    async def flags(**asked) -> list[str]:
        return [event.flag_key async for event in source.get_events(**asked)]

    assert await flags() == ["flag-0", "flag-1", "flag-2", "flag-7"]
    assert await flags(limit=2) == ["flag-2", "flag-7"]
    everything = Window(None, moment + timedelta(seconds=9))
    assert await flags(window=everything) == ["flag-2", "flag-1", "flag-0"]
    assert await flags(window=everything, limit=1) == ["flag-0"]
    assert await flags(window=Window(moment + timedelta(seconds=8), everything.end)) == ["flag-1", "flag-0"]
    assert await flags(where=EventFilter(kinds="outcome")) == ["flag-7"]
    assert await flags(flag_key="flag-1") == ["flag-1"]
    assert await flags(limit=0) == []


async def test_an_event_without_an_id_has_the_same_one_whenever_its_file_is_read(place):
    for host in ("one", "other"):
        (place / host).mkdir(parents=True)
        line = '{"timestamp": "2026-01-31T12:00:00Z", "flag_key": "a", "value": 1, "reason": "X"}\n'
        (place / host / "mine.jsonl").write_text(line * 2, "utf-8")
    first, again = [{event.event_id for event in await FilesSource(place).get_events()} for _ in range(2)]
    assert first == again
    assert len(first) == 4
