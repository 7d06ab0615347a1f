"""A report as one HTML page with charts: no script, no file and no network beside it, fit for a mail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import TextIO

from .figures import FlagFigures, Report, ranked
from .layout import accuracy_lines
from .series import Series
from .visible import visible
from .wording import counted

__all__ = ["report_html"]

_COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1f2937;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem}h2{font-size:1.15rem;margin-top:2.5rem;border-top:1px solid #e5e7eb;padding-top:1rem}
table{border-collapse:collapse;margin:.75rem 0}th,td{padding:.2rem .9rem .2rem 0;text-align:right;font-weight:400}
th{color:#6b7280}th:first-child,td:first-child{text-align:left}.bad{color:#b91c1c}.note{color:#6b7280}
svg{display:block;max-width:100%}
"""
_WIDTH, _HEIGHT, _BAR = 720, 160, 280


def report_html(report: Report, charts: Mapping[str, Series], file: TextIO) -> None:
    """Write the page."""
    file.write(
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Feature flags</title>'
        f"<style>{_STYLE}</style></head><body>\n<h1>Feature flags, {escape(report.window_name)}</h1>\n"
        f'<p class="note">Made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC. '
        "Shares of users with 95 % Wilson intervals.</p>\n"
    )
    shown: set[str] = set()
    for flag in report.flags:
        file.write(_flag(flag))
        if flag.flag_key in charts and flag.flag_key not in shown:
            shown.add(flag.flag_key)
            file.write(_chart(charts[flag.flag_key]))
    if report.others:
        file.write(f'<p class="note">and {report.others:,} more</p>\n')
    file.write("</body></html>\n")


def _text(text: str) -> str:
    return escape(visible(text))


def _flag(flag: FlagFigures) -> str:
    metrics = flag.metrics
    name = flag.flag_key if flag.group is None else f"{flag.flag_key}, {flag.group}"
    noun = "exposure" if flag.exposures == metrics.total_evaluations else "evaluation"
    users = "" if flag.users is None else f"{counted(flag.users, 'user')}, "
    events = counted(metrics.total_evaluations, noun)
    parts = [f"<h2>{_text(name)}</h2>\n<p>{users}{events}, {metrics.error_rate:.2f} % errors</p>\n"]
    if metrics.crossover_users:
        parts.append(f'<p class="bad">{counted(metrics.crossover_users, "user")} saw more than one variant.</p>\n')
    if metrics.estimated:
        parts.append('<p class="note">Estimated from a sample.</p>\n')
    parts += [f'<p class="note">{escape(line)}.</p>\n' for line in accuracy_lines([metrics.accuracy])]
    if flag.arms is not None and not flag.arms.matches:
        p_value = "" if flag.arms.p_value is None else f" (p = {flag.arms.p_value:.2g})"
        parts.append(f'<p class="bad">The arms do not match the plan{p_value}: do not compare them.</p>\n')
    rows = "".join(_variant(flag, variant, count) for variant, count in ranked(metrics.variant_distribution))
    head = f"<tr><th>Variant<th>Users<th>Share<th>95 % interval<th>{noun.capitalize()}s<th></tr>\n"
    return "".join([*parts, f"<table>{head}{rows}</table>\n"])


def _variant(flag: FlagFigures, variant: str, count: int) -> str:
    share = flag.shares.get(variant)
    if share is None:
        return f"<tr><td>{_text(variant)}<td>0<td>-<td>-<td>{count:,}<td></tr>\n"
    low, high = _BAR * share.low, _BAR * share.high
    drawn = (
        f'<svg width="{_BAR}" height="16"><rect width="{_BAR * share.share:.1f}" height="16" fill="#93c5fd"/>'
        f'<path d="M{low:.1f} 8H{high:.1f}M{low:.1f} 4V12M{high:.1f} 4V12" stroke="#1e3a8a"/></svg>'
    )
    return (
        f"<tr><td>{_text(variant)}<td>{share.users:,}<td>{100 * share.share:.1f} %"
        f"<td>{100 * share.low:.1f} - {100 * share.high:.1f} %<td>{count:,}<td>{drawn}</tr>\n"
    )


def _chart(series: Series) -> str:
    """Return the events of each variant over time, as lines."""
    groups = list(series.groups.items())[: len(_COLOURS)]
    most = max((step.count for _, steps in groups for step in steps), default=0)
    if not most or len(series.times) < 2:
        return ""
    lines = "".join(
        f'<polyline fill="none" stroke="{colour}" points="{_points([step.count for step in steps], most)}"/>'
        for colour, (_, steps) in zip(_COLOURS, groups, strict=False)
    )
    legend = " ".join(
        f'<span style="color:{colour}">&#9632; {_text(name)}</span>'
        for colour, (name, _) in zip(_COLOURS, groups, strict=False)
    )
    first, last = series.times[0].start, series.times[-1].end
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'aria-label="Events over time">{lines}</svg>\n<p class="note">{legend}<br>'
        f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC, at most {most:,} in a step</p>\n"
    )


def _points(counts: Sequence[int], most: int) -> str:
    step = _WIDTH / (len(counts) - 1)
    return " ".join(
        f"{number * step:.1f},{_HEIGHT - 4 - (_HEIGHT - 8) * count / most:.1f}" for number, count in enumerate(counts)
    )
