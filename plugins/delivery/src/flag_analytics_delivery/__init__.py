"""The delivery engine: one log of events, and a cursor for each backend that is written to in batches."""

from __future__ import annotations

from .delivery import Delivery

__all__ = ["Delivery"]
