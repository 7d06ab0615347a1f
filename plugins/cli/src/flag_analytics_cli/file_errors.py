"""Problems of a file as a whole; apart from the readers, which other commands need not import."""

from __future__ import annotations

__all__ = ["ColumnError", "FileError"]


class FileError(ValueError):
    """A file cannot be read as events at all; the message says what to do."""


class ColumnError(FileError):
    """A column that is needed or named is not in a file; the message says which options would help."""
