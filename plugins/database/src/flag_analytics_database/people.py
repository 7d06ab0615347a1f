"""Erasing what is stored of people: their events, a page at a time, and their dead letters."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from typing import Any

from flag_analytics.errors import SinkUnavailable
from sqlalchemy import and_, delete, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from .conditions import at_any_time, one_of
from .count_statements import take_out
from .imports import take_off
from .once import begin, unless_crossed
from .retention import BATCH_ROWS
from .rollup_state import is_counted
from .schema import Tables

__all__ = ["FOUND_ROWS", "empty_log", "forget_some", "forgotten_letters"]

FOUND_ROWS = 100_000
"""The most events that are looked for in one pass over the index."""


async def forget_some(
    connection: AsyncConnection, tables: Tables, family: str, targeting_keys: Iterable[str]
) -> tuple[int, bool]:
    """Remove at most ``FOUND_ROWS`` events of these targeting keys, committing each ``BATCH_ROWS``.

    Returns:
        How many went, and whether there may be more.
    """
    columns = tables.events.c
    theirs = and_(at_any_time(tables), one_of(columns.targeting_key, family, targeting_keys))
    rows = await connection.execute(select(columns.event_id).where(theirs).limit(FOUND_ROWS))
    found = [row.event_id for row in rows]
    await connection.rollback()  # what was read is no part of the change
    gone = 0
    for start in range(0, len(found), BATCH_ROWS):
        some = partial(_remove_events, connection, tables, family, found[start : start + BATCH_ROWS])
        gone += await unless_crossed(connection, some)
    return gone, len(found) == FOUND_ROWS


async def _remove_events(connection: AsyncConnection, tables: Tables, family: str, event_ids: list[str]) -> int:
    event_id = tables.events.c.event_id
    await begin(connection, family)
    # Locked before anything else is read: what is counted is then what is removed.
    locked = select(event_id).where(event_id.in_(event_ids)).with_for_update()
    theirs = event_id.in_([row.event_id for row in await connection.execute(locked)])
    if await is_counted(connection, tables):
        await take_out(connection, tables, family, theirs)
    await take_off(connection, tables, theirs)
    gone = (await connection.execute(delete(tables.events).where(theirs))).rowcount
    await connection.commit()
    return gone


async def forgotten_letters(connection: AsyncConnection, tables: Tables, targeting_keys: Iterable[str]) -> int:
    """Remove the dead letters of these targeting keys, and commit; return how many went."""
    keys, columns = frozenset(targeting_keys), tables.dead_letters.c
    # Few are kept, as JSON: to read them all is simpler than a query for each database.
    rows = (await connection.execute(select(columns.event_id, columns.event))).all()
    event_ids = [row.event_id for row in rows if _key_of(row.event) in keys]
    await connection.rollback()  # what was read is no part of the change
    gone = 0
    for start in range(0, len(event_ids), BATCH_ROWS):
        some = event_ids[start : start + BATCH_ROWS]
        gone += (await connection.execute(delete(tables.dead_letters).where(columns.event_id.in_(some)))).rowcount
        await connection.commit()
    return gone


async def empty_log(connection: AsyncConnection) -> None:
    """Empty SQLite's write-ahead log, in which the pages of a file still are as they were before a removal.

    Raises:
        SinkUnavailable: another process reads an older state of the file.
    """
    is_busy = await connection.scalar(text("PRAGMA wal_checkpoint(TRUNCATE)"))
    if is_busy:
        raise SinkUnavailable("what was removed is in the write-ahead log while others read", code="SQLITE_BUSY")


def _key_of(event: str) -> Any:
    try:
        return json.loads(event).get("targeting_key")
    except (ValueError, AttributeError):
        return None  # not a row of ours
