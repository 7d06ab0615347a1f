"""``Adapter``: what the adapters of all SDKs share, so that none can disturb an evaluation."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar

from flag_analytics.events import EventKind
from flag_analytics.processes import renew_after_fork
from flag_analytics.recording import Recorder, record_evaluation

__all__ = ["Adapter", "guarded"]

_logger = logging.getLogger("flag_analytics.sdks")
_LOG_EVERY_SECONDS = 60.0
_P = ParamSpec("_P")
_A = TypeVar("_A", bound="Adapter")


class Adapter:
    """Records the evaluations of one SDK; never raises into one, and never waits.

    What goes wrong is counted in ``failures`` and logged at most once a minute, without any content of the event.

    Args:
        pipeline: Where to: a pipeline, or a collector with ``record_nowait(event)``.
        context_attributes: Which attributes of the user or context to record: all (True), none (False), or an iterable
            of the names to keep.
        targeting_key: Whether to record for whom the flag was evaluated.

    Attributes:
        provider_name: The SDK, as events name it.
        names: Which attributes are recorded: all, none, or these.

    Raises:
        TypeError: ``pipeline`` has no ``record_nowait``, or ``context_attributes`` is a single string.
    """

    provider_name: ClassVar[str] = ""
    names: bool | frozenset[str]

    def __init__(
        self, pipeline: Recorder, *, context_attributes: bool | Iterable[str] = True, targeting_key: bool = True
    ) -> None:
        if not callable(getattr(pipeline, "record_nowait", None)):
            raise TypeError(
                f"{type(pipeline).__name__} cannot record events at once: expected a pipeline, or a collector with "
                "record_nowait(event)"
            )
        if isinstance(context_attributes, str):
            raise TypeError(
                "context_attributes is a string: expected True, False or several names, such as ['plan', 'country']"
            )
        self._pipeline = pipeline
        self.names = context_attributes if isinstance(context_attributes, bool) else frozenset(context_attributes)
        self._targeting_key = bool(targeting_key)
        self._failures: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._next_log = 0.0
        renew_after_fork(self._after_fork_in_child)

    @property
    def failures(self) -> dict[str, int]:
        """How many evaluations could not be recorded, by the exception's type."""
        with self._lock:
            return dict(self._failures)

    def record(
        self,
        key: str,
        value: Any,
        *,
        variant: str | None = None,
        reason: str | None = None,
        user: Any = None,
        attributes: Mapping[str, Any] | None = None,
        started: int | None = None,
        kind: EventKind = "evaluation",
        error_type: str | None = None,
        error_message: str | None = None,
        flag_version: str | None = None,
    ) -> None:
        """Record an evaluation that has just ended, as ``record_evaluation`` does."""
        # Each by its name: a mapping of further fields would be made and taken apart twice for each evaluation.
        if user is not None and user.__class__ is not str:
            user = str(user)
        record_evaluation(
            self._pipeline,
            key,
            value,
            variant=variant,
            reason=reason,
            user=(user or None) if self._targeting_key else None,
            attributes=self._kept(attributes) if attributes else None,
            started=started,
            kind=kind,
            error_type=error_type,
            error_message=error_message,
            flag_version=flag_version,
            provider_name=self.provider_name,
        )

    def failed(self, error: Exception) -> None:
        """Count an evaluation that could not be recorded."""
        cause = type(error).__name__
        with self._lock:
            self._failures[cause] += 1
            total = self._failures.total()
            now = time.monotonic()
            if now < self._next_log:
                return
            self._next_log = now + _LOG_EVERY_SECONDS
        # The application's own logging filters run in there, and must not reach the evaluation either.
        with contextlib.suppress(Exception):
            _logger.warning(
                "could not record an evaluation of %s: %s (%d failures so far)", self.provider_name, cause, total
            )

    def _kept(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        # A copy of its own: the attributes stay the caller's, who may go on changing them.
        if self.names is True:
            return dict(attributes)
        if self.names is False:
            return {}
        return {name: value for name, value in attributes.items() if name in self.names}

    def _after_fork_in_child(self) -> None:
        self._lock = threading.Lock()


def guarded(method: Callable[Concatenate[_A, _P], None]) -> Callable[Concatenate[_A, _P], None]:
    """Return the method of an adapter so that an exception in it is counted instead of raised."""

    def call(self: _A, /, *args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            self.failed(error)

    functools.update_wrapper(call, method)
    return call
