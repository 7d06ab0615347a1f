"""Opens a file of events: unpacks gzip, turns UTF-16 and UTF-32 into UTF-8, and refuses other kinds of file by name."""

from __future__ import annotations

import codecs
import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import attrs

from ..file_errors import FileError

__all__ = ["Source", "open_source"]

_CHUNK_BYTES = 65_536
_MARKS = (
    # The mark of UTF-32 begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHER_KINDS = (
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook: unpack it, or save the sheet as CSV"),
    (b"SQLite format 3\0", "an SQLite database: export the table as CSV"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first"),
    (b"BZh", "compressed with bzip2: unpack it first"),
    (b"\xfd7zXZ\0", "compressed with xz: unpack it first"),
    (b"%PDF", "a PDF: expected CSV, JSON or Parquet"),
)


@attrs.frozen
class Source:
    """An open file of events.

    Attributes:
        name: A path, or ``-`` for standard input.
        stream: Its unpacked bytes.
        encoding: The encoding of these bytes: as asked for, or UTF-8 where they were converted.
        size: The bytes on disk, None where that is not known.
    """

    name: str
    stream: io.BufferedReader
    encoding: str
    size: int | None
    _raw: BinaryIO

    def head(self) -> bytes:
        """Return the next bytes without taking them; empty at the end of the file."""
        return self.stream.peek(_CHUNK_BYTES)

    def bytes_read(self) -> int:
        """Return how many of the bytes on disk have been read."""
        return self._raw.tell() if self.size is not None else 0


@contextmanager
def open_source(name: str, encoding: str = "utf-8") -> Iterator[Source]:
    """Yield the file of this name, or standard input for ``-``.

    Raises:
        OSError: the file cannot be opened.
        FileError: the encoding is unknown, the file is of another kind, or a compressed file is damaged.
    """
    codec = _codec(encoding)
    with _damage_named():
        if name == "-":
            yield _prepared(name, sys.stdin.buffer, codec, None)
            return
        with Path(name).open("rb") as raw:
            size = Path(name).stat().st_size
            yield _prepared(name, raw, codec, size or None)  # a pipe or device says 0


def _codec(encoding: str) -> str:
    try:
        return codecs.lookup(encoding).name
    except LookupError:
        raise FileError(f"encoding {encoding!r} is unknown: expected for example utf-8 or cp1252") from None


@contextmanager
def _damage_named() -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise FileError("the gzip file is damaged or cut off: the events before that place were read") from None


def _prepared(name: str, raw: BinaryIO, encoding: str, size: int | None) -> Source:
    stream = _peekable(raw)
    if stream.peek(2)[:2] == b"\x1f\x8b":
        stream = _peekable(gzip.GzipFile(fileobj=stream))
    head = stream.peek(16)
    for magic, kind in _OTHER_KINDS:
        if head.startswith(magic):
            raise FileError(f"the file is {kind}")
    marked = next((codec for mark, codec in _MARKS if head.startswith(mark)), None)
    if marked or not _extends_ascii(encoding):
        stream = _peekable(_Transcoder(stream, marked or encoding))
        encoding = "utf-8"
    return Source(name, stream, encoding, size, raw)


def _peekable(raw: Any) -> io.BufferedReader:
    return raw if hasattr(raw, "peek") and not isinstance(raw, gzip.GzipFile) else io.BufferedReader(raw, _CHUNK_BYTES)


def _extends_ascii(encoding: str) -> bool:
    try:
        return "a,\n{".encode(encoding) == b"a,\n{"
    except (LookupError, UnicodeError):
        raise FileError(f"encoding {encoding!r} is not for text: expected for example utf-8 or cp1252") from None


class _Transcoder(io.RawIOBase):
    """Reads another encoding as UTF-8."""

    def __init__(self, stream: io.BufferedReader, encoding: str) -> None:
        self._stream = stream
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            raw = self._stream.read1(_CHUNK_BYTES)
            try:
                text = self._decoder.decode(raw, final=not raw)
            except UnicodeError:
                raise FileError(f"the file is not {self._encoding.upper()} throughout") from None
            self._ready = text.encode("utf-8", "surrogatepass")
            if not raw:
                break
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count
