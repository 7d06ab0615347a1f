"""What some options can be set to."""

from __future__ import annotations

from typing import Literal

__all__ = ["FileFormat", "ListFormat", "ReportFormat"]

FileFormat = Literal["csv", "jsonl", "goff"]
ListFormat = Literal["table", "json"]
ReportFormat = Literal["table", "json", "csv"]
