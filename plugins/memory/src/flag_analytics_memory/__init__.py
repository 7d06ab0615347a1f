"""The in-memory collector of flag-analytics."""

from __future__ import annotations

from .collector import InMemoryAnalyticsCollector, MemoryStats

__all__ = ["InMemoryAnalyticsCollector", "MemoryStats"]
