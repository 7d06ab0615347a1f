"""The values of some options."""

from __future__ import annotations

from typing import Literal

__all__ = [
    "EventsFormat",
    "ExportTable",
    "FileFormat",
    "ImportFormat",
    "LettersFormat",
    "ListFormat",
    "PluginKind",
    "ReportFormat",
    "SeriesFormat",
    "SortOrder",
]

PluginKind = Literal["collector", "exporter", "processor", "source", "command"]
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
EventsFormat = Literal["csv", "jsonl", "parquet"]
ExportTable = Literal["events", "assignments"]
ReportFormat = Literal["table", "json", "csv", "html"]
SeriesFormat = Literal["table", "json", "csv"]
SortOrder = Literal["name", "users", "events", "errors", "last-seen"]
