"""The ClickHouse collector of flag-analytics.

``ClickHouseAnalyticsCollector`` is what applications create; ``ClickHouseStore`` is the sink inside it, which a
pipeline's configuration creates on its own. The client is imported with the first of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .collector import ClickHouseAnalyticsCollector
    from .options import ClickHouseOptions
    from .schema import Tables
    from .store import ClickHouseStore

__all__ = ["ClickHouseAnalyticsCollector", "ClickHouseOptions", "ClickHouseStore", "Tables"]

_HOMES = {
    "ClickHouseAnalyticsCollector": "collector",
    "ClickHouseOptions": "options",
    "ClickHouseStore": "store",
    "Tables": "schema",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
