"""The hooks a plugin can implement, one sentence each. A hook registers; it carries no events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from .config.plan import Plan
    from .pipeline import Pipeline
    from .protocols import Backend
    from .reports import DeadLetter
    from .sources import EventSource

__all__ = ["hookimpl", "hookspec"]

hookspec = pluggy.HookspecMarker("flag_analytics")
hookimpl = pluggy.HookimplMarker("flag_analytics")
"""Marks a module-level function of a plugin as the implementation of the hook of the same name."""


@hookspec
def flag_analytics_register_collectors() -> Sequence[Backend]:  # type: ignore[empty-body]
    """Return the collectors this plugin offers; called when configuration first names the plugin."""


@hookspec
def flag_analytics_register_exporters() -> Sequence[Backend]:  # type: ignore[empty-body]
    """Return the exporters this plugin offers; called when configuration first names the plugin."""


@hookspec
def flag_analytics_register_processors() -> Sequence[Backend]:  # type: ignore[empty-body]
    """Return the event processors this plugin offers; called at composition."""


@hookspec(firstresult=True)
def flag_analytics_event_source(source: Any) -> EventSource | None:
    """Return an event source that reads from a foreign object (a database session, say), or None."""


@hookspec
def flag_analytics_pipeline_started(pipeline: Pipeline) -> None:
    """Do something once a pipeline is composed and open."""


@hookspec
def flag_analytics_pipeline_closing(pipeline: Pipeline) -> None:
    """Do something just before a pipeline flushes and closes."""


@hookspec
def flag_analytics_delivery_failed(sink: str, error: str, events: Sequence[DeadLetter]) -> None:
    """Hear of events that a sink refused for good; called from the sink's delivery thread."""


@hookspec
def flag_analytics_cli(app: Any, read_plan: Callable[[Path | None], Plan]) -> None:
    """Add subcommands to a cyclopts ``App``; ``read_plan`` turns the value of --config into the plan to work with."""
