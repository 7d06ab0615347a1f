"""``include_object``: keeps an application's own ``alembic revision --autogenerate`` away from the tables kept here.

In its ``env.py``::

    from flag_analytics_database import include_object

    context.configure(..., include_object=include_object)

For a table of another name: ``functools.partial(include_object, table="flag_events", schema="flags")``.
"""

from __future__ import annotations

import re
from typing import Any

from .names import DEFAULT_TABLE, derived_name

__all__ = ["include_object"]

_SUFFIXES = (
    "dead_letters", "imports", "counts", "sketches", "rollup_state", "version", "litestar_flags", "rest"
)  # fmt: skip


def include_object(
    item: Any,
    name: str | None,
    kind: str,
    reflected: bool,
    compare_to: Any,
    *,
    table: str = DEFAULT_TABLE,
    schema: str | None = None,
) -> bool:
    """Return False for the tables of the database collector, their partitions and all that belongs to them.

    Args:
        item: A table, column, index or constraint, as Alembic gives it with the four arguments after it.
        name: Its name.
        kind: ``table``, ``column``, ``index``, …
        reflected: Whether it is from the database.
        compare_to: Its counterpart.
        table: The collector's option ``table``.
        schema: The collector's option ``schema``.
    """
    del reflected, compare_to
    owner = item if kind == "table" else getattr(item, "table", None)
    owner_name = name if kind == "table" else getattr(owner, "name", None)
    return getattr(owner, "schema", None) != schema or not _is_ours(owner_name or "", table)


def _is_ours(name: str, table: str) -> bool:
    partition = re.escape(derived_name(table, "p00000000").removesuffix("00000000"))
    ours = {table, *(derived_name(table, suffix) for suffix in _SUFFIXES)}
    return name in ours or re.fullmatch(partition + r"\d{8}", name) is not None
