"""Counts by kind, from any thread, unharmed by fork."""

from __future__ import annotations

import os
import threading
import weakref
from collections import Counter

__all__ = ["Tally"]


class Tally:
    """How often something went another way than intended, by kind."""

    def __init__(self) -> None:
        # Re-entrant: a finaliser or signal handler that runs inside may evaluate a flag.
        self._lock = threading.RLock()
        self._counts: Counter[str] = Counter()
        _tallies.add(self)

    def add(self, kind: str, times: int = 1) -> None:
        with self._lock:
            self._counts[kind] += times

    def counts(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)

    def _after_fork_in_child(self) -> None:
        self._lock = threading.RLock()
        self._counts = Counter()


_tallies: weakref.WeakSet[Tally] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # Another thread may have held a lock at the fork: it does not exist here and would never let go.
    for tally in list(_tallies):
        tally._after_fork_in_child()  # noqa: SLF001 - same module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
