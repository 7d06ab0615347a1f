"""Numbered lines of a file of any size, each within a bound of memory."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

__all__ = ["MAX_JSON_BYTES", "MAX_LINE_BYTES", "BadLine", "Line", "LineReader", "Row"]

MAX_LINE_BYTES = 2**20
"""The longest line or row of a table."""
MAX_JSON_BYTES = 2**25
"""The longest JSON value: a collector writes a whole request into one line."""


class Line(NamedTuple):
    """One line, without its end, and its number counted from 1."""

    number: int
    text: str


class Row(NamedTuple):
    """One record of a file.

    Attributes:
        number: Its number, or number and index within a document, which is part of its event's id.
        first: The number of its first line, row or element.
        last: The number of its last.
        data: The cells of a table's row in order, or the members of an object by name.
        text: Its content as it is in the file.
    """

    number: int | str
    first: int
    last: int
    data: Any
    text: str


class BadLine(NamedTuple):
    """A part of a file that is no event: its first and last line, and the reason, without its content."""

    first: int
    last: int
    problem: str

    @property
    def line_count(self) -> int:
        return self.last - self.first + 1


class LineReader:
    """Iterates over the lines of a binary file, decoded; one that is too long or cannot be decoded is a ``BadLine``.

    Lines end with LF or CRLF; a byte order mark is taken off.

    Args:
        file: The file, in an encoding that extends ASCII.
        encoding: The encoding's name.
        limit: The most bytes of a line.
    """

    def __init__(self, file: BinaryIO, encoding: str = "utf-8", limit: int = MAX_LINE_BYTES) -> None:
        self._file = file
        self._encoding = encoding
        self._limit = limit
        self._number = 0
        self._pending: list[Line | BadLine] = []

    def __iter__(self) -> Iterator[Line | BadLine]:
        return self

    def __next__(self) -> Line | BadLine:
        if self._pending:
            return self._pending.pop()
        raw = self._file.readline(self._limit + 1)
        if not raw:
            raise StopIteration
        self._number += 1
        if self._number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        if len(raw) > self._limit and not raw.endswith(b"\n"):
            self._skip_rest()
            return BadLine(self._number, self._number, f"is longer than {self._limit:,} bytes")
        try:
            text = raw.decode(self._encoding)
        except UnicodeError:
            name = self._encoding.upper()
            return BadLine(self._number, self._number, f"is not {name} (--encoding NAME reads other encodings)")
        return Line(self._number, text.removesuffix("\n").removesuffix("\r"))

    def push_back(self, line: Line | BadLine) -> None:
        """Let a line come again, before those that are still to come."""
        self._pending.append(line)

    def first_content(self) -> Line | BadLine | None:
        """Return the first line that is not blank without taking it, and skip the blank ones; None at the end."""
        for line in self:
            if isinstance(line, BadLine) or not (not line.text or line.text.isspace()):
                self.push_back(line)
                return line
        return None

    def _skip_rest(self) -> None:
        while True:
            raw = self._file.readline(self._limit)
            if not raw or raw.endswith(b"\n"):
                return
