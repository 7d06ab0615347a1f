"""Removing old events: whole partitions where there are some, small batches otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import attrs
from sqlalchemy import Delete, Table, delete, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from .counting import DAY, DAY_TOTALS
from .once import begin
from .partitions import drop_partitions, is_partitioned
from .rebuilding import complete_counts
from .rollup_state import COUNTED_SINCE, EVER, PRUNED_BEFORE, ROLLUPS_PRUNED_BEFORE, is_complete, read_state, set_state
from .rollups.compaction import compact_all
from .rollups.spans import ceil, floor
from .rollups.stored import stale_query
from .rollups.users import can_sketch
from .rows import from_micros, micros
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
    hour = tables.counts.c.hour
    oldest = await connection.scalar(select(func.min(hour)))
    await connection.rollback()
    if oldest is None or (end := oldest // DAY * DAY + DAY) > micros(before):
        return False
    await begin(connection, family)
    state = await read_state(connection, tables)
    for name in (ROLLUPS_PRUNED_BEFORE, COUNTED_SINCE):
        if name in state or name == ROLLUPS_PRUNED_BEFORE:
            await set_state(connection, tables, family, name, max(state.get(name, end), end))
    total = hour.between(DAY_TOTALS // 2, DAY_TOTALS + end - DAY)
    await connection.execute(delete(tables.counts).where(or_(hour < end, total)))
    # Longer spans that reach beyond are made anew.
    await connection.execute(delete(tables.sketches).where(tables.sketches.c.start < end))
    await connection.commit()
    return True


async def prune(connection: AsyncConnection, tables: Tables, family: str, before: datetime) -> int:
    """Remove every event and dead letter dated before ``before``; return how many rows went."""
    await complete_counts(connection, tables, family)  # what is removed could not be counted afterwards
    await compact_all(connection, tables, family)
    gone = await drop_old_partitions(connection, tables, family, before)
    while True:
        some = await prune_some(connection, tables, family, before)
        gone += some
        if some == 0:
            return gone


async def count_old(connection: AsyncConnection, tables: Tables, before: datetime) -> int:
    """Return how many events and dead letters ``prune`` would remove: where rollups are kept, those of whole days."""
    end = micros(before)
    kept_from = floor(end, DAY) if COUNTED_SINCE in await read_state(connection, tables) else end
    counts = [
        await connection.scalar(select(func.count()).select_from(table).where(table.c[time] < first))
        for table, time, first in ((tables.events, "timestamp", kept_from), (tables.dead_letters, "at", end))
    ]
    return sum(count or 0 for count in counts)


async def drop_old_partitions(connection: AsyncConnection, tables: Tables, family: str, before: datetime) -> int:
    """Drop partitions that hold older events only; return how many rows went with them."""
    if family != "postgresql" or not await connection.run_sync(is_partitioned, tables):
        return 0
    days = await _removable(connection, tables, micros(before))
    gone = 0
    if days is not None:
        gone = await connection.run_sync(drop_partitions, tables, from_micros(days.end))
    return await _commit_removal(connection, tables, family, days, gone)


async def prune_some(connection: AsyncConnection, tables: Tables, family: str, before: datetime) -> int:
    """Remove at most ``BATCH_ROWS`` old events, then as many dead letters, and commit; return how many rows went.

    Where rollups are kept, events are removed by whole days, and only after their summaries were made.
    """
    await begin(connection, family)
    days = await _removable(connection, tables, micros(before), most_days=1)
    gone = 0
    if days is not None:
        gone = (await connection.execute(_delete_some(tables.events, "timestamp", family, days.end))).rowcount
    gone = await _commit_removal(connection, tables, family, days, gone)
    await begin(connection, family)
    gone += (await connection.execute(_delete_some(tables.dead_letters, "at", family, micros(before)))).rowcount
    await connection.commit()
    return gone


@attrs.frozen
class _Days:
    """The days whose events may be removed; without rollups, any time before ``end``."""

    start: int
    end: int
    is_counted: bool


async def _removable(
    connection: AsyncConnection, tables: Tables, before: int, *, most_days: int | None = None
) -> _Days | None:
    """Return the oldest days with events that may be removed; None without any."""
    state = await read_state(connection, tables)
    if COUNTED_SINCE not in state:
        return _Days(EVER, before, is_counted=False)
    oldest = await connection.scalar(select(func.min(tables.events.c.timestamp)))
    if oldest is None or not is_complete(state):
        return None
    start, end = floor(int(oldest), DAY), floor(before, DAY)
    if most_days is not None:
        end = min(end, start + most_days * DAY)
    end = min(end, await _first_stale_day(connection, tables, start, end, state))
    return _Days(start, end, is_counted=True) if start < end else None


async def _commit_removal(
    connection: AsyncConnection, tables: Tables, family: str, days: _Days | None, gone: int
) -> int:
    """Note and commit the removal of events, unless some of them came after the summaries were made.

    Returns:
        How many went.
    """
    if gone and days is not None:
        state = await read_state(connection, tables)
        if days.is_counted and await _first_stale_day(connection, tables, days.start, days.end, state) < days.end:
            await connection.rollback()
            return 0
        await set_state(connection, tables, family, PRUNED_BEFORE, max(state.get(PRUNED_BEFORE, EVER), days.end))
    await connection.commit()
    return gone


async def _first_stale_day(
    connection: AsyncConnection, tables: Tables, start: int, end: int, state: Mapping[str, int]
) -> int:
    """Return the first of these days with events that no summary has, if summaries are made at all; else the end.

    A day that counts do not know from its beginning has no use for a summary, and may never get one.
    """
    start = max(start, ceil(state.get(COUNTED_SINCE, EVER), DAY))
    if not can_sketch() or start >= end:
        return end
    found = (await connection.execute(stale_query(tables, 1, start, end, 1))).first()
    return end if found is None else int(found.start)


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
