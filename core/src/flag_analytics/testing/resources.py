"""What a backend holds on to: file descriptors, threads and tasks; counted before and after."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

__all__ = ["live_threads", "open_descriptors", "pending_tasks"]

_DESCRIPTORS = next((path for path in (Path("/proc/self/fd"), Path("/dev/fd")) if path.is_dir()), None)


def open_descriptors() -> frozenset[int]:
    """Return the open file descriptors of this process; none where the system does not say."""
    if _DESCRIPTORS is None:
        return frozenset()
    listed = frozenset(int(path.name) for path in _DESCRIPTORS.iterdir() if path.name.isdigit())
    return frozenset(number for number in listed if _is_open(number))  # the listing itself used one


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def live_threads() -> frozenset[threading.Thread]:
    """Return the threads that are alive."""
    return frozenset(threading.enumerate())


def pending_tasks() -> frozenset[asyncio.Task[object]]:
    """Return the other tasks of the running event loop that are not done."""
    return frozenset(task for task in asyncio.all_tasks() if task is not asyncio.current_task())
