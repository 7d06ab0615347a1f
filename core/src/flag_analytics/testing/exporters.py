"""``ExporterContract``: what a backend promises that passes events on to a monitoring system."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import pytest_asyncio

from .life_cycle import LifeCycleContract
from .samples import plain_event
from .subjects import Subject

__all__ = ["ExporterContract"]


class ExporterContract(LifeCycleContract):
    """Inherit it, return your backend from the fixture ``exporter``, and say in ``exported`` what became of events.

    The monitoring system, or its double, must be told of every evaluation of up to 50 flags. Capabilities are those of
    ``LifeCycleContract``.
    """

    @pytest.fixture
    def exporter(self) -> Any:
        """Return a new backend that has exported nothing."""
        pytest.fail(f"{type(self).__name__} needs a fixture `exporter` that returns a new backend")

    async def exported(self, exporter: Any) -> Mapping[str, int]:
        """Return how many evaluations of each flag the monitoring system has been told of."""
        pytest.fail(f"{type(self).__name__} needs a method `exported`, to see what {type(exporter).__name__} has done")

    @pytest_asyncio.fixture
    async def subject(self, exporter: Any) -> AsyncIterator[Subject]:
        subject = Subject(exporter, behind_engine=not self.takes_events_directly)
        yield subject
        await subject.close()

    async def known(self, subject: Subject) -> Counter[str]:
        """Return how many evaluations of each flag were exported."""
        return Counter({key: count for key, count in (await self.exported(subject.backend)).items() if count})

    @pytest.mark.asyncio
    async def test_events_that_differ_in_every_way_are_all_counted(self, subject: Subject) -> None:
        for reason in ("ERROR", "SPLIT", "MY_OWN_REASON"):
            for variant in (None, "", "default", "on"):
                for value in (None, False, {"a": [1]}):
                    await subject.record(plain_event(reason=reason, variant=variant, value=value))
        await subject.flush()
        assert await self.known(subject) == Counter({"flag-0": 36})
