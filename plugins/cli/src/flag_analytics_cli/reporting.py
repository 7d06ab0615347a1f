"""Writes a report in the form that was asked for: a table for people, JSON or CSV for other programs."""

from __future__ import annotations

import csv
import json
import sys
from typing import TextIO

from .choices import ReportFormat
from .figures import FlagFigures, Report, iso, ranked
from .layout import print_report
from .terminal import results
from .visible import cell

__all__ = ["report_csv", "report_json", "write_report"]

_CSV_HEADER = (
    "flag_key",
    "variant",
    "evaluations",
    "share_percent",
    "flag_evaluations",
    "flag_unique_users",
    "flag_evaluations_per_second",
    "flag_rate_over_seconds",
    "flag_error_rate_percent",
    "flag_latency_p50_ms",
    "flag_latency_p90_ms",
    "flag_latency_p99_ms",
    "flag_first_seen",
    "flag_last_seen",
    "window_start",
    "window_end",
)


def write_report(report: Report, form: ReportFormat) -> None:
    """Write a report to standard output."""
    if form == "json":
        report_json(report, sys.stdout)
    elif form == "csv":
        report_csv(report, sys.stdout)
    else:
        print_report(results(), report)


def report_json(report: Report, file: TextIO) -> None:
    """Write one JSON object: the window and a list of flags. All but ASCII is escaped, control characters included."""
    document = {
        "window_seconds": report.window_seconds,
        "flags": [flag.to_dict() for flag in report.flags],
    }
    json.dump(document, file, indent=2, ensure_ascii=True, allow_nan=False)
    file.write("\n")


def report_csv(report: Report, file: TextIO) -> None:
    """Write a line for each variant of each flag; what begins with ``flag_`` is the flag's and repeats.

    What cannot be known, such as a latency that nobody measured, is empty. Text is written so that a spreadsheet does
    not take it for a formula, with control characters spelled out.
    """
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_CSV_HEADER)
    for flag in report.flags:
        writer.writerows(_csv_rows(flag))


def _csv_rows(flag: FlagFigures) -> list[list[str | int | float | None]]:
    metrics = flag.metrics
    whole: list[str | int | float | None] = [
        metrics.total_evaluations,
        metrics.unique_users,
        flag.rate,
        flag.rate_seconds,
        metrics.error_rate,
        *flag.latencies,
        *(iso(moment) or "" for moment in (flag.first_seen, flag.last_seen, metrics.window_start, metrics.window_end)),
    ]
    total = sum(metrics.variant_distribution.values())
    return [
        [cell(flag.flag_key), cell(variant), count, round(100 * count / total, 4), *whole]
        for variant, count in ranked(metrics.variant_distribution)
    ] or [[cell(flag.flag_key), "", 0, 0.0, *whole]]
