"""``ClickHouseStore``: the sink that delivery writes batches to, and what questions about them are asked over."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from flag_analytics.canonical import canonical_key
from flag_analytics.errors import BadBatch, DeliveryError
from flag_analytics.outcomes import Outcomes
from flag_analytics.processes import keep_inherited, renew_after_fork
from flag_analytics.protocols import Batch
from flag_analytics.reports import DeadLetter, DeliveryOptions
from flag_analytics.sources import EventFilter, Exposures, FlagActivity, FlagSummary, TimeStep, Window
from flag_analytics.waiting import in_thread

from .changing import count_older, forget_letters, forget_some, prune
from .connecting import Asking, Writing, as_coroutines, check_installed, open_asking, open_writing
from .dead_letters import letter_columns, letter_from, newest_letters
from .errors import delivery_error, is_missing_table, unavailable
from .options import ClickHouseOptions
from .queries import Query
from .reading import EventStream
from .rows import unfit
from .schema import LETTER_COLUMNS, Tables
from .setup import kept_since, read_state, set_up
from .source import SETTINGS, ClickHouseSource
from .writing import BatchWriter, insert_settings

__all__ = ["ClickHouseStore"]

T = TypeVar("T")
_KEPT_SECONDS = 30.0

logger = logging.getLogger("flag_analytics.clickhouse")


class ClickHouseStore:
    """A ``BatchSink`` over one set of tables, which questions are asked of too. Creating it opens nothing."""

    any_loop = True
    rolls_up = True

    def __init__(self, options: ClickHouseOptions) -> None:
        self.options = options
        self.delivery: DeliveryOptions = options.delivery()
        self.tables = Tables.of(options)
        self._address = options.address
        check_installed(self._address)
        self.source = ClickHouseSource(self._ask, self.tables, self._kept_since)
        self._begin()
        renew_after_fork(self._forget)

    def _begin(self) -> None:
        self._writing: Writing | None = None
        self._asking: Asking | None = None
        self._writer = BatchWriter(self.tables, look_up_ids=self.options.look_up_ids)
        self._settled = False
        self._kept: tuple[float, int | None] = (-math.inf, None)
        self._lock = threading.Lock()

    def _forget(self) -> None:
        keep_inherited(self._writing, self._asking, self._lock)
        self._begin()

    def __repr__(self) -> str:
        return f"ClickHouseStore({self._address}, table={self.tables.name!r})"

    # --- the sink: called by the delivery worker, in its loop

    async def open(self) -> None:
        """Connect and set the tables up as far as the options allow.

        Raises:
            SinkUnavailable: the server does not answer, or the tables are not usable.
            FatalConfiguration: the login is refused.
        """
        await self._connected()

    async def _connected(self) -> Writing:
        try:
            if self._writing is None:
                self._writing = await open_writing(self.options)
            if not self._settled:
                await set_up(self._writing, self.options)
                self._settled = True
        except Exception as error:
            raise unavailable(error) from None
        return self._writing

    async def write(self, batch: Batch) -> None:
        """Store the batch."""
        connection = await self._connected()
        try:
            async with asyncio.timeout(self.options.statement_timeout_seconds):
                await self._writer.write(connection, batch)
        except Exception as error:
            if is_missing_table(error):
                self._settled = False
            failure = delivery_error(error)
            raise (unfit(batch) if isinstance(failure, BadBatch) else None) or failure from None

    async def ping(self) -> None:
        """Raise unless the server answers on a fresh connection."""
        try:
            connection = await open_writing(self.options)
            await connection.close()
        except Exception as error:
            raise unavailable(error) from None

    async def close(self) -> None:
        """Release every connection; a question that is asked afterwards opens a new one."""
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing.close()
        await self.close_reading()

    async def write_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Keep refused events in a table of their own, as JSON in plain ASCII."""
        connection = await self._connected()
        columns = letter_columns(letters)
        token = hashlib.sha256(repr(columns["event"]).encode()).hexdigest()
        try:
            async with asyncio.timeout(self.options.statement_timeout_seconds):
                await connection.insert(
                    self.tables.dead_letters, columns, [*LETTER_COLUMNS.values()], insert_settings(token)
                )
        except Exception as error:
            raise delivery_error(error) from None
        self._writer.given_up(letter.event.event_id for letter in letters)

    # --- questions: called from anywhere

    async def summarise(self, flag_keys: Sequence[str], window: Window, **asked: Any) -> Mapping[str, FlagSummary]:
        """Return a summary for each flag that has events in the window: one statement for all of them."""
        return await self.source.summarise(flag_keys, window, **asked)

    async def get_exposures(self, flag_key: str, window: Window, *, where: EventFilter | None = None) -> Exposures:
        """Return users by the variant that they saw first."""
        return await self.source.get_exposures(flag_key, window, where=where)

    async def get_outcomes(
        self, flag_key: str, metric: str, window: Window, *, where: EventFilter | None = None
    ) -> Outcomes:
        """Return what the flag's users did, by the variant that they saw first."""
        return await self.source.get_outcomes(flag_key, metric, window, where=where)

    async def list_flags(self, window: Window, **asked: Any) -> Sequence[FlagActivity]:
        """Return every flag with events in the window, by key."""
        return await self.source.list_flags(window, **asked)

    async def count_steps(
        self, flag_key: str, window: Window, step_seconds: float, **asked: Any
    ) -> Mapping[int, TimeStep]:
        """Return, by number, the steps of the window that have events."""
        return await self.source.count_steps(flag_key, window, step_seconds, **asked)

    async def count_future(self, now: datetime) -> int:
        """Return the number of stored events dated after ``now``."""
        return await self.source.count_future(now)

    def get_events(
        self,
        flag_key: str | None = None,
        limit: int | None = None,
        *,
        window: Window | None = None,
        where: EventFilter | None = None,
    ) -> EventStream:
        """Return stored events by time: of one flag, the newest ``limit``, in a window, passing a filter.

        Iterate over the result with ``async for`` in flat memory, or await it for a list. Without a filter events of
        every kind are returned.
        """
        return self.source.get_events(flag_key, limit, window, where)

    async def _kept_since(self) -> int | None:
        """Return since when events are all there, as of the last half minute."""
        at, kept = self._kept
        if time.monotonic() - at > _KEPT_SECONDS:
            kept = kept_since(await read_state(self.ask, self.tables))
            self._kept = (time.monotonic(), kept)
        return kept

    async def _ask(self, query: Query) -> Sequence[Any]:
        return await self.ask(query.sql, query.values, settings=SETTINGS)

    async def ask(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        settle: bool = True,
    ) -> list[tuple[Any, ...]]:
        """Return the rows of a query, whose ``{name:Type}`` are bound to ``parameters``; from any loop.

        ``settle`` sets the tables up first, as far as the options allow.

        Raises:
            SinkUnavailable: the server does not answer in ``query_timeout_seconds``, or refuses.
        """
        limits = {"max_execution_time": self.options.query_timeout_seconds, **(settings or {})}
        return await self._in_thread(lambda asking: asking.rows(sql, parameters, limits), settle=settle)

    async def command(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        settle: bool = True,
    ) -> None:
        """Run a statement that returns nothing, as ``ask`` does a query."""
        await self._in_thread(lambda asking: asking.run(sql, parameters, settings), settle=settle)

    async def _in_thread(self, work: Callable[[Asking], T], *, settle: bool) -> T:
        try:
            return await in_thread(lambda: work(self.asking(settle=settle)))
        except Exception as error:
            if is_missing_table(error):
                self._settled = False
            raise unavailable(error) from None

    def asking(self, *, settle: bool = True) -> Asking:
        """Return the connection for questions, which is opened with the first one; may wait, so call it in a thread."""
        with self._lock:
            if self._asking is None:
                self._asking = open_asking(self.options)
            if settle and not self._settled:
                asyncio.run(set_up(as_coroutines(self._asking), self.options))
                self._settled = True
            return self._asking

    async def read_dead_letters(self, limit: int = 1_000) -> list[DeadLetter]:
        """Return the newest ``limit`` refused events that the table holds, oldest first.

        Raises:
            SinkUnavailable: the server does not answer.
        """
        return [letter_from(row) for row in reversed(await self.ask(newest_letters(self.tables), {"limit": limit}))]

    # --- operating

    async def can_store(self) -> bool:
        """Return whether the server answers, with tables that are usable or may be made so; changes nothing."""
        try:
            await self.ask("SELECT 1", settle=False)
            if not self.options.create_tables:
                await self.ask(f"SELECT count() FROM {self.tables.state}", settle=False)
        except DeliveryError:
            return False
        return True

    async def count_older(self, before: datetime) -> int:
        """Return the number of events and dead letters dated before ``before``."""
        return await self._in_thread(lambda asking: count_older(asking, self.tables, before), settle=True)

    async def prune(self, before: datetime) -> int:
        """Remove every event and dead letter dated before ``before``; return the number of rows removed.

        The rollups keep what they know of them.
        """
        return await self._in_thread(lambda asking: prune(asking, self.tables, before), settle=True)

    async def forget(self, targeting_keys: Sequence[str]) -> int:
        """Remove all events and dead letters of these targeting keys, and their part in the rollups.

        It works in pages of 2,000 events, and can be interrupted and called again. What is recorded meanwhile may stay.
        Return how many rows went.

        Raises:
            SinkUnavailable: the server does not answer.
        """
        keys = sorted({canonical_key(key) for key in targeting_keys} - {""})
        if not keys:
            return 0
        removed = await self._in_thread(lambda asking: forget_letters(asking, self.tables, keys), settle=True)
        while some := await self._in_thread(lambda asking: forget_some(asking, self.tables, keys), settle=True):
            removed += some
        return removed

    async def close_reading(self) -> None:
        """Release the connections for questions."""
        asking, self._asking = self._asking, None
        if asking is not None:
            await in_thread(asking.close)

    def close_reading_sync(self) -> None:
        """``close_reading`` for callers without an event loop."""
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.close()
