"""Windows and filters as conditions in SQL."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from flag_analytics.metrics import DEFAULT_VARIANT
from flag_analytics.sources import EventFilter, OneOf, Window
from sqlalchemy import ARRAY, Text, and_, any_, column, func, literal, or_, select

from .json_values import as_json, has_attribute
from .rows import micros
from .schema import KIND_CODES, Tables

__all__ = ["at_any_time", "conditions", "one_of"]

_FIRST = micros(datetime.min.replace(tzinfo=UTC))


def conditions(tables: Tables, family: str, window: Window | None, where: EventFilter | None) -> list[Any]:
    """Return the conditions of a window and a filter, which is in canonical form."""
    columns = tables.events.c
    found: list[Any] = []
    if window is not None:
        found.append(columns.timestamp <= micros(window.end))
        if window.start is not None:
            found.append(columns.timestamp >= micros(window.start))
    if where is None:
        return found
    kinds = sorted(KIND_CODES[kind] for kind in set(where.kinds) if kind in KIND_CODES)
    if kinds != sorted(KIND_CODES.values()):
        found.append(columns.kind.in_(kinds))
    texts_of = where.required_texts()
    if "targeting_key" in texts_of and (window is None or window.start is None):
        found.append(at_any_time(tables))
    for field, texts in texts_of.items():
        is_one = one_of(columns[field], family, texts)
        if field == "variant":
            # An event without a variant counts as DEFAULT_VARIANT, and so does one with an empty variant.
            is_one = and_(is_one, columns.variant != "")
            if DEFAULT_VARIANT in texts:
                is_one = or_(is_one, columns.variant.is_(None), columns.variant == "")
        found.append(is_one)
    for name, wanted in where.required_context().items():
        values = wanted.values if isinstance(wanted, OneOf) else (wanted,)
        found.append(or_(*(has_attribute(columns.context_attributes, family, name, value) for value in values)))
    return found


def at_any_time(tables: Tables) -> Any:
    """Return a condition that every event meets.

    With it SQLite, MySQL and MariaDB look for a targeting key in the index by time, and not in every row.
    """
    return tables.events.c.timestamp >= _FIRST


def one_of(column_: Any, family: str, texts: Iterable[str]) -> Any:
    """Return the condition that a column has one of these texts, with one parameter where the database can."""
    wanted = sorted(texts)
    if len(wanted) == 1:
        return column_ == wanted[0]
    if family == "postgresql":
        return column_ == any_(literal(wanted, ARRAY(Text)))
    if family == "sqlite":
        member = func.json_each(as_json(wanted)).table_valued(column("value", Text), name="wanted")
        return column_.in_(select(member.c.value))
    return column_.in_(wanted)
