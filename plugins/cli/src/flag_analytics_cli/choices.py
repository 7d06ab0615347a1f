"""The values of some options."""

from __future__ import annotations

from typing import Literal

__all__ = ["FileFormat", "ImportFormat", "LettersFormat", "ListFormat", "ReportFormat"]

FileFormat = Literal[
    "csv",
    "jsonl",
    "datadog",
    "eppo",
    "flagsmith",
    "goff",
    "growthbook",
    "launchdarkly",
    "otlp",
    "posthog",
    "rudderstack",
    "segment",
    "statsig",
]
ImportFormat = Literal["table", "json", "csv", "jsonl", "goff"]
"""The form of the outcome; a file's format is taken for ``--file-format``."""
LettersFormat = Literal["table", "json", "jsonl"]
ListFormat = Literal["table", "json"]
ReportFormat = Literal["table", "json", "csv"]
