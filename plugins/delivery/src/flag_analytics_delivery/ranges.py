"""Sets of positions: sorted tuples of ranges ``(first, end)`` that do not touch; ``end`` is excluded."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from operator import itemgetter

__all__ = ["Ranges", "add", "common", "count", "cut", "gaps_of", "holds", "split"]

Ranges = tuple[tuple[int, int], ...]

_first = itemgetter(0)
_end = itemgetter(1)


def add(ranges: Ranges, first: int, end: int) -> Ranges:
    """Return the ranges with ``[first, end)`` added, wherever it overlaps."""
    if first >= end:
        return ranges
    low = bisect_left(ranges, first, key=_end)
    high = bisect_right(ranges, end, key=_first)
    if low < high:
        first, end = min(first, ranges[low][0]), max(end, ranges[high - 1][1])
    return (*ranges[:low], (first, end), *ranges[high:])


def gaps_of(ranges: Ranges, first: int, end: int) -> Ranges:
    """Return the stretches of ``[first, end)`` that are in none of the ranges."""
    gaps = []
    for start, stop in ranges[bisect_right(ranges, first, key=_end) :]:
        if start >= end:
            break
        if start > first:
            gaps.append((first, start))
        first = stop
    if first < end:
        gaps.append((first, end))
    return tuple(gaps)


def count(ranges: Iterable[tuple[int, int]]) -> int:
    """Return how many positions there are."""
    return sum(end - first for first, end in ranges)


def holds(ranges: Ranges, first: int, end: int) -> bool:
    """Return whether every position of ``[first, end)`` is in the ranges."""
    index = bisect_right(ranges, first, key=_end)
    return first >= end or (index < len(ranges) and ranges[index][0] <= first and end <= ranges[index][1])


def cut(ranges: Ranges, first: int, end: int) -> Ranges:
    """Return the part of the ranges that lies in ``[first, end)``."""
    return tuple((max(first, start), min(end, stop)) for start, stop in ranges if start < end and first < stop)


def common(some: Ranges, others: Ranges) -> Ranges:
    """Return the positions that are in both."""
    return tuple(part for first, end in some for part in cut(others, first, end))


def split(ranges: Ranges, at: int) -> tuple[Ranges, Ranges]:
    """Return the first ``at`` positions, and the rest."""
    before: list[tuple[int, int]] = []
    for index, (first, end) in enumerate(ranges):
        if at < end - first:
            rest = ((first + at, end), *ranges[index + 1 :])
            return (*before, (first, first + at)) if at else tuple(before), rest
        before.append((first, end))
        at -= end - first
    return tuple(before), ()
