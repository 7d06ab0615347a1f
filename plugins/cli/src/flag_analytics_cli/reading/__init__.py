"""Reads files of events line by line, in flat memory: CSV, our own JSON Lines and GO Feature Flag's exports.

A reader yields an event or a ``BadLine`` for each record, in order. What is wrong with the file as a whole (no column
for the time, an unknown column named) is a ``FileError``, raised before the first event.
"""

from __future__ import annotations

from ..file_errors import ColumnError, FileError
from .csv_rows import FIELDS, CsvReader, read_csv
from .formats import guess_format, read_events
from .lines import MAX_LINE_BYTES, BadLine, Line, LineReader

__all__ = [
    "FIELDS",
    "MAX_LINE_BYTES",
    "BadLine",
    "ColumnError",
    "CsvReader",
    "FileError",
    "Line",
    "LineReader",
    "guess_format",
    "read_csv",
    "read_events",
]
