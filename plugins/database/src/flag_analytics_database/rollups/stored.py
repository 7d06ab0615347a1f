"""The table of summaries, and what is counted beside it: which summaries are fresh, and which must be made anew.

A summary holds the number of events that it was made of. It is fresh while the days that it is of have just as many:
these are counted in the transaction that stores or removes events.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import BigInteger, Text, and_, func, literal, literal_column, null, or_, select, union_all
from sqlalchemy.dialects import mysql, postgresql, sqlite

from ..conditions import one_of
from ..counting import DAY, DAY_TOTALS
from ..schema import Tables
from .durations import Durations
from .spans import Span
from .summary import WindowSummary, unpack_cells
from .users import Users

__all__ = [
    "DURATIONS",
    "EARLIEST",
    "USERS",
    "VARIANT_USERS",
    "counted_query",
    "days_query",
    "earliest_query",
    "hourly_query",
    "keeping",
    "spans_query",
    "stale_query",
    "steps_of_counts_query",
    "summary_of",
]

USERS, DURATIONS, VARIANT_USERS = "users", "durations", "variant_users"
_FIGURES = ("events", "weight", "errors", "error_weight")


def _day_totals(
    tables: Tables, family: str, start: int, end: int, flag_keys: Collection[str] | None = None
) -> list[Any]:
    """Return the conditions of the rows that count the days from ``start`` to ``end``, excluded."""
    counts = tables.counts.c
    conditions = [counts.hour >= DAY_TOTALS + start, counts.hour < DAY_TOTALS + end]
    return conditions if flag_keys is None else [*conditions, one_of(counts.flag_key, family, flag_keys)]


def counted_query(tables: Tables, family: str, start: int, end: int, flag_keys: Collection[str]) -> Any:
    """Return the statement for (flag key, number of events) in the days from ``start`` to ``end``, excluded."""
    counts = tables.counts.c
    mine = _day_totals(tables, family, start, end, flag_keys)
    return select(counts.flag_key, func.sum(counts.events)).where(*mine).group_by(counts.flag_key)


def days_query(tables: Tables, family: str, start: int, end: int) -> Any:
    """Return the statement for the days from ``start`` to ``end``, excluded, that have events."""
    counts = tables.counts.c
    return select(counts.hour - DAY_TOTALS).where(*_day_totals(tables, family, start, end)).distinct()


EARLIEST = "earliest"


def earliest_query(tables: Tables) -> Any:
    """Return the statement for (``EARLIEST``, first hour that has counts), to be asked with that for the state."""
    return select(literal(EARLIEST, Text), func.min(tables.counts.c.hour))


def spans_query(
    tables: Tables,
    family: str,
    spans: Sequence[Span],
    flag_keys: Collection[str] | None,
    parts: Collection[str],
    settled_before: int,
) -> Any:
    """Return the statement for (start, flag key, events, events of its summary, cells, users, durations, by variant).

    There is a row for each flag with events in the span; its summary is null unless it is fresh. A day before
    ``settled_before``, whose own events were removed, has its summary in any case. Parts that are not wanted are null.
    """
    counts, kept = tables.counts.c, tables.sketches
    arms = []
    for span in spans:
        mine = _day_totals(tables, family, span.start, span.end, flag_keys)
        total = func.sum(counts.events).label("events")
        counted = select(counts.flag_key, total).where(*mine).group_by(counts.flag_key).having(total > 0).subquery()
        fresh = kept.c.events == counted.c.events
        if span.days == 1 and span.end <= settled_before:
            fresh = or_(fresh, kept.c.events.is_not(None))
        its = and_(kept.c.start == span.start, kept.c.days == span.days, kept.c.flag_key == counted.c.flag_key, fresh)
        blobs = [kept.c[name] if name in parts else _no_blob(family) for name in (USERS, DURATIONS, VARIANT_USERS)]
        summary = [kept.c.events.label("of_summary"), kept.c.cells, *blobs]
        arms.append(
            select(literal_column(str(span.start)), counted.c.flag_key, counted.c.events, *summary).select_from(
                counted.outerjoin(kept, its)
            )
        )
    return union_all(*arms) if len(arms) > 1 else arms[0]


def _no_blob(family: str) -> Any:
    return literal_column("NULL::bytea") if family == "postgresql" else null()


def summary_of(cells: bytes, users: bytes | None, durations: bytes | None, variants: bytes | None) -> WindowSummary:
    """Return the summary of a row; a part that was not read is missing."""
    return WindowSummary(
        unpack_cells(cells),
        None if users is None else Users.unpack(users),
        None if durations is None else Durations.unpack(durations),
        None if variants is None else Users.unpack_each(variants),
    )


def keeping(tables: Tables, family: str) -> Any:
    """Return the statement that keeps a summary, given as parameters, in place of the one of the same flag and span."""
    kept = tables.sketches
    key = [column.name for column in kept.primary_key]
    others = [column.name for column in kept.c if column.name not in key]
    if family == "mysql":
        on_mysql = mysql.insert(kept)
        return on_mysql.on_duplicate_key_update({name: on_mysql.inserted[name] for name in others})
    insert: Any = sqlite.insert(kept) if family == "sqlite" else postgresql.insert(kept)
    return insert.on_conflict_do_update(index_elements=key, set_={name: insert.excluded[name] for name in others})


def stale_query(tables: Tables, days: int, since: int, before: int, most: int, passed_over: int = 0) -> Any:
    """Return the statement for (start, flag key, events) of spans of so many days whose summary is missing or stale.

    They lie between ``since`` and ``before``; the oldest come first.
    """
    counts, kept = tables.counts.c, tables.sketches.c
    length = days * DAY
    day = counts.hour - DAY_TOTALS
    start = (day - (day % length + length) % length).label("start")
    totals = (
        select(start, counts.flag_key, func.sum(counts.events).label("events"))
        .where(counts.hour >= DAY_TOTALS + since, counts.hour < DAY_TOTALS + before)
        .group_by(start, counts.flag_key)
        .subquery("totals")
    )
    its = and_(kept.start == totals.c.start, kept.days == days, kept.flag_key == totals.c.flag_key)
    joined = totals.outerjoin(tables.sketches, its)
    stale = or_(kept.events.is_(None), kept.events != totals.c.events)
    return (
        select(totals.c.start, totals.c.flag_key, totals.c.events)
        .select_from(joined)
        .where(stale, totals.c.start + length <= literal(before))
        .order_by(totals.c.start, totals.c.flag_key)
        .limit(most)
        .offset(passed_over)
    )


def hourly_query(tables: Tables, family: str, hours: range, flag_keys: Collection[str] | None) -> Any:
    """Return the statement for what was counted in these hours: flag key, cell and figures."""
    counts = tables.counts.c
    keys = [counts.flag_key, counts.variant, counts.reason, counts.environment]
    figures = [func.sum(counts[name]) for name in _FIGURES]
    return (
        select(*keys, *figures, func.min(counts.first_event), func.max(counts.last_event))
        .where(*_in_hours(tables, family, hours, flag_keys))
        .group_by(*keys)
        .having(func.sum(counts.events) > 0)
    )


_MOST_HOURS_BY_NAME = 10_000
"""A flag's hours are looked up one by one: between them lie those of all other flags."""


