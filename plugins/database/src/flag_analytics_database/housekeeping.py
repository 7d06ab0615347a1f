"""Work between batches: partitions made ahead of time, and a few old events removed."""

from __future__ import annotations

import asyncio
import time

from sqlalchemy.ext.asyncio import AsyncConnection

from .options import DatabaseOptions
from .partitions import create_partitions
from .retention import cutoff, drop_old_partitions, prune_rollups, prune_some
from .table_setup import TableSetup

__all__ = ["Housekeeping"]

_PARTITIONS_EVERY_SECONDS = 3_600.0


class Housekeeping:
    """Knows when partitions and old events are due. ``pruned`` counts the events removed since the start."""

    def __init__(self, options: DatabaseOptions, setup: TableSetup) -> None:
        self._options = options
        self._setup = setup
        self._partitions_at = 0.0
        self._prune_at = 0.0
        self._prune_rollups_at = 0.0
        self.pruned = 0

    async def run(self, connection: AsyncConnection) -> None:
        """Do what is due, within ``statement_timeout_seconds``; raise what the driver raises."""
        now = time.monotonic()
        if self._setup.partitioned and self._setup.partition_by is not None and now >= self._partitions_at:
            self._partitions_at = now + _PARTITIONS_EVERY_SECONDS
            await connection.run_sync(create_partitions, self._setup.tables, self._setup.partition_by)
            await connection.commit()
        if self._options.retention_days is not None and now >= self._prune_at:
            await self._prune_a_little(connection, self._options.retention_days)
        if self._setup.counted and self._options.rollup_retention_days is not None and now >= self._prune_rollups_at:
            before = cutoff(self._options.rollup_retention_days)
            if not await prune_rollups(connection, self._setup.tables, self._setup.family, before):
                self._prune_rollups_at = now + self._options.prune_interval_seconds

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
