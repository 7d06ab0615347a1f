"""How an event gets from the hook, which is synchronous, to a pipeline or collector."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.protocols import RecordResult
from flag_analytics.recording import Recorder

__all__ = ["MAX_SCHEDULED", "recorder_for"]

MAX_SCHEDULED = 10_000
"""The most calls of an asynchronous ``record`` that may wait for their event loop at once."""


def recorder_for(target: Any, failed: Callable[[str], None]) -> Recorder:
    """Return what hands each event to ``target`` without waiting; ``failed`` is called with the cause of a failure.

    Raises:
        TypeError: ``target`` has neither ``record_nowait`` nor ``record``.
    """
    if callable(getattr(target, "record_nowait", None)):
        recorder: Recorder = target
        return recorder
    record = getattr(target, "record", None)
    if callable(record):
        return _AsyncRecorder(record, failed)
    raise TypeError(
        f"{type(target).__name__} cannot record events: expected a pipeline, or a collector with "
        "record_nowait(event) or async record(event)"
    )


class _AsyncRecorder:
    """Records through a collector that has only ``async def record``.

    Under a running event loop each call becomes a task of that loop. It must not be driven from the evaluating task
    itself: a timeout or task group that ``record`` opens would take the application's task for its own, and cancel it.
    Without a loop, ``record`` is driven up to its first suspension, which one that only touches memory never reaches;
    one that does suspend is closed there, and counted.
    """

    def __init__(self, record: Callable[[FlagEvaluationEvent], Any], failed: Callable[[str], None]) -> None:
        self._record = record
        self._failed = failed
        self._tasks: set[asyncio.Task[None]] = set()

    def record_nowait(self, event: FlagEvaluationEvent) -> RecordResult:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._record_without_loop(event)
            return RecordResult.ACCEPTED
        if len(self._tasks) >= MAX_SCHEDULED and not self._forget_closed_loops():
            self._failed("overflow")
            return RecordResult.OVERFLOW
        pending = self._record(event)
        if inspect.isawaitable(pending):
            # The loop holds its tasks weakly.
            task = loop.create_task(_finish(pending))
            self._tasks.add(task)
            task.add_done_callback(self._done)
        return RecordResult.ACCEPTED

    def _record_without_loop(self, event: FlagEvaluationEvent) -> None:
        pending = self._record(event)
        if not inspect.isawaitable(pending):
            return
        coroutine = _finish(pending)
        try:
            coroutine.send(None)
        except StopIteration:
            return
        coroutine.close()
        self._failed("no event loop")

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            self._failed("cancelled")
        elif (error := task.exception()) is not None:
            self._failed(type(error).__name__)

    def _forget_closed_loops(self) -> bool:
        """Drop tasks whose loop was closed before they ran; return whether that made room."""
        for task in list(self._tasks):
            if task.get_loop().is_closed():
                self._tasks.discard(task)
                self._failed("loop closed")
        return len(self._tasks) < MAX_SCHEDULED


async def _finish(pending: Awaitable[Any]) -> None:
    await pending
