"""``ManualClock``: time that passes when a test says so."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

__all__ = ["ManualClock"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ManualClock:
    """A wall clock and a monotonic clock that stand still until ``advance``.

    Hand out its methods: ``AnalyticsAggregator(source, clock=clock.now)``, ``Freezer(clock=clock.time)``.

    Args:
        start: The time it begins at, with its zone.
    """

    def __init__(self, start: datetime = datetime(2026, 1, 31, 12, tzinfo=UTC)) -> None:
        self._now = start
        self._monotonic = 0.0

    def now(self) -> datetime:
        """Return the time of day, UTC."""
        return self._now.astimezone(UTC)

    def time(self) -> float:
        """Return the time of day in seconds since the Unix epoch, as ``time.time`` does."""
        return (self._now - _EPOCH).total_seconds()

    def monotonic(self) -> float:
        """Return the seconds that have passed, as ``time.monotonic`` does."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks.

        Raises:
            ValueError: ``seconds`` is negative: monotonic time does not go back; ``set`` does.
        """
        if seconds < 0:
            raise ValueError(f"cannot advance by {seconds} seconds: expected at least 0; use set() to step back")
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds

    def set(self, moment: datetime) -> None:
        """Set the time of day, as an administrator or a time server does; monotonic time does not notice."""
        self._now = moment
