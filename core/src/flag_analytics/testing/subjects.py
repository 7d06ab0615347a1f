"""``Subject``: one way to drive whatever a plugin's fixture returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from flag_analytics_delivery import Delivery

from ..collector_sink import CollectorSink
from ..reports import DeliveryOptions

__all__ = ["Subject"]

_PATIENCE_SECONDS = 30.0
_PROMPT = DeliveryOptions(flush_interval_seconds=0.01, retry_initial_seconds=0.01, close_timeout_seconds=30.0)


class Subject:
    """A backend under test: a collector as it is, a sink behind the delivery engine, as in a pipeline.

    Args:
        backend: What the plugin's fixture returned.
        behind_engine: Put a plain collector behind the delivery engine, too.
    """

    def __init__(self, backend: Any, *, behind_engine: bool = False) -> None:
        self.backend = backend
        self.delivery: Delivery | None = None
        if hasattr(backend, "write"):
            self.delivery = Delivery({"subject": backend}, _PROMPT)
        elif behind_engine:
            self.delivery = Delivery({"subject": CollectorSink(backend)}, _PROMPT)
        driver = self.delivery or backend
        self._record: Callable[[Any], Any] = getattr(driver, "record", None) or driver.record_nowait
        self._driver = driver

    async def record(self, *events: Any) -> None:
        """Record these events one after the other."""
        for event in events:
            await _result(self._record(event))

    async def flush(self) -> None:
        """Flush; where a report is given, it must say that everything is stored."""
        report = await _result(self._driver.flush())
        assert report is None or report, f"flush() did not store everything: {report}"

    async def close(self) -> None:
        if self.delivery is not None:
            await self.delivery.close(_PATIENCE_SECONDS)
        else:
            await _result(self._driver.close())


async def _result(outcome: Any) -> Any:
    return await outcome if inspect.isawaitable(outcome) else outcome
