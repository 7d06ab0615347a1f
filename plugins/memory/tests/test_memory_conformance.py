"""The in-memory collector keeps the contract of every collector, held directly and behind a pipeline."""

from __future__ import annotations

import pytest
from flag_analytics.testing import CollectorContract
from flag_analytics_memory import InMemoryAnalyticsCollector


class TestInMemoryCollector(CollectorContract):
    keeps_after_close = False  # closing forgets: it releases the memory

    @pytest.fixture
    def collector(self) -> InMemoryAnalyticsCollector:
        return InMemoryAnalyticsCollector()


class TestInMemoryCollectorBehindTheEngine(TestInMemoryCollector):
    takes_events_directly = False
