"""The command in a process of its own, with pipes, terminals and real data, and with plugins that others wrote."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flag_analytics import registry
from flag_analytics_cli.main import main

REPOSITORY = Path(__file__).parents[3]


def run(*arguments: str, cwd: Path, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command with this text as its standard input."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLAG_ANALYTICS")}
    return subprocess.run(
        [sys.executable, "-m", "flag_analytics_cli", *arguments],
        cwd=cwd,
        env={**kept, "PYTHONIOENCODING": "utf-8", **environment},
        input=text,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Return ``run`` without a process of its own, for tests in which it would only cost time."""

    def run(*arguments: str, cwd: Path, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as patch:
            patch.chdir(cwd)
            for name in [name for name in os.environ if name.startswith("FLAG_ANALYTICS") or name == "COLUMNS"]:
                patch.delenv(name)
            site = environment.pop("PYTHONPATH", None)
            if site is not None:
                patch.syspath_prepend(site)
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.setattr(registry, "_default", [])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
            code = main(list(arguments))
        for name in ("broken_plugin", "lines_plugin"):
            sys.modules.pop(name, None)
        output = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, output.out, output.err)

    return run


def real_data() -> Path:
    """Return the real A/B test's file, or skip: it is not redistributed with the project."""
    place = os.environ.get("FLAG_ANALYTICS_TEST_DATA")
    directory = Path(place) if place else REPOSITORY.parent / "shared" / "data"
    file = directory / "page_redesign_ab_test.csv"
    if not file.is_file():
        pytest.skip(
            "page_redesign_ab_test.csv is not here: put it in shared/data beside the checkout, or name its directory "
            "in FLAG_ANALYTICS_TEST_DATA"
        )
    return file


