"""A copy has every event of its origin once, under the same ids, however often it is interrupted."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from flag_analytics.config.plan import Plan, PlannedSink
from flag_analytics.errors import BadBatch, SinkUnavailable
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.pipeline import open_pipeline
from flag_analytics.protocols import Backend, Batch
from flag_analytics.reports import DeliveryOptions
from flag_analytics.sources import EventFilter, Window
from flag_analytics.testing import plain_event
from flag_analytics.testing.samples import edge_case_values
from flag_analytics_cli import copying, storing
from flag_analytics_cli.bookmarks import Bookmark
from flag_analytics_cli.copying import Copied, copy_into
from flag_analytics_cli.file_errors import FileError
from flag_analytics_cli.main import main
from flag_analytics_cli.stored import Place
from flag_analytics_cli.storing import NotStoredError

pytest.importorskip("flag_analytics_database")

START = datetime(2026, 3, 1, tzinfo=UTC)
ALL_TIME = Window(None, datetime.max.replace(tzinfo=UTC))
EVERY_KIND = EventFilter(kinds=("evaluation", "exposure", "outcome"))


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two SQLite files, and a directory of files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLAG_ANALYTICS_CONFIG", raising=False)
    path = tmp_path / "flag-analytics.toml"
    path.write_text(
        "[collectors.database]\nconnection_string = 'sqlite:///old.db'\n\n"
        "[collectors.'database/new']\nconnection_string = 'sqlite:///new.db'\n\n"
        "[collectors.memory]\n\n"
    )
    return path


def at(seconds: float, number: int = 0, **fields: Any) -> FlagEvaluationEvent:
    return plain_event(number, timestamp=START + timedelta(seconds=seconds), **fields)


def store(events: Sequence[FlagEvaluationEvent], path: str = "old.db") -> None:
    with open_pipeline({"collectors": {"database": {"connection_string": f"sqlite:///{path}"}}}) as pipeline:
        for event in events:
            assert pipeline.record_nowait(event)
        assert pipeline.flush_sync(30)


def stored(path: str) -> list[FlagEvaluationEvent]:
    async def read() -> list[FlagEvaluationEvent]:
        async with open_pipeline({"collectors": {"database": {"connection_string": f"sqlite:///{path}"}}}) as pipeline:
            collector: Any = pipeline.collectors["database"]
            return await collector.get_events(window=ALL_TIME, where=EVERY_KIND)

    return asyncio.run(read())


class Target:
    """A sink that keeps ids, and can refuse some or be down after a while."""

    def __init__(self, shelf: list[str], *, breaks_after: int | None = None, refuses: frozenset[str] = frozenset()):
        self.delivery = DeliveryOptions(batch_size=10, flush_interval_seconds=0.001, retry_initial_seconds=0.001)
        self._shelf = shelf
        self._breaks_after = breaks_after
        self._refuses = refuses

    async def write(self, batch: Batch) -> None:
        if self._breaks_after is not None and len(self._shelf) >= self._breaks_after:
            raise SinkUnavailable(code="ECONNREFUSED")
        refused = {event.event_id: "22001" for event in batch if event.event_id in self._refuses}
        if refused:
            raise BadBatch("bad", refused=refused)
        self._shelf += [event.event_id for event in batch]

    async def close(self) -> None:
        pass


@attrs.frozen
class NoOptions:
    pass


def plan_of(target: Target) -> Plan:
    return Plan("test", (PlannedSink("target", "collector", Backend("t", NoOptions, lambda _: target), NoOptions()),))


def test_every_event_of_every_kind_and_time_is_copied_as_it_is(capsys):
    values = [at(number, number, value=value) for number, value in enumerate(edge_case_values())]
    events = [
        *values,
        at(1, 1, kind="outcome", value=2.5, sample_rate=0.25),
        at(1, 2, kind="exposure", error_type="GENERAL", flag_version="7", provider_name="flagd"),
        plain_event(
            3, timestamp=datetime.now(UTC) + timedelta(days=1), context_attributes={"a": [1, 1.0, {"é": None}]}
        ),
    ]
    store(events)
    assert main(["copy", "database", "database/new"]) == 0
    count = len(events)
    assert capsys.readouterr().out == f"{count} events copied from database to database/new\n"
    assert [*map(repr, stored("new.db"))] == [*map(repr, stored("old.db"))]
    assert len(stored("new.db")) == count


def test_a_copy_again_stores_nothing_twice(capsys):
    store([at(number, number) for number in range(30)])
    for _ in range(2):
        assert main(["copy", "database", "database/new", "--format", "json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found == {
            "from": "database",
            "to": "database/new",
            "read": 30,
            "stored": 30,
            "refused": 0,
            "filtered": 0,
            "bad_lines": 0,
            "causes": {},
            "bookmark": None,
        }
    assert len(stored("new.db")) == 30


def test_a_range_is_copied_to_the_microsecond(capsys):
    store([at(seconds) for seconds in (0, 0.999999, 1, 1.000001, 2, 2.000001)])
    since, until = "2026-03-01T00:00:01Z", "2026-03-01T00:00:02Z"
    assert main(["copy", "database", "database/new", "--since", since, "--until", until]) == 0
    assert [event.timestamp - START for event in stored("new.db")] == [
        timedelta(seconds=seconds) for seconds in (1, 1.000001, 2)
    ]
    assert "3 events copied" in capsys.readouterr().out


def test_a_file_is_copied_as_import_reads_it(tmp_path: Path, capsys):
    events = [at(number, number) for number in range(20)]
    store(events)
    assert main(["export", "--format", "jsonl", "--output", "events.jsonl", "--collector", "database"]) == 0
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write("no event\n")
    capsys.readouterr()
    assert main(["copy", "events.jsonl", "database/new", "--format", "json"]) == 1
    output = capsys.readouterr()
    assert "1 line is no event" in output.err
    assert json.loads(output.out)["bad_lines"] == 1
    assert [event.event_id for event in stored("new.db")] == [event.event_id for event in stored("old.db")]


def test_processors_of_the_target_run_and_those_of_the_pipeline_for_files_alone(config: Path, capsys):
    """What is in a collector went through the pipeline's processors when it was recorded."""
    store([at(number, number, context_attributes={"plan": "p", "page": "b"}) for number in range(5)])
    assert main(["export", "--format", "jsonl", "--output", "events.jsonl", "--collector", "database"]) == 0
    with config.open("a") as file:
        file.write(
            "[[collectors.'database/new'.processors]]\ntype = 'redact'\nattributes = ['plan']\n\n"
            "[[processors]]\ntype = 'only_providers'\nprovider_names = ['nobody']\n\n"
        )
    capsys.readouterr()
    assert main(["copy", "database", "database/new"]) == 0
    assert capsys.readouterr().out == "5 events copied from database to database/new\n"
    assert {str(event.context_attributes) for event in stored("new.db")} == {"{'page': 'b'}"}
    assert main(["copy", "events.jsonl", "database"]) == 0
    assert capsys.readouterr().out == "0 events copied from events.jsonl to database, 5 left out by processors\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["copy", "database", "elsewhere"], "elsewhere: no collector of this name is configured; configured are: data"),
        (["copy", "database", "database"], "database has its own events already: name two collectors"),
        (["copy", "database", "memory"], "memory keeps no events after this command"),
        (["copy", "database", "database/new", "--map", "variant=group"], "database is a collector"),
        (["copy", "flag-analytics.toml", "database", "--bookmark", "b"], "a file is read from its beginning"),
        (["copy", "database", "database/new", "--since", "soon"], "--since"),
        (["copy", "database", "database/new", "--since", "1d", "--until", "2d"], "--since is not before --until"),
        (["copy", "database"], "TO"),
    ],
)
def test_what_makes_no_sense_is_2_and_said(arguments, words, capsys):
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert words in output.err
    assert output.out == ""


