"""The newest events in the order of their arrival, found by flag without looking at the other flags' events."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice
from operator import attrgetter, is_
from typing import Any

import attrs
from flag_analytics.frozen import FrozenEvent
from flag_analytics.metrics import Digest

from .admission import Snapshot, as_recorded, is_normal, is_short, settle
from .packing import PackedDigest

__all__ = ["EventLog", "Piece"]

_SMALLEST_SEGMENT = 64
_SEGMENTS = 32
"""How many segments a full log has: that much of its capacity, a part in so many, may be held beyond it for a while."""
_WORTH_A_DIGEST = 32
_flag_key = attrgetter("flag_key")


class _Segment:
    """A run of consecutive events, in order and by flag. The other three say, by flag:

    ``inspected``: how many of the events are known to be normal. ``removed``: how many have left, counted from the
    first on. ``digests``: what the events amounted to when ``removed`` and the number of the last one were these.
    """

    __slots__ = ("by_flag", "digests", "events", "inspected", "removed")

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.by_flag: defaultdict[str, list[Any]] = defaultdict(list)
        self.inspected: dict[str, int] = {}
        self.removed: Counter[str] = Counter()
        self.digests: dict[str, tuple[tuple[int, int], PackedDigest]] = {}


@attrs.define(eq=False)
class Piece:
    """One flag's events within one segment, up to the ``end``-th, which was the last one when this was made."""

    flag_key: str
    end: int
    _segment: _Segment


