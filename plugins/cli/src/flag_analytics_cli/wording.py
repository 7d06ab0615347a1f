"""Numbers in sentences, and the meaning of codes."""

from __future__ import annotations

__all__ = ["counted", "explained"]

_MEANINGS = {
    "28000": "login refused",
    "28P01": "login refused",
    "3D000": "no such database",
    "42501": "permission denied",
    "53300": "too many connections",
    "mysql-1040": "too many connections",
    "mysql-1044": "permission denied",
    "mysql-1045": "login refused",
    "mysql-1049": "no such database",
    "mysql-2003": "no server listens there",
    "EAI_NONAME": "no host of that name",
    "ECONNREFUSED": "no server listens there",
    "ENOSPC": "the disk is full",
    "SQLITE_CANTOPEN": "the file cannot be opened",
    "SQLITE_FULL": "the disk is full",
    "SQLITE_NOTADB": "the file is no SQLite database",
    "SQLITE_READONLY": "the file is read-only",
}
"""Codes that the user of a command can act on; all others are for looking up."""


def counted(number: int, noun: str) -> str:
    """Return ``1 event`` or ``2,000 events``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def explained(failure: str) -> str:
    """Return the class and code of a failure, as the delivery engine gives them, with a word for a common code."""
    meaning = _MEANINGS.get(failure.rpartition(" ")[2])
    return f"{failure}: {meaning}" if meaning else failure
