"""Windows and filters as conditions in SQL."""

from __future__ import annotations

import msgspec
from flag_analytics.metrics import DEFAULT_VARIANT
from flag_analytics.sources import NO_VALUE, EventFilter, OneOf, Window

from .json_values import has_attribute
from .parameters import Parameters
from .rows import micros
from .schema import KINDS

__all__ = ["VARIANT", "conditions", "is_plain_environment"]

VARIANT = f"ifNull(nullIf(variant, ''), '{DEFAULT_VARIANT}')"
"""The variant of an event as figures show it."""


def conditions(parameters: Parameters, window: Window | None, where: EventFilter | None) -> list[str]:
    """Return the conditions of a window and a filter, which is in canonical form."""
    found: list[str] = []
    if window is not None:
        found.append(f"timestamp <= {parameters.whole(micros(window.end))}")
        if window.start is not None:
            found.append(f"timestamp >= {parameters.whole(micros(window.start))}")
    if where is None:
        return found
    kinds = [kind for kind in KINDS if kind in where.kinds]
    if not kinds:
        return [*found, "false"]
    if len(kinds) < len(KINDS):
        found.append("kind IN ({})".format(", ".join(f"'{kind}'" for kind in kinds)))
    for field, texts in where.required_texts().items():
        column = VARIANT if field == "variant" else field
        found.append(
            f"{column} = {parameters.text(next(iter(texts)))}"
            if len(texts) == 1
            else f"{column} IN {parameters.texts(texts)}"
        )
    for name, wanted in where.required_context().items():
        values = wanted.values if isinstance(wanted, OneOf) else (wanted,)
        if name == "environment" and all(map(is_plain_environment, values)):
            found.append(f"environment IN {parameters.texts(values)}")
            continue
        ways = " OR ".join(f"({has_attribute(parameters, name, value)})" for value in values)
        found.append(f"({ways})" if ways else "false")
    return found


def is_plain_environment(value: object) -> bool:
    """Return whether only events with this very text have it as the name of their group: 1 and "1" have the same."""
    if not isinstance(value, str) or value == NO_VALUE:
        return False
    try:
        return isinstance(msgspec.json.decode(value), str)
    except (msgspec.DecodeError, RecursionError):
        return True
