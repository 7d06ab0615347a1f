"""Reads the fields of an event that the exporter counts, as plain texts and numbers."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from flag_analytics.events import EvaluationReason
from flag_analytics.freezer import Freezer

__all__ = ["Seen", "read_event"]


class Seen(NamedTuple):
    """The fields of one event; a duration of 0.0 was not measured."""

    flag_key: str
    reason: str
    variant: str | None
    targeting_key: str | None
    milliseconds: float
    kind: str
    error_type: str | None
    sample_rate: float


_TEXT_OR_NONE = (str, type(None))
_PLAIN_TYPES = frozenset(
    (str, str, variant, user, float, str, error, float)
    for variant in _TEXT_OR_NONE
    for user in _TEXT_OR_NONE
    for error in _TEXT_OR_NONE
)


def read_event(event: Any, freezer: Freezer) -> Seen:
    """Return the fields of an event or of any object like one, where needed in their canonical form.

    Raises:
        EventError: it is no event at all.
    """
    try:
        seen = _read_plain(event)
    except Exception:
        seen = None  # read again below, with care
    if seen is not None:
        return seen
    frozen = freezer.freeze(event)
    return Seen(
        frozen.flag_key,
        frozen.reason,
        frozen.variant,
        frozen.targeting_key,
        frozen.evaluation_duration_ms,
        frozen.kind,
        frozen.error_type,
        frozen.sample_rate,
    )


def _read_plain(event: Any) -> Seen | None:
    """Return the fields of an event; None where one needs the freezer."""
    reason = event.reason
    if type(reason) is EvaluationReason:
        reason = reason.value
    seen = Seen(
        event.flag_key,
        reason,
        event.variant,
        event.targeting_key,
        event.evaluation_duration_ms,
        getattr(event, "kind", "evaluation"),
        getattr(event, "error_type", None),
        getattr(event, "sample_rate", 1.0),
    )
    plain = (
        tuple(map(type, seen)) in _PLAIN_TYPES and 0.0 <= seen.milliseconds < math.inf and 0.0 < seen.sample_rate <= 1.0
    )
    return seen if plain else None
