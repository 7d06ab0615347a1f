"""How figures look in a terminal: one calm table of all flags, and a block with the details of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from flag_analytics.aggregator import FlagMetrics
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .figures import FlagFigures, Report, ranked
from .terminal import can_draw
from .visible import visible
from .windows import describe_window

__all__ = ["flag_block", "overview", "print_report"]

_MOST_BLOCKS = 12
_MOST_ROWS = 20
_LONGEST_BAR = 32
_WIDE = 112
_NONE = "-"


def print_report(console: Console, report: Report) -> None:
    """Show an overview where there are several flags, and the details of each flag that was named or of a few."""
    if not report.flags:
        console.print(f"No evaluations in {describe_window(report.window_seconds)}.")
        return
    several = len(report.flags) > 1
    if several:
        console.print(overview(report.flags, console.width))
    if not report.asked_for and len(report.flags) > _MOST_BLOCKS:
        console.print()
        console.print("Name a flag to see its variants and reasons.", style="dim")
        return
    for index, flag in enumerate(report.flags):
        if index or several:
            console.print()
        console.print(flag_block(flag, report.window_seconds, console))


def overview(flags: Sequence[FlagFigures], width: int) -> Table:
    """Return one line for each flag; narrow terminals do without the times."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", width=min(width, 140))
    table.add_column("Flag", ratio=1, no_wrap=True, overflow="ellipsis", min_width=12)
    for name in ("Evaluations", "Users", "Per second", "Errors", "p50 ms", "p99 ms"):
        table.add_column(name, justify="right", no_wrap=True)
    wide = width >= _WIDE
    if wide:
        table.add_column("Last seen (UTC)", no_wrap=True)
    for flag in flags:
        metrics = flag.metrics
        cells: list[RenderableType] = [
            Text(visible(flag.flag_key), "bold"),
            f"{metrics.total_evaluations:,}",
            f"{metrics.unique_users:,}",
            _rate(metrics.evaluation_rate),
            _errors(metrics.error_rate),
            _latency(metrics, metrics.latency_p50),
            _latency(metrics, metrics.latency_p99),
        ]
        if wide:
            cells.append(_moment(flag.last_seen))
        table.add_row(*cells)
    return table


def flag_block(flag: FlagFigures, window_seconds: float | None, console: Console) -> RenderableType:
    """Return everything known of one flag."""
    metrics = flag.metrics
    title = Text(visible(flag.flag_key), "bold")
    if not metrics.total_evaluations:
        return Group(title, Text(f"No evaluations in {describe_window(window_seconds)}.", "dim"))
    counts = Text.assemble(
        f"{metrics.total_evaluations:,} evaluations by {metrics.unique_users:,} users, ",
        (describe_window(window_seconds), "dim"),
    )
    seen = Text(f"{_moment(flag.first_seen)} to {_moment(flag.last_seen)} UTC", "dim")
    rates = Text.assemble(
        ("Per second  ", "dim"), _rate(metrics.evaluation_rate), ("    Errors  ", "dim"), _errors(metrics.error_rate)
    )
    latency = Text("Latency     ", "dim")
    for index, (name, value) in enumerate(
        (("p50", metrics.latency_p50), ("p90", metrics.latency_p90), ("p99", metrics.latency_p99))
    ):
        latency.append("   " if index else "", "dim").append(f"{name} ", "dim").append(_latency(metrics, value), "none")
    latency.append(" ms" if _is_measured(metrics) else "  (not measured)", "dim")
    lines = Group(
        counts,
        seen,
        Text(),
        _distributions(metrics, console),
        Text(),
        rates,
        latency,
    )
    return Group(title, Padding(lines, (0, 0, 0, 2)))


def _distributions(metrics: FlagMetrics, console: Console) -> RenderableType:
    variants, reasons = metrics.variant_distribution, metrics.reason_distribution
    # Both in one table, so that their figures and bars stand under each other.
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    name_width = min(max(map(cell_len, map(visible, (*variants, *reasons, "Variant")))), console.width // 3)
    bar_width = max(8, min(_LONGEST_BAR, console.width - 2 - name_width - 2 - 13 - 10))
    table.add_column("Variant", width=name_width, no_wrap=True, overflow="ellipsis")
    table.add_column("Evaluations", justify="right", no_wrap=True, min_width=11)
    table.add_column("Share", justify="right", no_wrap=True, min_width=8)
    table.add_column("", no_wrap=True, width=bar_width)
    _add_rows(table, variants, bar_width, "cyan", console)
    table.add_row()
    table.add_row(Text("Reason", "dim"))
    _add_rows(table, reasons, bar_width, "blue", console)
    return table


def _add_rows(table: Table, distribution: Mapping[str, int], bar_width: int, colour: str, console: Console) -> None:
    total = sum(distribution.values())
    rows = ranked(distribution)
    shown = rows if len(rows) <= _MOST_ROWS else rows[: _MOST_ROWS - 1]
    for name, count in shown:
        share = count / total
        style = "red" if name == "ERROR" and colour == "blue" else colour
        table.add_row(
            Text(visible(name)),
            f"{count:,}",
            f"{100 * share:.1f} %",
            Text(_bar(share, bar_width, can_draw(console)), style),
        )
    rest = rows[len(shown) :]
    if rest:
        count = sum(number for _, number in rest)
        table.add_row(Text(f"{len(rest):,} more", "dim"), f"{count:,}", f"{100 * count / total:.1f} %")


def _bar(share: float, width: int, blocks: bool) -> str:
    """Return a bar of this share of the width, to an eighth of a character; something is never nothing."""
    eighths = max(1, round(share * width * 8))
    if not blocks:
        return "#" * max(1, round(share * width))
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]


def _rate(per_second: float) -> str:
    if per_second == 0:
        return "0"
    if per_second >= 100:
        return f"{per_second:,.0f}"
    return f"{per_second:.2f}" if per_second >= 0.01 else f"{per_second:.1g}"


def _errors(percent: float) -> Text:
    return Text(f"{percent:.2f} %" if percent else "0 %", "red" if percent else "none")


def _is_measured(metrics: FlagMetrics) -> bool:
    return bool(metrics.latency_p50 or metrics.latency_p90 or metrics.latency_p99)


def _latency(metrics: FlagMetrics, milliseconds: float) -> str:
    if not _is_measured(metrics):
        return _NONE
    if milliseconds >= 100:
        return f"{milliseconds:,.0f}"
    return f"{milliseconds:.3f}" if milliseconds < 1 else f"{milliseconds:.2f}"


def _moment(moment: datetime | None) -> str:
    return _NONE if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
