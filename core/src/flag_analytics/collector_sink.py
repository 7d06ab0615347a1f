"""Lets a plain ``AnalyticsCollector`` of a third party stand behind the delivery engine, as a ``BatchSink``."""

from __future__ import annotations

import inspect
from typing import Any

from .errors import CommitUnknown
from .protocols import Batch
from .reports import DeliveryReport

__all__ = ["CollectorSink"]


class CollectorSink:
    """Records the events of a batch one by one, then flushes.

    A collector that fails in the middle of a batch gets the rest at the next attempt, and none of its events twice.
    """

    def __init__(self, collector: Any) -> None:
        self.collector = collector
        self._taken: set[str] = set()
        """Ids the collector has taken of a batch that is not flushed yet."""

    async def write(self, batch: Batch) -> None:
        """Record what the collector has not taken yet, and flush."""
        ids = {event.event_id for event in batch}
        if self._taken.isdisjoint(ids):
            self._taken.clear()  # what they belonged to was given up: a batch that follows is a new one
        for event in batch:
            if event.event_id not in self._taken:
                await _waited(self.collector.record(event.thaw()))
                self._taken.add(event.event_id)
        flushed = await _waited(self.collector.flush())
        if isinstance(flushed, DeliveryReport) and not flushed:
            raise CommitUnknown("the collector's own flush was not complete")
        self._taken -= ids

    async def close(self) -> None:
        """Close the collector."""
        await _waited(self.collector.close())


async def _waited(result: Any) -> Any:
    # Third parties write `def` where they have nothing to wait for.
    return await result if inspect.isawaitable(result) else result
