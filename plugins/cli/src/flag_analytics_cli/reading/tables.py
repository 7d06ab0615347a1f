"""Tables as text: which character separates the cells, the header, and the rows with their line numbers."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from typing import NamedTuple

import attrs

from ..file_errors import FileError
from .lines import MAX_LINE_BYTES, BadLine, LineReader, Row

__all__ = ["Table", "read_table"]

_DELIMITERS = ",;\t|"
_SEPARATOR_LINE = "sep="
"""How a spreadsheet is told the separator, on a line before the header."""


class Table(NamedTuple):
    """A table whose header is read: the names of its columns, and its rows."""

    header: tuple[str, ...]
    rows: Iterator[Row | BadLine]


def read_table(lines: LineReader, header_of: Callable[[list[str]], tuple[str, ...] | None]) -> Table:
    """Return the table in these lines; blank lines before its header are skipped.

    Args:
        lines: The file.
        header_of: Returns the names of the columns where the first row has none but is known to be data, else None.

    Raises:
        FileError: the file is empty, or its header cannot be read.
    """
    first = lines.first_content()
    delimiter = None
    if first is not None and not isinstance(first, BadLine) and first.text.lower().startswith(_SEPARATOR_LINE):
        next(lines)
        delimiter = first.text[len(_SEPARATOR_LINE) :][:1] or None
        first = lines.first_content()
    if first is None:
        raise FileError("the file is empty: expected a header line with the names of the columns")
    if isinstance(first, BadLine):
        raise FileError(f"the header cannot be read: line {first.first} {first.problem}")
    rows = _Rows(lines, delimiter or max(_DELIMITERS, key=_unquoted(first.text).count))
    header = next(rows)
    if isinstance(header, BadLine):
        raise FileError(f"the header cannot be read: line {header.first} {header.problem}")
    known = header_of(header.data)
    if known is None:
        return Table(tuple(name.strip() for name in header.data), rows)
    return Table(known, _with(header, rows))


def _with(first: Row, rows: Iterator[Row | BadLine]) -> Iterator[Row | BadLine]:
    yield first
    yield from rows


def _unquoted(text: str) -> str:
    """Return a line without its quoted parts, where a separator separates nothing."""
    return "".join(text.split('"')[::2])


class _BrokenLineError(Exception):
    """A line of the file cannot be read: carries the ``BadLine`` out through the csv module."""

    def __init__(self, line: BadLine) -> None:
        super().__init__(line.problem)
        self.line = line


class _Rows:
    """Rows with their line numbers, without the blank ones; a row is bounded in size, as a line is."""

    def __init__(self, lines: LineReader, delimiter: str) -> None:
        self._lines = lines
        self._texts: list[str] = []
        self._size = 0
        self._first = self._last = 0
        self._reader = csv.reader(_Feed(self._next_text), delimiter=delimiter)

    def __iter__(self) -> Iterator[Row | BadLine]:
        return self

    def __next__(self) -> Row | BadLine:
        cells: list[str] = []
        while not cells:
            self._texts.clear()
            self._size = self._first = 0
            try:
                cells = next(self._reader)
            except _BrokenLineError as broken:
                # Within a row, the part of it that was read is lost with the line.
                return BadLine(self._first or broken.line.first, broken.line.last, broken.line.problem)
            except csv.Error as error:
                return BadLine(self._first, self._last, f"is not CSV ({error})")
        texts = self._texts
        text = texts[0] if len(texts) == 1 else "\n".join(texts)
        return Row(self._first, self._first, self._last, cells, text)

    def _next_text(self) -> str:
        line = next(self._lines)
        if isinstance(line, BadLine):
            raise _BrokenLineError(line)
        number, text = line
        self._first = self._first or number
        self._last = number
        self._size += len(text)
        if self._size > MAX_LINE_BYTES:
            raise _BrokenLineError(BadLine(self._first, number, "a quoted field does not end"))
        self._texts.append(text)
        return text + "\n"


@attrs.frozen
class _Feed:
    """The text that the csv module iterates over. Unlike a generator it survives an exception and goes on after it."""

    _next: Callable[[], str]

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return self._next()
