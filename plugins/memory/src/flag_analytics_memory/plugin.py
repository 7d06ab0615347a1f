"""The entry point: what this distribution offers to flag-analytics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from flag_analytics.hookspecs import hookimpl
from flag_analytics.protocols import Backend

from .collector import InMemoryAnalyticsCollector, check_max_size

__all__ = ["MemoryOptions", "flag_analytics_register_collectors"]


def _is_size(_options: Any, _attribute: attrs.Attribute[int], max_size: Any) -> None:
    check_max_size(max_size)


@attrs.frozen(kw_only=True)
class MemoryOptions:
    """Options of ``[collectors.memory]``.

    Attributes:
        max_size: The most events kept; the oldest are forgotten first.
    """

    max_size: int = attrs.field(default=10_000, validator=_is_size)


def _create(options: MemoryOptions) -> InMemoryAnalyticsCollector:
    return InMemoryAnalyticsCollector(options.max_size)


@hookimpl
def flag_analytics_register_collectors() -> Sequence[Backend[MemoryOptions]]:
    return [Backend("memory", options=MemoryOptions, create=_create)]
