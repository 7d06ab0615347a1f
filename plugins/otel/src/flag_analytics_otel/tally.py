"""Counts by kind, from any thread, unharmed by fork."""

from __future__ import annotations

from collections import Counter

from flag_analytics.processes import new_rlock, renew_after_fork

__all__ = ["Tally"]


class Tally:
    """Counts of dropped, changed and failed telemetry, by kind."""

    def __init__(self) -> None:
        self._begin()
        renew_after_fork(self._begin)

    def _begin(self) -> None:
        # Re-entrant: a finaliser or signal handler that runs inside may evaluate a flag.
        self._lock = new_rlock()
        self._counts: Counter[str] = Counter()

    def add(self, kind: str, times: int = 1) -> None:
        with self._lock:
            self._counts[kind] += times

    def counts(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)
