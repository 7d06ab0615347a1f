"""Spans of whole UTC days that summaries are kept of: of 1, 2, 4, 8, 16 and 32 days, each half of the next longer one.

So a window of any number of days takes few summaries: 30 days at most 8, a year at most 20. Times are microseconds.
"""

from __future__ import annotations

import attrs

from ..counting import DAY

__all__ = ["DAY", "DAYS_OF_SPANS", "Span", "ceil", "cover", "floor"]

DAYS_OF_SPANS = (1, 2, 4, 8, 16, 32)


@attrs.frozen
class Span:
    """So many days from ``start`` on, which is a multiple of their length."""

    start: int
    days: int

    @property
    def end(self) -> int:
        """The time right after it."""
        return self.start + self.days * DAY

    @property
    def halves(self) -> tuple[Span, ...]:
        """The two spans that it is made of; none for a day."""
        half = self.days // 2
        return (Span(self.start, half), Span(self.start + half * DAY, half)) if half else ()

    @property
    def each_day(self) -> range:
        """The starts of its days."""
        return range(self.start, self.end, DAY)


def floor(time: int, unit: int) -> int:
    """Return the time where its unit, such as ``DAY``, begins."""
    return time // unit * unit


def ceil(time: int, unit: int) -> int:
    """Return the time where the next unit begins, or this one if the time is its start."""
    return -(-time // unit) * unit


def cover(start: int, end: int) -> list[Span]:
    """Return the fewest spans that make up the days from ``start`` to ``end``, which are starts of days."""
    spans = []
    while start < end:
        days = max(days for days in DAYS_OF_SPANS if start % (days * DAY) == 0 and start + days * DAY <= end)
        spans.append(Span(start, days))
        start += days * DAY
    return spans
