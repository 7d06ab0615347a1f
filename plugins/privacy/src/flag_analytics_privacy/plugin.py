"""The entry point: the processors as a plugin of flag-analytics, loaded by ``plugins = ["privacy"]``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flag_analytics.config.plan import Plan
from flag_analytics.hookspecs import hookimpl
from flag_analytics.protocols import ProcessorFactory

from .redacting import AllowAttributes, RedactAttributes, allow_attributes, redact_attributes
from .values import Bucket, DropValue, SetAttributes, Truncate, bucket, drop_value, set_attributes, truncate

__all__ = ["flag_analytics_cli", "flag_analytics_register_processors"]


@hookimpl
def flag_analytics_register_processors() -> Sequence[ProcessorFactory[Any]]:
    """Offer the processors by their ``type``."""
    return [
        ProcessorFactory("allow_attributes", AllowAttributes, allow_attributes),
        ProcessorFactory("bucket", Bucket, bucket),
        ProcessorFactory("drop_value", DropValue, drop_value),
        ProcessorFactory("redact_attributes", RedactAttributes, redact_attributes),
        ProcessorFactory("set_attributes", SetAttributes, set_attributes),
        ProcessorFactory("truncate", Truncate, truncate),
    ]


@hookimpl
def flag_analytics_cli(app: Any, read_plan: Callable[[Path | None], Plan]) -> None:
    """Add ``privacy``, ``forget`` and ``person`` to the command line."""
    from .cli import add_commands

    add_commands(app, read_plan)