def test_an_origin_that_is_neither_a_collector_nor_a_file_is_1(capsys):
    assert main(["copy", "nowhere", "database"]) == 1
    assert "nowhere: there is no file of this name, and no collector or source" in capsys.readouterr().err


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path, capsys):
    assert main(["copy", "database", "database/new"]) == 1
    assert "there is no database old.db" in capsys.readouterr().err
    assert not (tmp_path / "old.db").exists()


def test_an_interrupted_copy_goes_on_from_its_bookmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Path):
    monkeypatch.setattr(copying, "_BOOKMARK_EVERY", 20)
    monkeypatch.setattr("flag_analytics_cli.settings.IMPORT_BLOCK_SECONDS", 0.2)
    monkeypatch.setattr(storing, "IMPORT_BLOCK_SECONDS", 0.2)
    monkeypatch.setattr(storing, "_GIVE_UP_SECONDS", 0.0)
    events = [at(number // 3, number) for number in range(100)]
    store(events)
    shelf: list[str] = []
    place, path = Place(config, "database"), tmp_path / "copy.json"

    def copy(target: Target) -> Copied:
        copied = Copied("database", "target", bookmark=Bookmark.read(path, "database", "target"))
        copy_into(plan_of(target), place, ALL_TIME, copied)
        return copied

    with pytest.raises(NotStoredError, match="copy again when the backend is well"):
        copy(Target(shelf, breaks_after=50))
    mark = Bookmark.read(path, "database", "target")
    assert mark.events == 40
    assert mark.time == stored("old.db")[39].timestamp
    before = len(shelf)
    copied = copy(Target(shelf))
    assert set(shelf) == {event.event_id for event in events}
    assert copied.read == len(shelf) - before < 70, "only what follows the bookmark is read again"
    assert copied.bookmark is not None
    assert copied.bookmark.time == stored("old.db")[-1].timestamp
    assert Bookmark.read(path, "database", "target") == copied.bookmark
    again = copy(Target(shelf))
    assert again.read == 1, "the events of the bookmark's own time are read once more"


def test_what_the_target_refuses_is_counted_and_not_the_end(tmp_path: Path, config: Path):
    events = [at(number, number) for number in range(40)]
    store(events)
    shelf: list[str] = []
    target = Target(shelf, refuses=frozenset({events[7].event_id, events[21].event_id}))
    copied = Copied("database", "target", bookmark=Bookmark.read(tmp_path / "mark", "database", "target"))
    copy_into(plan_of(target), Place(config, "database"), ALL_TIME, copied)
    assert (copied.read, copied.stored, copied.refused) == (40, 38, 2)
    assert sum(copied.causes.values()) == 2
    assert "22001" in next(iter(copied.causes))
    assert copied.bookmark is not None
    assert (copied.bookmark.events, copied.bookmark.refused) == (40, 2)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"from": "a", "to": "b", "time": "2026-03-01", "events": 1, "refused": 0}', "\ufeff", '"x"'],
)
def test_a_file_that_is_no_bookmark_is_left_alone(text: str, tmp_path: Path):
    path = tmp_path / "mark"
    path.write_text(text, "utf-8")
    with pytest.raises(FileError, match="not the bookmark of a copy"):
        Bookmark.read(path, "a", "b")
    assert path.read_text("utf-8") == text


