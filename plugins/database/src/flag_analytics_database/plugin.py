"""The entry point: what this distribution offers to flag-analytics."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flag_analytics.config.plan import Plan
from flag_analytics.hookspecs import hookimpl
from flag_analytics.protocols import Backend
from flag_analytics.sources import EventSource

from .options import DatabaseOptions

__all__: list[str] = []


def _create(options: DatabaseOptions) -> Any:
    from .store import DatabaseStore

    store = DatabaseStore(options)
    if options.require_database:
        store.require_now()
    return store


@hookimpl
def flag_analytics_register_collectors() -> Sequence[Backend[DatabaseOptions]]:
    return [Backend("database", DatabaseOptions, _create)]


@hookimpl
def flag_analytics_event_source(source: Any) -> EventSource | None:
    if "sqlalchemy" not in sys.modules:
        return None  # then it can be neither a session nor an engine
    from .collector import DatabaseAnalyticsCollector
    from .source import source_of

    if isinstance(source, DatabaseAnalyticsCollector):
        return source.event_source
    return source_of(source)


@hookimpl
def flag_analytics_cli(app: Any, read_plan: Callable[[Path | None], Plan]) -> None:
    from .cli import add_commands

    add_commands(app, read_plan)
