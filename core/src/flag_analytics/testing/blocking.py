"""Notices calls that hold a thread: sleeping, and sockets that wait without a deadline."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import attrs

__all__ = ["Waits", "watch_waits"]

_WAITING = frozenset({"accept", "connect", "recv", "recv_into", "recvfrom", "send", "sendall"})


@attrs.define
class Waits:
    """What was noticed.

    Attributes:
        slept_seconds: How long the watched thread was in ``time.sleep``.
        without_deadline: Methods of sockets without a timeout that were called, in this thread or in new ones.
    """

    slept_seconds: float = 0.0
    without_deadline: set[str] = attrs.field(factory=set[str])


@contextmanager
def watch_waits() -> Iterator[Waits]:
    """Watch this thread, and those that are started meanwhile."""
    waits = Waits()
    here = threading.get_ident()
    began = 0.0

    def notice(_: FrameType, event: str, called: Any) -> None:
        nonlocal began
        if called is time.sleep and threading.get_ident() == here:
            if event == "c_call":
                began = time.monotonic()
            elif event == "c_return":
                waits.slept_seconds += time.monotonic() - began
        elif event == "c_call":
            owner = getattr(called, "__self__", None)
            if isinstance(owner, socket.socket) and called.__name__ in _WAITING and owner.gettimeout() is None:
                waits.without_deadline.add(called.__name__)

    before = sys.getprofile()
    threading.setprofile(notice)
    sys.setprofile(notice)
    try:
        yield waits
    finally:
        sys.setprofile(before)
        threading.setprofile(before)
