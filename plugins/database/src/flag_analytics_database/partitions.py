"""Partitions of the table by month or day, on PostgreSQL: made ahead of time, and dropped whole when they are old."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Literal

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from .names import derived_name
from .rows import from_micros, micros
from .schema import Tables

__all__ = [
    "Period",
    "create_partitions",
    "drop_partitions",
    "is_partitioned",
    "partition_names",
    "qualified_name",
]

Period = Literal["month", "day"]

_AHEAD = {"month": 3, "day": 8}


def create_partitions(connection: Connection, tables: Tables, period: Period, today: date | None = None) -> int:
    """Create the partitions of this period and of those to come that are missing; return how many were created.

    Events outside of all partitions (dated long ago, or in the far future) are kept in the default partition. A
    period that has events there already gets no partition of its own.
    """
    _execute(connection, tables, derived_name(tables.name, "rest"), "DEFAULT")
    start = _start_of(today or datetime.now(UTC).date(), period)
    created = 0
    for _ in range(_AHEAD[period]):
        end = _next(start, period)
        name = derived_name(tables.name, f"p{start:%Y%m%d}")
        if not _exists(connection, tables, name):
            lower, upper = _micros(start), _micros(end)
            created += _execute(connection, tables, name, f"FOR VALUES FROM ({lower}) TO ({upper})")
        start = end
    return created


def drop_partitions(connection: Connection, tables: Tables, before: datetime) -> int:
    """Drop the partitions that hold nothing from ``before`` on; return how many rows went with them."""
    gone = 0
    for name, upper in _partitions(connection, tables):
        if from_micros(upper) > before:
            continue
        qualified = qualified_name(connection, tables.schema, name)
        rows = connection.execute(text(f"SELECT count(*) FROM {qualified}")).scalar_one()  # noqa: S608
        connection.execute(text(f"DROP TABLE {qualified}"))
        gone += rows
    return gone


def is_partitioned(connection: Connection, tables: Tables) -> bool:
    """Return whether the table in the database is partitioned, whatever the options say now."""
    kind = connection.execute(
        text("SELECT relkind::text FROM pg_class WHERE oid = to_regclass(:name)"),
        {"name": qualified_name(connection, tables.schema, tables.name)},
    ).scalar()
    return kind == "p"


def partition_names(connection: Connection, tables: Tables) -> list[str]:
    """Return the names of all partitions, the default one included; none of a plain table."""
    parent = qualified_name(connection, tables.schema, tables.name)
    query = text("SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE inhparent = to_regclass(:name)")
    return sorted(connection.scalars(query, {"name": parent}))


def _partitions(connection: Connection, tables: Tables) -> list[tuple[str, int]]:
    """Return name and upper bound (excluded, in microseconds) of each partition but the default one."""
    rows = connection.execute(
        text(
            "SELECT child.relname, "
            "substring(pg_get_expr(child.relpartbound, child.oid) from $$TO \\('?(-?\\d+)'?\\)$$) "
            "FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid WHERE inhparent = to_regclass(:name)"
        ),
        {"name": qualified_name(connection, tables.schema, tables.name)},
    )
    return [(name, int(upper)) for name, upper in rows if upper is not None]


def _execute(connection: Connection, tables: Tables, name: str, bounds: str) -> bool:
    child, parent = (
        qualified_name(connection, tables.schema, name),
        qualified_name(connection, tables.schema, tables.name),
    )
    try:
        with connection.begin_nested():
            connection.execute(text(f"CREATE TABLE IF NOT EXISTS {child} PARTITION OF {parent} {bounds}"))
    except DBAPIError as error:
        # 23514: the default partition has such events already; 42P17, 42P07: another worker was quicker.
        if getattr(error.orig, "sqlstate", None) in {"23514", "42P17", "42P07"}:
            return False
        raise
    return True


def _exists(connection: Connection, tables: Tables, name: str) -> bool:
    found = connection.execute(
        text("SELECT to_regclass(:name)::text"), {"name": qualified_name(connection, tables.schema, name)}
    ).scalar()
    return found is not None


def qualified_name(connection: Connection, schema: str | None, name: str) -> str:
    """Return the name of a table or index with its schema, quoted."""
    quote = connection.dialect.identifier_preparer.quote_identifier
    return f"{quote(schema)}.{quote(name)}" if schema else quote(name)


def _start_of(day: date, period: Period) -> date:
    return day.replace(day=1) if period == "month" else day


def _next(start: date, period: Period) -> date:
    if period == "day":
        return start + timedelta(days=1)
    return (start + timedelta(days=32)).replace(day=1)


def _micros(day: date) -> int:
    return micros(datetime(day.year, day.month, day.day, tzinfo=UTC))
