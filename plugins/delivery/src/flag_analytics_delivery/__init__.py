"""One engine for every backend that buffers: queue, batches, retries, spool and ledger."""

from __future__ import annotations

from .delivery import Delivery

__all__ = ["Delivery"]
