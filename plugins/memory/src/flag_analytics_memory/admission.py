"""Which events may be kept as they are: those that nobody can change, and that are in normal form already.

``FlagEvaluationEvent`` is immutable, but its context and its value may not be. An event is *inert* when both are empty
or scalar; whether its other fields are in normal form can then be found out at any later time.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import msgspec
from flag_analytics.events import EvaluationReason, FlagEvaluationEvent
from flag_analytics.normal_form import MAX_KEY_CHARS

__all__ = ["has_normal_fields", "is_inert", "is_small", "without_context"]

_MAX_INT = 2**63 - 1
_KINDS = frozenset({"evaluation", "exposure", "outcome"})


def is_inert(event: object) -> bool:
    """Return whether this is our own event, without a context, and with a value that is immutable, small and normal."""
    return type(event) is FlagEvaluationEvent and not event.context_attributes and is_small(event.value)


def is_small(value: Any) -> bool:
    """Return whether a value is None or a short or bounded scalar in normal form."""
    kind = type(value)
    if value is None or kind is bool:
        return True
    if kind is str:
        return _is_short(value)
    if kind is int:
        return bool(-_MAX_INT <= value <= _MAX_INT)
    return kind is float and math.isfinite(value)


def has_normal_fields(event: FlagEvaluationEvent) -> bool:
    """Return whether every field beside the context and the value is in normal form."""
    try:
        return (
            type(event.timestamp) is datetime
            and event.timestamp.tzinfo is UTC
            and type(event.flag_key) is str
            and _is_short(event.flag_key)
            and (type(event.reason) is EvaluationReason or (_is_short(event.reason) and event.reason != ""))
            and (event.variant is None or _is_short(event.variant))
            and (event.targeting_key is None or _is_short(event.targeting_key))
            and type(event.evaluation_duration_ms) is float
            and math.isfinite(event.evaluation_duration_ms)
            and type(event.event_id) is str
            and len(event.event_id) == 36
            and type(event.sample_rate) is float
            and event.sample_rate == 1.0
            and type(event.kind) is str
            and event.kind in _KINDS
            and (event.error_type is None or _is_short(event.error_type))
            and (event.error_message is None or _is_short(event.error_message))
            and (event.flag_version is None or _is_short(event.flag_version))
            and (event.flag_set_id is None or _is_short(event.flag_set_id))
            and (event.provider_name is None or _is_short(event.provider_name))
        )
    except Exception:  # a hostile attribute: the freezer takes such an event apart
        return False


def without_context(event: Any) -> Any:
    """Return an inert event as it was when it came: whatever is in its context now was put there since."""
    if type(event) is FlagEvaluationEvent and event.context_attributes:
        return msgspec.structs.replace(event, context_attributes={})
    return event


def _is_short(text: Any) -> bool:
    return type(text) is str and len(text) <= MAX_KEY_CHARS and text.isprintable()
