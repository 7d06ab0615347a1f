"""The entry point: what this distribution offers to flag-analytics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flag_analytics.config.plan import Plan
from flag_analytics.hookspecs import hookimpl
from flag_analytics.protocols import Backend

from .options import ClickHouseOptions

__all__: list[str] = []


def _create(options: ClickHouseOptions) -> Any:
    from .store import ClickHouseStore

    return ClickHouseStore(options)


@hookimpl
def flag_analytics_register_collectors() -> Sequence[Backend[ClickHouseOptions]]:
    return [Backend("clickhouse", ClickHouseOptions, _create)]


@hookimpl
def flag_analytics_cli(app: Any, read_plan: Callable[[Path | None], Plan]) -> None:
    from .cli import add_commands

    add_commands(app, read_plan)
