"""How figures look in a terminal: one calm table of all flags, and a block with the details of one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime

import attrs
from flag_analytics.aggregator import FlagMetrics
from flag_analytics.sources import Accuracy
from flag_analytics.statistics import ArmCheck
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from .figures import FlagFigures, Report, Share, ranked
from .terminal import can_draw, say
from .visible import visible
from .wording import counted

__all__ = ["Trimmed", "accuracy_lines", "bar", "flag_block", "least_accuracy", "overview", "print_report"]

_MOST_BLOCKS = 12
_MOST_ROWS = 20
_LONGEST_BAR = 32
_SHORTEST_NAME = 6
_NARROW = 56
"""Columns of a terminal below which bars are left out."""
_PER_VARIANT = frozenset({"crossover_users", "variant_users"})
"""The parts of an answer that the overview does not show."""
_NONE = "-"
_GAP = (0, 2, 0, 0)


@attrs.frozen
class Trimmed:
    """Something without the spaces at the ends of its lines, which disturb other programs."""

    content: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in console.render_lines(self.content, options, pad=False):
            while line and not line[-1].text.strip():
                line.pop()
            if line:
                yield from line[:-1]
                yield Segment(line[-1].text.rstrip(), line[-1].style)
            yield Segment.line()


def print_report(console: Console, report: Report, *, overview_last: bool = False) -> None:
    """Show an overview where there are several flags, and the details of each flag that was named or of a few."""
    if not report.flags:
        console.print(_nothing(report))
        return
    several = len(report.flags) > 1
    if several and not overview_last:
        _print_overview(console, report)
    if not report.asked_for and len(report.flags) > _MOST_BLOCKS:
        console.print()
        over = "" if report.window_seconds else "Rates are from the first to the last evaluation. "
        say(console, f"{over}Name flags to see their variants and reasons.", "dim")
        return
    for index, flag in enumerate(report.flags):
        if index or (several and not overview_last):
            console.print()
        console.print(flag_block(flag, report, console))
    if several and overview_last:
        console.print()
        _print_overview(console, report)


def _print_overview(console: Console, report: Report) -> None:
    console.print(overview(report.flags, console.width))
    for line in accuracy_lines((flag.metrics.accuracy for flag in report.flags), without=_PER_VARIANT):
        say(console, line, "dim")
    if report.others:
        say(console, f"and {report.others:,} more", "dim")


def overview(flags: Sequence[FlagFigures], width: int) -> RenderableType:
    """Return one line for each flag; narrow terminals do without some of the figures."""
    columns = next(columns for least, columns in _OVERVIEWS if width >= least)
    titles = [_noun(flags).capitalize() + "s" if column == _EVENTS else column for column in columns]
    rows = [[_CELLS[column](flag) for column in columns] for flag in flags]
    figures = sum(
        2 + max(cell_len(title), *(cell.cell_len for cell in cells))
        for title, cells in zip(titles, zip(*rows, strict=True), strict=True)
    )
    room = max(width - figures, _SHORTEST_NAME)
    names = [_shortened(_name(flag), room) for flag in flags]
    # As wide as it needs to be: figures far away from their names are hard to follow.
    needed = max(map(cell_len, (*names, "Flag"))) + figures
    table = Table(box=None, pad_edge=False, padding=_GAP, header_style="dim", width=min(width, needed))
    table.add_column("Flag", ratio=1, no_wrap=True, overflow="ellipsis")
    for title in titles:
        table.add_column(title, justify="left" if title == _LAST_SEEN else "right", no_wrap=True)
    for name, cells in zip(names, rows, strict=True):
        table.add_row(Text(name, "bold"), *cells)
    return Trimmed(table)


def flag_block(flag: FlagFigures, report: Report, console: Console) -> RenderableType:
    """Return all figures of one flag."""
    metrics = flag.metrics
    title = Text(_name(flag), "bold", overflow="fold")
    if not metrics.total_evaluations:
        return Group(title, Text(f"  {_nothing(report)}", "dim"))
    lines = [
        _summary_line(flag, report.window_name),
        Text(_span(flag.first_seen, flag.last_seen), "dim"),
        *([] if "latency" in metrics.accuracy.missing else [_latency_line(flag)]),
    ]
    if metrics.crossover_users:
        share = metrics.crossover_users / max(metrics.unique_users, 1)
        some = counted(metrics.crossover_users, "user")
        lines.append(Text(f"{some} saw more than one variant ({100 * share:.1f} %)", "yellow"))
    if metrics.estimated:
        lines.append(Text("Estimated from a sample: each event counts as 1 / sample_rate events", "yellow"))
    lines += [Text(line, "yellow") for line in accuracy_lines([metrics.accuracy])]
    if flag.arms is not None:
        lines.append(_arms_line(flag.arms))
    tables = [_variants(flag, console), *_reasons(metrics, console)]
    body = Group(*lines, *(part for table in tables for part in (Text(), table)))
    return Group(title, Trimmed(Padding(body, (0, 0, 0, 2))))


def accuracy_lines(of_answers: Iterable[Accuracy], *, without: frozenset[str] = frozenset()) -> list[str]:
    """Return for people how exact figures are; nothing about exact ones, and the parts that are not shown."""
    together = least_accuracy(of_answers)
    bounds = {part: bound for part, bound in together.bounds.items() if part not in without}
    missing = sorted(together.missing - without)
    lines = []
    if bounds:
        parts = ", ".join(f"{part.replace('_', ' ')} ± {100 * bounds[part]:.2g} %" for part in sorted(bounds))
        lines.append(f"From rollups: {parts}")
    if missing:
        lines.append(f"Not told by rollups: {', '.join(part.replace('_', ' ') for part in missing)}")
    if together.complete_since is not None:
        lines.append(f"Without the events before {_moment(together.complete_since)} UTC, which were removed")
    return lines


def least_accuracy(of_answers: Iterable[Accuracy]) -> Accuracy:
    """Return the widest bounds, all that is missing and the latest gap of some answers."""
    found = list(of_answers)
    bounds: dict[str, float] = {}
    for accuracy in found:
        for part, bound in accuracy.bounds.items():
            bounds[part] = max(bound, bounds.get(part, 0.0))
    missing = frozenset[str]().union(*(accuracy.missing for accuracy in found))
    since = [accuracy.complete_since for accuracy in found if accuracy.complete_since is not None]
    return Accuracy(bounds, missing, max(since, default=None))


def _name(flag: FlagFigures) -> str:
    return visible(flag.flag_key if flag.group is None else f"{flag.flag_key}, {flag.group}")


def _noun(flags: Sequence[FlagFigures]) -> str:
    """Return the word for the events of some flags."""
    exposures = sum(flag.exposures or 0 for flag in flags)
    if exposures == sum(flag.metrics.total_evaluations for flag in flags):
        return "exposure"
    return "event" if exposures or any(flag.exposures is None for flag in flags) else "evaluation"


def _nothing(report: Report) -> str:
    return "No evaluations found." if report.window_seconds is None else f"No evaluations in {report.window_name}."


def _summary_line(flag: FlagFigures, window_name: str) -> Text:
    metrics = flag.metrics
    line = Text.assemble(
        *(() if flag.users is None else (counted(flag.users, "user"), ", ")),
        counted(metrics.total_evaluations, _noun([flag])),
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


def _arms_line(arms: ArmCheck) -> Text:
    plan = visible(", ".join(f"{name} {100 * share:.4g} %" for name, share in arms.expected.items()))
    if arms.unplanned:
        return Text(f"Arms do not match {plan}: {arms.unplanned:,.0f} users saw another variant first", "red")
    if arms.p_value is None:
        return Text(f"Too few users to compare with {plan}", "yellow")
    test = f"chi-square {arms.chi_square:.2f}, p = {arms.p_value:.2g}"
    if arms.matches:
        return Text(f"Arms match {plan} ({test})", "green")
    return Text(f"Arms do not match {plan} ({test}): do not compare them before the reason is known", "red")


def _variants(flag: FlagFigures, console: Console) -> Table:
    """Return the users and events of each variant."""
    distribution = flag.metrics.variant_distribution
    events = _noun([flag]).capitalize() + "s"
    if not flag.shares:
        return _distribution("Variant", events, distribution, "cyan", console)
    parts = next(parts for least, parts in _VARIANT_PARTS if console.width >= least)
    table = _table("Variant", (*distribution, *flag.shares), console)
    for title in ("Users", "Share", *(("95 % interval",) if "interval" in parts else ())):
        table.add_column(title, justify="right", no_wrap=True, min_width=_MIN_WIDTHS.get(title))
    for title in (events, "Share") if "events" in parts else ():
        table.add_column(title, justify="right", no_wrap=True, min_width=_MIN_WIDTHS.get(title))
    bar_width = max(4, min(_LONGEST_BAR, console.width - 84)) if "bar" in parts else 0
    if bar_width:
        table.add_column("", no_wrap=True, width=bar_width)
    total = sum(distribution.values())
    names = list(dict.fromkeys((*flag.shares, *(name for name, _ in ranked(distribution)))))
    for name in names[:_MOST_ROWS]:
        share, count = flag.shares.get(name, Share(0, 0.0, 0.0, 0.0)), distribution.get(name, 0)
        cells = {
            "users": (Text(f"{share.users:,}"), Text(f"{100 * share.share:.1f} %")),
            "interval": (Text(f"{100 * share.low:.1f} - {100 * share.high:.1f} %", "dim"),),
            "events": (Text(f"{count:,}"), Text(f"{100 * count / total:.1f} %")),
            "bar": (Text(bar(share.share, bar_width, can_draw(console)), "cyan"),),
        }
        table.add_row(Text(visible(name)), *(cell for part in cells if part in parts for cell in cells[part]))
    if len(names) > _MOST_ROWS:
        table.add_row(Text(f"{len(names) - _MOST_ROWS:,} more", "dim"))
    return table


def _reasons(metrics: FlagMetrics, console: Console) -> list[Table]:
    """Return the reasons; none where no event has one: that all of a file's are unknown is no finding."""
    reasons = metrics.reason_distribution
    return [] if reasons.keys() <= {"UNKNOWN"} else [_distribution("Reason", "Events", reasons, "blue", console)]


