"""``AnalyticsHook``: an OpenFeature hook that records every evaluation and never disturbs one."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from flag_analytics.processes import renew_after_fork
from flag_analytics.protocols import RecordResult
from openfeature.evaluation_context import EvaluationContext
from openfeature.flag_evaluation import FlagEvaluationDetails
from openfeature.hook import Hook, HookContext, HookHints

from .mapping import ContextChoice, record
from .once import once_for
from .recording import recorder_for

__all__ = ["AnalyticsHook"]

_logger = logging.getLogger("flag_analytics.openfeature")
_STARTED = "flag_analytics.started"
_LOG_EVERY_SECONDS = 60.0


class AnalyticsHook(Hook):
    """Turns every evaluation, of any provider, synchronous or not, into an event at the moment it ends.

    The SDK answers with the caller's default when a hook raises, and calls every hook in the caller's thread. So no
    method of this one raises or waits: what goes wrong is counted in ``failures`` and logged at most once a minute,
    without any content of the event.

    An evaluation is recorded once, also where several hooks see it that have the same pipeline, or open pipelines of
    equal configuration: a notebook's cell that ran again, or a hook of the API beside one of a client. The hook that
    was added last records it, those of a client before those of the API.

    Args:
        target: A pipeline, or a collector: anything with ``record_nowait(event)``, else with ``async record(event)``,
            which becomes a task of the running event loop.
        context_attributes: Which attributes of the evaluation context to record: all (True), none (False), or an
            iterable of the names to keep.
        targeting_key: Whether to record for whom the flag was evaluated.

    Raises:
        TypeError: ``target`` cannot record events, or ``context_attributes`` is a single string.
    """

    def __init__(
        self, target: Any, *, context_attributes: bool | Iterable[str] = True, targeting_key: bool = True
    ) -> None:
        if isinstance(context_attributes, str):
            raise TypeError(
                "context_attributes is a string: expected True, False or several names, such as ['plan', 'country']"
            )
        self._context: ContextChoice = (
            context_attributes if isinstance(context_attributes, bool) else frozenset(context_attributes)
        )
        self._targeting_key = bool(targeting_key)
        self._recorder = recorder_for(target, self._failed)
        self._once = once_for(target)
        self._failures: Counter[str] = Counter()
        self._repeated = 0
        self._lock = threading.Lock()
        self._next_log = 0.0
        renew_after_fork(self._after_fork_in_child)

    @property
    def failures(self) -> dict[str, int]:
        """How many evaluations could not be recorded (or not be timed), by the exception's type or other cause."""
        with self._lock:
            return dict(self._failures)

    @property
    def repeated(self) -> int:
        """How many evaluations were left to another hook, which had recorded them."""
        return self._repeated

    def before(
        self,
        hook_context: HookContext,
        hints: HookHints,  # noqa: ARG002 - the SDK's signature
    ) -> EvaluationContext | None:
        """Note when the evaluation started."""
        try:
            notes = getattr(hook_context, "hook_data", None)  # a hook may be called by others than the SDK
            if notes is not None:
                notes[_STARTED] = time.perf_counter_ns()
        except Exception as error:
            self._failed(type(error).__name__)
        return None

    def finally_after(
        self,
        hook_context: HookContext,
        details: FlagEvaluationDetails[Any],
        hints: HookHints,  # noqa: ARG002 - the SDK's signature
    ) -> None:
        """Record the evaluation; one that ended before it began (a provider not ready) has no duration."""
        try:
            if self._once.recorded(details):
                with self._lock:
                    self._repeated += 1
                return
            started = getattr(hook_context, "hook_data", {}).get(_STARTED)
            result = record(
                self._recorder,
                hook_context,
                details,
                started,
                context_attributes=self._context,
                targeting_key=self._targeting_key,
            )
            # A pipeline that is closed leaves the evaluation to the hook of an open one.
            if result is not RecordResult.CLOSED:
                self._once.note(details)
        except Exception as error:
            self._failed(type(error).__name__)

    def _failed(self, cause: str) -> None:
        with self._lock:
            self._failures[cause] += 1
            total = self._failures.total()
            now = time.monotonic()
            if now < self._next_log:
                return
            self._next_log = now + _LOG_EVERY_SECONDS
        # The application's own logging filters run in there, and must not reach the evaluation either.
        with contextlib.suppress(Exception):
            _logger.warning("could not record an evaluation: %s (%d failures so far)", cause, total)

    def _after_fork_in_child(self) -> None:
        self._lock = threading.Lock()
