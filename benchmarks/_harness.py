"""Measures contenders in interleaved rounds, so that a slow moment of the machine hits them all, and prints tables.

A benchmark is a function that returns a ``Table``; a module lists its own in ``BENCHMARKS``::

    def append() -> Table:
        return compare(
            "append",
            [Contender("deque", calls(deque().append, 1)), Contender("list", calls([].append, 1))],
            limits=[Limit("deque", at_most=1.5, times="list")],
        )


    BENCHMARKS = (append,)
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import repeat
from typing import Any

import attrs

__all__ = [
    "Contender",
    "Figure",
    "Limit",
    "Row",
    "Table",
    "Verdict",
    "as_json",
    "as_text",
    "awaits",
    "calls",
    "compare",
    "installed",
]

Timed = Callable[[int], int]
"""Does a number of operations and returns how many nanoseconds they took; what it does besides is not counted."""

_ROUNDS = 9
_ROUND_NS = 60_000_000


@attrs.frozen
class Contender:
    """One way to do the same thing. ``most`` bounds the operations of one round, for those that fill something up."""

    name: str
    timed: Timed
    most: int = 10_000_000


@attrs.frozen
class Limit:
    """What a contender must keep: at most (or at least) so many ns, or times another contender's ns."""

    name: str
    at_most: float | None = None
    at_least: float | None = None
    times: str | None = None


@attrs.frozen
class Figure:
    """A measured number that is not a time per operation (bytes, milliseconds, percent), with its limit if any."""

    name: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None


@attrs.frozen
class Row:
    """A contender's fastest round in ns per operation, and its share of the first contender's, by the median round."""

    name: str
    ns: float
    ratio: float
    rounds: tuple[float, ...] = attrs.field(repr=False)


@attrs.frozen
class Verdict:
    """Whether a limit was kept, in words and as a fact."""

    text: str
    kept: bool


@attrs.frozen
class Table:
    """The outcome of one benchmark: timed rows, other figures, and what both say about the limits."""

    title: str
    rows: Sequence[Row] = ()
    figures: Sequence[Figure] = ()
    verdicts: Sequence[Verdict] = ()
    notes: Sequence[str] = ()

    @property
    def kept(self) -> bool:
        return all(verdict.kept for verdict in self.verdicts)


def installed(module: str) -> bool:
    """Return whether a peer can be measured here; where it cannot, say so in the table's notes."""
    return importlib.util.find_spec(module) is not None


def calls(function: Callable[..., Any], *args: Any) -> Timed:
    """Return what times calls of a function with the same arguments each time."""

    def timed(operations: int) -> int:
        turns = repeat(None, operations)
        started = time.perf_counter_ns()
        for _ in turns:
            function(*args)
        return time.perf_counter_ns() - started

    return timed


def awaits(function: Callable[..., Awaitable[Any]], *args: Any) -> Timed:
    """Return what times awaited calls of a coroutine function, one after the other in a running event loop."""

    async def in_loop(operations: int) -> int:
        turns = repeat(None, operations)
        started = time.perf_counter_ns()
        for _ in turns:
            await function(*args)
        return time.perf_counter_ns() - started

    def timed(operations: int) -> int:
        return asyncio.run(in_loop(operations))

    return timed


def compare(
    title: str,
    contenders: Sequence[Contender],
    *,
    limits: Sequence[Limit] = (),
    figures: Sequence[Figure] = (),
    notes: Sequence[str] = (),
    rounds: int = _ROUNDS,
    round_ns: int = _ROUND_NS,
) -> Table:
    """Run the contenders in turn, round after round, and return their table; ratios are to the first one.

    A ratio is the median over the rounds of the ratio within each round, a time is the fastest round's. Limits that
    name a contender which is not there are left out: a peer may not be installed.
    """
    operations = [_operations_for(contender, round_ns) for contender in contenders]
    times: list[list[float]] = [[] for _ in contenders]
    for _ in range(rounds):
        for contender, count, measured in zip(contenders, operations, times, strict=True):
            gc.collect()
            measured.append(contender.timed(count) / count)
    rows = [
        Row(contender.name, min(measured), _ratio(measured, times[0]), tuple(measured))
        for contender, measured in zip(contenders, times, strict=True)
    ]
    by_name = {row.name: row for row in rows}
    verdicts = [
        _judge_limit(limit, by_name)
        for limit in limits
        if limit.name in by_name and (limit.times is None or limit.times in by_name)
    ]
    return Table(title, rows, figures, [*verdicts, *judge(figures)], notes)


def judge(figures: Sequence[Figure]) -> list[Verdict]:
    """Return the verdicts on those figures that have a limit."""
    return [
        _judge(f"{figure.name}: {figure.value:,.4g} {figure.unit}", figure.value, figure.at_most, figure.at_least)
        for figure in figures
        if figure.at_most is not None or figure.at_least is not None
    ]


def _operations_for(contender: Contender, round_ns: int) -> int:
    count = 1
    while True:
        took = contender.timed(count)
        if count >= contender.most:
            return contender.most
        if took >= round_ns / 10:
            return max(1, min(contender.most, int(count * round_ns / took)))
        count = min(contender.most, count * 4)


def _ratio(measured: Sequence[float], base: Sequence[float]) -> float:
    return statistics.median(mine / other for mine, other in zip(measured, base, strict=True))


def _judge_limit(limit: Limit, rows: dict[str, Row]) -> Verdict:
    row = rows[limit.name]
    if limit.times is None:
        return _judge(f"{limit.name}: {row.ns:,.0f} ns", row.ns, limit.at_most, limit.at_least)
    ratio = _ratio(row.rounds, rows[limit.times].rounds)
    return _judge(f"{limit.name}: {ratio:.3g} x {limit.times}", ratio, limit.at_most, limit.at_least)


def _judge(text: str, value: float, at_most: float | None, at_least: float | None) -> Verdict:
    bounds = [f"<= {at_most:,g}"] if at_most is not None else []
    if at_least is not None:
        bounds.append(f">= {at_least:,g}")
    kept = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
    return Verdict(f"{text} (must be {' and '.join(bounds)}): {'kept' if kept else 'MISSED'}", kept)


def as_text(table: Table) -> str:
    """Return a table for people: Markdown, so that it can be pasted anywhere."""
    lines = [f"### {table.title}", ""]
    if table.rows:
        width = max(len("contender"), *(len(row.name) for row in table.rows))
        lines += [
            f"| {'contender':<{width}} | ns, fastest | ratio, median |",
            f"|{'-' * (width + 2)}|------------:|-------------:|",
        ]
        lines += [f"| {row.name:<{width}} | {row.ns:>11,.0f} | {row.ratio:>13.3g} |" for row in table.rows]
        lines.append("")
    lines += [f"- {figure.name}: {figure.value:,.4g} {figure.unit}" for figure in table.figures]
    lines += [f"- {verdict.text}" for verdict in table.verdicts]
    lines += [f"- {note}" for note in table.notes]
    return "\n".join(lines).rstrip() + "\n"


def as_json(tables: Sequence[Table]) -> str:
    """Return tables for programs."""
    return json.dumps([attrs.asdict(table) for table in tables], indent=2)
