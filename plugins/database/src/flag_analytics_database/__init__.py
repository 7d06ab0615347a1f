"""The SQLite, PostgreSQL, MySQL and MariaDB collector of flag-analytics.

``DatabaseAnalyticsCollector`` is what applications create; ``DatabaseStore`` is the sink and event source inside it,
which a pipeline's configuration creates on its own. SQLAlchemy is imported with the first of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .autogenerate import include_object
    from .collector import DatabaseAnalyticsCollector
    from .imports import Import
    from .options import DatabaseOptions
    from .reading import EventStream
    from .schema import Tables, tables_named
    from .source import DatabaseSource
    from .store import DatabaseStore

__all__ = [
    "DatabaseAnalyticsCollector",
    "DatabaseOptions",
    "DatabaseSource",
    "DatabaseStore",
    "EventStream",
    "Import",
    "Tables",
    "include_object",
    "tables_named",
]

_HOMES = {
    "DatabaseAnalyticsCollector": "collector",
    "DatabaseOptions": "options",
    "DatabaseSource": "source",
    "DatabaseStore": "store",
    "EventStream": "reading",
    "Import": "imports",
    "Tables": "schema",
    "include_object": "autogenerate",
    "tables_named": "schema",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
