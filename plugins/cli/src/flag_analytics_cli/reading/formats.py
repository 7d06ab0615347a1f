"""Which format a file has, and its events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath

import msgspec
from flag_analytics.events import FlagEvaluationEvent

from ..choices import FileFormat
from ..file_errors import ColumnError, FileError
from .csv_rows import CsvReader
from .goff import looks_like_goff, read_goff
from .json_lines import read_json_lines
from .lines import BadLine, LineReader

__all__ = ["guess_format", "read_events"]

_CSV_SUFFIXES = frozenset({".csv", ".tsv"})


def guess_format(name: str, lines: LineReader) -> FileFormat:
    """Return the format from the name's extension, else from the first line, which is not consumed.

    Raises:
        FileError: the file is JSON, and not a line for each event.
    """
    if PurePath(name).suffix.lower() in _CSV_SUFFIXES:
        return "csv"
    first = lines.peek()
    if first is None or isinstance(first, BadLine):
        return "jsonl"
    if first.text.lstrip().startswith("["):
        raise FileError("the file is a JSON array: expected one object on each line, as `jq -c '.[]' FILE` writes them")
    if not first.text.lstrip().startswith("{"):
        return "csv"
    try:
        fields = msgspec.json.decode(first.text)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return "jsonl"
    return "goff" if looks_like_goff(fields) else "jsonl"


def read_events(
    lines: LineReader,
    file_format: FileFormat,
    columns: Mapping[str, str],
    flag_key: str | None = None,
    unused_keys: set[str] | None = None,
) -> Iterator[FlagEvaluationEvent | BadLine]:
    """Return the events of a file and, in their places, the lines that are none.

    Args:
        lines: The file.
        file_format: How to read it.
        columns: CSV only: field of the event to name of the column.
        flag_key: The flag's key where the file has none.
        unused_keys: JSON only: takes the keys that events have no field for, the first fifty of them.

    Raises:
        FileError: the file as a whole cannot be read, or columns are given for a format that has none.
    """
    if file_format == "csv":
        return iter(CsvReader(lines, columns, flag_key))
    if columns:
        raise ColumnError(f"--map names columns, which a file of format {file_format} does not have")
    read = read_goff if file_format == "goff" else read_json_lines
    return read(lines, flag_key, unused_keys)
