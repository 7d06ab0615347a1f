"""Each export of a common tool gives exactly the events that are in it, with no more options than it needs."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics_cli.importing import EventFile, ImportReport, read_file
from flag_analytics_cli.main import main

EXPORTS = Path(__file__).with_name("exports")
EXPECTED: dict[str, dict[str, Any]] = json.loads((EXPORTS / "expected.json").read_text("utf-8"))
PROXIES = "two_proxies_a.csv + two_proxies_b.csv"
READ = sorted(name for name, expected in EXPECTED.items() if "users" in expected)
REFUSED = sorted(name for name, expected in EXPECTED.items() if expected["events"] == 0)
NAMES = {
    "bigquery_exposures.csv": "GrowthBook exposures",
    "datadog_exposures.jsonl": "Datadog exposures",
    "eppo_assignments.csv": "Eppo assignments",
    "goff_default.csv": "GO Feature Flag events",
    "goff_export.jsonl": "GO Feature Flag events",
    "goff_webhook.json": "GO Feature Flag events",
    "growthbook_exposures.csv": "GrowthBook exposures",
    "launchdarkly_events.json": "LaunchDarkly events",
    "numbers.jsonl": "flag-analytics events",
    "otlp_logs.jsonl": "OpenTelemetry log records",
    "posthog_events.csv": "PostHog events",
    "posthog_events.jsonl": "PostHog events",
    "segment_track.jsonl": "Segment track calls",
    "statsig_exposures.csv": "Statsig exposures",
}


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def dry_run(name: str, options: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], str]:
    code = main(["import", str(EXPORTS / name), *shlex.split(options), "--dry-run", "--format", "json"])
    output = capsys.readouterr()
    return code, json.loads(output.out) if output.out else {}, output.err


@pytest.mark.parametrize("name", READ)
def test_an_export_is_read_as_expected(name, capsys):
    expected = EXPECTED[name]
    code, document, said = dry_run(name, expected["options"], capsys)
    assert (code, document["events"], document["bad_lines"]) == (0, expected["events"], 0), said
    assert document["skipped"] == expected.get("skipped", 0)
    assert f"read as {NAMES.get(name, 'a table of exposures')}\n" in said
    assert main(["report", "--file", str(EXPORTS / name), *shlex.split(expected["options"]), "--format", "json"]) == 0
    [flag] = json.loads(capsys.readouterr().out)["flags"]
    assert flag["flag_key"] == expected["flag"]
    assert flag["unique_users"] == expected["users"]
    assert flag["variant_distribution"] == expected["variants"]
    assert flag["variant_users"] == expected["users_by_variant"]
    assert flag["crossover_users"] == expected["crossover_users"]
    assert flag["first_seen"] == expected["first"]
    assert flag["last_seen"] == expected["last"]
    assert flag["latency_p50"] == expected.get("latency_p50_ms")
    assert flag["reason_distribution"].items() >= expected.get("reasons", {}).items()


@pytest.mark.parametrize("name", [name for name in READ if not EXPECTED[name]["options"]])
def test_the_environment_of_an_export_is_read_where_it_has_one(name):
    events: list[FlagEvaluationEvent] = []
    read_file(EventFile(str(EXPORTS / name)), events.append, ImportReport())
    environments = {event.context_attributes.get("environment") for event in events}
    assert environments == {EXPECTED[name].get("environment")}


@pytest.mark.parametrize("name", REFUSED)
def test_an_export_without_times_is_refused_for_one_reason(name, capsys):
    pytest.importorskip("flag_analytics_database")
    expected = EXPECTED[name]
    arguments = [str(EXPORTS / name), *shlex.split(expected["options"])]
    assert main(["import", *arguments, "--format", "json"]) == 1
    output = capsys.readouterr()
    document = json.loads(output.out)
    assert (document["events"], document["bad_lines"]) == (0, expected["refused"])
    [cause] = document["causes"]
    assert cause["first"] == ["2", "3", "4"]
    option = "--timestamp-format excel" if "excel" in name else "--timestamp"
    assert option in cause["problem"]
    assert f"24 lines (2, 3, 4, …): {cause['problem']}" in output.err


def test_serial_days_of_a_spreadsheet_are_read_when_told(capsys):
    expected = EXPECTED["excel_serials.csv"]["with_options"]
    code, document, _ = dry_run("excel_serials.csv", expected["options"], capsys)
    assert (code, document["events"]) == (0, expected["events"])
    assert document["events_shown"][0]["timestamp"] == "2026-01-05T08:00:00+00:00"


def test_an_order_of_day_and_month_that_is_ambiguous_is_refused(capsys):
    code, document, said = dry_run("day_first.csv", "", capsys)
    assert (code, document["events"]) == (1, 0)
    assert "--timestamp-format" in said


def test_a_column_that_may_be_the_variant_is_not_left_out_silently(capsys):
    assert main(["report", "--file", str(EXPORTS / "no_time.csv"), "--flag-key", "f", "--timestamp", "2026-01-05"]) == 2
    assert "--map variant=version" in capsys.readouterr().err
    ignored = ["--ignore", "version"]
    code, _, _ = dry_run("no_time.csv", shlex.join(["--flag-key", "f", "--timestamp", "2026-01-05", *ignored]), capsys)
    assert code == 0


def test_a_column_that_may_be_the_user_is_not_left_out_silently(capsys):
    arguments = ["--flag-key", "ad", "--map", "variant=experiment", "--timestamp", "2026-01-05"]
    assert main(["report", "--file", str(EXPORTS / "day_of_month.csv"), *arguments]) == 2
    assert "--map targeting_key=auction_id" in capsys.readouterr().err


def test_the_same_line_of_two_sources_is_two_events(capsys):
    pytest.importorskip("flag_analytics_database")
    for new in (1, 0):
        for source in ("a", "b"):
            file = str(EXPORTS / f"two_proxies_{source}.csv")
            assert main(["import", file, "--source", source, "--format", "json"]) == 0
            [backend] = json.loads(capsys.readouterr().out)["backends"]
            assert backend["new"] == new
    assert EXPECTED[PROXIES]["events"] == 2
    assert main(["report", "--format", "json"]) == 0
    [flag] = json.loads(capsys.readouterr().out)["flags"]
    assert flag["total_evaluations"] == 2
