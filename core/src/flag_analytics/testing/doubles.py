"""Doubles of backends: they remember what they were given, and fail as their script says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from ..errors import CommitUnknown
from ..frozen import FrozenEvent
from ..protocols import Batch, RecordResult

__all__ = ["FailingSink", "LostAnswer", "RecordingCollector", "RecordingSink"]


class RecordingCollector:
    """An ``AnalyticsCollector`` that keeps what it is given in ``events``, and counts calls of ``flush`` and ``close``.

    For tests of what records events: adapters, hooks, applications.
    """

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.flushes = 0
        self.closes = 0

    async def record(self, event: Any) -> None:
        self.events.append(event)

    def record_nowait(self, event: Any) -> RecordResult:
        self.events.append(event)
        return RecordResult.ACCEPTED

    async def flush(self) -> None:
        self.flushes += 1

    async def close(self) -> None:
        self.closes += 1


class RecordingSink:
    """A ``BatchSink`` that stores each event id once, in memory.

    Attributes:
        batches: Every batch that ``write`` was called with, in order, also those it failed on.
        stored: The stored events by id, in the order of storing.
        resent: How many events came that were stored already.
        closes: How often ``close`` was called.
    """

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.stored: dict[str, FrozenEvent] = {}
        self.resent = 0
        self.closes = 0

    async def write(self, batch: Batch) -> None:
        self.batches.append(batch)
        self._store(batch)

    async def close(self) -> None:
        self.closes += 1

    def _store(self, batch: Batch) -> None:
        for event in batch:
            if event.event_id in self.stored:
                self.resent += 1
            self.stored.setdefault(event.event_id, event)


@attrs.frozen
class LostAnswer:
    """A step of a script: the batch is stored, then ``error`` is raised, as when the connection breaks in between."""

    error: Exception = attrs.field(factory=lambda: CommitUnknown("the answer was lost", code="LOST"))


class FailingSink(RecordingSink):
    """A ``RecordingSink`` whose ``write`` does, call by call, what its script says.

    A step is None (store the batch), an exception (raise it, store nothing) or a ``LostAnswer``. After the last step
    every write succeeds::

        FailingSink([SinkUnavailable("down"), LostAnswer(), None])
    """

    def __init__(self, script: Iterable[Exception | LostAnswer | None]) -> None:
        super().__init__()
        self._script = iter(script)

    async def write(self, batch: Batch) -> None:
        self.batches.append(batch)
        step = next(self._script, None)
        if isinstance(step, Exception):
            raise step
        self._store(batch)
        if isinstance(step, LostAnswer):
            raise step.error
