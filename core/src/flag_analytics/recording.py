"""``record_evaluation``: one evaluation of a flag SDK, recorded in one call."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from .events import EventKind, FlagEvaluationEvent, as_reason
from .protocols import RecordResult

__all__ = ["Recorder", "record_evaluation"]


class Recorder(Protocol):
    """Takes events at once: a pipeline, or a collector in memory."""

    def record_nowait(self, event: Any, /) -> RecordResult: ...


def record_evaluation(
    pipeline: Recorder,
    key: str,
    value: Any,
    *,
    variant: str | None = None,
    reason: str | None = None,
    user: str | None = None,
    attributes: Mapping[str, Any] | None = None,
    started: int | None = None,
    kind: EventKind = "evaluation",
    error_type: str | None = None,
    error_message: str | None = None,
    flag_version: str | None = None,
    flag_set_id: str | None = None,
    provider_name: str | None = None,
) -> RecordResult:
    """Record an evaluation that has just ended, and return what became of it; never raises, never waits.

    Args:
        pipeline: Where to; anything with ``record_nowait(event)``.
        key: The flag's key.
        value: The evaluated value.
        variant: The variant's key.
        reason: Why this value was returned; None is ``UNKNOWN``.
        user: For whom: the targeting key.
        attributes: Further attributes of the evaluation context.
        started: ``time.perf_counter_ns()`` when the evaluation began; None where it was not measured.
        kind: ``evaluation`` (the flag was asked) or ``exposure`` (the user met its effect).
        error_type: What went wrong, as an OpenFeature error code.
        error_message: What went wrong, for people.
        flag_version: The version of the flag's definition.
        flag_set_id: The set (project, namespace) the flag belongs to.
        provider_name: The SDK or OpenFeature provider that evaluated.
    """
    return pipeline.record_nowait(
        FlagEvaluationEvent(
            datetime.now(UTC),
            key,
            value,
            as_reason("UNKNOWN" if reason is None else reason),
            variant,
            user,
            {} if attributes is None else attributes,
            0.0 if started is None else (time.perf_counter_ns() - started) / 1e6,
            error_type=error_type,
            error_message=error_message,
            flag_version=flag_version,
            flag_set_id=flag_set_id,
            provider_name=provider_name,
            kind=kind,
        )
    )
