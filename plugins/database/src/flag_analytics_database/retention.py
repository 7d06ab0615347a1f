"""Removing old events: whole partitions where there are some, small batches otherwise."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import Delete, Table, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from .partitions import drop_partitions, is_partitioned
from .rows import micros
from .schema import Tables

__all__ = ["BATCH_ROWS", "count_old", "cutoff", "prune", "prune_some"]

BATCH_ROWS = 2_000
"""The most rows in one transaction: locks are short, and a replica keeps up."""


def cutoff(retention_days: float, now: datetime | None = None) -> datetime:
    """Return the time before which events are removed; at most so many days back as there are."""
    now = now or datetime.now(UTC)
    most_days = (now - datetime.min.replace(tzinfo=UTC)).days
    return now - timedelta(days=min(retention_days, most_days))


async def prune(connection: AsyncConnection, tables: Tables, family: str, before: datetime) -> int:
    """Remove every event and dead letter dated before ``before``; return how many rows went."""
    gone = await drop_old_partitions(connection, tables, family, before)
    while True:
        some = await prune_some(connection, tables, family, before)
        gone += some
        if some == 0:
            return gone


async def count_old(connection: AsyncConnection, tables: Tables, before: datetime) -> int:
    """Return the number of events and dead letters dated before ``before``."""
    counts = [
        await connection.scalar(select(func.count()).select_from(table).where(table.c[time] < micros(before)))
        for table, time in ((tables.events, "timestamp"), (tables.dead_letters, "at"))
    ]
    return sum(count or 0 for count in counts)


async def drop_old_partitions(connection: AsyncConnection, tables: Tables, family: str, before: datetime) -> int:
    """Drop partitions that hold older events only; return how many rows went with them."""
    if family != "postgresql" or not await connection.run_sync(is_partitioned, tables):
        return 0
    gone = await connection.run_sync(drop_partitions, tables, before)
    await connection.commit()
    return gone


async def prune_some(connection: AsyncConnection, tables: Tables, family: str, before: datetime) -> int:
    """Remove at most ``BATCH_ROWS`` old events, then as many dead letters, and commit; return how many rows went."""
    gone = 0
    for table, time in ((tables.events, "timestamp"), (tables.dead_letters, "at")):
        result = await connection.execute(_delete_some(table, time, family, micros(before)))
        await connection.commit()
        gone += result.rowcount
    return gone


def _delete_some(table: Table, time: str, family: str, before: int) -> Delete:
    if family == "mysql":
        # MySQL takes no LIMIT in a subquery of the table that it deletes from, but in DELETE itself.
        return (
            delete(table)
            .where(table.c[time] < before)
            .with_dialect_options(mysql_limit=BATCH_ROWS, mariadb_limit=BATCH_ROWS)
        )
    old = select(table.c.event_id).where(table.c[time] < before).order_by(table.c[time]).limit(BATCH_ROWS)
    return delete(table).where(table.c.event_id.in_(old))
