"""CSV: which column is which field of an event, and one event for each row."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
from flag_analytics.events import FlagEvaluationEvent, as_reason

from ..file_errors import ColumnError, FileError
from .fields import KINDS, FieldError, duration_of, event_id_of, json_or_text, sample_rate_of, timestamp_of
from .lines import MAX_LINE_BYTES, BadLine, LineReader

__all__ = ["FIELDS", "Columns", "CsvReader", "read_csv"]

FIELDS = (
    "timestamp",
    "flag_key",
    "value",
    "reason",
    "variant",
    "targeting_key",
    "context_attributes",
    "evaluation_duration_ms",
    "event_id",
    "error_type",
    "error_message",
    "flag_version",
    "flag_set_id",
    "provider_name",
    "kind",
    "sample_rate",
)
"""The fields of an event; ``context.NAME`` is one attribute of the evaluation context."""

_GUESSES: dict[str, tuple[str, ...]] = {
    "timestamp": ("time", "datetime", "eventtime", "occurredat", "createdat", "creationdate", "formatteddate", "date"),
    "flag_key": ("flag", "flagname", "featureflag", "feature", "featurekey", "experiment", "experimentkey", "key"),
    "variant": ("variation", "group", "treatment", "arm", "bucket", "variantkey"),
    "targeting_key": ("userid", "userkey", "user", "customerid", "visitorid", "distinctid", "anonymousid", "contextid"),
    "evaluation_duration_ms": ("durationms", "latencyms"),
    "flag_version": ("version",),
    "provider_name": ("provider",),
    "error_type": ("errorcode",),
}
"""Other common names of a field, without case and separators, the likeliest first."""

_DELIMITERS = ",;\t|"


@attrs.frozen
class Columns:
    """Where each field of an event is found: the index of a column; and the columns nobody asked for."""

    fields: Mapping[str, int]
    context: Mapping[str, int]
    unused: tuple[str, ...]


class CsvReader:
    """Reads the header when made, and events when iterated; quoted fields may hold line ends.

    Args:
        lines: The file.
        columns: Field to column name, as the user wants it; fields left out are looked for by their usual names.
        flag_key: The flag's key where no column has one.

    Raises:
        FileError: there is no header, or a column that is needed or asked for is not in it.
    """

    def __init__(self, lines: LineReader, columns: Mapping[str, str], flag_key: str | None = None) -> None:
        first = lines.peek()
        if first is None:
            raise FileError("the file is empty: expected a header line with the names of the columns")
        if isinstance(first, BadLine):
            raise FileError(f"the header cannot be read: {first}")
        self.delimiter = max(_DELIMITERS, key=first.text.count)
        self._records = _Records(lines, self.delimiter)
        header = next(self._records)
        if isinstance(header, BadLine):
            raise FileError(f"the header cannot be read: {header}")
        self.columns = find_columns([name.strip() for name in header.cells], columns, flag_key is not None)
        self._flag_key = flag_key

    def __iter__(self) -> Iterator[FlagEvaluationEvent | BadLine]:
        event_of = _row_reader(self.columns, self._flag_key)
        for record in self._records:
            if isinstance(record, BadLine):
                yield record
                continue
            if not record.cells:  # a blank line
                continue
            try:
                yield event_of(record)
            except FieldError as problem:
                yield BadLine(record.first, record.last, str(problem))


def read_csv(
    lines: LineReader, columns: Mapping[str, str], flag_key: str | None = None
) -> Iterator[FlagEvaluationEvent | BadLine]:
    """Return the events of a CSV file; see ``CsvReader``."""
    return iter(CsvReader(lines, columns, flag_key))


def find_columns(header: Sequence[str], wanted: Mapping[str, str], flag_key_given: bool) -> Columns:
    """Return where each field is, from what the user wants and from the usual names.

    Raises:
        ColumnError: a wanted column is missing or there twice, or no column has the time or the flag.
    """
    fields: dict[str, int] = {}
    context: dict[str, int] = {}
    for field, column in wanted.items():
        index = _index_of(header, column)
        if field.startswith("context."):
            context[field.removeprefix("context.")] = index
        else:
            fields[field] = index
    taken = {*fields.values(), *context.values()}
    for field in FIELDS:
        if field in fields or (field == "flag_key" and flag_key_given):
            continue
        guess = _guess(field, header, taken)
        if guess is not None:
            fields[field] = guess
            taken.add(guess)
    for index, name in enumerate(header):
        if name.startswith("context.") and index not in taken and name != "context.":
            context[name.removeprefix("context.")] = index
            taken.add(index)
    if "timestamp" not in fields:
        raise ColumnError(
            f"no column has the time of an event: name it with --map timestamp=COLUMN, from {_listed(header)}"
        )
    if "flag_key" not in fields and not flag_key_given:
        raise ColumnError(
            "no column has the key of the flag: give it with --flag-key KEY, or name a column with "
            f"--map flag_key=COLUMN, from {_listed(header)}"
        )
    return Columns(fields, context, tuple(name for index, name in enumerate(header) if index not in taken))


def _guess(field: str, header: Sequence[str], taken: set[int]) -> int | None:
    plain = [_plain(name) for name in header]
    for name in (_plain(field), *_GUESSES.get(field, ())):
        # A name that stands twice says nothing certain.
        if plain.count(name) == 1 and plain.index(name) not in taken:
            return plain.index(name)
    return None


def _index_of(header: Sequence[str], column: str) -> int:
    if header.count(column) == 1:
        return header.index(column)
    if header.count(column) > 1:
        raise ColumnError(f"column {column!r} is in the header {header.count(column)} times: give them different names")
    close = difflib.get_close_matches(column, header, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"the columns are {_listed(header)}"
    raise ColumnError(f"column {column!r} is not in the header: {hint}")


def _plain(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())


def _listed(header: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in header[:20])
    return shown if len(header) <= 20 else f"{shown} and {len(header) - 20} more"


@attrs.frozen
class _Record:
    """One row: its cells, the lines it spans and their text."""

    first: int
    last: int
    cells: list[str]
    text: str


class _BrokenLineError(Exception):
    """A line of the file cannot be had: carries the ``BadLine`` out through the csv module."""

    def __init__(self, line: BadLine) -> None:
        super().__init__(str(line))
        self.line = line


class _Records:
    """Rows of a CSV file with their line numbers; a row is bounded in size, as a line is."""

    def __init__(self, lines: LineReader, delimiter: str) -> None:
        self._lines = lines
        self._texts: list[str] = []
        self._size = 0
        self._first = self._last = 0
        self._reader = csv.reader(_Feed(self._next_text), delimiter=delimiter)

    def __iter__(self) -> Iterator[_Record | BadLine]:
        return self

    def __next__(self) -> _Record | BadLine:
        self._texts.clear()
        self._size = self._first = 0
        try:
            cells = next(self._reader)
        except _BrokenLineError as broken:
            # Within a row, what was read of it is lost with the line.
            return BadLine(self._first or broken.line.first, broken.line.last, broken.line.problem)
        except csv.Error as error:
            return BadLine(self._first, self._last, f"is not CSV ({error})")
        return _Record(self._first, self._last, cells, "\n".join(self._texts))

    def _next_text(self) -> str:
        line = next(self._lines)
        if isinstance(line, BadLine):
            raise _BrokenLineError(line)
        self._first = self._first or line.number
        self._last = line.number
        self._size += len(line.text)
        if self._size > MAX_LINE_BYTES:
            raise _BrokenLineError(BadLine(self._first, line.number, "a quoted field does not end"))
        self._texts.append(line.text)
        return line.text + "\n"


@attrs.frozen
class _Feed:
    """What the csv module iterates over. Unlike a generator it survives an exception and goes on after it."""

    _next: Callable[[], str]

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return self._next()


def _row_reader(columns: Columns, flag_key: str | None) -> Callable[[_Record], FlagEvaluationEvent]:
    """Return the function that makes an event of one row."""
    width = 1 + max((*columns.fields.values(), *columns.context.values()))
    time_at = columns.fields["timestamp"]
    flag_at = columns.fields.get("flag_key")
    variant_at = columns.fields.get("variant")
    user_at = columns.fields.get("targeting_key")
    value_at = columns.fields.get("value")
    reason_at = columns.fields.get("reason")
    attributes_at = columns.fields.get("context_attributes")
    context = tuple(columns.context.items())
    usual = {"timestamp", "flag_key", "variant", "targeting_key", "value", "reason", "context_attributes"}
    others = tuple((field, index) for field, index in columns.fields.items() if field not in usual)

    def read(record: _Record) -> FlagEvaluationEvent:
        cells = record.cells
        if len(cells) < width:
            raise FieldError(f"has {len(cells)} columns where at least {width} are expected")
        timestamp = timestamp_of(cells[time_at])
        key = flag_key if flag_at is None else cells[flag_at]
        if not key:
            raise FieldError("flag_key is empty")
        further = {field: _READERS.get(field, _text)(cells[index]) for field, index in others if cells[index] != ""}
        if "event_id" not in further:
            further["event_id"] = event_id_of(timestamp, record.first, record.text, key)
        further.setdefault("kind", "exposure")
        attributes = {} if attributes_at is None else _object(cells[attributes_at])
        for name, index in context:
            attributes[name] = json_or_text(cells[index])
        return FlagEvaluationEvent(
            timestamp,
            key,
            None if value_at is None else json_or_text(cells[value_at]),
            as_reason(("" if reason_at is None else cells[reason_at]) or "UNKNOWN"),
            None if variant_at is None else cells[variant_at] or None,
            None if user_at is None else cells[user_at] or None,
            attributes,
            **further,
        )

    return read


def _text(cell: str) -> str:
    return cell


def _kind(cell: str) -> str:
    kind = cell.strip().lower()
    if kind not in KINDS:
        raise FieldError(f"kind is none of {', '.join(KINDS)}")
    return kind


def _object(cell: str) -> dict[str, Any]:
    if not cell:
        return {}
    attributes = json_or_text(cell)
    if not isinstance(attributes, dict):
        raise FieldError("context_attributes is not a JSON object")
    return attributes


_READERS: dict[str, Callable[[str], Any]] = {
    "evaluation_duration_ms": duration_of,
    "sample_rate": sample_rate_of,
    "kind": _kind,
}