class EventLog:
    """Up to ``capacity`` events, first in, first out. Not safe from threads: its owner holds a lock.

    The log is a queue of segments, each with its own index, so that the oldest events leave by the segment, which costs
    next to nothing for each. The few at the head that should be gone as well are removed before any read.

    Events come as they were admitted and are brought into canonical form when they are first read, because most of them
    leave without ever being read.

    Args:
        capacity: The most events kept, at least 1.
        freeze: Returns an event's canonical form.
    """

    def __init__(self, capacity: int, freeze: Callable[[Any], Any]) -> None:
        self._capacity = capacity
        self._freeze = freeze
        self._segment_size = max(_SMALLEST_SEGMENT, capacity // _SEGMENTS)
        self._segments = deque([_Segment()])
        self._held = 0
        self._evicted = 0

    def __len__(self) -> int:
        return min(self._held, self._capacity)

    @property
    def evicted(self) -> int:
        """How many events have left to make room."""
        return self._evicted + self._held - len(self)

    def clear(self) -> int:
        """Forget all events, and return how many there were."""
        count = len(self)
        self._evicted = self.evicted
        self._segments = deque([_Segment()])
        self._held = 0
        return count

    def extend(self, events: list[Any]) -> None:
        """Take these events, the oldest first, forgetting those there is no room for."""
        segments = self._segments
        if len(segments[-1].events) >= self._segment_size:
            segments.append(_Segment())
        self._index(segments[-1], events)
        self._held += len(events)
        while self._held - (size := len(segments[0].events)) >= self._capacity:
            segments.popleft()
            self._held -= size
            self._evicted += size

    def _index(self, segment: _Segment, events: list[Any]) -> None:
        by_flag = segment.by_flag
        known = len(by_flag)
        segment.events += events
        try:
            for event in events:
                by_flag[event.flag_key].append(event)
            # A key that was there before is in canonical form; those that are new stand at the end.
            normal = all(map(is_short, islice(by_flag, known, None)))
        except Exception:  # what should be a key cannot even be looked up
            normal = False
        if not normal:
            self._index_anew(segment)

    def _index_anew(self, segment: _Segment) -> None:
        """Bring all flag keys of a segment into canonical form, and index it by them."""
        segment.events = [event if is_short(event.flag_key) else self._renew(event) for event in segment.events]
        segment.by_flag = defaultdict(list)
        for event in segment.events:
            segment.by_flag[event.flag_key].append(event)

    def _renew(self, event: Any) -> Any:
        if type(event) is Snapshot:
            return settle(event, self._freeze)
        return event if type(event) is FrozenEvent else self._freeze(as_recorded(event))

    def everything(self) -> Iterator[list[Any]]:
        """Yield all events in canonical form, run by run, the newest run first and the oldest event of each first."""
        self._drop_surplus()
        for segment in reversed(self._segments):
            for key in segment.by_flag:
                self._inspect(segment, key)
            yield segment.events

    def of_flag(self, flag_key: str) -> Iterator[list[Any]]:
        """Yield the events of one flag, as ``everything`` does."""
        return map(self.events, reversed(self.pieces(flag_key)))

    def pieces(self, flag_key: str) -> list[Piece]:
        """Return where the events of one flag are, the oldest first; those that come later do not belong to it."""
        self._drop_surplus()
        return [
            Piece(flag_key, segment.removed[flag_key] + len(segment.by_flag[flag_key]), segment)
            for segment in self._segments
            if flag_key in segment.by_flag
        ]

    def events(self, piece: Piece) -> list[Any]:
        """Return the events of a piece, in canonical form."""
        segment, key = piece._segment, piece.flag_key  # noqa: SLF001  the log's own
        if key not in segment.by_flag:  # all have left since
            return []
        self._inspect(segment, key)
        return segment.by_flag[key][: piece.end - segment.removed[key]]

    def digest(self, piece: Piece) -> Digest | None:
        """Return the digest of a piece, which is kept for the next time.

        None if it has too few events for that to pay, or several sample rates.
        """
        segment, key = piece._segment, piece.flag_key  # noqa: SLF001  the log's own
        extent = (segment.removed[key], piece.end)
        kept_extent, packed = segment.digests.get(key, (None, None))
        if packed is not None and kept_extent == extent:
            return packed.unpack()
        if piece.end - segment.removed[key] < _WORTH_A_DIGEST:
            return None
        events = self.events(piece)
        if len({event.sample_rate for event in events}) != 1:
            return None
        digest = Digest.of(events)
        segment.digests[key] = (extent, PackedDigest.of(digest))
        return digest

    def last_seen(self, piece: Piece) -> datetime | None:
        """Return the latest time of a piece's events; None where there is no digest of it."""
        segment, key = piece._segment, piece.flag_key  # noqa: SLF001  the log's own
        extent, packed = segment.digests.get(key, (None, None))
        if packed is not None and extent == (segment.removed[key], piece.end):
            return packed.last_seen
        digest = self.digest(piece)
        return None if digest is None else digest.last_seen

    def count(self, flag_key: str) -> int:
        """Return how many events there are of one flag."""
        self._drop_surplus()
        return sum(len(segment.by_flag.get(flag_key, ())) for segment in self._segments)

    def flag_keys(self) -> set[str]:
        """Return the keys of all flags that have events."""
        self._drop_surplus()
        return {key for segment in self._segments for key in segment.by_flag}

    def _drop_surplus(self) -> None:
        surplus = self._held - self._capacity
        if surplus <= 0:
            return
        oldest = self._segments[0]
        if not {str}.issuperset(map(type, map(_flag_key, oldest.events[:surplus]))):
            self._index_anew(oldest)
        for key, count in Counter(map(_flag_key, oldest.events[:surplus])).items():
            members = oldest.by_flag[key]
            del members[:count]
            oldest.removed[key] += count
            oldest.digests.pop(key, None)
            oldest.inspected[key] = max(0, oldest.inspected.get(key, 0) - count)
            if not members:
                del oldest.by_flag[key], oldest.inspected[key]
        del oldest.events[:surplus]
        self._held -= surplus
        self._evicted += surplus

    def _inspect(self, segment: _Segment, flag_key: str) -> None:
        """Replace what is not in canonical form among the events of one flag in one segment."""
        members = segment.by_flag[flag_key]
        first = segment.inspected.get(flag_key, 0)
        if first == len(members):
            return
        segment.inspected[flag_key] = len(members)
        as_admitted = {id(event) for event in members}
        renewed = [
            event if type(event) is not Snapshot and is_normal(event) else self._renew(event)
            for event in members[first:]
        ]
        if all(map(is_, renewed, members[first:])):
            return
        members[first:] = renewed
        # They stand in the same order in both lists: deal them out again.
        dealt = iter(members)
        segment.events = [next(dealt) if id(event) in as_admitted else event for event in segment.events]
