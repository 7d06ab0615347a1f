"""The sink of a created object: the object itself, or a ``BatchSink`` around a plain ``AnalyticsCollector``."""

from __future__ import annotations

import difflib
import inspect
from typing import Any, cast

from .errors import CommitUnknown
from .plugin_calls import kind_of
from .protocols import Batch, BatchSink, InlineSink
from .reports import DeliveryReport

__all__ = ["CollectorSink", "as_sink"]

_OPTIONAL = ("after_fork_in_child", "close", "flush", "open", "ping", "prepare", "traceparent", "write_dead_letters")
_NEAR = 0.85
"""How alike the names are that are taken for a mistake: ``pings`` and ``ping`` are, ``reopen`` and ``open`` are not."""


class CollectorSink:
    """Records the events of a batch one by one, then flushes.

    A collector that fails in the middle of a batch gets the rest at the next attempt, and none of its events twice.
    """

    def __init__(self, collector: Any) -> None:
        self.collector = collector
        self._taken: set[str] = set()
        """Ids the collector has taken of a batch that is not flushed yet."""

    async def write(self, batch: Batch) -> None:
        """Record the events that the collector has not taken yet, and flush."""
        ids = {event.event_id for event in batch}
        if self._taken.isdisjoint(ids):
            self._taken.clear()  # their batch was given up
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


def as_sink(created: Any) -> BatchSink | InlineSink:
    """Return the sink of a created object.

    Raises:
        TypeError: it is neither sink nor collector, or a method is misspelled; the message begins with its type.
    """
    if isinstance(created, type):
        raise TypeError(f"the class {created.__name__}, expected an instance of it")
    methods = [name for name in dir(created) if name[0] != "_" and callable(getattr(type(created), name, None))]
    is_sink = any(callable(getattr(created, method, None)) for method in ("write", "record_nowait"))
    for method in _OPTIONAL if is_sink else ("write",):
        close = [] if method in methods else difflib.get_close_matches(method, methods, n=1, cutoff=_NEAR)
        if close:
            raise TypeError(f"{kind_of(created)} with {close[0]}: did you mean {method}?")
    if is_sink:
        return cast("BatchSink | InlineSink", created)
    if all(callable(getattr(created, method, None)) for method in ("record", "flush", "close")):
        return CollectorSink(created)
    raise TypeError(f"{kind_of(created)}, expected an object with write, or with record, flush and close")


async def _waited(result: Any) -> Any:
    # Third parties write `def` where they have nothing to wait for.
    return await result if inspect.isawaitable(result) else result
