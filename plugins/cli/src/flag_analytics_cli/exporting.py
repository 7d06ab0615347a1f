"""``flag-analytics export``: events, or the assignment table of them, as CSV, JSON Lines or Parquet."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Self

import attrs
from flag_analytics.events import FlagEvaluationEvent

from .choices import EventsFormat
from .file_errors import FileError
from .parameters import UsageError
from .reading.fields import FIELDS, json_or_text
from .visible import visible

__all__ = ["ASSIGNMENT_COLUMNS", "Assignments", "event_row", "writing"]

ASSIGNMENT_COLUMNS = ("user_id", "timestamp", "experiment_id", "variation_id", "environment", "flag_version")
"""The columns that GrowthBook, Statsig, Eppo and others map for an assignment table."""
_BATCH_ROWS = 10_000
Write = Callable[[Mapping[str, Any]], None]


class Assignments:
    """Finds the first exposure of each user to each flag; memory grows with their number."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str], tuple[datetime, str, Any, str | None]] = {}

    def add(self, event: FlagEvaluationEvent) -> None:
        """Take one event into account; one without a targeting key is left out."""
        if not event.targeting_key:
            return
        key = (event.flag_key, event.targeting_key)
        seen = (event.timestamp, event.variant or "default")
        first = self._first.get(key)
        if first is None or seen < first[:2]:
            environment = event.context_attributes.get("environment")
            self._first[key] = (*seen, environment, event.flag_version)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row for each user and flag, by time."""
        for (flag_key, user), (moment, variant, environment, version) in sorted(
            self._first.items(), key=lambda item: (item[1][0], item[0])
        ):
            cells = (user, moment, flag_key, variant, environment, version)
            yield dict(zip(ASSIGNMENT_COLUMNS, cells, strict=True))


def event_row(event: FlagEvaluationEvent) -> dict[str, Any]:
    """Return the fields of an event by name, the time as it is."""
    return {**event.to_dict(), "timestamp": event.timestamp}


def _event_cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row with its value as ``import`` reads it again: JSON where it is no text, or would not stay one."""
    value = row["value"]
    if value is None or (isinstance(value, str) and json_or_text(value) == value):
        return dict(row)
    return {**row, "value": json.dumps(value)}


@contextmanager
def writing(form: EventsFormat, columns: Iterable[str] | None, output: Path | None) -> Iterator[Write]:
    """Yield the function that writes a row.

    Args:
        form: The form of the file.
        columns: The columns of an assignment table; None for events.
        output: The file; None for standard output.

    Raises:
        UsageError: Parquet would go to a terminal.
        FileError: pyarrow is not installed.
    """
    names = tuple(columns or FIELDS)
    if form == "parquet":
        if output is None and sys.stdout.isatty():
            raise UsageError("Parquet is no text: name a file with --output FILE")
        with _Parquet(names, output) as parquet:
            yield parquet.write
        return
    with _text_output(output) as file:
        if form == "jsonl":
            yield lambda row: _write_line(file, row)
            return
        # In a terminal nothing may steer it; for programs cells are as they are.
        show = visible if output is None and sys.stdout.isatty() else str
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)

        def write(row: Mapping[str, Any]) -> None:
            cells = row if columns else _event_cells(row)
            writer.writerow([show(_as_text(cells[name])) for name in names])

        yield write


@contextmanager
def _text_output(output: Path | None) -> Iterator[Any]:
    if output is None:
        yield sys.stdout
        return
    with output.open("w", encoding="utf-8", newline="") as file:
        yield file


def _write_line(file: Any, row: Mapping[str, Any]) -> None:
    file.write(json.dumps({name: _plain(value) for name, value in row.items()}, separators=(",", ":")) + "\n")


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _as_text(value: Any) -> str:
    """Return a cell of text."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    return value if isinstance(value, str) else json.dumps(value)


@attrs.define
class _Parquet:
    """Writes rows to a Parquet file, some thousands at a time."""

    names: tuple[str, ...]
    output: Path | None
    _rows: list[Mapping[str, Any]] = attrs.field(factory=list[Mapping[str, Any]])
    _writer: Any = None
    _file: BinaryIO | None = None

    def __enter__(self) -> Self:
        try:
            import pyarrow as pa  # type: ignore[import-untyped]
            from pyarrow.parquet import ParquetWriter  # type: ignore[import-untyped]
        except ImportError:
            raise FileError("Parquet needs pyarrow: run `pip install 'flag-analytics-cli[parquet]'`") from None
        types = {
            "timestamp": pa.timestamp("us", tz="UTC"),
            "evaluation_duration_ms": pa.float64(),
            "sample_rate": pa.float64(),
        }
        schema = pa.schema([(name, types.get(name, pa.string())) for name in self.names])
        self._file = self.output.open("wb") if self.output is not None else sys.stdout.buffer
        self._writer = ParquetWriter(self._file, schema)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._flush()
        self._writer.close()
        if self._file is not None and self.output is not None:
            self._file.close()

    def write(self, row: Mapping[str, Any]) -> None:
        self._rows.append(_event_cells(row) if "value" in row else row)
        if len(self._rows) >= _BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        import pyarrow as pa

        schema = self._writer.schema
        columns = [
            pa.array([_typed(row[field.name], field.type) for row in self._rows], field.type) for field in schema
        ]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=schema))
        self._rows.clear()


def _typed(value: Any, kind: Any) -> Any:
    if value is None or str(kind) != "string":
        return value
    return _as_text(value)
