"""Imports a file of events: opens it, reads it with a progress bar, and loses nothing on the way to the backends."""

from __future__ import annotations

import difflib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import attrs
from flag_analytics.delivery import DeliveryReport
from flag_analytics.errors import FlagAnalyticsError
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.normal_form import FrozenEvent
from flag_analytics.pipeline import Pipeline
from flag_analytics.protocols import Outcome
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from .choices import FileFormat
from .reading import FIELDS, BadLine, CsvReader, LineReader, guess_format, read_events
from .settings import IMPORT_BLOCK_SECONDS
from .terminal import diagnostics, note
from .visible import visible

__all__ = [
    "EventFile",
    "ImportReport",
    "MapError",
    "NotStoredError",
    "flush_all",
    "parse_map",
    "patient_recorder",
    "read_file",
    "say_bad_lines",
    "say_unused_columns",
]

_MOST_EXAMPLES = 20
_PROGRESS_EVERY = 1_000
_FLUSH_STEP_SECONDS = 10.0


class MapError(ValueError):
    """A ``--map`` is not ``field=column`` with a field that events have."""


class NotStoredError(FlagAnalyticsError):
    """Events could not be stored; the message says how many and what to do."""


@attrs.frozen
class EventFile:
    """A file to import and how to read it. ``name`` is a path, or ``-`` for standard input."""

    name: str
    form: FileFormat | None = None
    columns: Mapping[str, str] = attrs.field(factory=dict[str, str])
    flag_key: str | None = None
    encoding: str = "utf-8"


@attrs.define
class ImportReport:
    """What became of a file: events read, lines that are none (the first of them as examples), columns left out."""

    events: int = 0
    bad_lines: int = 0
    examples: list[BadLine] = attrs.field(factory=list)
    unused_columns: tuple[str, ...] = ()

    def add_bad(self, line: BadLine) -> None:
        self.bad_lines += line.count
        if len(self.examples) < _MOST_EXAMPLES:
            self.examples.append(line)


def parse_map(mappings: Sequence[str]) -> dict[str, str]:
    """Return field to column from ``field=column`` as it stands on the command line.

    Raises:
        MapError: one has no ``=``, names no field of an event, or a field that another names too.
    """
    columns: dict[str, str] = {}
    for mapping in mappings:
        field, equals, column = mapping.partition("=")
        field, column = field.strip(), column.strip()
        if not equals or not column:
            raise MapError(f"--map {mapping!r} is not field=column: expected for example --map variant=group")
        if field not in FIELDS and not (field.startswith("context.") and field != "context."):
            close = difflib.get_close_matches(field, FIELDS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(FIELDS)} and context.NAME"
            raise MapError(f"--map {mapping!r}: events have no field {field!r}: {hint}")
        if field in columns:
            raise MapError(f"--map names the field {field!r} twice: give it one column")
        columns[field] = column
    return columns


def read_file(
    file: EventFile, record: Callable[[FlagEvaluationEvent], None], report: ImportReport, *, strict: bool = False
) -> None:
    """Give every event of the file to ``record``, and fill in the report as it goes.

    Args:
        strict: Stop at the first line that is no event.

    Raises:
        OSError, FileError: the file cannot be read.
    """
    with _opened(file.name) as (stream, size):
        lines = LineReader(stream, file.encoding)
        form = file.form or guess_format(file.name, lines)
        if form == "csv":
            reader = CsvReader(lines, file.columns, file.flag_key)
            report.unused_columns = reader.columns.unused
            results: Iterator[FlagEvaluationEvent | BadLine] = iter(reader)
        else:
            results = read_events(lines, form, file.columns, file.flag_key)
        with _progress(file.name, size) as advance:
            for result in results:
                if isinstance(result, BadLine):
                    report.add_bad(result)
                    if strict:
                        return
                    continue
                record(result)
                report.events += 1
                if report.events % _PROGRESS_EVERY == 0:
                    advance(lines.bytes_read, report.events)


