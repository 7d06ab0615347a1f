"""The collector keeps the promises of every collector, in each format, and its source those of every source."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import pyarrow.parquet as pq
import pytest
from flag_analytics import AnalyticsAggregator, FlagEvaluationEvent
from flag_analytics.metrics import EventsSource
from flag_analytics.sources import Window
from flag_analytics.testing import CollectorContract, EventSourceContract, plain_event
from flag_analytics.testing.subjects import Subject
from flag_analytics_files import FilesOptions, FilesSink, FilesSource


def lines_of(path: Path) -> list[dict]:
    body = path.read_bytes()
    return [json.loads(line) for line in (gzip.decompress(body) if path.suffix == ".gz" else body).splitlines()]


def rows_of(path: Path) -> list[dict]:
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        row["timestamp"] = row["timestamp"].astimezone(UTC).isoformat()
        row["value"] = json.loads(row["value"])
        row["context_attributes"] = json.loads(row["context_attributes"])
    return rows


def files_of(sink: FilesSink) -> list[Path]:
    return sorted(Path(sink.options.location).glob("date=*/*"))


class Files(CollectorContract):
    """What is in the files is looked at without this distribution."""

    options: ClassVar[dict] = {}
    repeats_after_failures = False

    @pytest.fixture
    def collector(self, tmp_path):
        return FilesSink(FilesOptions(location=tmp_path / "events", **self.options))

    async def stored(self, collector):
        read = rows_of if collector.options.format == "parquet" else lines_of
        files = files_of(collector)
        return [FlagEvaluationEvent.from_dict(row) for path in files for row in read(path)]


class TestJsonLines(Files):
    pass


@pytest.mark.chaos
class TestCompressedJsonLines(Files):
    options: ClassVar = {"compression": "gzip"}


class TestParquet(Files):
    options: ClassVar = {"format": "parquet"}


@pytest.mark.chaos
class TestReadBack(CollectorContract):
    """What the source reads back: an event that was recorded twice is there once."""

    idempotent = True

    @pytest.fixture
    def collector(self, tmp_path):
        return FilesSink(FilesOptions(location=tmp_path / "events"))

    async def stored(self, collector):
        return await collector.event_source.get_events()


class OverFiles(EventSourceContract):
    idempotent = True
    options: ClassVar[dict] = {}

    @pytest.fixture
    def source(self, tmp_path):
        self.sink = FilesSink(FilesOptions(location=tmp_path / "events", **self.options))
        return FilesSource(self.sink.options)

    async def fill(self, source, events):
        await Subject(self.sink).store(*events)

    async def empty(self, source):
        await self.sink.close()


class TestSourceOfJsonLines(OverFiles):
    pass


class TestSourceOfParquet(OverFiles):
    options: ClassVar = {"format": "parquet"}


@pytest.mark.parametrize("options", [{}, {"format": "parquet"}])
async def test_outcomes_are_those_of_the_events(tmp_path, options):
    sink = FilesSink(FilesOptions(location=tmp_path / "events", **options))
    events = [
        plain_event(
            number,
            flag_key=("a", "b")[number % 3 == 2],
            variant=("x", "y", None)[number % 4 % 3],
            targeting_key=f"user-{number % 11}",
            kind="outcome" if number % 3 == 2 else "exposure",
            value=(number, 0.25, True, "text")[number % 4],
        )
        for number in range(300)
    ]
    await Subject(sink).store(*events)
    source, window = FilesSource(sink.options), Window(None, datetime.now(UTC))
    for flag_key, metric in (("a", "b"), ("b", "a"), ("c", "b")):
        found = await source.get_outcomes(flag_key, metric, window)
        assert found == await EventsSource(lambda: events).get_outcomes(flag_key, metric, window)
    assert (await AnalyticsAggregator(source).get_outcomes("a", "b")).variants["x"].converted_users > 0
