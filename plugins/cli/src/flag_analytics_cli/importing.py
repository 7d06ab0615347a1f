"""Reads a file of events with a progress bar, and says what of it was left out."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import attrs
from flag_analytics.events import FlagEvaluationEvent
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from .choices import FileFormat
from .reading import FIELDS, BadLine, CsvReader, FileError, LineReader, guess_format, read_events
from .terminal import diagnostics, note
from .visible import visible

__all__ = [
    "EventFile",
    "ImportReport",
    "MapError",
    "parse_map",
    "read_file",
    "say_bad_lines",
    "say_left_out",
]

_MOST_EXAMPLES = 20
_PROGRESS_EVERY = 1_000


class MapError(ValueError):
    """A ``--map`` is not ``field=column`` with a field that events have."""


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
    """What became of a file: events read, lines that are none (the first of them as examples), and what was left out.

    ``unused_keys`` are those of JSON objects that events have no field for, the first fifty of them.
    """

    events: int = 0
    bad_lines: int = 0
    examples: list[BadLine] = attrs.field(factory=list)
    unused_columns: tuple[str, ...] = ()
    unused_keys: set[str] = attrs.field(factory=set[str])

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
        OSError, FileError: the file cannot be read; the message names it.
    """
    try:
        _read(file, record, report, strict)
    except FileError as error:
        name = "standard input" if file.name == "-" else file.name
        raise type(error)(f"{name}: {error}") from None


def _read(file: EventFile, record: Callable[[FlagEvaluationEvent], None], report: ImportReport, strict: bool) -> None:
    with _opened(file.name) as (stream, size):
        lines = LineReader(stream, file.encoding)
        form = file.form or guess_format(file.name, lines)
        if form == "csv":
            reader = CsvReader(lines, file.columns, file.flag_key)
            report.unused_columns = reader.columns.unused
            results: Iterator[FlagEvaluationEvent | BadLine] = iter(reader)
        else:
            if lines.peek() is None:
                note(f"{visible(file.name)}: the file is empty", "yellow")
            results = read_events(lines, form, file.columns, file.flag_key, report.unused_keys)
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


def say_left_out(name: str, report: ImportReport) -> None:
    """Say on standard error which columns or keys went nowhere, and how to keep them."""
    columns = [column for column in report.unused_columns if column]
    for what, unused, keep in (
        ("columns", columns, "--map context.NAME=COLUMN keeps one"),
        ("keys", sorted(report.unused_keys), "what is under context_attributes is kept"),
    ):
        if unused:
            shown = ", ".join(visible(one) for one in unused[:10]) + (", …" if len(unused) > 10 else "")
            note(f"{visible(name)}: {what} left out: {shown} ({keep})")


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