def test_help_imports_no_module_of_a_command(tmp_path: Path):
    heavy = ("sqlalchemy", "openfeature", "rich.progress", "flag_analytics_cli.reading", "flag_analytics.pipeline")
    code = (
        "import sys\nfrom flag_analytics_cli.main import main\nassert main(['--help']) == 0\n"
        f"print(*sorted(set({heavy!r}) & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == "\n"


def test_the_real_ab_test_is_reported_with_its_known_figures(tmp_path: Path, run_here):
    file = real_data()
    done = run_here("report", "page_redesign", "--file", str(file), "--format", "json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [flag] = json.loads(done.stdout)["flags"]
    assert flag["variant_distribution"] == {"control": 238, "experimental": 238}
    assert (flag["total_evaluations"], flag["unique_users"]) == (476, 474)
    assert flag["first_seen"].startswith("2021-01-05T00:31:25.931433")


def test_the_real_ab_test_is_imported_and_found_again_by_another_process(tmp_path: Path):
    pytest.importorskip("flag_analytics_database")
    file = real_data()
    done = run("import", str(file), "--flag-key", "page_redesign", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "476 events imported into database: 476 new\n"), done.stderr
    done = run("report", "page_redesign", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "474 users, 476 exposures" in done.stdout
    assert done.stdout.count("        238   50.0 %") == 2


def test_a_hyphen_is_standard_input(tmp_path: Path):
    line = '{"timestamp": 1769860800, "flag_key": "f"}\n'
    done = run("report", "--file", "-", "f", cwd=tmp_path, text=line)
    assert done.returncode == 0, done.stderr
    assert "0 users, 1 evaluation" in done.stdout
    pytest.importorskip("flag_analytics_database")
    done = run("import", "-", "--format", "jsonl", cwd=tmp_path, text=line)
    assert (done.returncode, done.stderr) == (0, "standard input: read as flag-analytics events\n")
    assert done.stdout.startswith("1 event imported into database")


def test_a_reader_may_stop_reading(tmp_path: Path):
    lines = (f'{{"timestamp": {1769860800 + number}, "flag_key": "flag-{number}"}}' for number in range(20_000))
    (tmp_path / "many.jsonl").write_text("\n".join(lines))
    with subprocess.Popen(
        [sys.executable, "-m", "flag_analytics_cli", "report", "--file", "many.jsonl", "--format", "csv"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"flag_key,group,variant,")
        process.stdout.close()
        assert process.stderr.read().count(b"\n") == 1, "only how the file was read"
        assert process.wait(60) == 1


def test_an_output_without_unicode_gets_plain_characters(tmp_path: Path):
    (tmp_path / "one.jsonl").write_text('{"timestamp": 1769860800, "flag_key": "caf\\u00e9"}')
    done = run("report", "--file", "one.jsonl", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert r"caf\xe9" in done.stdout
    assert "100.0 %  ####" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX")
@pytest.mark.parametrize("no_color", ["", "1"])
def test_colours_are_for_terminals_and_for_those_who_want_them(tmp_path: Path, no_color: str):
    import pty

    (tmp_path / "one.jsonl").write_text('{"timestamp": 1769860800, "flag_key": "f", "reason": "ERROR"}')
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "flag_analytics_cli", "report", "--file", "one.jsonl"],
        cwd=tmp_path,
        env={**os.environ, "TERM": "xterm-256color", "NO_COLOR": no_color},
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=subprocess.DEVNULL,
    )
    os.close(follower)
    printed = b""
    while True:
        try:
            part = os.read(leader, 4_096)
        except OSError:  # how Linux reports that the other end is closed
            break
        if not part:
            break
        printed += part
    os.close(leader)
    assert process.wait(60) == 0
    assert b"100.00 % errors" in printed
    assert (b"\x1b[" in printed) is not bool(no_color)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_an_interrupted_import_says_how_much_is_stored(tmp_path: Path):
    pytest.importorskip("flag_analytics_database")
    with subprocess.Popen(
        [sys.executable, "-m", "flag_analytics_cli", "import", "-"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        for number in range(3):
            process.stdin.write(b'{"timestamp": 176986080%d, "flag_key": "f"}\n' % number)
        process.stdin.flush()
        deadline = time.monotonic() + 30
        while not _events_in(tmp_path / "flag-analytics.db") and time.monotonic() < deadline:
            time.sleep(0.05)  # there is nothing to wait on: another process writes
        process.send_signal(signal.SIGINT)
        said = process.stderr.read().decode()
        assert process.wait(60) == 130
    assert "in database; import the file again to go on" in said
    assert "Traceback" not in said
    stored = re.search(r"stored of the (\d) events read: (\d) in database", said)
    assert stored is not None
    assert _events_in(tmp_path / "flag-analytics.db") == int(stored[2]) == int(stored[1])


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_events_that_come_are_shown_once_each_until_interrupted(tmp_path: Path, run_here: Callable[..., Any]):
    pytest.importorskip("flag_analytics_database")
    now = datetime.now(UTC)

    def store(*users: str, variant: str = "on") -> None:
        lines = [
            {"timestamp": now.isoformat(), "flag_key": "f", "variant": variant, "targeting_key": user} for user in users
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        assert run_here("import", "-", cwd=tmp_path, text=text).returncode == 0

    store("u1", "u2", "u3")
    tail = ["tail", "f", "--follow", "--lines", "2", "--format", "jsonl", "--variant", "on"]
    with subprocess.Popen(
        [sys.executable, "-m", "flag_analytics_cli", *tail],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            shown = [json.loads(process.stdout.readline())["targeting_key"] for _ in range(2)]
            assert len(set(shown)) == 2
            store("u4", variant="off")
            store("u5")  # of the same time as those that were shown before
            store("u6")
            later = {json.loads(process.stdout.readline())["targeting_key"] for _ in range(2)}
            assert later == {"u5", "u6"}  # in any order, since they are of the same time
            process.send_signal(signal.SIGINT)
            assert process.stdout.read() == b""
            assert process.wait(60) == 130
            assert b"Traceback" not in process.stderr.read()
        finally:
            process.kill()


def _events_in(path: Path) -> int:
    if not path.exists():
        return 0
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        try:
            return connection.execute("select count(*) from analytics_events").fetchone()[0]
        except sqlite3.OperationalError:  # the tables are being made
            return 0


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX")
def test_an_interrupted_demo_shows_its_events_and_where_they_are_kept(tmp_path: Path):
    pytest.importorskip("flag_analytics_database")
    import pty

    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "flag_analytics_cli", "demo", "--events", "2000"],
        cwd=tmp_path,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"},
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    os.close(follower)
    printed = b""
    interrupted = False
    while True:
        try:
            part = os.read(leader, 4_096)
        except OSError:
            break
        if not part:
            break
        printed += part
        if b"new-checkout" in printed and not interrupted:
            interrupted = True
            process.send_signal(signal.SIGINT)
    os.close(leader)
    with process:
        assert process.stderr is not None
        errors = process.stderr.read().decode()
        assert process.wait(60) == 130
    assert "Traceback" not in errors
    assert "Kept in flag-analytics.db" in errors
    assert "interrupted" in errors
    summary = printed.decode()
    for words in ("smart-ranking", "evaluations", "Reason", "Ledger"):
        assert words in summary


def broken_plugin(directory: Path) -> Path:
    """Install a plugin whose import fails into a directory for PYTHONPATH."""
    site = directory / "site"
    metadata = site / "broken_plugin-2.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 2.0\n")
    (metadata / "entry_points.txt").write_text("[flag_analytics]\nbroken = broken_plugin\n")
    (site / "broken_plugin.py").write_text("raise RuntimeError('no such engine')\n")
    return site


def appending_plugin(directory: Path) -> Path:
    """Install a collector that appends the ids of events to lines.txt."""
    site = directory / "site"
    metadata = site / "lines_plugin-2.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: lines-plugin\nVersion: 2.0\n")
    (metadata / "entry_points.txt").write_text("[flag_analytics]\nlines = lines_plugin\n")
    (site / "lines_plugin.py").write_text(
        "import attrs\nfrom flag_analytics.hookspecs import hookimpl\nfrom flag_analytics.protocols import Backend\n"
        "@attrs.frozen\nclass Options:\n    pass\n"
        "@attrs.frozen\nclass Lines:\n    options: Options\n"
        "    async def write(self, batch):\n        with open('lines.txt', 'a') as file:\n"
        "            file.writelines(event.event_id + '\\n' for event in batch)\n"
        "    async def close(self):\n        pass\n"
        "@hookimpl\ndef flag_analytics_register_collectors():\n    return [Backend('lines', Options, Lines)]\n"
    )
    return site


def test_an_import_promises_nothing_of_a_backend_that_may_append(tmp_path: Path, run_here):
    pytest.importorskip("flag_analytics_database")
    lines = {"PYTHONPATH": str(appending_plugin(tmp_path)), "FLAG_ANALYTICS__COLLECTORS__LINES": "true"}
    (tmp_path / "two.jsonl").write_text(
        '{"timestamp": 1769860800, "flag_key": "f"}\n{"timestamp": 1769860801, "flag_key": "f"}\n'
    )
    unknown = "is not known (a backend that stores each id once, as database does, has none of them twice)"
    for stored in (2, 4):
        done = run_here("import", "two.jsonl", cwd=tmp_path, **lines)
        assert (done.returncode, done.stdout) == (
            0, f"2 events imported into lines; how many of them were new {unknown}\n",
        ), done.stderr  # fmt: skip
        assert len((tmp_path / "lines.txt").read_text().splitlines()) == stored
    both = {**lines, "FLAG_ANALYTICS__COLLECTORS__DATABASE__CONNECTION_STRING": "sqlite:///x.db"}
    done = run_here("import", "two.jsonl", cwd=tmp_path, **both)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f": database has 2 new; how many of them were new to lines {unknown}\n")
    done = run_here("import", "two.jsonl", "--format", "json", cwd=tmp_path, **both)
    assert sorted(json.loads(done.stdout)["backends"], key=lambda backend: backend["name"]) == [
        {"name": "database", "new": 0, "already_stored": 2},
        {"name": "lines", "new": None, "already_stored": None},
    ]


def test_gauges_that_only_a_backend_without_answers_could_fill_are_seen(tmp_path: Path, run_here):
    pytest.importorskip("flag_analytics_prometheus")
    lines = {"PYTHONPATH": str(appending_plugin(tmp_path)), "FLAG_ANALYTICS__COLLECTORS__LINES": "true"}
    done = run_here("check", cwd=tmp_path, FLAG_ANALYTICS__EXPORTERS__PROMETHEUS__GAUGES="aggregator", **lines)
    assert done.returncode == 1
    assert "no collector can be asked about its events" in done.stderr
    assert not (tmp_path / "lines.txt").exists()


def test_a_broken_plugin_is_imported_only_if_it_is_selected_and_then_explained(tmp_path: Path, run_here):
    site = str(broken_plugin(tmp_path))
    memory = {"FLAG_ANALYTICS__COLLECTORS__MEMORY": "true"}
    unselected = run_here("plugins", "--format", "json", cwd=tmp_path, PYTHONPATH=site, **memory)
    assert unselected.returncode == 0, unselected.stderr
    states = {line["name"]: line["state"] for line in json.loads(unselected.stdout)["plugins"]}
    assert states["broken"] == "installed"
    selected = run_here("plugins", cwd=tmp_path, PYTHONPATH=site, FLAG_ANALYTICS__COLLECTORS__BROKEN="true")
    assert selected.returncode == 1
    for words in ("broken-plugin 2.0", "RuntimeError", "no such engine"):
        assert words in selected.stdout
    probed = run_here("plugins", "--probe", cwd=tmp_path, PYTHONPATH=site, **memory)
    assert probed.returncode == 1


def test_a_broken_plugin_takes_only_its_own_commands_away(tmp_path: Path, run_here):
    site = str(broken_plugin(tmp_path))
    done = run_here("--help", cwd=tmp_path, PYTHONPATH=site, FLAG_ANALYTICS__COLLECTORS__BROKEN="true")
    assert done.returncode == 0
    assert " report " in done.stdout
    assert "commands of a plugin are missing" in done.stderr


def test_plugins_that_are_selected_add_commands(tmp_path: Path, run_here):
    pytest.importorskip("flag_analytics_database")
    done = run_here("--help", cwd=tmp_path, FLAG_ANALYTICS__COLLECTORS__DATABASE__CONNECTION_STRING="sqlite:///x.db")
    assert " prune " in done.stdout
    done = run_here("--help", cwd=tmp_path, FLAG_ANALYTICS__COLLECTORS__MEMORY="true")
    assert " prune " not in done.stdout


def test_an_unknown_command_may_be_that_of_a_plugin_that_is_not_selected(tmp_path: Path, run_here):
    done = run_here("forget", "user-1", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert 'plugins = ["privacy"]' in done.stderr


def test_commands_of_plugins_have_the_same_default_backend_as_all(tmp_path: Path, run_here):
    pytest.importorskip("flag_analytics_database")
    done = run_here("prune", "--days", "1", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "database: nothing is stored here yet\n")
    done = run_here("db", "upgrade", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "database: brought to version 0005 (was: missing)\n")
    assert (tmp_path / "flag-analytics.db").exists()
    other = tmp_path / "other.toml"
    other.write_text('[collectors.database]\nconnection_string = "sqlite:///other.db"\n')
    done = run_here("db", "upgrade", cwd=tmp_path, FLAG_ANALYTICS_CONFIG=str(other))
    assert (done.returncode, (tmp_path / "other.db").exists()) == (0, True)


@pytest.mark.skipif(sys.platform == "win32", reason="a device that is always full is POSIX")
@pytest.mark.parametrize("arguments", [["--help"], ["report", "--file", "one.jsonl", "--format", "json"]])
def test_a_full_disk_ends_a_command_with_a_message(tmp_path: Path, arguments: list[str]):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "one.jsonl").write_text('{"timestamp": 1769860800, "flag_key": "f"}')
    command = [sys.executable, "-m", "flag_analytics_cli", *arguments]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert "the output cannot be written: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="the shell closes the stream")
def test_a_closed_output_prints_no_traceback(tmp_path: Path):
    shell = f'"{sys.executable}" -m flag_analytics_cli --version >&-'
    done = subprocess.run(shell, shell=True, cwd=tmp_path, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("columns", ["0", "1", "-1", "many"])
def test_help_ends_at_any_width(tmp_path: Path, columns: str, run_here):
    done = run_here("report", "--help", cwd=tmp_path, COLUMNS=columns)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage:" in done.stdout
