"""What a report says about the accuracy of its figures."""

from __future__ import annotations

from datetime import UTC, datetime

from flag_analytics.sources import EXACT, Accuracy
from flag_analytics_cli.layout import accuracy_lines


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
        "Fast answer: latency ± 1 %, users ± 2 %",
        "Not told by rollups: crossover users, variant users",
        "Without the events before 2026-01-05 00:00:00 UTC, which were removed",
    ]
