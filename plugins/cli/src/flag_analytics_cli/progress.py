"""The bar of a long command, on a terminal only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from .terminal import diagnostics
from .visible import visible

__all__ = ["Advance", "drawn_progress"]

Advance = Callable[[float, int], None]
"""Takes how much is done, in the units of the total, and how many events that is."""


@contextmanager
def drawn_progress(title: str, total: float | None) -> Iterator[Advance]:
    """Yield the function that moves the bar; it draws nothing where standard error is no terminal."""
    console = diagnostics()
    if not console.is_terminal:
        yield _draw_nothing
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(complete_style="cyan", finished_style="cyan"),
        TaskProgressColumn(),
        TextColumn("{task.fields[events]:,} events", style="dim"),
        TimeRemainingColumn(compact=True),
    )
    # It disappears when done: the outcome is said after it, and stays.
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(visible(title), total=total, events=0)
        yield lambda completed, events: progress.update(task, completed=completed, events=events)


def _draw_nothing(_completed: float, _events: int) -> None:
    pass
