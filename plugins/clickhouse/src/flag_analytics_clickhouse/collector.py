"""``ClickHouseAnalyticsCollector``: delivery and a store in one object, with the reference's interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import attrs
from flag_analytics.protocols import RecordResult
from flag_analytics.reports import DeliveryOptions, DeliveryReport, DeliveryStats
from flag_analytics.sources import EventFilter, Window
from flag_analytics_delivery import Delivery

from .options import ClickHouseOptions
from .reading import EventStream
from .store import ClickHouseStore

__all__ = ["ClickHouseAnalyticsCollector"]

_NAME = "clickhouse"


class ClickHouseAnalyticsCollector:
    """Keeps evaluation events in ClickHouse. Create it with ``create``.

    Recording takes a few microseconds and never waits; one worker writes batches in the background. ``stats()``
    accounts for every event. It is an event source too: ``AnalyticsAggregator(collector)``. ``async with`` closes it.

    Attributes:
        event_source: Answers the aggregator's questions.
    """

    def __init__(self, store: ClickHouseStore, delivery: DeliveryOptions | None = None) -> None:
        """Make a collector of a store; ``delivery`` holds settings beside those that the store's options have."""
        self.event_source = store
        own = store.delivery
        if delivery is not None:
            store.delivery = delivery.evolve(
                batch_size=own.batch_size,
                max_batch_bytes=own.max_batch_bytes,
                flush_interval_seconds=own.flush_interval_seconds,
            )
        self._delivery = Delivery({_NAME: store}, store.delivery, name=_NAME)

    @classmethod
    async def create(
        cls,
        url: str,
        *,
        options: ClickHouseOptions | None = None,
        delivery: DeliveryOptions | None = None,
        **settings: Any,
    ) -> ClickHouseAnalyticsCollector:
        """Return a collector for a server; nothing is opened before the first event or question.

        Args:
            url: ``https://host:8443/database``, or ``chdb:///folder``; see ``ClickHouseOptions``.
            options: Further settings.
            delivery: Settings of the delivery engine (queue limits, durability, …).
            **settings: Single settings of ``ClickHouseOptions`` by their names, such as ``retention_days=90``.

        Raises:
            ValueError: a setting cannot be used.
        """
        given = {} if options is None else attrs.asdict(options, recurse=False)
        return cls(ClickHouseStore(ClickHouseOptions(**{**given, **settings, "url": url})), delivery)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"ClickHouseAnalyticsCollector({self.event_source!r})"

    async def record(self, event: Any) -> None:
        """Take one event; never waits for the server and never raises. ``stats()`` counts refused events."""
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

        Every caller gets the same report.
        """
        report = await self._delivery.close(timeout)
        await self.event_source.close_reading()
        return report

    def close_sync(self, timeout: float | None = None) -> DeliveryReport:
        """``close`` for callers without an event loop."""
        report = self._delivery.close_sync(timeout)
        self.event_source.close_reading_sync()
        return report

    async def get_buffer_size(self) -> int:
        """Return the number of events that are accepted and not stored yet."""
        return sum(sink.pending for sink in self._delivery.stats().sinks.values())

    async def health_check(self) -> bool:
        """Return whether events can be stored: the server answers, and has usable tables or may be given them."""
        return await self.event_source.can_store()

    async def forget(self, targeting_keys: Sequence[str]) -> int:
        """Remove all events and dead letters of these targeting keys; see ``ClickHouseStore.forget``."""
        return await self.event_source.forget(targeting_keys)

    def health(self) -> dict[str, Any]:
        """Return the state of delivery, without any I/O."""
        return self._delivery.health()

    def get_events(
        self,
        flag_key: str | None = None,
        limit: int | None = None,
        *,
        window: Window | None = None,
        where: EventFilter | None = None,
    ) -> EventStream:
        """Return stored events by time: await it for a list, or iterate over it; see ``ClickHouseStore.get_events``."""
        return self.event_source.get_events(flag_key, limit, window=window, where=where)

    def stats(self) -> DeliveryStats:
        """Return the ledger of every event so far."""
        return self._delivery.stats()
