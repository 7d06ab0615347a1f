"""``TableSetup``: what this process knows of a store's tables, and when it creates or upgrades them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from flag_analytics.processes import renew_after_fork
from sqlalchemy.ext.asyncio import AsyncConnection

from .errors import SchemaOutdated
from .options import DatabaseOptions
from .partitions import Period
from .rollup_state import SWITCHED_ON_AT, follow
from .schema import Tables, tables_named
from .setup import State, adopt_page, as_they_are, incomplete, prepare, refuse_unusable, state_of

__all__ = ["FOLLOW_EVERY_SECONDS", "GONE_SECONDS", "LOG_PAUSE_SECONDS", "TableSetup"]

LOG_PAUSE_SECONDS = 60.0
FOLLOW_EVERY_SECONDS = 20.0
"""The longest time a writer goes on without counts after another process has begun to keep them."""
GONE_SECONDS = 30.0
"""How long tables that vanished during use may come back (a rename, a restore) before they are created again."""

logger = logging.getLogger("flag_analytics.database")


class TableSetup:
    """The tables of one store.

    Attributes:
        tables: With the key that they have in the database.
        ready: Whether events can be stored.
        complete: Whether questions see every row; not while rows wait in a table made by litestar-flags.
        counted: Whether writers keep counts.
        follow_at: When to find out again whether counts are kept, by the monotonic clock.
        incomplete: Whether the counts do not know the events yet that were stored before they were kept.
    """

    def __init__(self, options: DatabaseOptions, family: str, changed: Callable[[Tables], None]) -> None:
        """``changed`` is called with the tables when their key turns out to be another one."""
        self.family = family
        self.partition_by: Period | None = options.partition_by if family == "postgresql" else None
        self.tables = tables_named(options.table, options.schema, self.partition_by is not None)
        self._options = options
        self._changed = changed
        self._complaint = ""
        self._complain_at = 0.0
        self.forget()
        renew_after_fork(self.forget)

    def forget(self) -> None:
        """Look at the tables anew before the next use."""
        self.ready = False
        self.complete = False
        self.counted = self.incomplete = False
        self.follow_at = 0.0
        self._seen = False
        self._gone_since: float | None = None

    @property
    def partitioned(self) -> bool:
        return "timestamp" in self.tables.events.primary_key

    @property
    def may_take_over(self) -> bool:
        return self._options.create_tables or self._options.upgrade

    @property
    def _may_create(self) -> bool:
        gone_for = 0.0 if self._gone_since is None else time.monotonic() - self._gone_since
        return self._options.create_tables and (not self._seen or gone_for >= GONE_SECONDS)

    async def for_writing(self, connection: AsyncConnection) -> State:
        """Make the tables ready for events, as far as the options allow; return ``READY`` or ``ADOPTING``.

        Raises:
            SchemaOutdated: they are not usable; it is logged, at most once a minute.
        """
        try:
            state = await self._set_up(connection, take_over=True)
        except SchemaOutdated as error:
            self.complain(error)
            raise
        await self.follow_rollups(connection)
        self.ready = True
        return state

    async def follow_rollups(self, connection: AsyncConnection) -> None:
        """Find out whether counts are kept, also if another process began it; begin it if the options say so."""
        state = await follow(connection, self.tables, self.family, switch_on=self._options.rollups)
        self.follow_at = time.monotonic() + FOLLOW_EVERY_SECONDS
        self.counted, self.incomplete = bool(state), SWITCHED_ON_AT in state

    async def for_questions(self, connection: AsyncConnection) -> None:
        """Make sure that questions see every row.

        Raises:
            SchemaOutdated: they do not; the rows of a table made by litestar-flags are moved by writers.
        """
        ends = time.monotonic() + self._options.query_timeout_seconds / 2
        state = await self._set_up(connection, take_over=self._options.upgrade)
        while state is State.ADOPTING:
            if not self.may_take_over or time.monotonic() > ends:
                raise incomplete(self.tables)
            if not await adopt_page(connection, self.tables, self.family):
                break
        self.complete = True

    async def check(self, connection: AsyncConnection) -> None:
        """Return if events can be stored, or the tables may be made ready for them; change nothing.

        Raises:
            SchemaOutdated: neither.
        """
        state = await connection.run_sync(state_of, self.tables)
        refuse_unusable(state, self.tables, create=self._may_create, may_upgrade=self._options.upgrade)

    def complain(self, error: SchemaOutdated) -> None:
        """Log why the tables are not usable, at most once a minute."""
        words, now = str(error), time.monotonic()
        if words != self._complaint or now >= self._complain_at:
            self._complaint, self._complain_at = words, now + LOG_PAUSE_SECONDS
            logger.warning("%s", words)

    async def _set_up(self, connection: AsyncConnection, *, take_over: bool) -> State:
        try:
            state = await prepare(
                connection,
                self.tables,
                self.family,
                create=self._may_create,
                may_upgrade=self._options.upgrade,
                take_over=take_over,
                partition_by=self.partition_by,
                rollups=self._options.rollups,
            )
        except SchemaOutdated:
            if self._seen and self._gone_since is None:
                self._gone_since = time.monotonic()
            raise
        tables = await as_they_are(connection, self.tables, self.family)
        if tables is not self.tables:
            self.tables = tables
            self._changed(tables)
        self._seen, self._gone_since = True, None
        await connection.rollback()
        return state
