"""Runs the processors of a pipeline over each event, before the delivery engine sees it."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Sequence
from typing import Any

from .events import FlagEvaluationEvent
from .fanout import Fanout
from .freezer import event_like
from .frozen import FrozenEvent
from .protocols import Processor, RecordResult

__all__ = ["Processing", "as_event", "unusable"]

logger = logging.getLogger("flag_analytics.pipeline")

_LOG_PAUSE_SECONDS = 60.0
_MISSING = object()
_MISTAKEN = ("replace() should be called on dataclass instances", "immutable type: 'FlagEvaluationEvent'")
_UNKNOWN: dict[str, Any] = {"timestamp": None, "flag_key": "", "value": None, "reason": "UNKNOWN"}


class Processing:
    """Takes events for the sinks through processors, in order. Holds no reference to the pipeline it belongs to.

    Args:
        processors: Their names in configuration, and what they do.
        fanout: Where events go, and where those that do not are counted.
    """

    __slots__ = ("_fanout", "_log_next", "_names", "_processors")

    def __init__(self, processors: Sequence[tuple[str, Processor]], fanout: Fanout) -> None:
        self._names = tuple(name for name, _ in processors)
        self._processors = tuple(process for _, process in processors)
        self._fanout = fanout
        self._log_next = 0.0

    def record_nowait(self, event: Any) -> RecordResult:
        """Process one event and hand it on; an event that breaks a processor is dropped and counted. Never raises."""
        step = 0
        try:
            if event.__class__ is not FlagEvaluationEvent:
                event = as_event(event)
            for process in self._processors:
                event = process(event)
                if event is None:
                    return self._fanout.refuse(RecordResult.FILTERED)
                if event.__class__ is not FlagEvaluationEvent:
                    raise unusable(event)
                step += 1
        except BaseException as error:
            outcome = self._fanout.refuse(RecordResult.ERROR)
            if isinstance(error, KeyboardInterrupt):
                raise
            self._log(step, error)
            return outcome
        return self._fanout.record_nowait(event)

    def _log(self, step: int, error: BaseException) -> None:
        now = time.monotonic()
        if now >= self._log_next:
            self._log_next = now + _LOG_PAUSE_SECONDS
            name = self._names[step] if step < len(self._names) else "?"
            advice = _advice(error)
            logger.warning("processor %s raised %s: the event is dropped%s", name, type(error).__name__, advice)


def as_event(event: Any) -> FlagEvaluationEvent:
    """Return an event of this project's class with the fields of any object or mapping; what it lacks gets its default.

    Raises:
        EventError: it has no ``flag_key``.
    """
    if event.__class__ is FrozenEvent:
        thawed: FlagEvaluationEvent = event.thaw()
        return thawed
    event = event_like(event)
    fields = dict(_UNKNOWN)
    for name in FlagEvaluationEvent.__struct_fields__:
        found = _MISSING
        try:
            found = getattr(event, name, _MISSING)
        except Exception:
            pass  # its property raises: the default stands, as for one that is missing
        if found is not _MISSING:
            fields[name] = found
    return FlagEvaluationEvent(**fields)


def _advice(error: BaseException) -> str:
    """Return what to do about an event that was taken for an attrs object, a dataclass or something that can change."""
    words = error.args[0] if error.args and isinstance(error.args[0], str) else ""
    if type(error).__name__ == "NotAnAttrsClassError" or words.startswith(_MISTAKEN):
        return "; return event.replace(name=value) to change an event"
    return ""


def unusable(result: Any) -> TypeError:
    """Return the error that says what a processor returned in the place of an event."""
    if inspect.iscoroutine(result):
        result.close()  # else Python warns of a coroutine that was never awaited
    return TypeError(f"a processor returned {type(result).__name__}, expected FlagEvaluationEvent or None")
