"""``Subject``: one way to drive whatever a plugin's fixture returns, behind the delivery engine or by itself."""

from __future__ import annotations

import inspect
import itertools
import threading
from collections.abc import Callable
from typing import Any

from flag_analytics_delivery import Delivery

from ..collector_sink import CollectorSink
from ..freezer import Freezer
from ..protocols import Batch
from ..reports import DeliveryOptions

__all__ = ["Subject"]

_PATIENCE_SECONDS = 30.0
_PROMPT = DeliveryOptions(flush_interval_seconds=0.01, retry_initial_seconds=0.01, close_timeout_seconds=30.0)
_numbers = itertools.count(1)


class Subject:
    """A backend under test.

    ``record``, ``flush`` and ``close`` use it as a pipeline does: a collector as it is, a sink behind the delivery
    engine. ``store`` and ``attempt`` hand it batches themselves, in the test's own event loop, where everything that
    happens is the backend's doing. A test uses one of the two.

    Args:
        backend: What the plugin's fixture returned.
        behind_engine: Put a plain collector behind the delivery engine, too.
    """

    def __init__(self, backend: Any, *, behind_engine: bool = False) -> None:
        self.backend = backend
        self.is_sink = hasattr(backend, "write")
        self.delivery: Delivery | None = None
        self._behind_engine = behind_engine
        self._freezer = Freezer()
        self._opened = False
        self._lock = threading.Lock()

    def start(self) -> Any:
        """Return what takes events: the backend, or the engine before it, which is made at the first call."""
        if not (self.is_sink or self._behind_engine):
            return self.backend
        if self.delivery is not None:  # without the lock, which a fork could find taken
            return self.delivery
        with self._lock:
            if self.delivery is None:
                sink = self.backend if self.is_sink else CollectorSink(self.backend)
                self.delivery = Delivery({"subject": sink}, _PROMPT)
            return self.delivery

    async def record(self, *events: Any) -> None:
        """Record these events one after the other."""
        record = _recorder(self.start())
        for event in events:
            await _result(record(event))

    async def flush(self) -> None:
        """Flush; where a report is given, it must say that everything is stored."""
        report = await _result(self.start().flush())
        assert report is None or report, f"flush() did not store everything: {report}"

    async def close(self) -> None:
        if self.delivery is not None:
            await self.delivery.close(_PATIENCE_SECONDS)
        elif hasattr(self.backend, "close"):
            await _result(self.backend.close())

    def batch(self, *events: Any) -> Batch:
        """Return the events as a sink gets them: frozen, and under an id."""
        return Batch(f"kit-{next(_numbers)}", tuple(self._freezer.freeze(event) for event in events))

    async def store(self, *events: Any) -> Batch:
        """Hand the backend one batch, and return it; raises what the backend raises."""
        batch = self.batch(*events)
        await self.write(batch)
        return batch

    async def write(self, batch: Batch) -> None:
        """Hand over a batch: a sink writes it, any other backend records its events and flushes."""
        if self.is_sink:
            if not self._opened and hasattr(self.backend, "open"):
                await self.backend.open()
            self._opened = True
            await self.backend.write(batch)
            return
        record = _recorder(self.backend)
        for event in batch:
            await _result(record(event.thaw()))
        await _result(self.backend.flush())

    async def write_again(self, batch: Batch) -> None:
        """Do what follows a failed ``write``: a sink gets the same batch anew, any other backend is flushed."""
        await (self.write(batch) if self.is_sink else _result(self.backend.flush()))


def _recorder(driver: Any) -> Callable[[Any], Any]:
    record: Callable[[Any], Any] = getattr(driver, "record", None) or driver.record_nowait
    return record


async def _result(outcome: Any) -> Any:
    return await outcome if inspect.isawaitable(outcome) else outcome
