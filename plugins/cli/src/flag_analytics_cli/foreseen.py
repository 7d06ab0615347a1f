"""Problems of a sound plan that would only show once it is opened: found without opening or making anything."""

from __future__ import annotations

import asyncio
import inspect
import os
from pathlib import Path
from typing import Any

import attrs
from flag_analytics.config.plan import Plan, PlannedSink
from flag_analytics.config.sources import join_path
from flag_analytics.errors import ConfigProblem, SourceError
from flag_analytics.registry import default_registry
from flag_analytics_delivery.spool import SpoolError, default_directory, private_in

__all__ = ["foreseen_problems"]


def foreseen_problems(plan: Plan) -> list[ConfigProblem]:
    """Return the problems of a plan that show only where it runs, or between its parts."""
    return [*_unusable_spool(plan), *_gauges_without_answers(plan)]


def _unusable_spool(plan: Plan) -> list[ConfigProblem]:
    options = plan.delivery_options()
    if options.durability != "spool":
        return []
    directory = options.spool_directory or default_directory("").parent
    problem = _why_not_writable(directory)
    if problem is None:
        return []
    return [ConfigProblem("delivery.spool_directory", f"no spool can be kept in {directory}: {problem}")]


def _why_not_writable(directory: Path) -> str | None:
    """Return why no file can be made in a directory that is there or would be made, None where there is no reason.

    A full or failing disk cannot be known before.
    """
    # os.path and not Path, which raises where it may not even look.
    existing = directory.absolute()
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    if not os.path.isdir(existing):  # noqa: PTH112
        return f"{existing} is no directory"
    try:
        private_in(directory)
    except SpoolError as error:
        return str(error)
    if not os.access(existing, os.W_OK | os.X_OK):
        return f"this user cannot write to {existing}"
    return None


def _gauges_without_answers(plan: Plan) -> list[ConfigProblem]:
    """Return a problem for each exporter that reads an aggregator, where no collector can be asked."""
    exporters = [sink for sink in plan.sinks if getattr(sink.options, "gauges", None) == "aggregator"]
    if not exporters or any(_can_be_asked(sink) for sink in plan.sinks if sink.role == "collector"):
        return []
    return [
        ConfigProblem(
            join_path(join_path("exporters", sink.name), "gauges"),
            "is 'aggregator', but no collector can be asked about its events, so the gauges would stay empty: "
            "add one that can, for example [collectors.memory]",
        )
        for sink in exporters
    ]


def _can_be_asked(sink: PlannedSink) -> bool:
    # Backends do no I/O when they are created unless an option says so, and only the object shows its kind.
    options = sink.options
    if getattr(options, "require_database", False):
        options = attrs.evolve(options, require_database=False)
    try:
        backend = sink.backend.create(options)
    except Exception:
        return True  # another problem, which shows when it is opened
    try:
        default_registry().event_source_for(backend)
    except SourceError:
        return False
    finally:
        _close(backend)
    return True


def _close(backend: Any) -> None:
    async def close() -> None:
        result = backend.close()
        if inspect.isawaitable(result):
            await result

    try:
        asyncio.run(close())
    except Exception:
        pass  # it has done nothing that could be lost
