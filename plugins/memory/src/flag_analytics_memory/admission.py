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
from flag_analytics.normal_form import MAX_KEY_CHARS, FrozenEvent

__all__ = ["is_inert", "is_normal", "is_short", "is_small", "without_context"]

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
        return is_short(value)
    if kind is int:
        return bool(-_MAX_INT <= value <= _MAX_INT)
    return kind is float and math.isfinite(value)


def is_normal(event: Any) -> bool:
    """Return whether an admitted event is in normal form: it is frozen, or inert and all its other fields are."""
    if type(event) is FrozenEvent:
        return True
    try:
        return (
            type(event.timestamp) is datetime
            and event.timestamp.tzinfo is UTC
            and is_short(event.flag_key)
            and (type(event.reason) is EvaluationReason or (is_short(event.reason) and event.reason != ""))
            and (event.variant is None or is_short(event.variant))
            and (event.targeting_key is None or is_short(event.targeting_key))
            and type(event.evaluation_duration_ms) is float
            and math.isfinite(event.evaluation_duration_ms)
            and type(event.event_id) is str
            and len(event.event_id) == 36
            and type(event.sample_rate) is float
            and event.sample_rate == 1.0
            and type(event.kind) is str
            and event.kind in _KINDS
            and (event.error_type is None or is_short(event.error_type))
            and (event.error_message is None or is_short(event.error_message))
            and (event.flag_version is None or is_short(event.flag_version))
            and (event.flag_set_id is None or is_short(event.flag_set_id))
            and (event.provider_name is None or is_short(event.provider_name))
        )
    except Exception:  # a hostile attribute: the freezer takes such an event apart
        return False


def without_context(event: Any) -> Any:
    """Return an inert event as it was when it came: whatever is in its context now was put there since."""
    if type(event) is FlagEvaluationEvent and (event.context_attributes or type(event.context_attributes) is not dict):
        return msgspec.structs.replace(event, context_attributes={})
    return event


def is_short(text: Any) -> bool:
    """Return whether this is text that every backend can index as it is."""
    return type(text) is str and len(text) <= MAX_KEY_CHARS and text.isprintable()
