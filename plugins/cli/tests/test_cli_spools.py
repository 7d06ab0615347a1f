"""What waits on disk can be seen, taken out and delivered by hand."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest
from flag_analytics.config.plan import Plan, PlannedSink
from flag_analytics.errors import BadBatch, SinkUnavailable
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.freezer import Freezer
from flag_analytics.protocols import Backend, Batch
from flag_analytics.reports import DeadLetter, DeliveryOptions
from flag_analytics.testing.samples import plain_event
from flag_analytics_cli import storing
from flag_analytics_cli.main import main
from flag_analytics_cli.replaying import ReplayReport, replay
from flag_analytics_cli.spool_files import dead_letters, look, spools_in, waiting_events
from flag_analytics_cli.storing import NotStoredError
from flag_analytics_delivery import Delivery
from flag_analytics_delivery.spool import Spool


@attrs.frozen
class NoOptions:
    pass


@attrs.define
class Store:
    """A sink that keeps ids, or refuses some flags, or is down."""

    refuses: str = ""
    down: bool = False
    ids: list[str] = attrs.field(factory=list)
    letters: list[DeadLetter] = attrs.field(factory=list)
    delivery: DeliveryOptions = attrs.field(
        factory=lambda: DeliveryOptions(
            retry_initial_seconds=0.001, retry_max_seconds=0.001, flush_interval_seconds=0.0
        )
    )

    async def write(self, batch: Batch) -> None:
        if self.down:
            raise SinkUnavailable(code="ECONNREFUSED")
        if self.refuses and any(event.flag_key == self.refuses for event in batch):
            raise BadBatch(code="22001")
        self.ids += [event.event_id for event in batch]

    async def close(self) -> None:
        pass


def plan_of(**sinks: Any) -> Plan:
    return Plan(
        "test",
        tuple(
            PlannedSink(name, "collector", Backend(name, NoOptions, lambda _, sink=sink: sink), NoOptions())
            for name, sink in sinks.items()
        ),
    )


def event(number: int, flag_key: str = "f") -> FlagEvaluationEvent:
    return plain_event(number, flag_key=flag_key, value={"n": number})


def leave(directory: Path, events: list[FlagEvaluationEvent], *sinks: str) -> None:
    """Leave a spool behind, as a process does that ends while its backends are down."""
    options = DeliveryOptions(durability="spool", spool_directory=directory, spool_interval_seconds=0.001)
    delivery = Delivery({sink: Store(down=True) for sink in sinks}, options)
    for one in events:
        assert delivery.record_nowait(one)
    # At least: it also takes over what one before it has left here.
    assert delivery.close_sync(0.05).spooled >= len(events) * len(sinks)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("FLAG_ANALYTICS__COLLECTORS__MEMORY", "true")
    return tmp_path / "spools"


def test_a_spool_that_a_process_left_is_described(directory: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "120")
    leave(directory, [event(number) for number in range(7)], "database", "warehouse")
    [spool] = [look(path) for path in spools_in(directory)]
    assert (spool.state, dict(spool.waiting), spool.dead) == ("orphan", {"database": 7, "warehouse": 7}, 0)
    assert spool.oldest is not None
    assert abs((datetime.now(UTC) - spool.oldest).total_seconds()) < 60
    assert main(["spool", "inspect", str(directory)]) == 0
    printed = capsys.readouterr().out
    assert "7 for database" in printed
    assert "orphan" in printed
    assert main(["spool", "inspect", str(directory), "--format", "json"]) == 0
    [described] = json.loads(capsys.readouterr().out)["spools"]
    assert described["waiting"] == {"database": 7, "warehouse": 7}


def test_looking_changes_nothing(directory: Path, capsys):
    leave(directory, [event(1)], "database")
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    main(["spool", "inspect", str(directory)])
    main(["spool", "export", str(directory)])
    main(["dead-letters", str(directory)])
    capsys.readouterr()
    assert {path.name: path.read_bytes() for path in directory.iterdir() if path.name in before} == before


def test_a_spool_that_is_in_use_is_seen_and_left_alone(directory: Path, capsys):
    script = (
        "import sys; from pathlib import Path; from flag_analytics_delivery.spool import Spool\n"
        "spool = Spool.create(Path(sys.argv[1]), {'database': 0}, max_bytes=2**20, fsync='normal')\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"ready\n"
        [spool] = [look(path) for path in spools_in(directory)]
        assert spool.state == "in use"
        report = ReplayReport()
        replay(plan_of(database=Store()), directory, report)
        assert "belongs to a living process" in report.left[0]
        process.stdin.close()
        assert process.wait(30) == 0


def test_waiting_events_are_exported_as_they_were_recorded(directory: Path, capsys):
    events = [event(number) for number in range(1_200)]
    leave(directory, events, "database", "warehouse")
    assert main(["spool", "export", str(directory)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [one.to_dict() for one in events]
    assert main(["spool", "export", str(directory), "--output", "events.jsonl"]) == 0
    assert capsys.readouterr().out == "1,200 events written to events.jsonl\n"
    assert main(["report", "--file", "events.jsonl", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["flags"][0]["total_evaluations"] == 1_200


def test_a_replay_delivers_each_event_to_each_sink_once_and_empties_the_spool(directory: Path):
    first, second = [event(number) for number in range(900)], [event(number) for number in range(3)]
    leave(directory, first, "database", "warehouse")
    leave(directory, second, "database")
    database, warehouse, report = Store(), Store(), ReplayReport()
    replay(plan_of(database=database, warehouse=warehouse, other=Store()), directory, report)
    assert database.ids == [one.event_id for one in [*first, *second]]
    assert warehouse.ids == [one.event_id for one in first]
    assert report.delivered == {"database": 903, "warehouse": 900}
    assert report.left == []
    assert spools_in(directory) == []


def test_events_for_a_sink_that_is_not_configured_stay(directory: Path):
    leave(directory, [event(1), event(2)], "database", "warehouse")
    report = ReplayReport()
    replay(plan_of(database=Store()), directory, report)
    assert report.delivered == {"database": 2}
    assert len(report.left) == 1
    assert "2 events in" in report.left[0]
    assert "for 'warehouse', which is not configured" in report.left[0]
    [spool] = [look(path) for path in spools_in(directory)]
    assert dict(spool.waiting) == {"database": 0, "warehouse": 2}


def test_events_stay_where_the_backend_is_down_and_are_delivered_once_later(
    directory: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(storing, "FIRST_SUCCESS_SECONDS", 0.1)
    monkeypatch.setattr(storing, "_FLUSH_STEP_SECONDS", 0.05)
    leave(directory, [event(1), event(2)], "database")
    plan = plan_of(database=Store(down=True))
    plan = attrs.evolve(plan, delivery={"close_timeout_seconds": 0.0})
    with pytest.raises(NotStoredError, match=r"1 event still waits .*; replay the spool again when"):
        replay(plan, directory, ReplayReport())
    store = Store()
    replay(plan_of(database=store), directory, ReplayReport())
    assert len(store.ids) == 2


def test_events_that_are_refused_become_dead_letters_that_can_be_read(directory: Path, capsys):
    bad = [event(number, "bad\x1b[31m") for number in range(3)]
    leave(directory, [event(1), *bad, event(2), *many()], "database")
    store, report = Store(refuses="bad\x1b[31m"), ReplayReport()
    replay(plan_of(database=store), directory, report)
    assert (report.delivered["database"], report.refused["database"]) == (42, 3)
    [path] = spools_in(directory)
    assert [letter.code for letter in dead_letters(path, [])] == ["22001"] * 3
    assert main(["dead-letters", str(directory)]) == 0
    printed = capsys.readouterr().out
    assert "BadBatch" in printed
    assert "22001" in printed
    assert printed.replace("\n", "").isprintable()
    assert main(["dead-letters", str(directory), "--format", "jsonl"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["flag_key"], line["dead_letter"]["sink"]) for line in lines] == [("bad\x1b[31m", "database")] * 3


def many() -> list[FlagEvaluationEvent]:
    # Where most of a batch is refused, the backend rather than an event is at fault.
    return [event(number) for number in range(40)]


def test_a_sink_that_keeps_dead_letters_itself_keeps_them_alone(directory: Path):
    class Keeps(Store):
        async def write_dead_letters(self, letters: Any) -> None:
            self.letters += letters

    leave(directory, [event(1, "bad"), *many()], "database")
    store, report = Keeps(refuses="bad"), ReplayReport()
    replay(plan_of(database=store), directory, report)
    assert report.refused["database"] == len(store.letters) == 1
    assert spools_in(directory) == []


@pytest.mark.parametrize("content", [b"", b"no database at all" * 100])
def test_a_corrupt_spool_is_said_and_harms_nothing(directory: Path, capsys, content: bytes):
    leave(directory, [event(1)], "database")
    broken = directory / "1-1.spool"
    broken.write_bytes(content)
    assert main(["spool", "inspect", str(directory)]) == 1
    assert "corrupt" in capsys.readouterr().out
    assert main(["spool", "export", str(directory)]) == 1
    output = capsys.readouterr()
    assert len(output.out.splitlines()) == 1
    assert output.err.replace("\n", "") == f"left out: {broken} is corrupt"
    assert main(["dead-letters", str(directory)]) == 1
    assert capsys.readouterr().out == "", "it cannot be known that there are none"
    store, report = Store(), ReplayReport()
    replay(plan_of(database=store), directory, report)
    assert len(store.ids) == 1


def test_an_unreadable_row_is_passed_over_and_said(directory: Path):
    leave(directory, [event(1), event(2), event(3)], "database")
    [path] = spools_in(directory)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE events SET body = 'nonsense' WHERE seq = 2")
    connection.close()
    left: list[str] = []
    assert [one.value for one in waiting_events(path, left)] == [{"n": 1}, {"n": 3}]
    assert left == [f"1 event in {path} that cannot be read"]


def test_without_a_directory_the_usual_place_is_looked_into(directory: Path, tmp_path: Path, capsys):
    home = tmp_path / "state" / "flag-analytics" / "spool"
    leave(home / "one", [event(1)], "memory")
    assert main(["spool", "inspect"]) == 0
    assert str(home / "one") in capsys.readouterr().out.replace("\n", "")
    assert main(["spool", "export"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert main(["spool", "replay"]) == 0
    output = capsys.readouterr()
    assert output.out == "memory: 1 event delivered\n"
    assert output.err.replace("\n", "") == f"from {home / 'one'}"
    for command, nothing in (("inspect", "No spools.\n"), ("export", ""), ("replay", "Nothing to replay.\n")):
        assert main(["spool", command]) == 0
        assert capsys.readouterr() == (nothing, "")


def test_without_a_directory_all_applications_are_shown_and_none_is_replayed(directory: Path, tmp_path: Path, capsys):
    home = tmp_path / "state" / "flag-analytics" / "spool"
    for application in ("one", "two"):
        leave(home / application, [event(1)], "database")
    assert main(["spool", "inspect"]) == 0
    printed = capsys.readouterr().out
    assert str(home / "one") in printed
    assert str(home / "two") in printed
    assert main(["spool", "replay"]) == 1
    problem = capsys.readouterr().err
    assert "2 applications have spools here, and only one can be replayed at a time: give its directory" in problem
    assert f"one of {home / 'one'}, {home / 'two'}" in problem
    assert [sum(look(path).waiting.values()) for path in home.glob("*/*.spool")] == [1, 1]


def test_spools_that_were_not_named_go_to_no_backend_that_was_not(
    directory: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("FLAG_ANALYTICS__COLLECTORS__MEMORY")
    assert main(["spool", "replay"]) == 0, "there are none"
    leave(tmp_path / "state" / "flag-analytics" / "spool" / "one", [event(1)], "database")
    capsys.readouterr()
    assert main(["spool", "replay"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert "no backends are configured that they belong to: name the application's configuration" in output.err
    assert not (tmp_path / "flag-analytics.db").exists()


def test_a_replay_of_nothing_says_so(directory: Path, capsys):
    directory.mkdir()
    assert main(["spool", "replay", str(directory)]) == 0
    assert capsys.readouterr().out == "Nothing to replay.\n"
    leave(directory, [event(1)], "warehouse")
    assert main(["spool", "replay", str(directory)]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert "1 event in" in output.err


def test_the_outcome_of_a_replay_is_json_for_other_programs(directory: Path, capsys):
    directory.mkdir()
    assert main(["spool", "replay", str(directory), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"backends": [], "unreadable": 0, "set_aside": [], "left": []}
    leave(directory, [event(1), event(2)], "memory", "warehouse")
    assert main(["spool", "replay", str(directory), "--format", "json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["backends"] == [{"name": "memory", "delivered": 2, "refused": 0}]
    [left] = document["left"]
    assert "for 'warehouse', which is not configured" in left


def test_dead_letters_are_one_array_in_json(directory: Path, capsys):
    assert main(["dead-letters", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    spool = Spool.create(directory, {"database": 0}, max_bytes=2**20, fsync="normal")
    spool.add_dead([DeadLetter("database", Freezer().freeze(event(n)), "DataError", "22P05", "b", n) for n in range(3)])
    spool.close()
    assert main(["dead-letters", str(directory), "--format", "json"]) == 0
    letters = json.loads(capsys.readouterr().out)
    assert main(["dead-letters", str(directory), "--format", "jsonl"]) == 0
    assert letters == [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [letter["dead_letter"]["code"] for letter in letters] == ["22P05"] * 3


def test_a_configured_directory_is_the_one(directory: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("flag_analytics_database")
    leave(directory, [event(1), event(2)], "database")
    monkeypatch.delenv("FLAG_ANALYTICS__COLLECTORS__MEMORY")
    monkeypatch.setenv("FLAG_ANALYTICS__COLLECTORS__DATABASE__CONNECTION_STRING", "sqlite:///flags.db")
    monkeypatch.setenv("FLAG_ANALYTICS__DELIVERY__SPOOL_DIRECTORY", str(directory))
    assert main(["spool", "replay"]) == 0
    assert capsys.readouterr().out == "database: 2 events delivered\n"
    assert main(["report", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["flags"][0]["total_evaluations"] == 2


def test_a_directory_that_is_not_there_is_1(directory: Path, capsys):
    assert main(["spool", "inspect", str(directory / "nowhere")]) == 1
    assert "is no directory" in capsys.readouterr().err


def test_no_spools_are_no_problem(directory: Path, capsys):
    assert main(["spool", "inspect"]) == 0
    assert main(["dead-letters"]) == 0
    assert capsys.readouterr().out == "No spools.\nNo dead letters.\n"


def test_dead_letters_written_by_the_engine_are_found(directory: Path):
    spool = Spool.create(directory, {"database": 0}, max_bytes=2**20, fsync="normal")
    letter = DeadLetter("database", Freezer().freeze(event(1)), "DataError", "22P05", "batch-1", 1.7e9)
    spool.add_dead([letter])
    spool.close()
    [path] = spools_in(directory)
    left: list[str] = []
    assert list(dead_letters(path, left)) == [letter]
    assert left == []


def test_dead_letters_that_a_database_keeps_are_shown_too(tmp_path: Path, monkeypatch, capsys):
    pytest.importorskip("flag_analytics_database")
    from flag_analytics_database import DatabaseOptions, DatabaseStore

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    config = tmp_path / "flag-analytics.toml"
    config.write_text(
        '[collectors.memory]\n[collectors.database]\nconnection_string = "sqlite:///kept.db"\n'
        '[collectors."database/other"]\nconnection_string = "sqlite:///other.db"\n'
    )
    assert main(["dead-letters"]) == 0
    output = capsys.readouterr()
    assert output.out == "No dead letters.\n"
    assert output.err.splitlines() == [
        "database: there is no database kept.db yet",
        "database/other: there is no database other.db yet",
    ]
    assert not (tmp_path / "kept.db").exists()
    frozen = Freezer().freeze
    letters = [DeadLetter("database", frozen(event(number)), "BadBatch", "22001", "b", number) for number in range(3)]

    async def keep() -> None:
        store = DatabaseStore(DatabaseOptions(connection_string="sqlite:///kept.db"))
        await store.write_dead_letters(letters)
        await store.close()

    asyncio.run(keep())
    assert main(["dead-letters"]) == 0
    assert "22001" in capsys.readouterr().out
    assert main(["dead-letters", "--limit", "2", "--format", "jsonl"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event_id"] for line in lines] == [letter.event.event_id for letter in letters[1:]]
    assert main(["dead-letters", "--limit", "0"]) == 2
    capsys.readouterr()
    (tmp_path / "other.db").write_text("this is no database, and what it is will not be told")
    assert main(["dead-letters"]) == 1
    said = capsys.readouterr()
    assert "22001" in said.out
    assert "database/other: " in said.err
    (tmp_path / "kept.db").unlink()
    assert main(["dead-letters"]) == 1
    assert capsys.readouterr().out == "", "there may be some that could not be read"
    assert main(["dead-letters", "--format", "json"]) == 1
    assert json.loads(capsys.readouterr().out) == []