def _in_hours(tables: Tables, family: str, hours: range, flag_keys: Collection[str] | None) -> list[Any]:
    counts = tables.counts.c
    if flag_keys is None or len(hours) > _MOST_HOURS_BY_NAME:
        conditions = [counts.hour >= hours.start, counts.hour < hours.stop]
    else:
        conditions = [counts.hour.in_(hours)]
    return conditions if flag_keys is None else [*conditions, one_of(counts.flag_key, family, flag_keys)]


def steps_of_counts_query(
    tables: Tables, family: str, flag_key: str, hours: range, start: int, step: int, names: Collection[str]
) -> Any:
    """Return the statement for (step, cell, figures) of one flag, in steps of so many microseconds from ``start``.

    Cells are told apart by the fields in ``names`` alone; the others are empty.
    """
    counts = tables.counts.c
    division = "DIV" if family == "mysql" else "/"
    number = (
        (counts.hour - start)
        .op(division, precedence=8, return_type=BigInteger())(literal_column(str(step)))
        .label("step")
    )
    fields = ("variant", "reason", "environment")
    cell = [counts[name] if name in names else literal_column("''").label(name) for name in fields]
    kept = [counts[name] for name in fields if name in names]
    figures = [func.sum(counts[name]) for name in _FIGURES]
    return (
        select(number, *cell, *figures, func.min(counts.first_event), func.max(counts.last_event))
        .where(*_in_hours(tables, family, hours, [flag_key]))
        .group_by(number, *kept)
        .having(func.sum(counts.events) > 0)
    )
