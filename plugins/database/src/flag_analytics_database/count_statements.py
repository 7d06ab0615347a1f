"""The table of counts in SQL: what stored events add to it, and how figures are added."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from flag_analytics.metrics import MILLION
from flag_analytics.sources import NO_VALUE
from sqlalchemy import BigInteger, Double, LargeBinary, Text, and_, case, cast, delete, func, literal, or_, select
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from .counting import CELL_COLUMNS, HOUR, KEY_COLUMNS, LONG_ENVIRONMENT, MOST_ENVIRONMENT_BYTES, Cell, with_day_totals
from .json_values import attribute_text
from .rollups.touched import remove_summaries
from .schema import KIND_CODES, Tables

__all__ = ["add_cells", "adding", "as_parameters", "cell_from", "cells_query", "less", "take_out"]

_FIGURES = CELL_COLUMNS[len(KEY_COLUMNS) : -2]
_OUTCOME = KIND_CODES["outcome"]


def cells_query(tables: Tables, family: str, *conditions: Any) -> Any:
    """Return the statement for what the stored events that meet these conditions add to the counts."""
    columns = tables.events.c
    at = columns.timestamp
    hour = literal(HOUR, BigInteger)
    each = select(
        # The remainder has the sign of the dividend: before 1970 it is negative.
        (at - (at % hour + hour) % hour).label("hour"),
        columns.flag_key,
        func.coalesce(columns.variant, "").label("variant"),
        columns.reason,
        _environment(columns, family).label("environment"),
        _weight(columns.sample_rate, family).label("weight"),
        case((or_(columns.reason == "ERROR", columns.error_type != ""), 1), else_=0).label("error"),
        at,
    ).where(columns.kind != _OUTCOME, *conditions)
    found = each.subquery("counted")
    keys = [found.c[name] for name in KEY_COLUMNS]
    return select(
        *keys,
        func.count(),
        func.sum(found.c.weight),
        func.sum(found.c.error),
        func.sum(found.c.error * found.c.weight),
        func.min(found.c.timestamp),
        func.max(found.c.timestamp),
    ).group_by(*keys)


def _environment(columns: Any, family: str) -> Any:
    text: Any = attribute_text(columns.context_attributes, family, "environment")
    size = func.length(cast(text, LargeBinary)) if family == "sqlite" else func.octet_length(text)
    name, long_name = (_as_label(value, family) for value in (NO_VALUE, LONG_ENVIRONMENT))
    return case((size > MOST_ENVIRONMENT_BYTES, long_name), else_=func.coalesce(text, name))


def _as_label(text: str, family: str) -> Any:
    value = literal(text, Text)
    return cast(value, mysql.BINARY) if family == "mysql" else value


def _weight(sample_rate: Any, family: str) -> Any:
    """Return the weight of an event as ``weighting.weight_of`` does, as an integer."""
    least = literal(1 / MILLION, Double)
    rate = case((sample_rate < least, least), else_=sample_rate)
    times = literal(float(MILLION), Double) / rate + literal(0.5, Double)
    return cast(times if family == "sqlite" else func.floor(times), BigInteger)


def cell_from(row: Iterable[Any]) -> Cell:
    """Return the cell of a row of ``cells_query``."""
    hour, flag_key, variant, reason, environment, *figures = row
    name = environment.decode() if isinstance(environment, bytes) else environment
    return (int(hour), flag_key, variant, reason, name, *map(int, figures))


def less(cells: Iterable[Cell]) -> list[Cell]:
    """Return what takes these cells, and their part of the totals of days, out of the counts again; times stay."""
    return with_day_totals((*cell[:5], *(-figure for figure in cell[5:9]), *cell[9:]) for cell in cells)


def as_parameters(cells: Iterable[Cell]) -> list[dict[str, Any]]:
    return [dict(zip(CELL_COLUMNS, cell, strict=True)) for cell in cells]


def adding(tables: Tables, family: str) -> Any:
    """Return the statement that adds cells to the counts, given as parameters."""
    counts = tables.counts
    least, most = (func.min, func.max) if family == "sqlite" else (func.least, func.greatest)

    def sums(given: Any) -> dict[str, Any]:
        return {name: counts.c[name] + given[name] for name in _FIGURES} | {
            "first_event": least(counts.c.first_event, given.first_event),
            "last_event": most(counts.c.last_event, given.last_event),
        }

    if family == "mysql":
        on_mysql = mysql.insert(counts)
        return on_mysql.on_duplicate_key_update(sums(on_mysql.inserted))
    insert: Any = sqlite.insert(counts) if family == "sqlite" else postgresql.insert(counts)
    return insert.on_conflict_do_update(index_elements=KEY_COLUMNS, set_=sums(insert.excluded))


async def add_cells(connection: AsyncConnection, tables: Tables, family: str, cells: Sequence[Cell]) -> None:
    """Add cells, which are in the order of the key, to the counts in the caller's transaction."""
    if cells:
        await connection.execute(adding(tables, family), as_parameters(cells))


async def take_out(connection: AsyncConnection, tables: Tables, family: str, *conditions: Any) -> None:
    """Take the events that meet these conditions, and are about to be removed, out of the counts.

    It belongs to the transaction that removes them. The first and last time of a cell stay: they are bounds within the
    hour, since only the events of the whole cell would tell the next ones. A cell without events is removed, and so are
    the summaries of the days.
    """
    found = list(map(cell_from, await connection.execute(cells_query(tables, family, *conditions))))
    await remove_summaries(connection, tables, family, found)
    cells = less(found)
    await add_cells(connection, tables, family, cells)
    await drop_empty(connection, tables, {cell[0] for cell in cells})


async def drop_empty(connection: AsyncConnection, tables: Tables, hours: Collection[int]) -> None:
    """Remove the cells of these hours that count nothing, in the caller's transaction."""
    if hours:
        counts = tables.counts.c
        nothing = and_(counts.hour.in_(sorted(hours)), *(counts[name] == 0 for name in _FIGURES))
        await connection.execute(delete(tables.counts).where(nothing))