def _table(title: str, names: Iterable[str], console: Console) -> Table:
    widest = max(cell_len(visible(name)) for name in (*names, title))
    table = Table(box=None, pad_edge=False, padding=_GAP, header_style="dim")
    limit = max(console.width - 24, 6) if console.width < _NARROW else console.width // 3
    table.add_column(title, width=min(widest, limit), no_wrap=True, overflow="ellipsis")
    return table


def _distribution(title: str, events: str, distribution: Mapping[str, int], colour: str, console: Console) -> Table:
    """Return a table of names, counts and shares."""
    table = _table(title, distribution, console)
    table.add_column(events, justify="right", no_wrap=True)
    table.add_column("Share", justify="right", no_wrap=True, min_width=7)
    bar_width = 0 if console.width < _NARROW else max(4, min(_LONGEST_BAR, console.width * 2 // 3 - 32))
    if bar_width:
        table.add_column("", no_wrap=True, width=bar_width)
    total = sum(distribution.values())
    rows = ranked(distribution)
    shown = rows if len(rows) <= _MOST_ROWS else rows[: _MOST_ROWS - 1]
    for name, count in shown:
        drawn = [Text(bar(count / total, bar_width, can_draw(console)), colour)] if bar_width else []
        table.add_row(Text(visible(name)), f"{count:,}", f"{100 * count / total:.1f} %", *drawn)
    if len(shown) < len(rows):
        count = sum(number for _, number in rows[len(shown) :])
        table.add_row(Text(f"{len(rows) - len(shown):,} more", "dim"), f"{count:,}", f"{100 * count / total:.1f} %")
    return table


def bar(share: float, width: int, blocks: bool) -> str:
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
_EVENTS = "Events"
_CELLS: Mapping[str, Callable[[FlagFigures], Text]] = {
    "Users": lambda flag: Text(_NONE, "dim") if flag.users is None else Text(f"{flag.users:,}"),
    _EVENTS: lambda flag: Text(f"{flag.metrics.total_evaluations:,}"),
    "Rate": lambda flag: Text(_NONE, "dim") if flag.rate is None else Text(_rate(flag.rate)),
    "Errors": lambda flag: (
        Text(f"{flag.metrics.error_rate:.2f} %", "red") if flag.metrics.error_rate else Text("none", "dim")
    ),
    "p50 ms": lambda flag: _latency(flag.latencies[0]),
    "p99 ms": lambda flag: _latency(flag.latencies[2]),
    _LAST_SEEN: lambda flag: Text(_moment(flag.last_seen)),
}
"""The columns of the overview and their cells."""

_OVERVIEWS = (
    (112, tuple(_CELLS)),
    (70, ("Users", _EVENTS, "Rate", "Errors", "p50 ms", "p99 ms")),
    (50, ("Users", _EVENTS, "Errors")),
    (0, ("Users", "Errors")),
)
"""From how many columns of the terminal on which columns are shown."""

_VARIANT_PARTS = (
    (96, frozenset({"users", "interval", "events", "bar"})),
    (76, frozenset({"users", "interval", "events"})),
    (50, frozenset({"users", "events"})),
    (0, frozenset({"users"})),
)
"""Likewise of the table of variants."""
_MIN_WIDTHS = {"Share": 7}
