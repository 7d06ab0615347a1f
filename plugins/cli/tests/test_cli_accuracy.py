"""What a report says about the accuracy of its figures."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

from flag_analytics.aggregator import FlagMetrics
from flag_analytics.sources import EXACT, Accuracy, TimeStep
from flag_analytics_cli.figures import FlagFigures, Report
from flag_analytics_cli.layout import accuracy_lines, flag_block
from flag_analytics_cli.series import Series, write_series
from rich.console import Console


def test_nothing_is_said_of_exact_figures():
    assert accuracy_lines([EXACT, EXACT]) == []


def test_the_widest_bounds_all_that_is_missing_and_the_latest_gap_are_said():
    lines = accuracy_lines(
        [
            Accuracy({"users": 0.008, "latency": 0.01}, frozenset({"crossover_users"})),
            Accuracy({"users": 0.02}, frozenset({"variant_users"}), datetime(2026, 1, 5, tzinfo=UTC)),
            EXACT,
        ]
    )
    assert lines == [
        "From rollups: latency ± 1 %, users ± 2 %",
        "Not told by rollups: crossover users, variant users",
        "Without the events before 2026-01-05 00:00:00 UTC, which were removed",
    ]


def test_a_latency_that_rollups_do_not_tell_is_not_called_unmeasured():
    written = io.StringIO()
    console = Console(file=written, width=100)
    metrics = FlagMetrics(total_evaluations=3, accuracy=Accuracy({}, frozenset({"latency"})))
    console.print(flag_block(FlagFigures("checkout", metrics), Report(None, "all time", ()), console))
    said = written.getvalue()
    assert "Not told by rollups: latency" in said
    assert "not measured" not in said


def test_an_overview_says_nothing_about_figures_that_it_does_not_show():
    accuracy = Accuracy({"users": 0.01, "variant_users": 0.01}, frozenset({"crossover_users"}))
    assert accuracy_lines([accuracy], without=frozenset({"variant_users", "crossover_users"})) == [
        "From rollups: users ± 1 %"
    ]


def test_a_series_says_that_events_of_its_empty_steps_were_removed(capsys):
    since = datetime(2026, 1, 5, 2, tzinfo=UTC)
    accuracy = Accuracy({}, frozenset({"users"}), since)
    hours = [datetime(2026, 1, 5, hour, tzinfo=UTC) for hour in range(4)]
    steps = [TimeStep(hours[0], hours[1]), TimeStep(hours[2], hours[3], count=3, accuracy=accuracy)]
    series = Series("checkout", 3600.0, {"": steps})
    write_series(series, "table")
    said = capsys.readouterr().out
    assert "Without the events before 2026-01-05 02:00:00 UTC, which were removed" in said
    assert "Not told" not in said, "users are no part of the drawing"
    write_series(series, "json")
    assert json.loads(capsys.readouterr().out)["accuracy"] == accuracy.to_dict()
