"""Tells PyInstaller what its analysis cannot see: the drivers, which are imported by the names in URLs."""

from __future__ import annotations

from pathlib import Path

__all__ = ["get_hook_dirs"]


def get_hook_dirs() -> list[str]:
    """Return where the hooks are; the entry point ``hook-dirs`` of PyInstaller."""
    return [str(Path(__file__).parent)]
