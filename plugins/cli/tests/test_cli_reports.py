"""Reports, series, tail and export: the right figure for the question, from a backend and from a file."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from flag_analytics_cli.main import main

pytest.importorskip("flag_analytics_database")

START = datetime(2026, 1, 5, 8, tzinfo=UTC)
EXPORTS = Path(__file__).with_name("exports")


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("FLAG_ANALYTICS_CONFIG", "NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(variable, raising=False)


def line(number: int, variant: str, user: str, **fields: Any) -> str:
    moment = START + timedelta(minutes=number)
    event = {"timestamp": moment.isoformat(), "flag_key": "checkout", "variant": variant, "targeting_key": user}
    return json.dumps({**event, "kind": "exposure", **fields})


@pytest.fixture
def events() -> str:
    """Two arms of 40 and 60 users, of which the first is evaluated six times each, and one user of both."""
    lines = [line(number, "control", f"c{number % 40}", context_attributes={"plan": "team"}) for number in range(240)]
    lines += [line(number, "treatment", f"t{number}", context_attributes={"plan": "free"}) for number in range(60)]
    lines.append(line(300, "treatment", "c0"))
    lines.append(line(0, "on", "u", flag_key="banner", kind="evaluation", reason="ERROR"))
    Path("events.jsonl").write_text("\n".join(lines))
    return "events.jsonl"


@pytest.fixture(params=["file", "database"])
def place(request: pytest.FixtureRequest, events: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    if request.param == "file":
        return ["--file", events]
    assert main(["import", events]) == 0
    capsys.readouterr()
    return []


def flags_of(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    assert main(["report", *arguments, "--format", "json"]) == code
    return json.loads(capsys.readouterr().out)["flags"]


def test_users_stand_beside_evaluations(place, capsys):
    [flag] = flags_of(capsys, "checkout", *place)
    assert flag["variant_distribution"] == {"control": 240, "treatment": 61}
    assert flag["variant_users"] == {"control": 40, "treatment": 61}
    assert (flag["unique_users"], flag["crossover_users"], flag["exposures"]) == (100, 1, 301)
    assert flag["variant_shares"]["control"]["share"] == 0.4
    assert flag["estimated"] is False
    assert main(["report", "checkout", *place]) == 0
    printed = capsys.readouterr().out
    assert "100 users, 301 exposures" in printed
    assert "1 user saw more than one variant (1.0 %)" in printed
    assert re.search(r"control +40 +40\.0 % +30\.9 - 49\.8 % +240 +79\.7 %", printed)


def test_arms_are_compared_with_the_plan(place, capsys):
    [flag] = flags_of(capsys, "checkout", *place, "--expect", "control=40,treatment=60")
    assert flag["arms"]["observed"] == {"control": 40, "treatment": 60}
    assert flag["arms"]["p_value"] == 1.0
    assert main(["report", "checkout", *place, "--expect", "control=90,treatment=10"]) == 1
    assert "Arms do not match control 90 %, treatment 10 % (chi-square 277.78, p = " in capsys.readouterr().out
    assert main(["report", "checkout", *place, "--expect", "control=50,b=50"]) == 1
    assert "60 users saw another variant first" in capsys.readouterr().out


def test_a_report_is_about_the_events_that_are_selected(place, capsys):
    def users(*options: str) -> int:
        [flag] = flags_of(capsys, "checkout", *place, *options)
        return int(flag["unique_users"])

    assert users("--variant", "treatment") == 61
    assert users("--variant", "treatment", "--variant", "control") == 100
    assert users("--where", "plan=team") == 40
    assert users("--where", "plan=team", "--where", "plan=free") == 100
    assert users("--since", "2026-01-05T08:00", "--until", "2026-01-05T08:09") == 20
    assert users("--kind", "exposure") == 100
    assert [flag["flag_key"] for flag in flags_of(capsys, *place, "--kind", "evaluation")] == ["banner"]


def test_flags_are_sorted_and_limited(place, capsys):
    assert [flag["flag_key"] for flag in flags_of(capsys, *place)] == ["banner", "checkout"]
    assert [flag["flag_key"] for flag in flags_of(capsys, *place, "--sort", "users")] == ["checkout", "banner"]
    assert [flag["flag_key"] for flag in flags_of(capsys, *place, "--sort", "errors", "--top", "1")] == ["banner"]
    assert main(["report", *place, "--top", "1"]) == 0
    assert "checkout" not in capsys.readouterr().out


def test_figures_are_grouped(place, capsys):
    groups = flags_of(capsys, "checkout", *place, "--group-by", "context.plan")
    users = {flag["group"]: flag["unique_users"] for flag in groups}
    assert users["team"] == 40
    assert users["free"] == 60
    assert main(["report", "checkout", *place, "--group-by", "plan"]) == 2
    assert "context.NAME" in capsys.readouterr().err


def test_a_mistyped_flag_is_answered_with_the_one_that_is_meant(place, capsys):
    assert main(["report", "chekout", *place]) == 1
    assert "no evaluations of chekout in the window: did you mean checkout?" in capsys.readouterr().err


def test_the_page_has_every_flag_and_needs_no_network(place, capsys):
    assert main(["report", *place, "--format", "html", "--output", "report.html"]) == 0
    assert capsys.readouterr().out == "written to report.html\n"
    page = Path("report.html").read_text("utf-8")
    HTMLParser().feed(page)
    assert not re.search(r"https?:|src=|href=|<script", page)
    for words in ("checkout", "banner", "1 user saw more than one variant", "<polyline", "30.9 - 49.8 %"):
        assert words in page


def test_hostile_keys_do_nothing_in_a_page(capsys):
    Path("hostile.jsonl").write_text(line(0, "<script>alert(1)</script>", "u", flag_key='"><img src=x>\x1b[31m'))
    assert main(["report", "--file", "hostile.jsonl", "--format", "html"]) == 0
    page = capsys.readouterr().out
    assert "<script" not in page
    assert "<img" not in page
    assert "\x1b" not in page


def test_events_of_the_future_are_said_of_a_database_too(capsys):
    Path("future.jsonl").write_text(line(0, "on", "u") + "\n" + line(0, "on", "v", timestamp="2999-01-01T00:00Z"))
    assert main(["import", "future.jsonl"]) == 0
    assert main(["report"]) == 0
    assert "dated in the future, and so in no window yet: 1 event\n" in capsys.readouterr().err


def test_a_series_has_the_events_of_each_step(place, capsys):
    assert main(["series", "checkout", *place, "--step", "1h", "--group-by", "variant", "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    counts = {group["group"]: [step["count"] for step in group["steps"]] for group in document["series"]}
    assert counts == {"control": [60, 60, 60, 60, 0, 0], "treatment": [60, 0, 0, 0, 0, 1]}
    assert document["series"][0]["steps"][0]["start"] == "2026-01-05T08:00:00+00:00"
    assert main(["series", "checkout", *place, "--step", "1h", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [int(row["count"]) for row in rows] == [120, 60, 60, 60, 0, 1]


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_a_series_is_drawn_within_the_terminal(place, columns, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["series", "checkout", *place, "--step", "1h"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[2].startswith("2026-01-05 08:00")
    assert "120" in printed[2]
    assert max(map(len, printed)) <= int(columns)


def test_a_series_of_nothing_is_1(place, capsys):
    assert main(["series", "other", *place]) == 1
    assert "No evaluations in the window." in capsys.readouterr().out
    assert main(["series", "checkout", *place, "--step", "never"]) == 2


def test_the_newest_events_are_shown_one_on_a_line(events, capsys):
    assert main(["import", events]) == 0
    capsys.readouterr()
    assert main(["tail", "checkout", "--lines", "2"]) == 0
    older, newest = capsys.readouterr().out.splitlines()
    assert "checkout  control  c39" in older
    assert newest.startswith("2026-01-05 13:00:00.000  checkout  treatment  c0  UNKNOWN  null  exposure")
    assert main(["tail", "--lines", "1", "--format", "jsonl"]) == 0
    assert json.loads(capsys.readouterr().out)["targeting_key"] == "c0"


def test_the_assignment_table_has_each_user_once(place, capsys):
    assert main(["export", "checkout", *place, "--table", "assignments"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 100
    first = {row["user_id"]: row for row in rows}
    assert first["c0"]["variation_id"] == "control"
    assert first["c0"]["timestamp"] == "2026-01-05T08:00:00+00:00"
    assert [row["timestamp"] for row in rows] == sorted(row["timestamp"] for row in rows)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_events_that_are_exported_are_imported_again(place, form, capsys):
    assert main(["export", *place, "--format", form, "--output", f"out.{form}"]) == 0
    assert capsys.readouterr().out == f"302 events written to out.{form}\n"
    [banner, checkout] = flags_of(capsys, "--file", f"out.{form}")
    assert checkout["variant_users"] == {"control": 40, "treatment": 61}
    assert checkout["exposures"] == 301
    assert banner["error_rate"] == 100.0


HARD_VALUES = ["12", 12, "true", True, None, "null", '"', {"a": [1.5]}, "=1+1", "two\nlines", "on"]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_values_and_keys_are_the_same_after_an_export(form, capsys):
    lines = [line(number, "12", f"{number}", value=value) for number, value in enumerate(HARD_VALUES)]
    Path("hard.jsonl").write_text("\n".join(lines))
    assert main(["export", "--file", "hard.jsonl", "--format", form, "--output", f"out.{form}"]) == 0
    capsys.readouterr()
    assert main(["export", "--file", f"out.{form}", "--format", "jsonl"]) == 0
    events = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [event["value"] for event in events] == HARD_VALUES
    assert [event["targeting_key"] for event in events] == [str(number) for number in range(len(HARD_VALUES))]
    assert {event["variant"] for event in events} == {"12"}


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_an_assignment_table_is_read_as_exposures(form, capsys):
    export = str(EXPORTS / "posthog_events.jsonl")
    arguments = ["--file", export, "--table", "assignments", "--format", form, "--output", f"table.{form}"]
    assert main(["export", *arguments]) == 0
    capsys.readouterr()
    [flag] = flags_of(capsys, "--file", f"table.{form}")
    assert (flag["unique_users"], flag["crossover_users"], flag["exposures"]) == (15, 0, 15)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["report", "--since", "soon"], "--since: 'soon' is no time"),
        (["report", "--since", "2026-01-06", "--until", "2026-01-05"], "--since is not before --until"),
        (["report", "--since", "1d", "--window", "1d"], "give one of the two"),
        (["report", "--where", "plan"], "--where 'plan' is not NAME=VALUE"),
        (["report", "--expect", "control"], "is no list of arms"),
        (["report", "--expect", "a=1,b=1", "--group-by", "variant"], "--expect is about a whole flag"),
        (["report", "--top", "0"], "--top 0 is too few"),
        (["report", "--sort", "size"], "users"),
        (["report", "--kind", "view"], "exposure"),
        (["series"], "FLAG"),
        (["series", "f", "--step", "all"], "--step all is no length"),
        (["tail", "--lines", "0"], "--lines 0 is too few"),
        (["tail", "--format", "csv"], "expected table or jsonl"),
        (["export", "--table", "users"], "assignments"),
        (["import", "x.csv", "--timezone", "Mars/Base"], "--timezone 'Mars/Base' is no time zone"),
        (["import", "x.csv", "--timestamp", "noon"], "--timestamp 'noon' is no time"),
    ],
)
def test_an_option_that_makes_no_sense_is_2(arguments, words, capsys):
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert words in " ".join(output.err.split())


# --- outcomes


def lines_of_experiment(converted: dict[str, int], users: int = 80) -> str:
    """Return an experiment of two arms, with so many purchases in each."""
    lines = []
    for arm, count in converted.items():
        lines += [line(0, arm, f"{arm}-{number}") for number in range(users)]
        lines += [
            line(1, "", f"{arm}-{number}", flag_key="purchase", kind="outcome", value=2.5) for number in range(count)
        ]
        lines.append(line(-1, "", f"{arm}-{users - 1}", flag_key="purchase", kind="outcome"))
    return "\n".join(lines)


@pytest.fixture(params=["file", "database"])
def experiment(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> list[str]:
    Path("outcomes.jsonl").write_text(lines_of_experiment({"control": 40, "treatment": 60}))
    if request.param == "file":
        return ["--file", "outcomes.jsonl"]
    assert main(["import", "outcomes.jsonl"]) == 0
    capsys.readouterr()
    return []


def outcomes_of(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    assert main(["report", "checkout", "--outcome", "purchase", *arguments, "--format", "json"]) == code
    [flag] = json.loads(capsys.readouterr().out)["flags"]
    return flag


def test_outcomes_are_shown_by_variant_with_the_difference_to_the_control(experiment, capsys):
    flag = outcomes_of(capsys, *experiment)
    assert (flag["control"], flag["doubts"], flag["crossover_users"]) == ("control", [], 0)
    treatment = flag["variants"]["treatment"]
    assert (treatment["users"], treatment["converted_users"], treatment["rate"]) == (80, 60, 0.75)
    assert (treatment["value_sum"], treatment["value_mean"]) == (150.0, 2.5)
    assert treatment["difference"]["difference"] == 0.25
    assert 0 < treatment["difference"]["low"] < 0.25 < treatment["difference"]["high"]
    assert flag["variants"]["control"]["difference"] is None
    assert main(["report", "checkout", "--outcome", "purchase", *experiment]) == 0
    printed = capsys.readouterr().out
    assert "checkout, then purchase" in printed
    assert re.search(r"treatment +80 +60 +75\.0 % +64\.5 - 83\.2 % +2\.5 +\+25\.0 points", printed)
    assert "treatment differs from control" in printed


def test_a_file_has_no_rollups_to_be_asked_for(capsys):
    Path("exposures.jsonl").write_text(line(0, "on", "ada", kind="exposure"))
    assert main(["report", "--file", "exposures.jsonl"]) == 0
    exact = capsys.readouterr().out
    assert "1 exposure" in exact
    assert main(["report", "--file", "exposures.jsonl", "--fast"]) == 0
    assert capsys.readouterr().out == exact


def test_an_outcome_that_no_user_has_is_said(experiment, capsys):
    assert main(["report", "checkout", "--outcome", "purchas", *experiment]) == 0
    assert "no user has the outcome purchas: " in capsys.readouterr().err
    assert main(["report", "checkout", "--outcome", "purchase", *experiment]) == 0
    assert "no user has" not in capsys.readouterr().err


def test_an_outcome_is_in_no_list_of_flags(experiment, capsys):
    assert [flag["flag_key"] for flag in flags_of(capsys, *experiment)] == ["checkout"]


def test_no_verdict_is_given_where_arms_do_not_match(experiment, capsys):
    flag = outcomes_of(capsys, *experiment, "--expect", "control=90,treatment=10", code=1)
    assert "do not match the plan" in flag["doubts"][0]
    assert flag["variants"]["treatment"]["difference"] is None
    assert main(["report", "checkout", "--outcome", "purchase", *experiment, "--expect", "control=9,treatment=1"]) == 1
    printed = capsys.readouterr().out
    assert "No verdict: the sizes of the arms do not match the plan" in printed
    assert "differs" not in printed


def test_no_verdict_is_given_where_users_crossed_over(capsys):
    text = lines_of_experiment({"control": 40, "treatment": 60}) + "\n" + line(2, "treatment", "control-0")
    Path("outcomes.jsonl").write_text(text)
    flag = outcomes_of(capsys, "--file", "outcomes.jsonl", code=1)
    assert flag["doubts"] == ["1 user saw more than one variant"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--outcome", "purchase"], "report FLAG --outcome purchase"),
        (["checkout", "--outcome", "purchase", "--group-by", "variant"], "without --group-by"),
        (["checkout", "--control", "off"], "add --outcome NAME"),
        (["checkout", "--outcome", "purchase", "--control", "x", "--file", "events.jsonl"], "no user saw 'x' first"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("events")
def test_an_outcome_that_cannot_be_asked_for_is_refused(arguments, problem, capsys):
    assert main(["report", *arguments]) == 2
    assert problem in " ".join(capsys.readouterr().err.split())
