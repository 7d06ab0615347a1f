"""Numbered lines of a file of any size: no line, however long, takes more than ``MAX_LINE_BYTES`` of memory."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import BinaryIO

import attrs

from ..file_errors import FileError

__all__ = ["MAX_LINE_BYTES", "BadLine", "Line", "LineReader"]

MAX_LINE_BYTES = 2**20


@attrs.frozen
class Line:
    """One line, without its end, and its number counted from 1."""

    number: int
    text: str


@attrs.frozen
class BadLine:
    """What could not be read: the first and last line of it, and why (never its content)."""

    first: int
    last: int
    problem: str

    def __str__(self) -> str:
        where = f"line {self.first}" if self.first == self.last else f"lines {self.first} to {self.last}"
        return f"{where}: {self.problem}"

    @property
    def count(self) -> int:
        return self.last - self.first + 1


class LineReader:
    """Iterates over the lines of a binary file, decoded; what is too long or cannot be decoded is a ``BadLine``.

    Lines end with LF or CRLF; a byte order mark is taken off. ``bytes_read`` says how far the reader has come.

    Raises:
        FileError: the encoding is unknown or not a superset of ASCII, or the file is UTF-16 or UTF-32.
    """

    def __init__(self, file: BinaryIO, encoding: str = "utf-8") -> None:
        try:
            codec = codecs.lookup(encoding)
            ascii_based = "a,\n{".encode(codec.name) == b"a,\n{"
        except (LookupError, UnicodeError):
            raise FileError(f"encoding {encoding!r} is unknown: expected for example utf-8 or cp1252") from None
        if not ascii_based:
            raise FileError(f"encoding {encoding!r} is not supported: convert the file to UTF-8 first")
        self._file = file
        self._encoding = codec.name
        self._name = "UTF-8" if codec.name == "utf-8" else codec.name
        self._number = 0
        self._pending: list[Line | BadLine] = []
        self.bytes_read = 0

    def __iter__(self) -> Iterator[Line | BadLine]:
        return self

    def __next__(self) -> Line | BadLine:
        if self._pending:
            return self._pending.pop()
        raw = self._file.readline(MAX_LINE_BYTES + 1)
        if not raw:
            raise StopIteration
        self.bytes_read += len(raw)
        self._number += 1
        if self._number == 1:
            raw = _without_mark(raw)
        if len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n"):
            self._skip_rest()
            return BadLine(self._number, self._number, f"is longer than {MAX_LINE_BYTES:,} bytes")
        try:
            text = raw.decode(self._encoding)
        except UnicodeError:
            return BadLine(self._number, self._number, f"is not {self._name} (--encoding NAME reads other encodings)")
        return Line(self._number, text.removesuffix("\n").removesuffix("\r"))

    def peek(self) -> Line | BadLine | None:
        """Return what comes next without taking it; None at the end of the file."""
        if not self._pending:
            try:
                self._pending.append(next(self))
            except StopIteration:
                return None
        return self._pending[-1]

    def _skip_rest(self) -> None:
        while True:
            raw = self._file.readline(MAX_LINE_BYTES)
            self.bytes_read += len(raw)
            if not raw or raw.endswith(b"\n"):
                return


def _without_mark(raw: bytes) -> bytes:
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        raise FileError("the file is in UTF-16 or UTF-32: convert it to UTF-8 first")
    return raw.removeprefix(codecs.BOM_UTF8)
