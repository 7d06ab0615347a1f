"""The ends of a process: exit, fork, and, where asked for, SIGTERM."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
import weakref
from concurrent import futures
from types import FrameType
from typing import TYPE_CHECKING, Any

from .engine import as_timeout

if TYPE_CHECKING:
    from .delivery import Delivery
    from .engine import Engine

__all__ = ["close_all", "finish_draining", "install_signal_handlers", "register"]

_living: dict[int, weakref.ref[Delivery]] = {}
"""A plain dict, since a fork may come while another thread registers: copying its values is a single step."""
_draining: set[Engine] = set()


def register(delivery: Delivery) -> None:
    """Close a delivery when the interpreter exits, and renew it in forked children."""
    key = id(delivery)
    _living[key] = weakref.ref(delivery, lambda _: _living.pop(key, None))


def _deliveries() -> list[Delivery]:
    return [delivery for reference in list(_living.values()) if (delivery := reference()) is not None]


def close_all() -> None:
    """Close every delivery, all of them within the longest of their exit timeouts."""
    deliveries = [delivery for delivery in _deliveries() if not delivery.reported]
    started = time.monotonic()
    for delivery in deliveries:
        delivery.begin_exit()
    for delivery in deliveries:
        delivery.end_exit(started)
    for engine in list(_draining):
        left = started + as_timeout(engine.settings.options.exit_timeout_seconds) - time.monotonic()
        futures.wait([engine.all_done], max(0.0, left))
        engine.finish()


def finish_draining(engine: Engine) -> None:
    """Hold the end of the process for an engine whose delivery was dropped, as for one that was not."""
    _draining.add(engine)
    engine.begin_close(as_timeout(engine.settings.options.close_timeout_seconds)).add_done_callback(
        lambda _: _draining.discard(engine)
    )


def _renew_in_child() -> None:
    _draining.clear()
    for delivery in _deliveries():
        delivery.after_fork_in_child()
    _close_with_multiprocessing()


class _Anchor:
    """What multiprocessing wants to hang a callback on; it lives as long as the module."""


_anchor = _Anchor()


def _close_with_multiprocessing() -> None:
    """Close with a child of ``multiprocessing``: it ends without the interpreter's exit, but runs finalisers."""
    util = sys.modules.get("multiprocessing.util")
    if util is not None:  # called back when the child has forgotten its parent's finalisers
        util.register_after_fork(_anchor, lambda _: util.Finalize(None, close_all, exitpriority=0))


atexit.register(close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_in_child)


def install_signal_handlers() -> None:
    """On SIGTERM, close every delivery within its exit timeout, then do what was done before on that signal.

    Call it from the main thread. Nothing calls it by itself: a server (gunicorn, uvicorn) has handlers of its own
    that end in a clean exit, which needs no help.

    Raises:
        ValueError: called from another thread than the main one.
    """
    previous = signal.getsignal(signal.SIGTERM)
    closings: list[threading.Thread] = []

    def handle(number: int, frame: FrameType | None) -> None:
        # Another thread, since the interrupted one may hold any lock; the handler waits for it, but not for ever. A
        # second signal waits for the same one.
        if not closings:
            closings.append(threading.Thread(target=close_all, daemon=True))
            closings[0].start()
        closings[0].join(_longest_exit())
        _go_on(previous, number, frame)

    signal.signal(signal.SIGTERM, handle)


def _longest_exit() -> float:
    return 0.5 + max((delivery.exit_timeout for delivery in _deliveries()), default=0.0)


def _go_on(previous: Any, number: int, frame: FrameType | None) -> None:
    if callable(previous):
        previous(number, frame)
    elif previous != signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
