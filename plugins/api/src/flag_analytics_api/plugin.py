"""The entry point: the processor that adds the attributes of requests."""

from __future__ import annotations

from typing import Any

from flag_analytics.hookspecs import hookimpl
from flag_analytics.protocols import ProcessorFactory

from .requests import REQUEST_ATTRIBUTES

__all__ = ["flag_analytics_register_processors"]


@hookimpl
def flag_analytics_register_processors() -> list[ProcessorFactory[Any]]:
    return [REQUEST_ATTRIBUTES]
