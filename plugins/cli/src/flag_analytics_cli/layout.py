"""How figures look in a terminal: one calm table of all flags, and a block with the details of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import attrs
from flag_analytics.aggregator import FlagMetrics
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from .figures import FlagFigures, Report, ranked
from .terminal import can_draw, say
from .visible import visible
from .wording import counted

__all__ = ["Trimmed", "flag_block", "overview", "print_report"]

_MOST_BLOCKS = 12
_MOST_ROWS = 20
_LONGEST_BAR = 32
_SHORTEST_NAME = 6
_NARROW = 56
"""Columns of a terminal below which bars are left out."""
_NONE = "-"
_GAP = (0, 2, 0, 0)


@attrs.frozen
class Trimmed:
    """Something without the spaces at the ends of its lines, which nobody sees and every other program stumbles on."""

    content: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in console.render_lines(self.content, options, pad=False):
            while line and not line[-1].text.strip():
                line.pop()
            if line:
                yield from line[:-1]
                yield Segment(line[-1].text.rstrip(), line[-1].style)
            yield Segment.line()


def print_report(console: Console, report: Report) -> None:
    """Show an overview where there are several flags, and the details of each flag that was named or of a few."""
    if not report.flags:
        console.print(_nothing(report))
        return
    several = len(report.flags) > 1
    if several:
        console.print(overview(report.flags, console.width))
    if not report.asked_for and len(report.flags) > _MOST_BLOCKS:
        console.print()
        over = "" if report.window_seconds else "Rates are from the first to the last evaluation. "
        say(console, f"{over}Name flags to see their variants and reasons.", "dim")
        return
    for index, flag in enumerate(report.flags):
        if index or several:
            console.print()
        console.print(flag_block(flag, report, console))


def overview(flags: Sequence[FlagFigures], width: int) -> RenderableType:
    """Return one line for each flag; narrow terminals do without some of the figures."""
    columns = next(columns for least, columns in _OVERVIEWS if width >= least)
    rows = [[_CELLS[column](flag) for column in columns] for flag in flags]
    figures = sum(
        2 + max(cell_len(column), *(cell.cell_len for cell in cells))
        for column, cells in zip(columns, zip(*rows, strict=True), strict=True)
    )
    room = max(width - figures, _SHORTEST_NAME)
    names = [_shortened(visible(flag.flag_key), room) for flag in flags]
    # As wide as it needs to be: figures far away from their names are hard to follow.
    needed = max(map(cell_len, (*names, "Flag"))) + figures
    table = Table(box=None, pad_edge=False, padding=_GAP, header_style="dim", width=min(width, needed))
    table.add_column("Flag", ratio=1, no_wrap=True, overflow="ellipsis")
    for column in columns:
        table.add_column(column, justify="left" if column == _LAST_SEEN else "right", no_wrap=True)
    for name, cells in zip(names, rows, strict=True):
        table.add_row(Text(name, "bold"), *cells)
    return Trimmed(table)


def flag_block(flag: FlagFigures, report: Report, console: Console) -> RenderableType:
    """Return everything known of one flag."""
    metrics = flag.metrics
    title = Text(visible(flag.flag_key), "bold", overflow="fold")
    if not metrics.total_evaluations:
        return Group(title, Text(f"  {_nothing(report)}", "dim"))
    lines = Group(
        _summary_line(flag, report.window_name),
        Text(_span(flag.first_seen, flag.last_seen), "dim"),
        _latency_line(flag),
        Text(),
        _distributions(metrics, console),
    )
    return Group(title, Trimmed(Padding(lines, (0, 0, 0, 2))))


def _nothing(report: Report) -> str:
    return "No evaluations yet." if report.window_seconds is None else f"No evaluations in {report.window_name}."


def _summary_line(flag: FlagFigures, window_name: str) -> Text:
    metrics = flag.metrics
    line = Text.assemble(
        counted(metrics.total_evaluations, "evaluation"),
        " by ",
        counted(metrics.unique_users, "user"),
        (f", {window_name}, ", "dim"),
    )
    if flag.rate is not None:
        line.append(_rate(flag.rate)).append(", " if flag.window_seconds else " from first to last, ", "dim")
    if metrics.error_rate:
        return line.append(f"{metrics.error_rate:.2f} % errors", "red")
    return line.append("no errors", "dim")


def _latency_line(flag: FlagFigures) -> Text:
    if not flag.is_measured:
        return Text("Latency not measured", "dim")
    line = Text("Latency", "dim")
    for name, value in zip(("p50", "p90", "p99"), flag.latencies, strict=True):
        line.append(f"  {name} ").append_text(_latency(value)).append(" ms")
    return line


def _distributions(metrics: FlagMetrics, console: Console) -> Table:
    """Return variants and reasons in one table, so that their figures and bars stand under each other.

    Reasons are left out where no event has one: that all of a file's are unknown is no finding.
    """
    variants, reasons = metrics.variant_distribution, metrics.reason_distribution
    if reasons.keys() == {"UNKNOWN"}:
        reasons = {}
    narrow = console.width < _NARROW
    widest = max(cell_len(visible(name)) for name in (*variants, *reasons, "Variant"))
    name_width = min(widest, max(console.width - 24, 6) if narrow else console.width // 3)
    bar_width = 0 if narrow else max(4, min(_LONGEST_BAR, console.width - name_width - 30))
    table = Table(box=None, pad_edge=False, padding=_GAP, header_style="dim")
    table.add_column("Variant", width=name_width, no_wrap=True, overflow="ellipsis")
    table.add_column("Evaluations", justify="right", no_wrap=True, min_width=11)
    table.add_column("Share", justify="right", no_wrap=True, min_width=7)
    if not narrow:
        table.add_column("", no_wrap=True, width=bar_width)
    _add_rows(table, variants, bar_width, "cyan", console)
    if reasons:
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
        bar = [Text(_bar(share, bar_width, can_draw(console)), colour)] if bar_width else []
        table.add_row(Text(visible(name)), f"{count:,}", f"{100 * share:.1f} %", *bar)
    rest = rows[len(shown) :]
    if rest:
        count = sum(number for _, number in rest)
        table.add_row(Text(f"{len(rest):,} more", "dim"), f"{count:,}", f"{100 * count / total:.1f} %")


def _bar(share: float, width: int, blocks: bool) -> str:
    """Return a bar of this share of the width, to an eighth of a character; something is never nothing."""
    if not blocks:
        return "#" * max(1, round(share * width))
    eighths = max(1, round(share * width * 8))
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]


def _rate(per_second: float) -> str:
    """Return the rate in the unit that has a figure people can read."""
    for unit, seconds in (("s", 1), ("min", 60), ("h", 3_600)):
        rate = per_second * seconds
        if rate >= 100:
            return f"{rate:,.0f}/{unit}"
        if rate >= 1:
            return f"{rate:.1f}/{unit}"
    per_day = per_second * 86_400
    return f"{per_day:.2g}/day" if per_day >= 0.01 or not per_day else "<0.01/day"


def _shortened(name: str, width: int) -> str:
    """Return a name with its middle left out where it is too wide: keys that begin alike often end differently."""
    if cell_len(name) <= width:
        return name
    head = width // 2
    return f"{set_cell_size(name, head)}…{set_cell_size(name[::-1], width - head - 1)[::-1]}"


def _latency(milliseconds: float | None) -> Text:
    if milliseconds is None:
        return Text(_NONE, "dim")
    if milliseconds >= 100:
        return Text(f"{milliseconds:,.0f}")
    return Text(f"{milliseconds:.3f}" if milliseconds < 1 else f"{milliseconds:.2f}")


def _span(first: datetime | None, last: datetime | None) -> str:
    begin, end = _moment(first), _moment(last)
    day = begin[:11]
    return f"{begin} to {end.removeprefix(day)} UTC" if begin != end else f"{begin} UTC"


def _moment(moment: datetime | None) -> str:
    return _NONE if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


_LAST_SEEN = "Last seen (UTC)"
_CELLS: Mapping[str, Callable[[FlagFigures], Text]] = {
    "Evaluations": lambda flag: Text(f"{flag.metrics.total_evaluations:,}"),
    "Users": lambda flag: Text(f"{flag.metrics.unique_users:,}"),
    "Rate": lambda flag: Text(_NONE, "dim") if flag.rate is None else Text(_rate(flag.rate)),
    "Errors": lambda flag: (
        Text(f"{flag.metrics.error_rate:.2f} %", "red") if flag.metrics.error_rate else Text("none", "dim")
    ),
    "p50 ms": lambda flag: _latency(flag.latencies[0]),
    "p99 ms": lambda flag: _latency(flag.latencies[2]),
    _LAST_SEEN: lambda flag: Text(_moment(flag.last_seen)),
}
"""The columns of the overview and what stands in them."""

_OVERVIEWS = (
    (112, tuple(_CELLS)),
    (70, ("Evaluations", "Users", "Rate", "Errors", "p50 ms", "p99 ms")),
    (50, ("Evaluations", "Users", "Errors")),
    (0, ("Evaluations", "Errors")),
)
"""From how many columns of the terminal on which columns are shown."""
