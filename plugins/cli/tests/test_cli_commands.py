"""The command as its users meet it: what it prints where, and its exit codes."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import socket
import sqlite3
from pathlib import Path

import pytest
from flag_analytics_cli.main import main

ROWS = "user_id,timestamp,group,page\n" + "".join(
    f"u{number % 9},2021-01-05 00:{number:02d}:00,{'control' if number % 2 else 'experimental'},A\n"
    for number in range(20)
)


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test runs in a directory of its own, where nothing is configured."""
    monkeypatch.chdir(tmp_path)
    for variable in ("FLAG_ANALYTICS_CONFIG", "NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


@pytest.fixture
def exposures(tmp_path: Path) -> str:
    (tmp_path / "exposures.csv").write_text(ROWS)
    return "exposures.csv"


def test_without_arguments_its_commands_are_listed(capsys):
    assert main([]) == 0
    output = capsys.readouterr()
    assert "What are our feature flags really doing?" in output.out
    for command in ("check", "dead-letters", "demo", "import", "plugins", "report", "spool"):
        assert f" {command} " in output.out


def test_it_knows_its_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "0.1.0\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["reprot"], "reprot"),
        (["report", "--widow", "1h"], "--window"),
        (["report", "--window", "1y"], "'1y' is not a window: expected for example 90s, 15m, 1h, 7d, 2w or all"),
        (["report", "--format", "xml"], "table"),
        (["report", "--map", "variant=group"], "add --file FILE"),
        (["import"], "FILE"),
        (["import", "exposures.csv", "--format", "cvs"], "csv"),
        (["import", "--formt", "csv", "exposures.csv"], "unknown option --formt: did you mean --format?"),
        (["report", "--file", "-x"], "unknown option -x"),
        (["import", "exposures.csv", "--map", "varant=group"], "did you mean 'variant'?"),
        (["report", "--file", "exposures.csv", "--flag-key", "f", "--map", "variant=grop"], "did you mean 'group'?"),
        (["report", "--file", "exposures.csv"], "give it with --flag-key KEY"),
        (["demo", "--events", "0"], "expected at least 1"),
        (["demo", "--events", "many"], "many"),
        (["db", "upgrade", "--url", "foo"], "flag-analytics: connection_string is not a database URL"),
        (["prune", "--days", "-3"], "flag-analytics: --days -3 is out of range: expected a number above 0"),
        (["prune", "--table", "mine"], "add --url URL"),
    ],
)
@pytest.mark.usefixtures("exposures")
def test_a_wrong_command_line_is_2_and_the_right_one_is_said(arguments, words, capsys):
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert words in output.err
    assert "Traceback" not in output.err
    assert " --help` shows what is possible\n" in output.err


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["reprot"], "flag-analytics"),
        (["report", "--window", "soon"], "flag-analytics report"),
        (["spool", "replay", "--dry"], "flag-analytics spool replay"),
        (["prune", "--days", "abc"], "flag-analytics prune"),
        (["db", "upgrade", "--url", "foo"], "flag-analytics db upgrade"),
    ],
)
def test_the_help_that_a_wrong_command_line_points_to_is_that_of_its_command(arguments, command, capsys):
    pytest.importorskip("flag_analytics_database")
    assert main(arguments) == 2
    assert capsys.readouterr().err.endswith(f"`{command} --help` shows what is possible\n")


def test_the_usage_names_the_arguments_of_a_command(capsys):
    assert main(["report", "--help"]) == 0
    assert capsys.readouterr().out.startswith("Usage: flag-analytics report [FLAG ...] [OPTIONS]\n")


