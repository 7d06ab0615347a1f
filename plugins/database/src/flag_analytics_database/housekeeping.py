"""Work between batches: partitions made ahead of time, and a few old events removed."""

from __future__ import annotations

import asyncio
import time

from sqlalchemy.ext.asyncio import AsyncConnection

from .options import DatabaseOptions
from .partitions import create_partitions
from .retention import cutoff, drop_old_partitions, prune_some
from .table_setup import TableSetup

__all__ = ["Housekeeping"]

_PARTITIONS_EVERY_SECONDS = 3_600.0
FOLLOW_EVERY_SECONDS = 20.0
"""Between two looks at whether another process has begun to keep counts."""


class Housekeeping:
    """Knows when partitions and old events are due. ``pruned`` counts the events removed since the start."""

    def __init__(self, options: DatabaseOptions, setup: TableSetup) -> None:
        self._options = options
        self._setup = setup
        self._partitions_at = 0.0
        self._follow_at = 0.0
        self._prune_at = 0.0
        self.pruned = 0

    async def run(self, connection: AsyncConnection) -> None:
        """Do what is due, within ``statement_timeout_seconds``; raise what the driver raises."""
        now = time.monotonic()
        if now >= self._follow_at:
            if self._follow_at:  # the tables have just been set up otherwise
                await self._setup.follow_rollups(connection)
            self._follow_at = now + FOLLOW_EVERY_SECONDS
        if self._setup.partitioned and self._setup.partition_by is not None and now >= self._partitions_at:
            self._partitions_at = now + _PARTITIONS_EVERY_SECONDS
            await connection.run_sync(create_partitions, self._setup.tables, self._setup.partition_by)
            await connection.commit()
        if self._options.retention_days is not None and now >= self._prune_at:
            await self._prune_a_little(connection, self._options.retention_days)

    def postpone(self) -> None:
        """Look for old events again after ``prune_interval_seconds``."""
        self._prune_at = time.monotonic() + self._options.prune_interval_seconds

    async def _prune_a_little(self, connection: AsyncConnection, retention_days: float) -> None:
        tables, family, before = self._setup.tables, self._setup.family, cutoff(retention_days)
        async with asyncio.timeout(self._options.statement_timeout_seconds):
            removed = await drop_old_partitions(connection, tables, family, before)
            removed += await prune_some(connection, tables, family, before)
        self.pruned += removed
        if removed == 0:
            self.postpone()
