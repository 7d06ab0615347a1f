"""``Cut``: which hours and days of a window come from rollups, and which times from events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from flag_analytics.sources import Accuracy, Window

from .rows import from_micros, micros
from .schema import DAY_MICROS, HOUR_MICROS

__all__ = ["Cut", "Span"]

Span = tuple[int, int]
"""A range of time in microseconds, both ends included."""


@attrs.frozen
class Cut:
    """What comes from where: worked out from the counts of the days that a window touches.

    Attributes:
        left_out: The zones of ``counts_query`` whose counts are not taken.
        spans: The times whose events are counted in place of an hour that the window cuts.
        days: The first day that comes from sketches, and the end of the last.
        day_spans: The times that come from events in place of a day that the window cuts.
        since: What was removed and left out is before this time, in microseconds; None if nothing is.
        beyond: The share of events that may lie beyond the window, since nothing tells where it cuts their hour, as a
            ratio.
        has_days: Whether sketches, with these events, make up the window.
    """

    left_out: frozenset[str]
    spans: tuple[Span, ...]
    days: Span
    day_spans: tuple[Span, ...]
    since: int | None = None
    beyond: float = 0.0
    has_days: bool = True

    @classmethod
    def of(cls, window: Window, kept: int | None, rows: Sequence[Sequence[Any]], *, by_day: bool) -> Cut:
        """Return the cut for rows of ``counts_query``.

        Args:
            window: The window.
            kept: Events before this time were removed; None if none were.
            rows: The counts of the days that the window touches.
            by_day: Whether sketches are asked too: then counts begin with the same day, where events were removed.
        """
        end = micros(window.end)
        start = None if window.start is None else micros(window.start)
        seen = _Seen.of(rows)
        begins = _whole_days(seen, end) if start is None else _at_start(seen, start, end, kept, by_day=by_day)
        ends = _at_end(seen, start, end, kept, begins)
        left_out = begins.left_out | ends.left_out | {"before", "after"}
        taken = sum(many for zone, many in seen.many.items() if zone not in left_out)
        beyond = sum(seen.many.get(zone, 0) for zone in {*begins.beyond, *ends.beyond})
        return cls(
            left_out,
            begins.spans + ends.spans,
            (begins.day, max(begins.day, ends.day)),
            begins.day_spans + ends.day_spans,
            begins.since,
            beyond / max(1, taken),
            begins.has_days and ends.has_days,
        )

    def accuracy(self, bounds: Mapping[str, float], missing: frozenset[str]) -> Accuracy:
        """Return the accuracy of an answer with these bounds beside those of the cut."""
        if self.beyond:
            bounds = {**dict.fromkeys(("count", "variants", "reasons", "errors"), self.beyond), **bounds}
        return Accuracy(bounds, missing, None if self.since is None else from_micros(self.since))


@attrs.frozen
class _Seen:
    """The first time, the last time and the number of events, by zone."""

    first: Mapping[str, int]
    last: Mapping[str, int]
    many: Mapping[str, int]

    @classmethod
    def of(cls, rows: Sequence[Sequence[Any]]) -> _Seen:
        first: dict[str, int] = {}
        last: dict[str, int] = {}
        many: Counter[str] = Counter()
        for zone, _, _, _, _, events, first_time, _, _, last_time in rows:
            first[zone] = min(first_time, first.get(zone, first_time))
            last[zone] = max(last_time, last.get(zone, last_time))
            many[zone] += events
        return cls(first, last, many)


@attrs.frozen
class _End:
    """One end of a cut: ``day`` is where the days of sketches begin, or end."""

    day: int
    left_out: frozenset[str] = frozenset()
    spans: tuple[Span, ...] = ()
    day_spans: tuple[Span, ...] = ()
    since: int | None = None
    beyond: frozenset[str] = frozenset()
    has_days: bool = True


def _whole_days(seen: _Seen, end: int) -> _End:
    earliest = min(seen.first.values(), default=end)
    return _End(earliest - earliest % DAY_MICROS)


def _at_start(seen: _Seen, start: int, end: int, kept: int | None, *, by_day: bool) -> _End:
    hour, day = start - start % HOUR_MICROS, start - start % DAY_MICROS
    ends_here = hour == end - end % HOUR_MICROS and seen.last.get("first", end) > end
    cuts_hour = seen.first.get("first", start) < start or ends_here
    if not cuts_hour and "before" not in seen.many:
        return _End(day)
    next_hour, next_day = hour + HOUR_MICROS, day + DAY_MICROS
    if kept is None or start >= kept:
        spans = ((start, min(next_hour - 1, end)),) if cuts_hour else ()
        left_out = frozenset({"first"}) if cuts_hour else frozenset[str]()
        return _End(next_day, left_out, spans, ((start, min(next_day - 1, end)),))
    if by_day and next_day <= end:
        return _End(next_day, frozenset({"first", "early"}), since=next_day)
    if ends_here:
        return _End(next_day, beyond=frozenset({"first"}), has_days=False)
    if cuts_hour:
        return _End(next_day, frozenset({"first"}), since=next_hour, has_days=False)
    return _End(next_day, has_days=False)


def _at_end(seen: _Seen, start: int | None, end: int, kept: int | None, begins: _End) -> _End:
    hour, day = end - end % HOUR_MICROS, end - end % DAY_MICROS
    cuts_hour = seen.last.get("last", end) > end  # of a window within one hour, that is the first
    if not cuts_hour and "after" not in seen.many:
        return _End(day + DAY_MICROS)
    is_covered = any(last == end for _, last in begins.day_spans)
    day_spans: tuple[Span, ...] = ()
    if not is_covered and (kept is None or day >= kept):
        day_spans = ((day if start is None else max(start, day), end),)
    has_days = is_covered or bool(day_spans)
    if not cuts_hour:
        return _End(day, day_spans=day_spans, has_days=has_days)
    if kept is None or hour >= kept:
        return _End(day, frozenset({"last"}), ((hour, end),), day_spans, has_days=has_days)
    return _End(day, beyond=frozenset({"last"}), has_days=has_days)
