"""One engine for every backend that buffers: queue, batches, retries, spool and ledger."""

from __future__ import annotations

from .delivery import Delivery
from .exit import install_signal_handlers
from .ledger import DeadLetter, DeliveryReport, DeliveryStats, SinkStats
from .options import DeliveryOptions

__all__ = [
    "DeadLetter",
    "Delivery",
    "DeliveryOptions",
    "DeliveryReport",
    "DeliveryStats",
    "SinkStats",
    "install_signal_handlers",
]
