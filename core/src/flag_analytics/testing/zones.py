"""The machine's time zone, as a test wants it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["local_time_zone"]


@contextmanager
def local_time_zone(zone: str) -> Iterator[None]:
    """Let the process live in a zone, in POSIX form (``EST5EDT,M3.2.0,M11.1.0``); on Windows only in name."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = zone
    _apply()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        _apply()


def _apply() -> None:
    if hasattr(time, "tzset"):
        time.tzset()
