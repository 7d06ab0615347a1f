"""Numbers in sentences."""

from __future__ import annotations

__all__ = ["counted"]


def counted(number: int, noun: str) -> str:
    """Return ``1 event`` or ``2,000 events``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
