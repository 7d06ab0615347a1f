"""``DatabaseAnalyticsCollector``: delivery and a store in one object, with the reference's interface."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Self

import attrs
from flag_analytics.protocols import RecordResult
from flag_analytics.reports import DeliveryOptions, DeliveryReport, DeliveryStats
from flag_analytics.sources import EventFilter, Window
from flag_analytics_delivery import Delivery
from sqlalchemy.ext.asyncio import AsyncEngine

from .engine import check_engine, from_options, like_engine
from .imports import Import
from .options import DatabaseOptions
from .questions import PATIENCE_SECONDS
from .reading import EventStream
from .store import DatabaseStore

__all__ = ["DatabaseAnalyticsCollector"]

_NAME = "database"
_START_SECONDS = 0.15
"""How long a start waits for the tables; a database that is slower gets them later."""


class DatabaseAnalyticsCollector:
    """Keeps evaluation events in SQLite, PostgreSQL, MySQL or MariaDB. Create it with ``create`` or ``from_engine``.

    Recording takes a few microseconds and never waits; one worker writes batches in the background. ``stats()``
    accounts for every event. It is an event source too: ``AnalyticsAggregator(collector)``. ``async with`` closes it.

    Attributes:
        batch_size: The most events in one write.
        flush_interval_seconds: The longest an event waits for its batch to fill, in seconds.
        event_source: Answers the aggregator's questions.
    """

    def __init__(self, store: DatabaseStore, delivery: DeliveryOptions | None = None) -> None:
        """Make a collector of a store; ``delivery`` holds settings beside the two that the store's options have."""
        self.event_source = store
        self.batch_size = store.options.batch_size
        self.flush_interval_seconds = store.options.flush_interval_seconds
        if delivery is not None:
            store.delivery = delivery.evolve(
                batch_size=self.batch_size, flush_interval_seconds=self.flush_interval_seconds
            )
        self._delivery = Delivery({_NAME: store}, store.delivery, name=_NAME)

    @classmethod
    async def create(
        cls,
        connection_string: str,
        batch_size: int = 100,
        flush_interval_seconds: float = 5.0,
        create_tables: bool = True,
        echo: bool = False,
        *,
        options: DatabaseOptions | None = None,
        delivery: DeliveryOptions | None = None,
        **engine_kwargs: Any,
    ) -> DatabaseAnalyticsCollector:
        """Return a collector for a database, with its tables set up if it answers at once.

        One that is down or slow delays nothing: then the tables are set up with the first event.

        Args:
            connection_string: An SQLAlchemy URL, such as ``sqlite+aiosqlite:///analytics.db``.
            batch_size: The most events in one write.
            flush_interval_seconds: The longest an event waits for its batch to fill.
            create_tables: Create missing tables.
            echo: Log every statement.
            options: Further settings; the five arguments above replace its own.
            delivery: Settings of the delivery engine (queue limits, durability, …).
            **engine_kwargs: Further arguments of SQLAlchemy's ``create_async_engine``, or single settings of
                ``DatabaseOptions`` by their names, such as ``retention_days=90``.

        Raises:
            ValueError: a setting cannot be used; a ``ConfigError`` if the driver says so.
            PluginNotInstalledError: the database's driver is missing; the message holds the ``pip install`` line.
            SinkUnavailable: the database does not answer, where ``require_database`` is set.
        """
        known = {field.name for field in attrs.fields(DatabaseOptions)}
        settings = {name: engine_kwargs.pop(name) for name in list(engine_kwargs) if name in known}
        given = {} if options is None else attrs.asdict(options, recurse=False)
        given |= settings | {
            "connection_string": connection_string,
            "batch_size": batch_size,
            "flush_interval_seconds": flush_interval_seconds,
            "create_tables": create_tables,
            "echo": echo,
        }
        given["engine"] = {**given.get("engine", {}), **engine_kwargs}
        checked = DatabaseOptions(**given)
        return await cls._ready(DatabaseStore(checked, from_options(checked)), delivery)

    @classmethod
    async def from_engine(
        cls,
        engine: AsyncEngine,
        batch_size: int = 100,
        flush_interval_seconds: float = 5.0,
        create_tables: bool = True,
        *,
        delivery: DeliveryOptions | None = None,
        **settings: Any,
    ) -> DatabaseAnalyticsCollector:
        """Return a collector for the database of an application's own engine.

        It takes over the engine's URL and connection arguments; the connections are its own, since those of an
        asynchronous pool belong to the loop that made them.

        Args:
            engine: The application's engine; it is not used any further.
            batch_size: The most events in one write.
            flush_interval_seconds: The longest an event waits for its batch to fill.
            create_tables: Create missing tables.
            delivery: Settings of the delivery engine (queue limits, durability, …) beside these two.
            **settings: Further settings of ``DatabaseOptions`` by their names.

        Raises:
            TypeError: it is not an ``AsyncEngine``.
            ValueError: the database is not supported, or lives in the memory of one connection.
        """
        check_engine(engine)
        options = DatabaseOptions(
            connection_string=engine.url.render_as_string(hide_password=True),
            batch_size=batch_size,
            flush_interval_seconds=flush_interval_seconds,
            create_tables=create_tables,
            **settings,
        )
        return await cls._ready(
            DatabaseStore(options, like_engine(engine, options.statement_timeout_seconds)), delivery
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"DatabaseAnalyticsCollector({self.event_source!r})"

    @classmethod
    async def _ready(cls, store: DatabaseStore, delivery: DeliveryOptions | None) -> DatabaseAnalyticsCollector:
        try:
            if store.options.require_database:
                await store.require()
            await store.begin(_START_SECONDS)
            return cls(store, delivery)
        except BaseException:
            store.abandon()
            raise

    async def record(self, event: Any) -> None:
        """Take one event; never waits for the database and never raises. ``stats()`` counts refused events."""
        self._delivery.record_nowait(event)

    def record_nowait(self, event: Any) -> RecordResult:
        """Take one event from any thread; return whether it was accepted, or why not."""
        return self._delivery.record_nowait(event)

    async def flush(self, timeout: float = 30.0) -> DeliveryReport:
        """Wait at most ``timeout`` seconds; the report is true if everything recorded before is stored."""
        return await self._delivery.flush(timeout)

    def flush_sync(self, timeout: float = 30.0) -> DeliveryReport:
        """``flush`` for callers without an event loop."""
        return self._delivery.flush_sync(timeout)

    async def close(self, timeout: float | None = None) -> DeliveryReport:
        """Store the waiting events and release every connection within ``timeout`` seconds; refuse further events.

        Every caller gets the same report. Questions under way get the time that the events leave.
        """
        ends = self._close_deadline(timeout)
        report = await self._delivery.close(timeout)
        await self.event_source.close_reading(max(PATIENCE_SECONDS, ends - time.monotonic()))
        return report

    def close_sync(self, timeout: float | None = None) -> DeliveryReport:
        """``close`` for callers without an event loop."""
        ends = self._close_deadline(timeout)
        report = self._delivery.close_sync(timeout)
        self.event_source.close_reading_sync(max(PATIENCE_SECONDS, ends - time.monotonic()))
        return report

    def _close_deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (self.event_source.delivery.close_timeout_seconds if timeout is None else timeout)

    async def health_check(self) -> bool:
        """Return whether events can be stored: the database answers, and has usable tables or may be given them.

        It changes nothing and waits at most ``query_timeout_seconds``. Tables that need ``flag-analytics db upgrade``
        make it false; the reason is logged, at most once a minute.
        """
        return await self.event_source.can_store()

    async def get_buffer_size(self) -> int:
        """Return the number of events that are accepted and not stored yet."""
        return sum(sink.pending for sink in self._delivery.stats().sinks.values())

    def get_events(
        self,
        flag_key: str | None = None,
        limit: int | None = None,
        *,
        window: Window | None = None,
        where: EventFilter | None = None,
    ) -> EventStream:
        """Return stored events by time: await it for a list, or iterate over it; see ``DatabaseStore.get_events``."""
        return self.event_source.get_events(flag_key, limit, window=window, where=where)

    async def start_import(self, name: str) -> None:
        """Let each event that is stored from now on, and is new, belong to an import; see ``DatabaseStore``."""
        await self.event_source.start_import(name)

    async def list_imports(self) -> list[Import]:
        """Return all imports, the oldest first."""
        return await self.event_source.list_imports()

    async def undo_import(self, name: str) -> int | None:
        """Remove the events that an import brought; return their number, or None without such an import."""
        return await self.event_source.undo_import(name)

    async def forget(self, targeting_keys: Sequence[str]) -> int:
        """Remove all events and dead letters of these targeting keys; see ``DatabaseStore.forget``."""
        return await self.event_source.forget(targeting_keys)

    def stats(self) -> DeliveryStats:
        """Return the ledger of all events since the start."""
        return self._delivery.stats()

    def health(self) -> dict[str, Any]:
        """Return the state of delivery, without any I/O."""
        return self._delivery.health()
