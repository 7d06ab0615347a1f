"""Storing events with their counts exactly once, whatever is repeated and stored by other workers.

No server tells which rows of a batch were new. So a batch is first stored as if all of them were, in one transaction
with its counts. Where an id is there already (an earlier attempt was committed and its answer lost, two events share
an id, another worker delivers the same events), nothing of that remains: the ids are looked up, and the others are
stored as if they were new, with the counts of those.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from flag_analytics.errors import SinkUnavailable
from flag_analytics.frozen import FrozenEvent
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from .counting import count
from .errors import IdsKnown, code_of
from .schema import Tables
from .writers import BatchWriter

__all__ = ["begin", "store_counted", "store_new", "unless_crossed"]

_T = TypeVar("_T")

_ATTEMPTS = 20
"""Each one fails only when another worker has stored some of the same events since the last."""
_KNOWN = frozenset({"23505", "mysql-1062"})
"""An id is there already."""
_CROSSED = frozenset({"40P01", "mysql-1213"})
"""Two workers wait for each other's ids, and this one was chosen to give way."""


async def store_counted(
    connection: AsyncConnection, tables: Tables, family: str, writer: BatchWriter, events: tuple[FrozenEvent, ...]
) -> None:
    """Store those of the events whose ids are new, with their counts, in one transaction."""
    try:
        await writer.write_new(connection, events)
    except Exception as error:
        if not isinstance(error, IdsKnown) and code_of(error) not in _KNOWN | _CROSSED:
            raise
        await connection.rollback()
    else:
        return

    async def look_up() -> tuple[FrozenEvent, ...]:
        return await _unknown(connection, tables, events)

    async def store(new: tuple[FrozenEvent, ...]) -> None:
        await writer.insert(connection, new, None)
        await writer.add(connection, count(new))

    await store_new(connection, family, look_up, store)


async def store_new(
    connection: AsyncConnection,
    family: str,
    look_up: Callable[[], Awaitable[tuple[FrozenEvent, ...]]],
    store: Callable[[tuple[FrozenEvent, ...]], Awaitable[None]],
) -> None:
    """Look up which events are new and store them, in one transaction: again for as long as another worker is faster.

    Args:
        connection: One without a transaction.
        family: The kind of database.
        look_up: Returns the events that are new.
        store: Inserts them.

    Raises:
        SinkUnavailable: other workers were in the way each time.
    """
    new: tuple[FrozenEvent, ...] = ()
    before, code = -1, ""
    for _ in range(_ATTEMPTS):
        try:
            await begin(connection, family)
            new = await look_up()
            if new:
                await store(new)
            await connection.commit()
        except Exception as error:
            await connection.rollback()
            code = code_of(error)
            # An id that is refused as known is found by the next look: or else it is another key of the table.
            if code not in _KNOWN | _CROSSED or (code in _KNOWN and len(new) == before):
                raise
            before = len(new)
        else:
            return
    raise SinkUnavailable("other workers store the same events", code=code)


async def unless_crossed(connection: AsyncConnection, work: Callable[[], Awaitable[_T]]) -> _T:
    """Return the result of a whole transaction, done again where the server ended it because of another one."""
    code = ""
    for _ in range(_ATTEMPTS):
        try:
            return await work()
        except Exception as error:
            await connection.rollback()
            if code_of(error) not in _CROSSED:
                raise
            code = code_of(error)
    raise SinkUnavailable("other workers are in the way", code=code)


async def begin(connection: AsyncConnection, family: str) -> None:
    """Begin a transaction that will write."""
    if family == "sqlite":  # whose statements commit themselves otherwise
        await connection.exec_driver_sql("BEGIN IMMEDIATE")
    elif family == "mysql":  # the connection may be in autocommit mode for plain batches
        raw: Any = (await connection.get_raw_connection()).driver_connection
        await raw.autocommit(False)


async def _unknown(
    connection: AsyncConnection, tables: Tables, events: Sequence[FrozenEvent]
) -> tuple[FrozenEvent, ...]:
    """Return the first event of each id that is not stored."""
    column = tables.events.c.event_id
    by_id = {str(uuid.UUID(event.event_id)): event for event in reversed(events)}
    for row in await connection.execute(select(column).where(column.in_(list(by_id)))):
        by_id.pop(row.event_id, None)
    return tuple(by_id.values())
