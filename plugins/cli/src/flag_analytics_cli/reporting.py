"""Writes a report as a table, JSON or CSV."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from rich.console import Console

from .choices import ReportFormat
from .figures import FlagFigures, Report, Share, iso, ranked
from .html_report import report_html
from .layout import print_report
from .series import Series
from .terminal import results, say
from .visible import cell, visible

__all__ = ["report_csv", "report_json", "write_report"]

_FILE_WIDTH = 120
_CSV_HEADER = (
    "flag_key",
    "group",
    "variant",
    "users",
    "users_share_percent",
    "users_low_percent",
    "users_high_percent",
    "evaluations",
    "share_percent",
    "flag_evaluations",
    "flag_exposures",
    "flag_unique_users",
    "flag_crossover_users",
    "flag_estimated",
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
    "flag_users_error_percent",
    "flag_latency_error_percent",
    "flag_complete_since",
)


def write_report(
    report: Report, form: ReportFormat, output: Path | None = None, charts: Mapping[str, Series] | None = None
) -> None:
    """Write a report to a file, by default to standard output."""
    if output is not None:
        with output.open("w", encoding="utf-8") as file:
            _write(report, form, file, charts or {})
        say(results(), f"written to {visible(str(output))}")
    elif form == "table":
        print_report(results(), report)
    else:
        _write(report, form, sys.stdout, charts or {})


def _write(report: Report, form: ReportFormat, file: TextIO, charts: Mapping[str, Series]) -> None:
    if form == "json":
        report_json(report, file)
    elif form == "csv":
        report_csv(report, file)
    elif form == "html":
        report_html(report, charts, file)
    else:
        print_report(Console(file=file, width=_FILE_WIDTH, markup=False, emoji=False, highlight=False), report)


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

    A figure that cannot be known, such as a latency that was not measured, is empty. Text is written so that a
    spreadsheet does not take it for a formula, with control characters spelled out.
    """
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_CSV_HEADER)
    for flag in report.flags:
        writer.writerows(_csv_rows(flag))


def _csv_rows(flag: FlagFigures) -> list[list[str | int | float | None]]:
    metrics = flag.metrics
    whole: list[str | int | float | None] = [
        metrics.total_evaluations,
        flag.exposures,
        flag.users,
        None if "crossover_users" in metrics.accuracy.missing else metrics.crossover_users,
        "true" if metrics.estimated else "false",
        flag.rate,
        flag.rate_seconds,
        metrics.error_rate,
        *flag.latencies,
        *(iso(moment) or "" for moment in (flag.first_seen, flag.last_seen, metrics.window_start, metrics.window_end)),
        *(100 * metrics.accuracy.bounds.get(part, 0.0) for part in ("users", "latency")),
        iso(metrics.accuracy.complete_since) or "",
    ]
    begin: list[str | int | float | None] = [cell(flag.flag_key), cell(flag.group or "")]
    total = sum(metrics.variant_distribution.values())
    no_users = Share(0, 0.0, 0.0, 0.0)
    rows: list[list[str | int | float | None]] = []
    for variant, count in ranked(metrics.variant_distribution):
        share = flag.shares.get(variant, no_users)
        percents = [round(100 * ratio, 4) for ratio in (share.share, share.low, share.high)]
        rows.append([*begin, cell(variant), share.users, *percents, count, round(100 * count / total, 4), *whole])
    return rows or [[*begin, "", 0, 0.0, 0.0, 0.0, 0, 0.0, *whole]]
