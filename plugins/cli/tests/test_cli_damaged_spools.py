"""Damage in a spool's directory or files is named, nothing is lost by it, and the rest goes on."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from flag_analytics.freezer import Freezer
from flag_analytics.frozen import FrozenEvent
from flag_analytics.reports import DeadLetter
from flag_analytics.testing.samples import plain_event
from flag_analytics_cli import replaying
from flag_analytics_cli.main import main
from flag_analytics_delivery import spool_reader
from flag_analytics_delivery.spool import Spool

GARBAGE = "UPDATE events SET body = 'garbage' WHERE seq <= 4"
DEAD_WITHOUT_BOUNDS = (
    "CREATE TABLE copied AS SELECT * FROM dead",
    "DROP TABLE dead",
    "ALTER TABLE copied RENAME TO dead",
)
EVENTS = {
    "a body that is a number": "UPDATE events SET body = 5 WHERE seq = 1",
    "a body that is no JSON": "UPDATE events SET body = 'x' WHERE seq = 1",
    "a body that is no UTF-8": "UPDATE events SET body = CAST(x'ff' AS TEXT) WHERE seq = 1",
    "a value that is no UTF-8": "UPDATE events SET body = CAST(CAST(replace(body, '\"f\"', x'22ff22') AS TEXT) AS BLOB)"
    " WHERE seq = 1",
    "a value that is too large": "UPDATE events SET body = replace(CAST(body AS TEXT), 'true', '1e999') WHERE seq = 1",
    "a value that is too deep": "UPDATE events SET body = replace(CAST(body AS TEXT), 'true', "
    "replace(hex(zeroblob(50000)), '00', '[') || replace(hex(zeroblob(50000)), '00', ']')) WHERE seq = 1",
    "a context that is none": "UPDATE events SET body = replace(CAST(body AS TEXT), '{}', '5') WHERE seq = 1",
    "a time that is none": "UPDATE events SET body = replace(CAST(body AS TEXT), "
    "substr(CAST(body AS TEXT), 2, 16), '9223372036854775807') WHERE seq = 1",
}
LETTERS = {
    "no body": "UPDATE dead SET body = NULL",
    "a body that is a number": "UPDATE dead SET body = 7",
    "a time that is text": "UPDATE dead SET at = 'abc'",
    "a time without end": "UPDATE dead SET at = 9e999",
    "a time beyond all calendars": "UPDATE dead SET at = 1e18",
    "a sink that is no text": "UPDATE dead SET sink = x'ff00'",
    "an error that is no UTF-8": "UPDATE dead SET error = CAST(x'ff' AS TEXT)",
}
WHOLES = {
    "a cursor that is text": ["UPDATE cursors SET seq = 'abc'"],
    "a sink that is no text": ["UPDATE cursors SET sink = x'ff'"],
    "a sink that is no UTF-8": ["UPDATE cursors SET sink = CAST(x'ff' AS TEXT)"],
    "no events": ["DROP TABLE events"],
    "no cursors": ["DROP TABLE cursors"],
    "events that only look like a table": [
        "DROP TABLE events",
        "CREATE VIEW events AS SELECT 1 AS seq, x'5b5d' AS body",
    ],
    "events without end": [
        "DROP TABLE events",
        "CREATE VIEW events AS WITH n(i) AS (SELECT 1 UNION SELECT i + 1 FROM n) SELECT i AS seq, 1 AS body FROM n",
    ],
    "sinks without end": [
        "DROP TABLE cursors",
        "CREATE VIEW cursors AS WITH n(i) AS (SELECT 1 UNION SELECT i + 1 FROM n) SELECT i AS sink, i AS seq FROM n",
    ],
}


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where spools are, in a directory that keeps what is delivered in memory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("FLAG_ANALYTICS__COLLECTORS__MEMORY", "true")
    (tmp_path / "spools").mkdir()
    return tmp_path / "spools"


def event() -> FrozenEvent:
    return Freezer().freeze(plain_event(flag_key="f", value=True, context_attributes={}))


def leave(directory: Path, *changes: str, events: int = 3, dead: int = 1, sinks: tuple[str, ...] = ("memory",)) -> Path:
    """Leave a spool behind, and change it."""
    spool = Spool.create(directory, dict.fromkeys(sinks, 0), max_bytes=2**24, fsync="normal")
    spool.append(0, [event() for _ in range(events)])
    spool.add_dead([DeadLetter(sinks[0], event(), "E", "c", "b", 1.0) for _ in range(dead)])
    spool.close()
    with closing(sqlite3.connect(spool.path)) as connection, connection:
        for change in changes:
            connection.execute(change)
    return spool.path


def bodies(path: Path) -> list[object]:
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = bytes
        return [body for (body,) in connection.execute("SELECT body FROM events ORDER BY seq")]


def set_aside(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.corrupt-*"))


def test_events_that_a_replay_cannot_read_are_counted_and_set_aside(directory: Path, capsys):
    path = leave(directory, GARBAGE, events=10, dead=0)
    assert main(["spool", "replay", str(directory)]) == 1
    output = capsys.readouterr()
    [kept] = set_aside(directory)
    assert output.out == "memory: 6 events delivered\n"
    assert output.err == f"set aside: 4 events that cannot be read, kept in {kept}\n"
    assert kept.name.startswith(f"{path.name}.corrupt-")
    assert bodies(kept) == [b"garbage"] * 4
    assert list(directory.iterdir()) == [kept]
    if sys.platform != "win32":
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600, "what is in it may be as private as the spool"


def test_events_that_a_replay_cannot_read_are_in_its_json(directory: Path, capsys):
    leave(directory, GARBAGE, events=10, dead=0)
    assert main(["spool", "replay", str(directory), "--format", "json"]) == 1
    [kept] = set_aside(directory)
    assert json.loads(capsys.readouterr().out) == {
        "backends": [{"name": "memory", "delivered": 6, "refused": 0}],
        "unreadable": 4,
        "set_aside": [str(kept)],
        "left": [],
    }


def test_an_event_that_no_sink_can_read_counts_once(directory: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FLAG_ANALYTICS__COLLECTORS__MEMORY/OTHER", "true")
    leave(directory, GARBAGE, events=10, dead=0, sinks=("memory", "memory/other"))
    assert main(["spool", "replay", str(directory), "--format", "json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert [backend["delivered"] for backend in document["backends"]] == [6, 6]
    assert document["unreadable"] == 4
    assert [len(bodies(kept)) for kept in set_aside(directory)] == [4]


def test_a_spool_is_left_alone_where_its_unreadable_events_cannot_be_kept(
    directory: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    path = leave(directory, GARBAGE, events=10, dead=0)
    leave(directory, events=2, dead=0)
    monkeypatch.setattr(replaying, "_name_aside", lambda path: directory / "nowhere" / path.name)
    assert main(["spool", "replay", str(directory)]) == 1
    output = capsys.readouterr()
    assert output.out == "memory: 2 events delivered\n"
    assert f"left alone: {path.name} cannot be written (No such file or directory)" in output.err
    assert len(bodies(path)) == 10


def test_an_unreadable_event_is_kept_when_the_backend_is_down_as_well(directory: Path, capsys, monkeypatch):
    pytest.importorskip("flag_analytics_database")
    monkeypatch.setattr("flag_analytics_cli.storing.FIRST_SUCCESS_SECONDS", 0.2)
    monkeypatch.setenv("FLAG_ANALYTICS__COLLECTORS__DATABASE__CONNECTION_STRING", "sqlite:///nowhere/x.db")
    path = leave(directory, GARBAGE, events=10, dead=0, sinks=("database",))
    assert main(["spool", "replay", str(directory)]) == 1
    output = capsys.readouterr()
    assert "replay the spool again when the backend is well" in output.err
    assert len(bodies(path)) == 10


@pytest.mark.parametrize("change", EVENTS.values(), ids=EVENTS)
def test_an_event_that_cannot_be_read_is_said_by_every_command_and_the_others_are_not_lost(
    directory: Path, capsys, change: str
):
    path = leave(directory, change)
    body, *_ = bodies(path)
    assert main(["spool", "inspect", str(directory), "--format", "json"]) == 1
    output = capsys.readouterr()
    [spool] = json.loads(output.out)["spools"]
    assert (spool["state"], spool["waiting"], spool["unreadable"]) == ("orphan", {"memory": 3}, 1)
    assert spool["oldest"] is not None
    assert output.err == f"1 event in {path} cannot be read\n"
    assert main(["spool", "inspect", str(directory)]) == 1
    capsys.readouterr()
    assert main(["spool", "export", str(directory)]) == 1
    output = capsys.readouterr()
    assert len([json.loads(line) for line in output.out.splitlines()]) == 2
    assert output.err == f"left out: 1 event in {path} that cannot be read\n"
    assert main(["dead-letters", str(directory)]) == 0, "its dead letters can be read"
    capsys.readouterr()
    assert main(["spool", "replay", str(directory)]) == 1
    output = capsys.readouterr()
    assert output.out == "memory: 2 events delivered\n"
    assert output.err.startswith("set aside: 1 event that cannot be read, kept in ")
    [kept] = set_aside(directory)
    assert path.exists(), "for its dead letter"
    assert bodies(kept) == [body]


@pytest.mark.parametrize("change", LETTERS.values(), ids=LETTERS)
@pytest.mark.parametrize("form", ["table", "json", "jsonl"])
def test_a_dead_letter_that_cannot_be_read_is_said_and_the_others_are_shown(
    directory: Path, capsys, change: str, form: str
):
    path = leave(directory, *DEAD_WITHOUT_BOUNDS, f"{change} WHERE id = 1", dead=3)
    assert main(["dead-letters", str(directory), "--format", form]) == 1
    output = capsys.readouterr()
    assert output.err == f"left out: 1 dead letter in {path} that cannot be read\n"
    if form == "json":
        assert len(json.loads(output.out)) == 2
    else:
        assert len(output.out.splitlines()) == 2
    assert main(["spool", "inspect", str(directory), "--format", "json"]) == 1
    [spool] = json.loads(capsys.readouterr().out)["spools"]
    assert (spool["dead"], spool["unreadable"]) == (3, 1)
    assert main(["spool", "export", str(directory)]) == 0, "its events can be read"
    assert main(["spool", "replay", str(directory)]) == 0
    assert path.exists()


@pytest.mark.parametrize("changes", WHOLES.values(), ids=WHOLES)
def test_a_file_that_is_no_sound_spool_is_said_and_left_as_it_is_and_the_others_go_on(
    directory: Path, capsys, changes: list[str]
):
    path = leave(directory, *changes)
    leave(directory)
    before = path.read_bytes()
    assert main(["spool", "inspect", str(directory)]) == 1
    output = capsys.readouterr()
    assert "corrupt" in output.out
    assert output.err == f"{path} is corrupt\n"
    assert main(["spool", "export", str(directory)]) == 1
    output = capsys.readouterr()
    assert len(output.out.splitlines()) == 3
    assert output.err == f"left out: {path} is corrupt\n"
    assert main(["dead-letters", str(directory), "--format", "jsonl"]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert main(["spool", "replay", str(directory)]) == 1
    output = capsys.readouterr()
    assert output.out == "memory: 3 events delivered\n"
    assert output.err == f"left alone: {path.name} is corrupt\n"
    assert path.read_bytes() == before
    assert set_aside(directory) == []


def test_events_that_have_no_order_are_not_delivered(directory: Path, capsys):
    path = leave(
        directory,
        "DROP TABLE events",
        "CREATE TABLE events (seq TEXT, body BLOB)",
        "INSERT INTO events VALUES ('one', 'x')",
    )
    for command, words in ("export", f"left out: {path}"), ("replay", f"left alone: {path.name}"):
        assert main(["spool", command, str(directory)]) == 1
        assert capsys.readouterr() == ("", f"{words} is corrupt\n")
    assert bodies(path) == [b"x"]


def test_another_database_is_no_spool_even_if_named_like_one(directory: Path, capsys):
    path = directory / "1-1.spool"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE notes (text)")
    before = path.read_bytes()
    assert main(["spool", "replay", str(directory)]) == 1
    assert capsys.readouterr().err == "left alone: 1-1.spool is corrupt\n"
    assert path.read_bytes() == before


def test_a_spool_that_its_process_is_just_making_is_no_problem(directory: Path, capsys):
    script = (
        "import sys; from pathlib import Path; from flag_analytics.locks import FileLock\n"
        "path = Path(sys.argv[1], '1-1.spool'); lock = FileLock(path.with_suffix('.lock'))\n"
        "assert lock.acquire(); path.touch(); print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"ready\n"
        assert main(["spool", "inspect", str(directory)]) == 0
        assert "in use" in capsys.readouterr().out
        assert main(["spool", "export", str(directory)]) == 0
        assert main(["dead-letters", str(directory)]) == 0
        assert capsys.readouterr() == ("No dead letters.\n", "")
        assert main(["spool", "replay", str(directory)]) == 1
        assert capsys.readouterr().err == "left alone: 1-1.spool belongs to a living process\n"
        process.stdin.close()
        assert process.wait(30) == 0


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def link_to_nothing(path: Path) -> None:
    path.symlink_to("nowhere")


def link_without_end(path: Path) -> None:
    path.symlink_to("/dev/zero")


def pipe_beside(path: Path) -> None:
    """Make what SQLite would read before it reads the file itself."""
    leave(path.parent).rename(path)
    os.mkfifo(f"{path}-journal")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and links are POSIX")
@pytest.mark.parametrize(
    "make",
    [pipe, Path.mkdir, link_to_itself, link_to_nothing, link_without_end, pipe_beside],
    ids=lambda make: make.__name__,
)
def test_an_entry_that_is_no_file_is_named_and_not_waited_for(directory: Path, capsys, make):
    path = directory / "1-1.spool"
    make(path)
    leave(directory)
    assert main(["spool", "inspect", str(directory)]) == 1
    output = capsys.readouterr()
    assert "orphan" in output.out
    assert output.err == f"{path} is no regular file\n"
    for command, lines in (["spool", "export"], 3), (["dead-letters", "--format", "jsonl"], 1):
        assert main([*command, str(directory)]) == 1
        output = capsys.readouterr()
        assert len(output.out.splitlines()) == lines
        assert output.err == f"left out: {path} is no regular file\n"
    assert main(["spool", "replay", str(directory)]) == 1
    output = capsys.readouterr()
    assert output.out == "memory: 3 events delivered\n"
    assert output.err == "left alone: 1-1.spool is no regular file\n"
    assert os.path.lexists(path)
    assert not (directory / "nowhere").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="links are POSIX")
def test_a_lock_that_is_a_link_to_itself_stops_no_command(directory: Path, capsys):
    path = leave(directory)
    path.with_suffix(".lock").unlink()
    link_to_itself(path.with_suffix(".lock"))
    leave(directory)
    assert main(["spool", "inspect", str(directory)]) == 0
    assert main(["spool", "export", str(directory)]) == 0
    capsys.readouterr()
    assert main(["spool", "replay", str(directory)]) == 1
    output = capsys.readouterr()
    assert output.out == "memory: 3 events delivered\n"
    assert f"left alone: {path.name}" in output.err


def test_a_spool_that_cannot_be_opened_is_not_called_corrupt(directory: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    path = leave(directory)

    def refuse(*_: object, **__: object) -> None:
        error = sqlite3.OperationalError("unable to open database file")
        error.sqlite_errorname = "SQLITE_CANTOPEN"
        raise error

    monkeypatch.setattr(spool_reader.sqlite3, "connect", refuse)
    assert main(["spool", "export", str(directory)]) == 1
    assert capsys.readouterr().err == f"left out: {path} cannot be read (SQLITE_CANTOPEN)\n"


def test_a_named_directory_goes_to_no_backend_that_was_not_named(
    directory: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("FLAG_ANALYTICS__COLLECTORS__MEMORY")
    assert main(["spool", "replay", str(directory)]) == 0
    assert capsys.readouterr() == ("Nothing to replay.\n", "")
    path = leave(directory, dead=0, sinks=("database", "memory"))
    assert main(["spool", "replay", str(directory)]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert f"there are spools in {directory}, and no backends are configured that they belong to" in output.err
    assert "--config FILE" in output.err
    assert len(bodies(path)) == 3
    assert not (tmp_path / "flag-analytics.db").exists()


def test_dead_letters_of_a_database_that_cannot_be_read_are_said(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("flag_analytics_database")
    import asyncio

    from flag_analytics_database import DatabaseOptions, DatabaseStore

    monkeypatch.setenv("FLAG_ANALYTICS__COLLECTORS__DATABASE__CONNECTION_STRING", "sqlite:///kept.db")
    letters = [DeadLetter("database", event(), "E", "c", "b", number) for number in range(3)]

    async def keep() -> None:
        store = DatabaseStore(DatabaseOptions(connection_string="sqlite:///kept.db"))
        await store.write_dead_letters(letters)
        await store.close()

    asyncio.run(keep())
    for time, shown, words in (
        ("9e17", 2, "database: 1 dead letter cannot be read"),
        ("'soon'", 0, "database: its dead letters cannot be read"),
    ):
        with closing(sqlite3.connect(tmp_path / "kept.db")) as connection, connection:
            connection.execute(f"UPDATE analytics_events_dead_letters SET at = {time} WHERE at IN (0, 9e17)")
        assert main(["dead-letters", "--format", "jsonl"]) == 1
        output = capsys.readouterr()
        assert len(output.out.splitlines()) == shown
        assert output.err.startswith(words)
