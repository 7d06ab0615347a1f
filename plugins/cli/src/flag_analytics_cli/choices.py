"""What some options can be set to."""

from __future__ import annotations

from typing import Literal

__all__ = ["FileFormat", "LettersFormat", "ListFormat", "ReportFormat"]

FileFormat = Literal["csv", "jsonl", "goff"]
LettersFormat = Literal["table", "jsonl"]
ListFormat = Literal["table", "json"]
ReportFormat = Literal["table", "json", "csv"]
