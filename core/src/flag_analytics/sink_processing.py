"""``ProcessedSink``: a sink that gets its events through processors of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import msgspec

from .events import FlagEvaluationEvent
from .freezer import Freezer
from .frozen import FrozenEvent
from .processes import renew_after_fork
from .processing import as_event, unusable
from .protocols import Batch, BatchSink, InlineSink, Processor, RecordResult

__all__ = ["ProcessedSink", "processed"]


class ProcessedSink:
    """Hands events on to a sink as its processors leave them; all else of the sink is as it is.

    An event is processed anew at each attempt, in the thread of the sink, so its processors must do the same to the
    same event each time. One that breaks a processor never reaches the sink: it becomes a dead letter, or is refused.

    Attributes:
        filtered: Events that the processors dropped out of batches that the sink has taken.
    """

    def __init__(self, sink: BatchSink | InlineSink, processors: Sequence[Processor]) -> None:
        self._sink: Any = sink
        self._processors = tuple(processors)
        self._freezer = Freezer()
        self._renew()
        renew_after_fork(self._renew)

    def _renew(self) -> None:
        self.filtered = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sink, name)

    def process(self, event: Any) -> FlagEvaluationEvent | None:
        """Return what is left of an event; None if a processor drops it. Raises what a processor raises."""
        event = as_event(event)
        for processor in self._processors:
            event = processor(event)
            if event is None:
                return None
            if event.__class__ is not FlagEvaluationEvent:
                raise unusable(event)
        return event  # type: ignore[no-any-return]

    def _frozen(self, event: FrozenEvent) -> FrozenEvent | None:
        left = self.process(event)
        if left is None:
            return None
        frozen = self._freezer.freeze(left)
        return msgspec.structs.replace(frozen, received_at=event.received_at, traceparent=event.traceparent)


class _ProcessedBatches(ProcessedSink):
    def prepare(self, event: FrozenEvent) -> None:
        """Refuse an event that breaks a processor, or that the sink itself refuses."""
        left = self._frozen(event)
        prepare = getattr(self._sink, "prepare", None)
        if left is not None and prepare is not None:
            prepare(left)

    async def write(self, batch: Batch) -> object:
        """Write what is left of a batch, under the same id."""
        left = [event for event in map(self._frozen, batch) if event is not None]
        answer: object = await self._sink.write(Batch(batch.id, tuple(left))) if left else None
        self.filtered += len(batch) - len(left)  # once: an attempt that fails comes again
        return answer


class _WithDeadLetters(_ProcessedBatches):
    async def write_dead_letters(self, letters: Sequence[Any]) -> None:
        """Keep refused events as the processors leave them; one that breaks them is not kept by the sink."""
        kept = []
        for letter in letters:
            try:
                left = self._frozen(letter.event)
            except Exception:
                left = None  # privacy fails closed: the engine has counted the event as dead
            if left is not None:
                kept.append(attrs.evolve(letter, event=left))
        if kept:
            await self._sink.write_dead_letters(kept)


class _ProcessedInline(ProcessedSink):
    def record_nowait(self, event: Any) -> RecordResult:
        """Take an event as the processors leave it."""
        left = self.process(event)
        if left is None:
            return RecordResult.FILTERED
        result: RecordResult = self._sink.record_nowait(left)
        return result


def processed(sink: Any, processors: Sequence[Processor]) -> Any:
    """Return a sink whose events go through processors first; the sink itself where there are none."""
    if not processors:
        return sink
    if not callable(getattr(sink, "write", None)):
        return _ProcessedInline(sink, processors)
    keeps_letters = callable(getattr(sink, "write_dead_letters", None))
    return (_WithDeadLetters if keeps_letters else _ProcessedBatches)(sink, processors)
