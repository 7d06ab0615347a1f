"""What some options can be set to."""

from __future__ import annotations

from typing import Literal

__all__ = ["FileFormat", "ImportFormat", "LettersFormat", "ListFormat", "ReportFormat"]

FileFormat = Literal["csv", "jsonl", "goff"]
ImportFormat = Literal["table", "json", "csv", "jsonl", "goff"]
"""How to say what was imported; or the file's format, as it was spelled before ``--file-format``."""
LettersFormat = Literal["table", "json", "jsonl"]
ListFormat = Literal["table", "json"]
ReportFormat = Literal["table", "json", "csv"]
