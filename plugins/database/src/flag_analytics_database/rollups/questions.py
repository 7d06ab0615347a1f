"""Which questions counts can answer: those about a variant, a reason or an environment, and about no other field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from flag_analytics.metrics import DEFAULT_VARIANT
from flag_analytics.sources import NO_VALUE, EventFilter, Grouping, OneOf

from ..counting import LONG_ENVIRONMENT
from .summary import Cell

__all__ = ["can_count", "cell_filter", "has_long_environment"]

_COUNTED_KINDS = frozenset({"evaluation", "exposure"})
_FIELDS = frozenset({"variant", "reason"})


def can_count(where: EventFilter, group_by: Grouping | None) -> bool:
    """Return whether counts tell enough to answer about these events, which are in canonical form."""
    context = where.required_context()
    return (
        frozenset(where.kinds) == _COUNTED_KINDS
        and where.required_texts().keys() <= _FIELDS
        and context.keys() <= {"environment"}
        and all(map(_is_name, _values(context)))
        and (group_by is None or group_by.by in {"variant", "reason", "environment"})
    )


def _values(context: dict[str, Any]) -> tuple[Any, ...]:
    wanted = context.get("environment", ())
    if isinstance(wanted, OneOf):
        return wanted.values
    return (wanted,) if context else ()


def _is_name(value: Any) -> bool:
    """Return whether only a text has this name: counts name the number 1 and the text "1" alike."""
    if not isinstance(value, str) or value in {NO_VALUE, LONG_ENVIRONMENT}:
        return False
    try:
        msgspec.json.decode(value)
    except msgspec.DecodeError:
        return True
    return False


def cell_filter(where: EventFilter) -> Callable[[Cell], bool] | None:
    """Return whether the events of a cell pass the filter; None if all do."""
    texts, context = where.required_texts(), where.required_context()
    if not texts and not context:
        return None
    variants, reasons, environments = texts.get("variant"), texts.get("reason"), _values(context)

    def wanted(cell: Cell) -> bool:
        variant, reason, environment = cell
        return (
            (variants is None or (variant or DEFAULT_VARIANT) in variants)
            and (reasons is None or reason in reasons)
            and (not context or environment in environments)
        )

    return wanted


def has_long_environment(cells: Any) -> bool:
    """Return whether there are events among these cells whose environment only they themselves tell."""
    return any(environment == LONG_ENVIRONMENT for _, _, environment in cells)
