"""The files of prometheus_client's multi-process mode: read without trust, and written in the same format.

A file starts with the number of its used bytes. Each entry is the length of its key, the key, padding to 8 bytes, the
value and a time in seconds since the Unix epoch. A key is JSON: metric, sample, labels, help text.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import stat
import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, NamedTuple

import msgspec
from prometheus_client.metrics_core import Metric

__all__ = [
    "MOST_RECENT",
    "SUMMED",
    "Key",
    "Values",
    "ValuesFile",
    "file_kind",
    "open_regular",
    "parse_key",
    "read_regular",
    "read_values",
    "write_values",
]

SUMMED = ("counter", "histogram", "summary")
"""The kinds of files whose values are added up over processes."""
MOST_RECENT = "gauge_mostrecent"
"""The kind of files of which the latest value counts."""

MAX_FILE_BYTES = 2**28
_NAME = re.compile(r"(counter|histogram|summary|gauge_(?:live)?(?:all|min|max|sum|mostrecent))_(.+)\.db")
_INT = struct.Struct("i")
_NUMBERS = struct.Struct("dd")
_START = 8
_INITIAL_BYTES = 2**16
_FIRST_BYTES = 2**12
"""Most files of a process have no more in them than this."""
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)

Values = dict[str, tuple[float, float]]
"""Value and time by key."""


class Key(NamedTuple):
    """The key of an entry, decoded."""

    metric: str
    sample: str
    labels: tuple[tuple[str, str], ...]
    help: str

    def text(self) -> str:
        """Return the key as it is written."""
        return json.dumps([self.metric, self.sample, dict(self.labels), self.help], sort_keys=True)


_decode_key = msgspec.json.Decoder(tuple[str, str, dict[str, str], str]).decode


@lru_cache(maxsize=32_768)
def parse_key(text: str) -> Key:
    """Return the parts of a key.

    Raises:
        ValueError: it is not the key of a sample.
    """
    try:
        metric, sample, labels, help_text = _decode_key(text)
    except msgspec.MsgspecError:
        raise ValueError("an entry's key is not that of a sample") from None
    Metric(metric, help_text, "untyped")  # raises ValueError for a name that no metric can have
    if "le" in labels:
        float(labels["le"])
    return Key(metric, sample, tuple(sorted(labels.items())), help_text)


def file_kind(name: str) -> tuple[str, str] | None:
    """Return the kind and the owner of a file of the library by its name, None for a name of another form."""
    found = _NAME.fullmatch(name)
    return None if found is None else (found[1], found[2])


def open_regular(path: str | Path) -> IO[bytes]:
    """Open a regular file to read; links are not followed.

    Raises:
        OSError: it is no regular file, or cannot be read.
    """
    file = os.fdopen(os.open(path, os.O_RDONLY | _NO_FOLLOW), "rb", buffering=0)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("not a regular file")
    return file


def read_regular(path: str | Path, most: int = MAX_FILE_BYTES) -> bytes:
    """Return the content of a regular file; links are not followed.

    Raises:
        OSError: it is no regular file, is larger than ``most`` bytes, or cannot be read.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise OSError("the file is too large")
        return file.read()


def read_values(path: str | Path) -> Values:
    """Return the entries of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is cut off, or of another format.
    """
    with open_regular(path) as file:
        data = file.read(_FIRST_BYTES)
        used = _INT.unpack_from(data)[0] if len(data) >= _START else -1
        if len(data) < used <= MAX_FILE_BYTES:
            data += file.read(used - len(data))
    if not 0 <= used <= len(data):
        raise ValueError("the file is cut off")
    values: Values = {}
    position = _START
    while position < used:
        length = _INT.unpack_from(data, position)[0]
        start = position + _INT.size
        end = start + length + _padding(length)
        if length <= 0 or end + _NUMBERS.size > used:
            raise ValueError("the file is cut off")
        key = data[start : start + length].decode()
        parse_key(key)
        values[key] = _NUMBERS.unpack_from(data, end)
        position = end + _NUMBERS.size
    return values


def _padding(length: int) -> int:
    return 8 - (length + _INT.size) % 8


def _entry(key: bytes) -> bytes:
    return _INT.pack(len(key)) + key + b" " * _padding(len(key)) + _NUMBERS.pack(0.0, 0.0)


class ValuesFile:
    """Values of one process by key: in memory and, as long as it can be written, in a file in shared memory.

    A killed process loses nothing of it. ``failed`` is called for each key that is not in the file.
    """

    def __init__(self, path: Path, failed: Callable[[], None]) -> None:
        self.path = path
        self.values: Values = {}
        self._failed = failed
        self._file: IO[bytes] | None = None
        self._map: mmap.mmap | None = None
        self._used = _START

    def writer(self, key: str) -> Callable[[float, float], None]:
        """Return a function that sets the value and time of a key; only one thread at a time may ask for one."""
        values = self.values
        values[key] = (0.0, 0.0)
        try:
            offset = self._append(_entry(key.encode()))
        except (OSError, ValueError):
            self._failed()
            return lambda value, timestamp: values.__setitem__(key, (value, timestamp))

        def write(value: float, timestamp: float) -> None:
            values[key] = (value, timestamp)
            assert self._map is not None
            self._map[offset : offset + _NUMBERS.size] = _NUMBERS.pack(value, timestamp)

        return write

    def _append(self, entry: bytes) -> int:
        end = self._used + len(entry)
        if self._map is None or end > len(self._map):
            self._map = self._larger_map(end)
        self._map[self._used : end] = entry
        self._used = end
        self._map[: _INT.size] = _INT.pack(end)
        return end - _NUMBERS.size

    def _larger_map(self, least: int) -> mmap.mmap:
        if self._file is None:
            self._file = self.path.open("x+b")
        size = max(_INITIAL_BYTES, 1 << (least - 1).bit_length())
        self._file.truncate(size)
        if hasattr(os, "posix_fallocate"):  # else writing to a page for which the disk has no room kills the process
            os.posix_fallocate(self._file.fileno(), 0, size)
        return mmap.mmap(self._file.fileno(), size)


def write_values(path: Path, values: Mapping[str, tuple[float, float]]) -> None:
    """Write a file of these entries.

    Raises:
        OSError: it cannot be written.
    """
    content = bytearray(_START)
    for key, numbers in values.items():
        content += _entry(key.encode())
        content[-_NUMBERS.size :] = _NUMBERS.pack(*numbers)
    content[: _INT.size] = _INT.pack(len(content))
    path.write_bytes(content)