@pytest.mark.parametrize("arguments", [["report", "--file", "nowhere.csv"], ["import", "nowhere.csv"]])
def test_a_file_that_is_not_there_is_1(arguments, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FLAG_ANALYTICS__EXPORTERS__PROMETHEUS", "true")
    assert main(arguments) == 1
    assert capsys.readouterr().err == "flag-analytics: nowhere.csv: No such file or directory\n"


def test_a_file_is_reported_on_without_being_stored(exposures, capsys, tmp_path: Path):
    assert main(["report", "page", "--file", exposures]) == 0
    output = capsys.readouterr()
    assert output.out.splitlines() == [
        "page",
        "  9 users, 20 exposures, all time, 1.1/min from first to last, no errors",
        "  2021-01-05 00:00:00 to 00:19:00 UTC",
        "  Latency not measured",
        "  9 users saw more than one variant (100.0 %)",
        "",
        "  Variant       Users    Share   95 % interval  Exposures    Share",
        "  control           9  100.0 %  70.1 - 100.0 %         10   50.0 %  ████████████████████████████████",
        "  experimental      9  100.0 %  70.1 - 100.0 %         10   50.0 %  ████████████████████████████████",
    ]
    assert "columns left out: page" in output.err
    assert [path.name for path in tmp_path.iterdir()] == [exposures]


@pytest.mark.parametrize("place", ["README.md", "plugins/cli/README.md"])
def test_the_report_in_a_readme_is_the_whole_report(place, capsys, monkeypatch: pytest.MonkeyPatch):
    text = (Path(__file__).parents[3] / place).read_text("utf-8")
    content = re.search(r"^<!-- file: exposures.csv -->\n```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    shown = re.search(
        r"^\$ flag-analytics (report [^\n]*exposures.csv[^\n]*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL
    )
    assert content is not None
    assert shown is not None
    Path("exposures.csv").write_text(content[1])
    monkeypatch.setenv("COLUMNS", "120")
    assert main(shlex.split(shown[1])) == 0
    assert capsys.readouterr().out == shown[2]


def test_json_is_nothing_but_json(exposures, capsys):
    assert main(["report", "page", "--file", exposures, "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    [flag] = document["flags"]
    assert document["window_seconds"] is None
    assert flag["flag_key"] == "page"
    assert flag["total_evaluations"] == 20
    assert flag["unique_users"] == 9
    assert flag["variant_distribution"] == {"control": 10, "experimental": 10}
    assert flag["reason_distribution"] == {"UNKNOWN": 20}
    assert flag["evaluation_rate_over_seconds"] == 19 * 60
    assert flag["evaluation_rate"] == pytest.approx(20 / (19 * 60))
    assert [flag[f"latency_p{percent}"] for percent in (50, 90, 99)] == [None, None, None], "it was not measured"
    assert flag["first_seen"] == "2021-01-05T00:00:00+00:00"
    assert flag["last_seen"] == "2021-01-05T00:19:00+00:00"


def test_csv_has_a_line_for_each_variant(exposures, capsys):
    assert main(["report", "page", "--file", exposures, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["flag_key"], row["variant"], row["evaluations"], row["share_percent"]) for row in rows] == [
        ("page", "control", "10", "50.0"),
        ("page", "experimental", "10", "50.0"),
    ]
    assert {row["flag_unique_users"] for row in rows} == {"9"}
    assert {row["flag_rate_over_seconds"] for row in rows} == {"1140.0"}
    assert {row["flag_latency_p99_ms"] for row in rows} == {""}


def test_a_rate_of_one_instant_is_left_out(capsys):
    Path("one.jsonl").write_text('{"timestamp": 1769860800, "flag_key": "f", "evaluation_duration_ms": 2}\n' * 3)
    assert main(["report", "--file", "one.jsonl"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "  0 users, 3 evaluations, all time, no errors"
    assert main(["report", "--file", "one.jsonl", "--format", "json"]) == 0
    [flag] = json.loads(capsys.readouterr().out)["flags"]
    assert (flag["evaluation_rate"], flag["evaluation_rate_over_seconds"]) == (None, None)
    assert flag["latency_p50"] == 2.0


@pytest.mark.parametrize("columns", [30, 40, 60, 80])
def test_tables_can_be_read_on_narrow_terminals(columns, capsys, monkeypatch: pytest.MonkeyPatch):
    lines = [
        {"timestamp": 1769860800, "flag_key": f"some-flag-{key}", "variant": "treatment-b", "reason": reason}
        for key in range(2)
        for reason in ("ERROR", "TARGETING_MATCH")
    ]
    Path("flags.jsonl").write_text("\n".join(map(json.dumps, lines)))
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["report", "--file", "flags.jsonl"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert max(map(len, printed)) <= columns
    assert [line.split()[-2:] for line in printed[1:3]] in ([["50.00", "%"]] * 2, [["-", "-"]] * 2)
    for name in ("some-", "2", "treat", "50.0 %", "ERROR"):
        assert any(name in line for line in printed), name
    assert not any("…" in line for line in printed) or columns == 30
    assert sum("Evaluations" in line and "Share" in line for line in printed) == 2


def test_a_window_ends_now(exposures, capsys):
    assert main(["report", "page", "--file", exposures, "--window", "7d"]) == 1
    output = capsys.readouterr()
    assert output.out == "page\n  No evaluations in the last 7 days.\n"


def test_events_of_the_future_are_in_no_window_and_said(capsys):
    Path("future.jsonl").write_text(
        '{"timestamp": "2999-01-01", "flag_key": "f"}\n{"timestamp": 1769860800, "flag_key": "f"}\n'
    )
    assert main(["report", "--file", "future.jsonl"]) == 0
    output = capsys.readouterr()
    assert "0 users, 1 evaluation" in output.out
    assert "dated in the future, and so in no window yet: 1 event\n" in output.err


def test_bad_lines_are_named_on_standard_error_and_make_the_exit_code_1(capsys):
    Path("some.csv").write_text("flag,timestamp\nf,2026-01-31\nf,soon\n\nf,2026-01-31\n")
    assert main(["report", "--file", "some.csv", "--format", "json"]) == 1
    output = capsys.readouterr()
    assert json.loads(output.out)["flags"][0]["total_evaluations"] == 2
    _, line, cause = output.err.splitlines()
    assert line == "some.csv: 1 line is no event"
    assert cause.startswith("  line 3: timestamp is neither ISO 8601 nor a number of seconds since 1970: describe it")


@pytest.mark.parametrize(
    ("name", "content", "options", "code", "words"),
    [
        ("empty.csv", b"", [], 1, "flag-analytics: empty.csv: the file is empty: expected a header line"),
        ("empty.jsonl", b"", [], 0, "empty.jsonl: the file is empty"),
        ("some.csv", b"flag,timestamp\n", ["--encoding", "utf-9"], 1, "some.csv: encoding 'utf-9' is unknown"),
        ("book.csv", b"PK\x03\x04", [], 1, "book.csv: the file is a ZIP archive or an Excel workbook"),
        ("dates.csv", b"flag,timestamp\nf,05/01/2026 10:00\n", [], 1, "line 2: timestamp has day and month in an"),
        (
            "keys.jsonl",
            b'{"timestamp": 1769860800, "flag_key": "f", "dead_letter": {}, "plan\\u001b": "x", "a": {"b": 1}}',
            [],
            0,
            "keys.jsonl: keys left out: dead_letter, plan\\x1b, a.b (--map context.NAME=KEY keeps one)\n",
        ),
    ],
)
def test_a_problem_of_a_file_names_the_file(name, content, options, code, words, capsys):
    Path(name).write_bytes(content)
    assert main(["report", "--file", name, *options]) == code
    assert words in capsys.readouterr().err


def test_many_unknown_keys_are_not_all_kept(capsys):
    keys = {f"{number}-{'x' * 200}": 1 for number in range(1_000)}
    Path("keys.jsonl").write_text(json.dumps({"timestamp": 1769860800, "flag_key": "f", **keys}))
    assert main(["report", "--file", "keys.jsonl"]) == 0
    assert len(capsys.readouterr().err) < 1_200


HOSTILE = [
    "\x1b[31mred\x1b[0m",
    "[red]x[/red]",
    "=1+1",
    "a\nb",
    ":smile:",
    "\u202egalf",
    "x" * 500,
    "\x07\x9b2J",
    "'; --",
]


@pytest.fixture
def hostile() -> str:
    lines = [
        {"timestamp": 1769860800, "flag_key": key, "variant": key, "reason": key, "targeting_key": key}
        for key in HOSTILE
    ]
    Path("hostile.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return "hostile.jsonl"


def test_hostile_keys_are_shown_and_do_nothing_in_a_table(hostile, capsys, monkeypatch: pytest.MonkeyPatch):
    for columns in ("20", "80", "140"):
        monkeypatch.setenv("COLUMNS", columns)
        assert main(["report", "--file", hostile]) == 0
        output = capsys.readouterr()
        printed = (output.out + output.err).replace("\n", "")
        assert printed.isprintable()
    assert "[red]x[/red]" in output.out
    assert ":smile:" in output.out
    assert r"\x1b[31mred" in output.out


def test_hostile_keys_are_themselves_in_json_and_all_of_it_is_ascii(hostile, capsys):
    assert main(["report", "--file", hostile, "--format", "json"]) == 0
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert printed.replace("\n", "").isprintable()
    keys = {flag["flag_key"] for flag in json.loads(printed)["flags"]}
    assert keys >= {key for key in HOSTILE if len(key) <= 190}


def test_hostile_keys_are_no_formulas_and_steer_nothing_in_csv(hostile, capsys):
    assert main(["report", "--file", hostile, "--format", "csv"]) == 0
    printed = capsys.readouterr().out
    assert printed.replace("\n", "").isprintable()
    cells = [cell for row in csv.reader(io.StringIO(printed)) for cell in row[:2]]
    assert "'=1+1" in cells
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]


def test_many_flags_are_one_table_until_some_are_named(capsys):
    lines = (f'{{"timestamp": {1769860800 + number}, "flag_key": "flag-{number:02d}"}}' for number in range(30))
    Path("many.jsonl").write_text("\n".join(lines))
    assert main(["report", "--file", "many.jsonl"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 30 + 2
    assert main(["report", "flag-07", "flag-03", "--file", "many.jsonl"]) == 0
    output = capsys.readouterr().out
    assert "Variant" in output
    assert output.index("flag-07") < output.index("flag-03"), "in the order they were asked for"


def test_long_keys_lose_their_middle_and_are_still_told_apart(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    keys = [f"some-team/some-product/some-really-very-long-flag-name-{number}" for number in range(3)]
    Path("long.jsonl").write_text("\n".join(f'{{"timestamp": 1769860800, "flag_key": "{key}"}}' for key in keys))
    assert main(["report", "--file", "long.jsonl"]) == 0
    printed = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in printed[1:4]]
    for number, name in enumerate(names):
        assert name.startswith("some-team")
        assert name.endswith(f"lag-name-{number}")
        assert "…" in name
    assert keys[0] in printed, "in full above its details"
    assert all(len(line) <= 80 for line in printed)


def test_lines_have_no_spaces_at_their_ends(exposures, capsys):
    main(["report", "page", "other", "--file", exposures, "--flag-key", "page"])
    assert [line for line in capsys.readouterr().out.splitlines() if line != line.rstrip()] == []


def test_a_report_of_nothing_creates_nothing(capsys, tmp_path: Path):
    pytest.importorskip("flag_analytics_database")
    assert main(["report"]) == 0
    output = capsys.readouterr()
    assert output.out == "No evaluations found.\n"
    assert "nothing is stored here yet" in output.err
    assert list(tmp_path.iterdir()) == []


def test_an_imported_file_is_stored_once_and_reported_after_the_command_has_ended(exposures, capsys):
    pytest.importorskip("flag_analytics_database")
    for news in ("20 new", "0 new, 20 already stored"):
        assert main(["import", exposures, "--flag-key", "page"]) == 0
        assert capsys.readouterr().out == f"20 events imported into database: {news}\n"
    with Path(exposures).open("a") as file:
        file.write("u1,2999-01-05,control,A\n")
    assert main(["import", exposures, "--flag-key", "page"]) == 0
    assert capsys.readouterr().out == "21 events imported into database: 1 new, 20 already stored\n"
    Path(exposures).write_text(ROWS)
    assert main(["import", exposures, "--flag-key", "other"]) == 0
    capsys.readouterr()
    assert main(["report", "--format", "json"]) == 0
    flags = {flag["flag_key"]: flag for flag in json.loads(capsys.readouterr().out)["flags"]}
    assert {key: flag["total_evaluations"] for key, flag in flags.items()} == {"page": 20, "other": 20}
    assert flags["page"]["unique_users"] == 9
    with sqlite3.connect("flag-analytics.db") as connection:
        assert connection.execute("select count(distinct event_id) from analytics_events").fetchone() == (41,)
    connection.close()


def test_strict_imports_the_events_before_the_first_bad_line(capsys):
    pytest.importorskip("flag_analytics_database")
    Path("some.csv").write_text("flag,timestamp\nf,2026-01-31\nf,soon\nf,2026-01-31\n")
    assert main(["import", "some.csv", "--strict"]) == 1
    output = capsys.readouterr()
    assert output.out == "1 event imported into database before the first bad line: 1 new\n"
    assert "line 3: timestamp is neither" in output.err


def test_the_outcome_of_an_import_is_json_for_other_programs(exposures, capsys):
    pytest.importorskip("flag_analytics_database")
    for new in (20, 0):
        assert main(["import", exposures, "--flag-key", "page", "--format", "json"]) == 0
        assert json.loads(capsys.readouterr().out) == {
            "file": exposures,
            "read_as": "a table of exposures",
            "events": 20,
            "skipped": 0,
            "skipped_kinds": {},
            "bad_lines": 0,
            "causes": [],
            "stopped_at_bad_line": False,
            "backends": [{"name": "database", "new": new, "already_stored": 20 - new}],
        }
    Path("some.csv").write_text("flag,timestamp\nf,2026-01-31\nf,soon\nf,2026-01-31\n")
    assert main(["import", "some.csv", "--strict", "--format", "json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["events"], document["bad_lines"], document["stopped_at_bad_line"]) == (1, 1, True)


def test_the_format_of_a_file_has_the_same_name_for_every_command(capsys):
    pytest.importorskip("flag_analytics_database")
    Path("events").write_text('{"timestamp": 1769860800, "flag_key": "f"}\n')
    for option in ("--file-format", "--format"):
        assert main(["import", "events", option, "jsonl"]) == 0
        assert capsys.readouterr().out.startswith("1 event imported into database: ")
        assert main(["import", "events", option, "csv"]) == 2
        capsys.readouterr()
    assert main(["import", "events", "--file-format", "jsonl", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["events"] == 1
    assert main(["report", "--file", "events", "--file-format", "jsonl"]) == 0


def test_the_help_of_import_promises_no_more_than_a_backend_keeps(capsys):
    assert main(["import", "--help"]) == 0
    assert "a backend that stores each id once" in " ".join(capsys.readouterr().out.split())


def test_import_into_memory_is_refused_with_the_way_out(exposures, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FLAG_ANALYTICS__COLLECTORS__MEMORY", "true")
    assert main(["import", exposures, "--flag-key", "f"]) == 1
    assert f"flag-analytics report --file {exposures}" in capsys.readouterr().err
    assert main(["report"]) == 1
    assert "no backend is configured that keeps events" in capsys.readouterr().err


def test_the_demo_shows_every_flag_in_full_and_the_same_for_the_same_seed(capsys):
    def figures(*arguments: str) -> list[str]:
        assert main(["demo", "--once", "--events", "600", *arguments]) == 0
        lines = capsys.readouterr().out.splitlines()
        return [line for line in lines if " %" in line and "/" not in line]

    first = figures()
    assert first == figures("--seed", "1")
    assert first != figures("--seed", "2")
    words = " ".join(first)
    for name in ("annual-first", "usage-based", "TARGETING_MATCH", "DISABLED", "ERROR", "SPLIT"):
        assert name in words


def test_the_demo_leaves_the_configured_backends_alone_unless_it_is_given_them(capsys):
    pytest.importorskip("flag_analytics_database")
    configuration = Path("flag-analytics.toml")
    configuration.write_text('[collectors.database]\nconnection_string = "sqlite:///production.db"\n')
    assert main(["demo", "--once", "--events", "50"]) == 0
    assert "Kept in flag-analytics.db: apart from the backends that are configured." in capsys.readouterr().err
    assert sorted(Path().glob("*.db")) == [Path("flag-analytics.db")]
    assert main(["demo", "--once", "--events", "50", "--config", str(configuration)]) == 0
    assert "flag-analytics report new-checkout --config flag-analytics.toml\n" in capsys.readouterr().err
    assert sorted(Path().glob("*.db")) == [Path("flag-analytics.db"), Path("production.db")]


def test_a_variable_that_names_a_configuration_does_not_send_the_demo_there(capsys, monkeypatch: pytest.MonkeyPatch):
    Path("other.toml").write_text("[collectors.nowhere]\n")
    monkeypatch.setenv("FLAG_ANALYTICS_CONFIG", "other.toml")
    monkeypatch.setenv("FLAG_ANALYTICS__COLLECTORS__NOWHERE__URL", "x")
    assert main(["demo", "--once", "--events", "50"]) == 0
    assert "apart from the backends that are configured" in capsys.readouterr().err


def test_the_demo_under_uv_run_ends_with_commands_for_uv_run(capsys, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("flag_analytics_database")
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    assert main(["demo", "--once", "--events", "50"]) == 0
    assert "\n  uv run --no-dev flag-analytics report new-checkout\n" in capsys.readouterr().err


def test_the_demo_ends_with_the_ledger_and_commands_that_run_as_typed(capsys, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("flag_analytics_database")
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["demo", "--once", "--events", "300"]) == 0
    output = capsys.readouterr()
    screen = output.out.splitlines()[-24 + len(output.err.splitlines()) :]
    assert max(map(len, screen)) <= 80
    for words in ("new-checkout", "smart-ranking", "Ledger", "database       300        300        0        0     0"):
        assert any(words in line for line in screen), words
    commands = [line.split()[1:] for line in output.err.splitlines() if line.startswith("  flag-analytics ")]
    assert len(commands) == 3
    for command in commands:
        assert main(command) == 0


README_TOML = """
[collectors.memory]
max_size = 60_000

[collectors."database/warehouse"]
connection_string = "sqlite+aiosqlite:///flags.db"
batch_size = 500

[exporters.prometheus]
prefix = "myapp"
"""


@pytest.fixture
def stored(exposures, capsys) -> None:
    """Twenty events in flags.db, which the configuration of this directory names after memory."""
    pytest.importorskip("flag_analytics_database")
    Path("flag-analytics.toml").write_text(README_TOML)
    Path("only.toml").write_text('[collectors.database]\nconnection_string = "sqlite:///flags.db"\n')
    assert main(["import", exposures, "--flag-key", "page", "--config", "only.toml"]) == 0
    capsys.readouterr()


@pytest.mark.usefixtures("stored")
def test_a_report_reads_the_first_collector_that_outlives_the_process(capsys):
    assert main(["report"]) == 0
    output = capsys.readouterr()
    assert "9 users, 20 exposures" in output.out
    assert output.err == "from database/warehouse\n"
    assert main(["report", "--config", "only.toml"]) == 0
    assert capsys.readouterr().err == "", "there is only one that could be meant"


@pytest.mark.usefixtures("stored")
def test_a_report_reads_the_collector_that_is_named(capsys):
    table = '[collectors."database/empty"]\nconnection_string = "sqlite:///empty.db"\n'
    Path("flag-analytics.toml").write_text(table + README_TOML)
    assert main(["report", "--collector", "database/warehouse"]) == 0
    assert "9 users, 20 exposures" in capsys.readouterr().out
    for name, words in (
        ("memory", "it keeps no events after the process"),
        ("warehouse", "configured are: database/empty, memory, database/warehouse"),
    ):
        assert main(["report", "--collector", name]) == 1
        assert words in capsys.readouterr().err
    assert main(["report", "--collector", "memory", "--file", "exposures.csv"]) == 2


@pytest.mark.parametrize("driver", ["sqlite", "sqlite+aiosqlite"])
def test_a_mistyped_database_is_said_and_not_created(driver, capsys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    pytest.importorskip("flag_analytics_database")
    monkeypatch.setenv("FLAG_ANALYTICS__COLLECTORS__DATABASE__CONNECTION_STRING", f"{driver}:///flgas.db?timeout=3")
    assert main(["report"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert "database: there is no database flgas.db: expected the file" in output.err
    assert list(tmp_path.iterdir()) == []


def test_a_sound_configuration_is_described(capsys):
    Path("good.toml").write_text(
        '[collectors.memory]\nmax_size = 10\n[[processors]]\ntype = "hash_targeting_key"\nunkeyed = true\n'
    )
    for arguments in (["check", "good.toml"], ["check", "--config", "good.toml"]):
        assert main(arguments) == 0
        assert capsys.readouterr().out.splitlines() == [
            "ok  good.toml",
            "    collector memory",
            "    processor hash_targeting_key",
        ]
    assert main(["check", "good.toml", "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["collectors"], document["problems"]) == (True, ["memory"], [])


@pytest.mark.parametrize("driver", ["sqlite", "sqlite+aiosqlite"])
def test_prune_and_report_say_the_same_of_a_database_that_is_not_there(driver, capsys, tmp_path: Path):
    pytest.importorskip("flag_analytics_database")
    config = tmp_path / "mistyped.toml"
    config.write_text(f'[collectors.database]\nconnection_string = "{driver}:///flgas.db"\n')
    said = []
    for command in (["report"], ["prune", "--days", "1"]):
        assert main([*command, "--config", str(config)]) == 1
        output = capsys.readouterr()
        assert output.out == ""
        said.append(output.err)
    assert said[0] == said[1]
    assert said[0].startswith("flag-analytics: database: there is no database flgas.db: expected the file that")
    assert list(tmp_path.iterdir()) == [config]


def problems_of(configuration: str, capsys) -> list[tuple[str, str]]:
    Path("some.toml").write_text(configuration)
    code = main(["check", "some.toml", "--format", "json"])
    document = json.loads(capsys.readouterr().out)
    assert code == (0 if document["ok"] else 1)
    return [(problem["path"], problem["message"]) for problem in document["problems"]]


def spool_in(directory: Path) -> str:
    return f"[collectors.memory]\n[delivery]\ndurability = \"spool\"\nspool_directory = '{directory}'\n"


def test_check_sees_a_spool_directory_that_cannot_be_made_and_makes_none(capsys, tmp_path: Path):
    assert problems_of(spool_in(tmp_path / "not" / "there" / "yet"), capsys) == []
    (tmp_path / "file").touch()
    for directory in (tmp_path / "file", tmp_path / "file" / "under" / "it"):
        [(path, message)] = problems_of(spool_in(directory), capsys)
        assert path == "delivery.spool_directory"
        assert message == f"no spool can be kept in {directory}: {tmp_path / 'file'} is no directory"
    assert problems_of(spool_in(tmp_path / "file").replace('"spool"', '"memory"'), capsys) == [], "it is not used"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "some.toml"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_check_sees_a_spool_directory_that_this_user_cannot_write_to(capsys, tmp_path: Path):
    (tmp_path / "others").mkdir(mode=0o500)
    [(_, message)] = problems_of(spool_in(tmp_path / "others" / "spools"), capsys)
    assert message.endswith(f"this user cannot write to {tmp_path / 'others'}")


GAUGES = '[exporters."prometheus/web"]\ngauges = "aggregator"\n'


def test_check_sees_gauges_without_a_source(capsys, tmp_path: Path):
    pytest.importorskip("flag_analytics_prometheus")
    [(path, message)] = problems_of(GAUGES, capsys)
    assert path == 'exporters."prometheus/web".gauges'
    assert "no collector can be asked about its events" in message
    assert main(["check", "some.toml"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("1 problem in some.toml\n")
    assert problems_of(GAUGES + "[collectors.memory]\n", capsys) == []
    assert problems_of(GAUGES.replace("aggregator", "observed"), capsys) == []
    pytest.importorskip("flag_analytics_database")
    assert problems_of(GAUGES + '[collectors.database]\nconnection_string = "sqlite:///x.db"\n', capsys) == []
    assert [path.name for path in tmp_path.iterdir()] == ["some.toml"]


def test_check_connects_to_nothing_even_if_a_database_is_required(capsys):
    pytest.importorskip("flag_analytics_prometheus")
    pytest.importorskip("flag_analytics_database")
    pytest.importorskip("asyncpg")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        url = f"postgresql://user@127.0.0.1:{server.getsockname()[1]}/db"
        database = f'[collectors.database]\nconnection_string = "{url}"\nrequire_database = true\n'
        assert problems_of(GAUGES + database, capsys) == []
        with pytest.raises(TimeoutError):
            server.accept()


BAD = """
[collectors.memroy]
[collectors.memory]
max_size = "canary-of-a-value"
[exporter.prometheus]
"""


def test_all_problems_of_a_configuration_are_listed_at_once(capsys):
    Path("bad.toml").write_text(BAD)
    assert main(["check", "bad.toml"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("3 problems in bad.toml\n")
    for words in ("did you mean 'memory'", "collectors.memory.max_size: ", "exporter: unknown option"):
        assert words in output.err
    assert main(["check", "bad.toml", "--format", "json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert not document["ok"]
    assert len(document["problems"]) == 3


def test_every_command_checks_its_configuration_first(capsys, monkeypatch: pytest.MonkeyPatch, exposures):
    Path("bad.toml").write_text(BAD)
    for arguments in (["report"], ["demo", "--once"], ["import", exposures, "--flag-key", "f"]):
        assert main([*arguments, "--config", "bad.toml"]) == 1
        assert capsys.readouterr().err.startswith("3 problems in bad.toml\n")
    monkeypatch.setenv("FLAG_ANALYTICS_CONFIG", "bad.toml")
    assert main(["report"]) == 1
    assert capsys.readouterr().err.startswith("3 problems in bad.toml\n")


def test_a_configuration_that_is_not_there_is_1(capsys):
    assert main(["check", "nowhere.toml"]) == 1
    assert "cannot read nowhere.toml" in capsys.readouterr().err


def test_plugins_are_listed_with_their_roles(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FLAG_ANALYTICS__COLLECTORS__MEMORY", "true")
    assert main(["plugins"]) == 0
    [line] = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("memory")]
    assert line == ["memory", "ok", "yes", "collector", "flag-analytics-memory", "0.1.0"]
    assert main(["plugins", "--format", "json"]) == 0
    document = {line["name"]: line for line in json.loads(capsys.readouterr().out)["plugins"]}
    assert document["memory"]["state"] == "ok"
    assert document["memory"]["selected"] is True
    assert document["memory"]["roles"] == ["collector"]


def test_a_selected_plugin_that_is_missing_is_1_with_the_cure(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FLAG_ANALYTICS__COLLECTORS__MEMROY", "true")
    assert main(["plugins"]) == 1
    output = capsys.readouterr().out
    assert "memroy" in output
    assert "missing" in output
    assert "did you mean 'memory'" in output
