"""Dead letters that backends keep themselves: those that have ``async def read_dead_letters(self, limit)``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from flag_analytics.config.plan import Plan, PlannedSink
from flag_analytics.errors import FlagAnalyticsError
from flag_analytics.reports import DeadLetter
from flag_analytics_delivery.spool_reader import is_sound

from .settings import is_embedded, missing_file
from .terminal import note
from .visible import visible
from .wording import counted

__all__ = ["kept_dead_letters"]


def kept_dead_letters(plan: Plan, limit: int) -> tuple[list[DeadLetter], list[str]]:
    """Return the newest ``limit`` dead letters of each collector that keeps its own, and the problems with some."""
    letters: list[DeadLetter] = []
    problems: list[str] = []
    for sink in plan.sinks:
        if sink.role != "collector":
            continue
        missing = missing_file(sink)
        if missing is not None:
            # To ask a database that is not there would create it.
            if not is_embedded(plan):
                note(f"{visible(sink.name)}: there is no database {visible(str(missing))} yet")
            continue
        try:
            kept = asyncio.run(_read(sink, limit))
        except (FlagAnalyticsError, ValueError) as error:
            problems.append(f"{sink.name}: {error}")
        except Exception as error:
            # The error of a foreign row or plugin: its words may quote an event.
            problems.append(f"{sink.name}: its dead letters cannot be read ({type(error).__name__})")
        else:
            sound = [letter for letter in kept if is_sound(letter)]
            if len(sound) < len(kept):
                problems.append(f"{sink.name}: {counted(len(kept) - len(sound), 'dead letter')} cannot be read")
            letters += sound
    return letters, problems


async def _read(sink: PlannedSink, limit: int) -> Sequence[DeadLetter]:
    backend: Any = sink.backend.create(sink.options)
    read = getattr(backend, "read_dead_letters", None)
    close = getattr(backend, "close", None)
    try:
        return [] if read is None else await read(limit)
    finally:
        if close is not None:
            await close()
