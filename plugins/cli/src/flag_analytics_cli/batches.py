"""Imports as batches with a name: which collectors keep them, the list of them, and how one is undone.

A collector that has the methods of ``ImportBatches`` remembers with which import each event came. Only events that are
new to it belong to a batch, so that undoing one removes exactly its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from flag_analytics.config.plan import Plan
from flag_analytics.errors import FlagAnalyticsError
from flag_analytics.pipeline import Pipeline
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .layout import Trimmed
from .settings import is_lasting, missing_file
from .terminal import note
from .visible import visible

__all__ = [
    "OTHER_CONTENT",
    "BatchError",
    "ImportBatch",
    "ImportBatches",
    "batches_of",
    "list_batches",
    "name_of",
    "print_batches",
    "start_batch",
    "undo_batch",
]

T = TypeVar("T")
OTHER_CONTENT = "other_content"
"""The code of a dead letter whose event is stored already, under the same id, with other content."""


class BatchError(FlagAnalyticsError):
    """A batch cannot be listed or undone; the message says why."""


class ImportBatch(Protocol):
    """One import: its name, when it began, and how many events it brought."""

    @property
    def name(self) -> str: ...

    @property
    def started_at(self) -> datetime: ...

    @property
    def events(self) -> int: ...


@runtime_checkable
class ImportBatches(Protocol):
    """The methods of a collector that keeps imports apart; they may be called from any event loop."""

    async def start_import(self, name: str) -> None:
        """Let each event that is stored from now on, and is new, belong to this batch; an existing one goes on.

        An event whose id is stored with other content is refused, with the code ``OTHER_CONTENT``.
        """
        ...

    async def list_imports(self) -> Sequence[ImportBatch]:
        """Return all batches, the oldest first."""
        ...

    async def undo_import(self, name: str) -> int | None:
        """Remove the events of a batch and the batch; return their number, None where there is no such batch."""
        ...


def name_of(file: str, given: str | None) -> str:
    """Return the name of a batch: the one that is given, else the file's."""
    return given or ("standard input" if file == "-" else Path(file).name)


def start_batch(pipeline: Pipeline, name: str, *, replace: bool) -> dict[str, int]:
    """Begin a batch in every collector that keeps them; return by collector how many events were removed before.

    Args:
        pipeline: Its collectors.
        name: The batch's name.
        replace: Undo the batch of this name first.

    Raises:
        BatchError: it is to be replaced, and a collector does not keep batches.
    """
    removed: dict[str, int] = {}
    for collector_name, collector in pipeline.collectors.items():
        if isinstance(collector, ImportBatches):
            if replace:
                removed[collector_name] = asyncio.run(_undone(collector, name)) or 0
            asyncio.run(_started(collector, name))
        elif replace and collector_name.partition("/")[0] != "memory":
            raise BatchError(f"{collector_name} does not keep imports apart, so that none can be replaced in it")
    return removed


async def _started(collector: ImportBatches, name: str) -> None:
    await collector.start_import(name)


async def _undone(collector: ImportBatches, name: str) -> int | None:
    return await collector.undo_import(name)


async def _listed(collector: ImportBatches) -> Sequence[ImportBatch]:
    return await collector.list_imports()


def batches_of(plan: Plan, question: Callable[[ImportBatches], Coroutine[Any, Any, T]]) -> dict[str, T]:
    """Return the answer of each lasting collector that keeps batches.

    Raises:
        BatchError: none does.
    """
    answers: dict[str, T] = {}
    found = False
    for sink in plan.sinks:
        if sink.role != "collector" or not is_lasting(sink):
            continue
        if missing_file(sink) is not None:
            # To ask a database that is not there would create it.
            note(f"{visible(sink.name)}: nothing is stored here yet")
            found = True
            continue
        collector: Any = sink.backend.create(sink.options)
        if isinstance(collector, ImportBatches):
            found = True
            answers[sink.name] = asyncio.run(_and_close(collector, question))
    if not found:
        raise BatchError("no configured collector keeps imports apart: expected one such as [collectors.database]")
    return answers


async def _and_close(collector: Any, question: Callable[[ImportBatches], Coroutine[Any, Any, T]]) -> T:
    try:
        return await question(collector)
    finally:
        await collector.close()


def list_batches(plan: Plan) -> list[dict[str, Any]]:
    """Return every batch: its collector, name, time and number of events."""
    return [
        {"collector": name, "name": batch.name, "started_at": batch.started_at.isoformat(), "events": batch.events}
        for name, batches in batches_of(plan, _listed).items()
        for batch in batches
    ]


def undo_batch(plan: Plan, name: str) -> dict[str, int]:
    """Undo a batch in every collector that has it; return by collector how many events were removed.

    Raises:
        BatchError: no collector has it.
    """

    async def undo(collector: ImportBatches) -> int | None:
        return await collector.undo_import(name)

    removed = {collector: count for collector, count in batches_of(plan, undo).items() if count is not None}
    if not removed:
        raise BatchError(f"there is no import named {name!r}: `flag-analytics imports` lists them")
    return removed


def print_batches(console: Console, batches: Sequence[dict[str, Any]]) -> None:
    """Show batches as a table."""
    if not batches:
        console.print("No imports.")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("Import", "Collector", "Began (UTC)"):
        table.add_column(title, overflow="fold")
    table.add_column("Events", justify="right", no_wrap=True)
    for batch in batches:
        began = datetime.fromisoformat(batch["started_at"]).astimezone(UTC)
        cells = (Text(visible(batch["name"]), "bold"), visible(batch["collector"]), f"{began:%Y-%m-%d %H:%M:%S}")
        table.add_row(*cells, f"{batch['events']:,}")
    console.print(Trimmed(table))
