"""Users and durations of the events themselves, for the times that no summary covers, and to make summaries of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from flag_analytics.metrics import DEFAULT_VARIANT, weight_of
from sqlalchemy import Executable, select

from ..conditions import one_of
from ..count_statements import cell_from, cells_query
from ..schema import KIND_CODES, Tables
from .durations import Durations
from .summary import Cell, Figures, WindowSummary
from .users import Users

__all__ = ["Ask", "cells_of_rows", "count_events", "measure"]

Ask = Callable[[Executable], Awaitable[Sequence[Any]]]
"""Runs one statement and returns its rows."""


def _within(tables: Tables, family: str, start: int, end: int, flag_keys: Collection[str] | None) -> list[Any]:
    columns = tables.events.c
    conditions = [columns.timestamp >= start, columns.timestamp < end]
    return conditions if flag_keys is None else [one_of(columns.flag_key, family, flag_keys), *conditions]


async def measure(
    ask: Ask,
    tables: Tables,
    family: str,
    start: int,
    end: int,
    flag_keys: Collection[str] | None,
    experiments: Collection[str] = (),
) -> dict[str, tuple[int, WindowSummary]]:
    """Return by flag the events from ``start`` to ``end``, excluded: their number, and a summary without counts.

    Users by variant are among it for ``experiments`` alone.
    """
    columns = tables.events.c
    query = select(
        columns.flag_key,
        columns.variant,
        columns.targeting_key,
        columns.evaluation_duration_ms,
        columns.sample_rate,
    ).where(*_within(tables, family, start, end, flag_keys), columns.kind != KIND_CODES["outcome"])
    by_flag: defaultdict[str, list[Any]] = defaultdict(list)
    for row in await ask(query):
        by_flag[row[0]].append(row)
    return {key: (len(rows), _measured(rows, by_variant=key in experiments)) for key, rows in by_flag.items()}


def _measured(rows: list[Any], *, by_variant: bool) -> WindowSummary:
    variants: dict[str, Users] | None = None
    if by_variant:
        people: defaultdict[str, list[tuple[str | None, float]]] = defaultdict(list)
        for _, variant, user, _, rate in rows:
            people[variant or DEFAULT_VARIANT].append((user, rate))
        variants = {variant: Users.of(some) for variant, some in people.items()}
    users = Users.of({(user, rate) for _, _, user, _, rate in rows})
    durations = Durations.of((duration, weight_of(rate)) for *_, duration, rate in rows)
    return WindowSummary({}, users, durations, variants)


async def count_events(
    ask: Ask, tables: Tables, family: str, start: int, end: int, flag_keys: Collection[str] | None
) -> dict[str, dict[Cell, Figures]]:
    """Return by flag the counts of the events from ``start`` to ``end``, excluded."""
    rows = await ask(cells_query(tables, family, *_within(tables, family, start, end, flag_keys)))
    return cells_of_rows(cell_from(row)[1:] for row in rows)


def cells_of_rows(rows: Any) -> dict[str, dict[Cell, Figures]]:
    """Return by flag the cells of rows of (flag key, variant, reason, environment, figures)."""
    by_flag: defaultdict[str, dict[Cell, Figures]] = defaultdict(dict)
    for key, variant, reason, environment, *figures in rows:
        cells, cell = by_flag[key], (variant, reason, environment)
        found = Figures(*map(int, figures))
        cells[cell] = cells[cell].plus(found) if cell in cells else found
    return by_flag
