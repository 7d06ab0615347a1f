"""Rows of a Parquet file, some thousands at a time; needs pyarrow, the extra ``parquet``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from ..file_errors import FileError
from .lines import Row
from .tables import Table

__all__ = ["read_parquet"]

_BATCH_ROWS = 4_096


def read_parquet(stream: BinaryIO) -> Table:
    """Return the table in a Parquet file; a row's cells keep their types.

    Raises:
        FileError: pyarrow is not installed, or it cannot read the file.
    """
    try:
        from pyarrow import ArrowException, ArrowInvalid  # type: ignore[import-untyped]
        from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]
    except ImportError:
        raise FileError(
            "the file is Parquet, which needs pyarrow: run `pip install 'flag-analytics-cli[parquet]'`"
        ) from None
    try:
        file: Any = ParquetFile(stream)
    except (ArrowException, ArrowInvalid, OSError, ValueError):
        raise FileError("the Parquet file is damaged, or is read through a pipe: give the name of a file") from None
    return Table(tuple(map(str, file.schema_arrow.names)), _rows(file))


def _rows(file: Any) -> Iterator[Row]:
    number = 0
    for batch in file.iter_batches(_BATCH_ROWS):
        columns = [column.to_pylist() for column in batch.columns]
        for cells in zip(*columns, strict=True):
            number += 1
            yield Row(number, number, number, cells, json.dumps(cells, default=str))
