"""Reads files of events record by record, in flat memory.

``EventReader`` yields an event, a ``BadLine`` or a ``Skipped`` for each record, in order. A problem of the file as a
whole (no column for the time, an unknown column named) is a ``FileError``, raised before the first event.
"""

from __future__ import annotations

from ..file_errors import ColumnError, FileError
from .events import EventReader, ReadOptions
from .fields import FIELDS
from .lines import BadLine
from .shapes import Shape
from .skipping import Skipped
from .source import Source, open_source
from .times import parse_time, parse_zone

__all__ = [
    "FIELDS",
    "BadLine",
    "ColumnError",
    "EventReader",
    "FileError",
    "ReadOptions",
    "Shape",
    "Skipped",
    "Source",
    "open_source",
    "parse_time",
    "parse_zone",
]
