"""Removing old events: whole partitions where there are some, small batches otherwise."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import Delete, Table, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from .counting import DAY
from .once import begin
from .partitions import drop_partitions, is_partitioned
from .rebuilding import complete_counts
from .rollup_state import COUNTED_SINCE, EVER, PRUNED_BEFORE, ROLLUPS_PRUNED_BEFORE, is_complete, read_state, set_state
from .rows import micros
from .schema import Tables

__all__ = ["BATCH_ROWS", "count_old", "cutoff", "prune", "prune_rollups", "prune_some"]

BATCH_ROWS = 2_000
"""The most rows in one transaction: locks are short, and a replica keeps up."""


def cutoff(retention_days: float, now: datetime | None = None) -> datetime:
    """Return the time before which events are removed; at most so many days back as there are."""
    now = now or datetime.now(UTC)
    most_days = (now - datetime.min.replace(tzinfo=UTC)).days
    return now - timedelta(days=min(retention_days, most_days))


async def prune_rollups(connection: AsyncConnection, tables: Tables, family: str, before: datetime) -> bool:
    """Remove the oldest day of counts and sketches if it ended before ``before``; return whether there was one."""
    hour = await connection.scalar(select(func.min(tables.counts.c.hour)))
    day = await connection.scalar(select(func.min(tables.sketches.c.day)))
    oldest = min((int(time) for time in (hour, day) if time is not None), default=None)
    await connection.rollback()
    if oldest is None or (end := oldest // DAY * DAY + DAY) > micros(before):
        return False
    await begin(connection, family)
    state = await read_state(connection, tables)
    for name in (ROLLUPS_PRUNED_BEFORE, COUNTED_SINCE):
        if name in state or name == ROLLUPS_PRUNED_BEFORE:
            await set_state(connection, tables, family, name, max(state.get(name, end), end))
    await connection.execute(delete(tables.counts).where(tables.counts.c.hour < end))
    await connection.execute(delete(tables.sketches).where(tables.sketches.c.day < end))
    await connection.commit()
    return True


async def prune(connection: AsyncConnection, tables: Tables, family: str, before: datetime) -> int:
    """Remove every event and dead letter dated before ``before``; return how many rows went."""
    await complete_counts(connection, tables, family)  # what is removed could not be counted afterwards
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
    if not await _may_remove(connection, tables, family, before):
        return 0
    gone = await connection.run_sync(drop_partitions, tables, before)
    await connection.commit()
    return gone


async def prune_some(connection: AsyncConnection, tables: Tables, family: str, before: datetime) -> int:
    """Remove at most ``BATCH_ROWS`` old events, then as many dead letters, and commit; return how many rows went."""
    gone = 0
    for table, time in ((tables.events, "timestamp"), (tables.dead_letters, "at")):
        await begin(connection, family)
        if table is tables.dead_letters or await _may_remove(connection, tables, family, before):
            gone += (await connection.execute(_delete_some(table, time, family, micros(before)))).rowcount
        await connection.commit()
    return gone


async def _may_remove(connection: AsyncConnection, tables: Tables, family: str, before: datetime) -> bool:
    """Return whether the counts, if any are kept, know every event; note in the transaction what is being removed."""
    state = await read_state(connection, tables)
    if COUNTED_SINCE not in state:
        return True
    if not is_complete(state):
        return False
    if state.get(PRUNED_BEFORE, EVER) < micros(before):
        await set_state(connection, tables, family, PRUNED_BEFORE, micros(before))
    return True


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
