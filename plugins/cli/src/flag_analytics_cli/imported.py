"""The outcome of an import, for people and for other programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from flag_analytics.config.plan import Plan

from .importing import ImportReport
from .settings import is_lasting
from .storing import STORED_ONCE
from .terminal import print_json, results, say
from .visible import visible
from .wording import counted

__all__ = ["Imported", "import_json", "new_events", "print_import"]


@attrs.frozen
class Imported:
    """An import that came to its end.

    Attributes:
        file: The file's name, ``-`` for standard input.
        outcome: The outcome of reading it.
        names: Every backend that took the events.
        new: Of each backend that keeps them, how many of them it did not have before; None where that is not known.
        stopped: Whether a bad line ended it.
    """

    file: str
    outcome: ImportReport
    names: tuple[str, ...]
    new: Mapping[str, int | None]
    stopped: bool = False


def new_events(
    plan: Plan, events: int, before: Mapping[str, int], after: Mapping[str, int]
) -> Mapping[str, int | None]:
    """Return, by backend, how many of the imported events are new to it, from its counts before and after."""
    found: dict[str, int | None] = {}
    for name in (sink.name for sink in plan.sinks if is_lasting(sink)):
        count = after[name] - before[name] if name in before and name in after else -1
        # Others may store or remove events at the same time: then it is not known.
        found[name] = count if 0 <= count <= events else None
    return found


def print_import(imported: Imported) -> None:
    """Say in one sentence how many events were imported where, and how many were new."""
    events = counted(imported.outcome.events, "event")
    stopped = " before the first bad line" if imported.stopped else ""
    names = visible(", ".join(imported.names))
    say(results(), f"{events} imported into {names}{stopped}{_news(imported.outcome.events, imported.new)}")


def _news(events: int, new: Mapping[str, int | None]) -> str:
    told = [
        (f"{visible(name)} has " if len(new) > 1 else "")
        + f"{count:,} new"
        + (f", {events - count:,} already stored" if count < events else "")
        for name, count in new.items()
        if count is not None
    ]
    unknown = ", ".join(visible(name) for name, count in new.items() if count is None)
    if not unknown:
        return f": {'; '.join(told)}"
    whose = f" to {unknown}" if told else ""
    not_told = f"how many of them were new{whose} is not known ({STORED_ONCE})"
    return f": {'; '.join([*told, not_told])}" if told else f"; {not_told}"


def import_json(imported: Imported) -> None:
    """Write the same to standard output as JSON; a count that is not known is null."""
    events = imported.outcome.events
    backends: list[dict[str, Any]] = [
        {"name": name, "new": count, "already_stored": None if count is None else events - count}
        for name, count in imported.new.items()
    ]
    print_json(
        {
            "file": imported.file,
            **imported.outcome.to_dict(),
            "stopped_at_bad_line": imported.stopped,
            "backends": backends,
        }
    )
