"""Answers as CSV (RFC 4180), fit for a spreadsheet: no cell is taken for a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from starlette.responses import Response

__all__ = ["attachment", "cell", "csv_response", "csv_text"]

CSV = "text/csv; charset=utf-8"
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""What spreadsheets begin a formula with (OWASP, "CSV Injection")."""


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, header: bool = True) -> bytes:
    """Return a table as UTF-8."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    if header:
        writer.writerow(columns)
    writer.writerows([cell(value) for value in row] for row in rows)
    return text.getvalue().encode("utf-8", "replace")


def cell(value: Any) -> str:
    """Return the text of a cell; one that would begin a formula gets an apostrophe before it."""
    if value is None:
        return ""
    if isinstance(value, bool | int | float):
        return msgspec.json.encode(value).decode()
    if isinstance(value, datetime):
        return value.isoformat()
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def attachment(name: str) -> dict[str, str]:
    """Return the headers of a file to save; ``name`` has no character that would need quoting."""
    return {"Content-Disposition": f'attachment; filename="{name}"'}


def csv_response(body: bytes, name: str) -> Response:
    """Return a table as a file to save."""
    return Response(body, media_type=CSV, headers=attachment(f"{name}.csv"))