def patient_recorder(pipeline: Pipeline) -> Callable[[FlagEvaluationEvent | FrozenEvent], None]:
    """Return a function that records one event and waits where a queue is full (the plan must be ``patient``).

    It raises ``NotStoredError`` when a backend has taken nothing for ``IMPORT_BLOCK_SECONDS``: to go on would lose
    events. What processors filter out is not lost.
    """
    record_nowait = pipeline.record_nowait
    monotonic = time.monotonic

    def record(event: FlagEvaluationEvent | FrozenEvent) -> None:
        started = monotonic()
        outcome = record_nowait(event)
        if outcome is Outcome.ACCEPTED:
            # With several backends one may refuse what another takes: only after the full wait can that be.
            if monotonic() - started < IMPORT_BLOCK_SECONDS / 2 or not any(_lost(pipeline).values()):
                return
        elif outcome is Outcome.FILTERED:
            return
        raise NotStoredError(
            f"the backends take no more events ({outcome.value if not outcome else 'overflow'}); "
            "import the file again when they do: what is stored already is not stored twice"
        )

    return record


def flush_all(pipeline: Pipeline, *, refuse_dead: bool = True) -> DeliveryReport:
    """Return when everything recorded is stored.

    Args:
        refuse_dead: Count events that a backend refused for good as not stored.

    Raises:
        NotStoredError: events were lost or refused, or nothing has been stored for ``IMPORT_BLOCK_SECONDS``.
    """
    patience = IMPORT_BLOCK_SECONDS
    report = pipeline.flush_sync(_FLUSH_STEP_SECONDS)
    while not report.complete and report.pending and patience > 0:
        stored = report.stored
        report = pipeline.flush_sync(_FLUSH_STEP_SECONDS)
        patience = IMPORT_BLOCK_SECONDS if report.stored > stored else patience - _FLUSH_STEP_SECONDS
    lost = sum(_lost(pipeline).values())
    problems = [
        f"{count:,} {what}"
        for count, what in (
            (report.pending, "events still wait"),
            (lost, "events were dropped"),
            (report.dead if refuse_dead else 0, "events were refused"),
        )
        if count
    ]
    if problems:
        causes = {sink.last_error for sink in report.sinks.values() if sink.last_error}
        cause = f" ({', '.join(sorted(causes))})" if causes else ""
        raise NotStoredError(
            f"{', '.join(problems)}{cause}; import the file again when the backend is well: "
            "what is stored already is not stored twice"
        )
    return report


def say_bad_lines(name: str, report: ImportReport) -> None:
    """Say on standard error which lines are no events, the first of them one by one."""
    if not report.bad_lines:
        return
    plural = "lines are no events" if report.bad_lines != 1 else "line is no event"
    note(f"{visible(name)}: {report.bad_lines:,} {plural}", "yellow")
    for line in report.examples:
        note(f"  {line}", "none")
    rest = report.bad_lines - sum(line.count for line in report.examples)
    if rest:
        note(f"  and {rest:,} more")


def say_unused_columns(name: str, report: ImportReport) -> None:
    """Say on standard error which columns went nowhere, and how to keep them."""
    unused = [column for column in report.unused_columns if column]
    if unused:
        shown = ", ".join(visible(column) for column in unused[:10]) + (", …" if len(unused) > 10 else "")
        note(f"{visible(name)}: columns left out: {shown} (--map context.NAME=COLUMN keeps one)")


def _lost(pipeline: Pipeline) -> dict[str, int]:
    return {name: sum(sink.dropped.values()) for name, sink in pipeline.stats().sinks.items()}


@contextmanager
def _opened(name: str) -> Iterator[tuple[BinaryIO, int | None]]:
    """Yield the file and its size in bytes, None where it has no end that could be known."""
    if name == "-":
        yield sys.stdin.buffer, None
        return
    with Path(name).open("rb") as stream:
        size = Path(name).stat().st_size
        yield stream, size or None  # a pipe or device says 0


@contextmanager
def _progress(name: str, size: int | None) -> Iterator[Callable[[int, int], None]]:
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
    # It disappears when done: what counts is said after it, and stays.
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(visible(name), total=size, events=0)
        yield lambda completed, events: progress.update(task, completed=completed, events=events)


def _draw_nothing(_completed: int, _events: int) -> None:
    pass
