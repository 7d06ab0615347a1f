"""Building indexes on PostgreSQL while events are stored: the migration that needs one finds it ready.

No transaction or lock of ours is open meanwhile, since PostgreSQL waits for every older transaction.
"""

from __future__ import annotations

import asyncio
import random

from sqlalchemy import Index, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.schema import CreateIndex

from .partitions import partition_names, qualified_name
from .schema import Tables, indexes_of, tables_named

__all__ = ["build_online"]

_PAUSE_SECONDS = 0.5
_MOST_COLLISIONS = 10
_COLLISIONS = frozenset({"40P01", "42P07", "23505", "XX000"})
"""SQLSTATEs of two processes that began at once: a deadlock, an index of the other one, or one that it dropped."""

_IS_VALID = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:index)")
_IS_BUSY = text(
    "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'relation' AND relation = to_regclass(:table) "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    "AND mode = 'ShareUpdateExclusiveLock' AND granted AND pid <> pg_backend_pid())"
)


async def build_online(connection: AsyncConnection, tables: Tables) -> None:
    """Build the missing indexes of events; of a partitioned table, those of its partitions.

    A partitioned table takes them over when its own index is created. Several processes may do this at once, and any
    may be interrupted.
    """
    usual = await connection.get_isolation_level()
    partitions = await connection.run_sync(partition_names, tables)
    await connection.rollback()
    await connection.execution_options(isolation_level="AUTOCOMMIT")
    try:
        wanted = await connection.run_sync(indexes_of, tables.events)
        missing = [place for place, index in enumerate(wanted) if not await _is_valid(connection, tables, index)]
        for name in partitions or [tables.name]:
            parts = tables_named(name, tables.schema)  # their indexes are named after the partition
            indexes = await connection.run_sync(indexes_of, parts.events)
            for place in missing:
                await _build(connection, parts, indexes[place])
    finally:
        await connection.rollback()
        await connection.execution_options(isolation_level=usual)


async def _build(connection: AsyncConnection, tables: Tables, index: Index) -> None:
    create = str(CreateIndex(index, if_not_exists=True).compile(dialect=connection.dialect))
    table = await connection.run_sync(qualified_name, tables.schema, tables.name)
    collisions = 0
    while not await _is_valid(connection, tables, index):
        if await connection.scalar(_IS_BUSY, {"table": table}):
            await asyncio.sleep(_PAUSE_SECONDS)  # another process builds it, or the server vacuums
            continue
        try:
            if await _is_valid(connection, tables, index) is False:  # a build was interrupted
                name = await connection.run_sync(qualified_name, tables.schema, str(index.name))
                await connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            await connection.exec_driver_sql(create.replace("INDEX", "INDEX CONCURRENTLY", 1))
        except DBAPIError as error:
            collisions += 1
            if getattr(error.orig, "sqlstate", None) not in _COLLISIONS or collisions > _MOST_COLLISIONS:
                raise
            await asyncio.sleep(random.uniform(0, _PAUSE_SECONDS))


async def _is_valid(connection: AsyncConnection, tables: Tables, index: Index) -> bool | None:
    """Return whether the index is usable, None if there is none."""
    name = await connection.run_sync(qualified_name, tables.schema, str(index.name))
    valid: bool | None = await connection.scalar(_IS_VALID, {"index": name})
    return valid
