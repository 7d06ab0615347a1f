"""The hooks a plugin can implement, one sentence each. A hook registers; it carries no events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from .config.plan import Plan
    from .protocols import Backend, ProcessorFactory
    from .reports import DeadLetter
    from .sources import EventSource

__all__ = ["PLUGIN_API", "hookimpl", "hookspec"]

PLUGIN_API = 1
"""The version of the hooks and protocols; a plugin module that needs a later one says so by this name."""

hookspec = pluggy.HookspecMarker("flag_analytics")
hookimpl = pluggy.HookimplMarker("flag_analytics")
"""Marks a module-level function of a plugin as the implementation of the hook of the same name."""


@hookspec
def flag_analytics_register_collectors() -> Sequence[Backend[Any]]:  # type: ignore[empty-body]
    """Return the collectors this plugin offers; called when configuration first names the plugin."""


@hookspec
def flag_analytics_register_exporters() -> Sequence[Backend[Any]]:  # type: ignore[empty-body]
    """Return the exporters this plugin offers; called when configuration first names the plugin."""


@hookspec
def flag_analytics_register_processors() -> Sequence[ProcessorFactory[Any]]:  # type: ignore[empty-body]
    """Return the event processors this plugin offers; called at composition."""


@hookspec
def flag_analytics_register_sources() -> Sequence[Backend[Any]]:  # type: ignore[empty-body]
    """Return the event sources this plugin offers that are no collectors; called when configuration names it."""


@hookspec(firstresult=True)
def flag_analytics_event_source(source: Any) -> EventSource | None:
    """Return an event source that reads from a foreign object (a database session, a path), or None."""


@hookspec
def flag_analytics_pipeline_started(pipeline: Any) -> None:
    """Do something once a ``Pipeline`` is composed and open."""


@hookspec
def flag_analytics_pipeline_closing(pipeline: Any) -> None:
    """Do something just before a ``Pipeline`` flushes and closes."""


@hookspec
def flag_analytics_delivery_failed(sink: str, error: str, events: Sequence[DeadLetter]) -> None:
    """Handle events that a sink refused for good; called from the sink's delivery thread."""


@hookspec
def flag_analytics_cli(app: Any, read_plan: Callable[[Path | None], Plan]) -> None:
    """Add subcommands to a cyclopts ``App``; ``read_plan`` turns the value of --config into the plan to work with."""