def test_the_bookmark_of_another_copy_is_refused(tmp_path: Path):
    path = tmp_path / "mark"
    made = Bookmark(path, "a", "b").moved(START, 3, 1)
    assert Bookmark.read(path, "a", "b") == made
    with pytest.raises(FileError, match="the bookmark of a copy from a to b: expected one from a to c"):
        Bookmark.read(path, "a", "c")


def test_memory_is_flat_however_many_events_are_copied(config: Path):
    store([at(number, number) for number in range(6_000)])

    def peak(window: Window) -> int:
        copied = Copied("database", "target")
        target = Target([], breaks_after=None)
        tracemalloc.start()
        copy_into(plan_of(target), Place(config, "database"), window, copied)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    few = peak(Window(None, START + timedelta(seconds=2_000)))
    assert peak(ALL_TIME) < few * 1.5


def test_a_source_that_is_no_collector_is_copied_from(config: Path, tmp_path: Path, capsys):
    pytest.importorskip("duckdb")
    with config.open("a") as file:
        file.write(f"[sources.files]\nlocation = '{tmp_path.as_posix()}/kept'\n")
    store([at(number, number) for number in range(7)])
    (tmp_path / "kept").mkdir()
    assert main(["export", "--format", "jsonl", "--output", "kept/events.jsonl", "--collector", "database"]) == 0
    assert main(["copy", "files", "database/new"]) == 0
    assert capsys.readouterr().out.endswith("7 events copied from files to database/new\n")
