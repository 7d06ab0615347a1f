"""Reads a file of events with a progress bar, and says which parts of it were left out."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from flag_analytics.events import FlagEvaluationEvent

from .progress import drawn_progress
from .reading import FIELDS, BadLine, EventReader, FileError, ReadOptions, Skipped, Source, open_source
from .terminal import note
from .visible import visible
from .wording import counted

__all__ = ["EventFile", "ImportReport", "MapError", "parse_map", "read_file", "say_left_out"]

_MOST_CAUSES = 20
_MOST_KINDS = 10
_FIRST_LINES = 3
_PROGRESS_EVERY = 1_000
_LONGEST_NAME = 80


class MapError(ValueError):
    """A ``--map`` is not ``field=column`` with a field that events have."""


@attrs.frozen
class EventFile:
    """A file of events and how to read it. ``name`` is a path, or ``-`` for standard input."""

    name: str
    options: ReadOptions = attrs.field(factory=ReadOptions)
    encoding: str = "utf-8"

    @property
    def title(self) -> str:
        return "standard input" if self.name == "-" else self.name


@attrs.define
class Cause:
    """Lines that are no events for the same reason: how many records and lines, and where the first of them are."""

    records: int = 0
    count: int = 0
    places: list[str] = attrs.field(factory=list[str])

    def add(self, line: BadLine) -> None:
        self.records += 1
        self.count += line.line_count
        if len(self.places) < _FIRST_LINES:
            self.places.append(f"{line.first}" if line.first == line.last else f"{line.first} to {line.last}")


@attrs.define
class ImportReport:
    """The outcome of reading a file: events, lines that are none by cause, records that were skipped by kind.

    Attributes:
        events: How many events were read.
        bad_lines: How many lines are no events.
        causes: The reasons, the first twenty, with the lines of each.
        skipped: Sound records about no evaluation, by kind.
        counted: Evaluations that skipped records count without describing them.
        reader: How the file was read; None if it was not opened.
    """

    events: int = 0
    bad_lines: int = 0
    causes: dict[str, Cause] = attrs.field(factory=dict[str, Cause])
    skipped: Counter[str] = attrs.field(factory=Counter[str])
    counted: int = 0
    reader: EventReader | None = None

    @property
    def read_as(self) -> str | None:
        """The name of the file's shape."""
        return None if self.reader is None or self.reader.shape is None else self.reader.shape.name

    def add_bad(self, line: BadLine) -> None:
        self.bad_lines += line.line_count
        if line.problem in self.causes or len(self.causes) < _MOST_CAUSES:
            self.causes.setdefault(line.problem, Cause()).add(line)

    def add_skipped(self, skipped: Skipped) -> None:
        self.counted += skipped.counted
        known = skipped.kind in self.skipped or len(self.skipped) < _MOST_KINDS
        self.skipped[skipped.kind[:_LONGEST_NAME] if known else "other record"] += 1

    def to_dict(self) -> dict[str, Any]:
        """Return everything by name."""
        return {
            "read_as": self.read_as,
            "events": self.events,
            "skipped": self.skipped.total(),
            "skipped_kinds": dict(self.skipped),
            "bad_lines": self.bad_lines,
            "causes": [
                {"problem": problem, "lines": cause.count, "first": cause.places}
                for problem, cause in self.causes.items()
            ],
        }


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
    file: EventFile, record: Callable[[FlagEvaluationEvent], object], report: ImportReport, *, strict: bool = False
) -> None:
    """Give every event of the file to ``record``, and fill in the report as it goes.

    Args:
        file: The file.
        record: Takes each event.
        report: Gets the figures.
        strict: Stop at the first line that is no event.

    Raises:
        OSError, FileError: the file cannot be read; the message names it.
    """
    try:
        with open_source(file.name, file.encoding) as source:
            report.reader = reader = EventReader(source, file.options)
            _read(source, reader, record, report, strict)
    except FileError as error:
        raise type(error)(f"{file.title}: {error}") from None


def _read(
    source: Source,
    reader: EventReader,
    record: Callable[[FlagEvaluationEvent], object],
    report: ImportReport,
    strict: bool,
) -> None:
    with drawn_progress(source.name, source.size) as advance:
        for result in reader:
            if isinstance(result, FlagEvaluationEvent):
                record(result)
                report.events += 1
                if report.events % _PROGRESS_EVERY == 0:
                    advance(source.bytes_read(), report.events)
            elif isinstance(result, Skipped):
                report.add_skipped(result)
            else:
                report.add_bad(result)
                if strict:
                    return


def say_left_out(file: EventFile, report: ImportReport) -> None:
    """Say on standard error how a file was read, which lines are no events and why, and what was left out."""
    reader = report.reader
    if reader is None:
        return
    name, unit = visible(file.title), reader.unit
    if report.read_as is None:
        note(f"{name}: the file is empty" if not report.bad_lines else f"{name}: no events", "yellow")
    else:
        note(f"{name}: read as {report.read_as}")
    if report.bad_lines:
        are = f"{unit} is no event" if report.bad_lines == 1 else f"{unit}s are no events"
        note(f"{name}: {report.bad_lines:,} {are}", "yellow")
    for problem, cause in report.causes.items():
        note(f"  {_places(cause, unit)}: {visible(problem)}", "none")
    rest = report.bad_lines - sum(cause.count for cause in report.causes.values())
    if rest:
        note(f"  and {rest:,} more, for other reasons")
    if report.skipped:
        kinds = ", ".join(f"{count:,} {visible(kind)}" for kind, count in report.skipped.items())
        note(f"{name}: skipped, since they are about no evaluation: {kinds}")
    if report.counted:
        note(f"{name}: summaries count {counted(report.counted, 'evaluation')}, which are not added", "yellow")
    _say_unused(name, reader)
    if reader.times.naive_future:
        note(
            f"{name}: {counted(reader.times.naive_future, 'time')} without a zone would be in the future: is the zone "
            "of the file another (--timezone)?",
            "yellow",
        )


def _places(cause: Cause, unit: str) -> str:
    places = ", ".join(cause.places)
    if cause.records > len(cause.places):
        return f"{cause.count:,} {unit}s ({places}, …)"
    return f"{unit} {places}" if places.isdigit() else f"{unit}s {places}"


def _say_unused(name: str, reader: EventReader) -> None:
    unused = [column[:_LONGEST_NAME] for column in reader.unused if column]
    if unused:
        what, whose = ("keys", "KEY") if reader.is_json else ("columns", "COLUMN")
        shown = ", ".join(visible(column) for column in unused[:10]) + (", …" if len(unused) > 10 else "")
        note(f"{name}: {what} left out: {shown} (--map context.NAME={whose} keeps one)")
