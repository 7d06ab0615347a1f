"""What can be wrong with a file as a whole; apart from the readers, which no other command has to import."""

from __future__ import annotations

__all__ = ["ColumnError", "FileError"]


class FileError(ValueError):
    """A file cannot be read as events at all; the message says what to do."""


class ColumnError(FileError):
    """The columns of a file are not those that are asked for or needed; the message says which options would help."""
