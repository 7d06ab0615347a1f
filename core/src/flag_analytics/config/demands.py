"""Says in words what the validators of attrs demand, so that every problem of a configuration reads alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["demands_of"]

_COMPARISONS = {">=": "at least", ">": "above", "<=": "at most", "<": "below"}


def demands_of(validator: Any) -> str | None:
    """Return what to put behind the type, as `` of at least 1``; None for a validator that is not one of attrs' own."""
    try:
        words = " and ".join(_demands(validator))
    except LookupError:
        return None
    return f" of {words}" if words.startswith("at ") else f" {words}"


def _demands(validator: Any) -> Iterator[str]:
    # By their attributes: attrs has functions that make its validators, and no public names for their classes.
    if not type(validator).__module__.startswith("attr"):
        raise LookupError
    if hasattr(validator, "_validators"):
        for part in validator._validators:  # noqa: SLF001 - see above
            yield from _demands(part)
    elif hasattr(validator, "validator"):  # optional
        yield from _demands(validator.validator)
    elif hasattr(validator, "compare_op"):
        yield f"{_COMPARISONS[validator.compare_op]} {validator.bound}"
    elif hasattr(validator, "min_length"):
        yield f"at least {validator.min_length} in length"
    elif hasattr(validator, "max_length"):
        yield f"at most {validator.max_length} in length"
    elif hasattr(validator, "options"):
        yield "among " + ", ".join(map(repr, validator.options))
    else:
        raise LookupError
