"""One bounded log of accepted events: every event has a position, each sink is at one.

::

    position   0          256         512    end
    segments   |  sealed  |  sealed   |  tail |  <- append
    cursors         ^ database                ^ otel

An append costs the same for any number of sinks: two comparisons against the nearest point at which a cursor must be
looked at (its bound, the batch its worker waits for, the end of the segment), and one ``list.append``. That append is
the only step that makes an event accepted; everything that follows from it is derived, or can be done late.

Nothing here is thread-safe: every call is made under the lock of ``accounts``. A cursor's ``place`` is a value that is
replaced in one assignment, since an exception out of a signal handler may end any call of the main thread.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from operator import attrgetter

import attrs
from flag_analytics.canonical import OVERHEAD_BYTES
from flag_analytics.frozen import FrozenEvent
from flag_analytics.reports import DeliveryOptions

from .ranges import Ranges, add, common, count, cut, gaps_of, holds, split

__all__ = ["Cursor", "Ledger", "Log", "Piece", "Place", "Segment", "Settled", "weigh"]

SEGMENT_EVENTS = 256
MOST_GAPS = 1_000
"""A cursor with more gaps takes no further events until some of them close."""
MOST_MEANWHILE = 1_024
"""How many events finalisers and signal handlers may record inside one careful append."""
MOST_WASTED_BYTES = 4 * OVERHEAD_BYTES
"""A cursor with less room than this, and none for an event, takes no further ones until it settles some."""
NEVER = 2**62
_STACK_FRAMES = 16
_size_of = attrgetter("size")
_start_of = attrgetter("start")


def weigh(events: Sequence[FrozenEvent]) -> int:
    """Return the size of events, in bytes."""
    return sum(map(_size_of, events))


@attrs.frozen
class Settled:
    """What a spool has to know of a log's cursors.

    Attributes:
        positions: Of each cursor, the position before which everything is settled.
        gaps: Of each cursor, the later positions that are settled.
        everywhere: The positions from the last cursor on that are settled for every one.
    """

    positions: Mapping[str, int]
    gaps: Mapping[str, Ranges]
    everywhere: Ranges


@attrs.define(eq=False)
class Segment:
    """A run of events; the last one of a log is open.

    Attributes:
        start: The position of its first event.
        events: None where only the spool has them.
        base: The size of all events before it, in bytes.
        on_disk: Whether the spool has them.
        length: How many there are, and ``size`` how large they are, once ``events`` is None.
    """

    start: int
    events: list[FrozenEvent] | None
    base: int
    on_disk: bool = False
    length: int = 0
    size: int = 0

    @property
    def end(self) -> int:
        return self.start + (self.length if self.events is None else len(self.events))

    def evict(self) -> None:
        """Let go of events that the spool has."""
        assert self.events is not None
        self.length, self.size = len(self.events), weigh(self.events)
        self.events = None


@attrs.frozen
class Piece:
    """Events that a cursor took together, and their positions."""

    positions: Ranges
    events: tuple[FrozenEvent, ...]

    def __len__(self) -> int:
        return len(self.events)

    def split(self, at: int) -> tuple[Piece, Piece]:
        """Return the first ``at`` events, and the rest."""
        first, rest = split(self.positions, at)
        return Piece(first, self.events[:at]), Piece(rest, self.events[at:])

    def choose(self, indices: Sequence[int]) -> Piece:
        """Return the events at these indices, which ascend."""
        positions: Ranges = ()
        for index in indices:
            _, rest = split(self.positions, index)
            positions = add(positions, rest[0][0], rest[0][0] + 1)
        return Piece(positions, tuple(self.events[index] for index in indices))


@attrs.frozen
class Place:
    """Where a cursor is, as a value.

    Attributes:
        position: Every event before it is settled: stored, dropped or dead.
        taken: Every event before it was read.
        settled: How many events are settled, at any position.
        settled_bytes: The size of those.
        overflow: How many of those were skipped or forgotten for want of room.
        gaps: The settled positions from ``position`` on.
        full_from: The position from which on every event is skipped, while there is no room at all.
        full_bytes: The log's size there.
    """

    position: int
    taken: int
    settled: int
    settled_bytes: int
    overflow: int = 0
    gaps: Ranges = ()
    full_from: int | None = None
    full_bytes: int = 0

    def settle(self, positions: Ranges, size: int, *, overflow: int = 0) -> Place:
        """Return the place after these events, of ``size`` bytes together, are settled."""
        gaps, position = self.gaps, self.position
        for first, end in positions:
            gaps = add(gaps, first, end)
        if gaps and gaps[0][0] <= position:
            position, gaps = max(position, gaps[0][1]), gaps[1:]
        return Place(
            position,
            max(self.taken, position),
            self.settled + count(positions),
            self.settled_bytes + size,
            self.overflow + overflow,
            gaps,
            self.full_from,
            self.full_bytes,
        )

    def take(self, until: int) -> Place:
        """Return the place after everything before ``until`` was read."""
        return attrs.evolve(self, taken=max(self.taken, until))

    def fill(self, end: int, size: int) -> Place:
        """Return the place of a cursor that has no room from ``end`` on."""
        return attrs.evolve(self, full_from=end, full_bytes=size)

    def reopen(self, end: int, size: int) -> Place:
        """Return the place of a cursor that has room again; what came meanwhile is skipped."""
        if self.full_from is None:
            return self
        skipped = end - self.full_from
        place = self.settle(((self.full_from, end),) if skipped else (), size - self.full_bytes, overflow=skipped)
        return attrs.evolve(place, full_from=None, full_bytes=0)


@attrs.define(eq=False)
class Ledger:
    """What became of a sink's events, over all logs.

    Attributes:
        delivered: Events that the sink stored.
        dead: Events that it refused for good.
        dropped: Events that were lost, by reason; a cursor counts those for want of room in its ``overflow``.
        recovered: Events taken over from the spools of earlier processes.
    """

    delivered: int = 0
    dead: int = 0
    dropped: Counter[str] = attrs.field(factory=Counter[str])
    recovered: int = 0


class Cursor:
    """Where one sink is in one log, and what it holds there.

    Attributes:
        in_flight: Events that were taken and are not settled.
    """

    def __init__(self, log: Log, name: str, options: DeliveryOptions, place: Place, ledger: Ledger) -> None:
        self.log = log
        self.name = name
        self.options = options
        self.place = place
        self.ledger = ledger
        self.origin = place.settled
        self.overflow_before: Counter[str] = Counter()
        self.in_flight = 0
        self.in_flight_bytes = 0
        self.wake_at = NEVER
        self.wake_bytes = NEVER
        self.forgets_oldest = options.policy == "drop_oldest" and not log.spooling

    # --- accounts

    @property
    def end(self) -> int:
        """The end of what this cursor takes."""
        return self.log.end if self.place.full_from is None else self.place.full_from

    @property
    def pending(self) -> int:
        """Events that are not settled."""
        return self.end - self.place.settled

    @property
    def lag(self) -> int:
        """How far the cursor is behind the end of the log, in events."""
        return self.log.end - self.place.position

    @property
    def overflow(self) -> int:
        """Events that this sink did not get for want of room."""
        return self.place.overflow + self._skipping + self.log.refused

    def overflow_by_reason(self) -> Counter[str]:
        """Return the same by reason: ``overflow``, or ``spool_full`` while the spool takes nothing."""
        by_reason = Counter(self.overflow_before)
        by_reason[self.log.overflow_reason] += self.overflow - self.overflow_before.total()
        return +by_reason

    @property
    def _skipping(self) -> int:
        return self.log.end - self.end

    @property
    def accepted(self) -> int:
        """Events that were meant for this sink."""
        return self.log.end - self.origin + self.log.refused

    @property
    def waiting(self) -> int:
        """Events that were not taken yet."""
        return self.pending - self.in_flight

    @property
    def pending_bytes(self) -> int:
        """The size of what is not settled."""
        place = self.place
        total = self.log.size if place.full_from is None else place.full_bytes
        return max(0, total - place.settled_bytes) if self.pending else 0

    @property
    def spooled(self) -> int:
        """Events that were not taken yet and are on disk."""
        return count(self._untaken_on_disk())

    def _untaken_on_disk(self) -> Ranges:
        place = self.place
        on_disk = cut(self.log.on_disk, place.taken, self.end)
        return tuple(part for first, end in on_disk for part in gaps_of(place.gaps, first, end))

    def held(self) -> tuple[int, int]:
        """Return how many events, and bytes, count against the bounds: what is pending and not on disk."""
        if not self.log.on_disk:
            return self.pending, self.pending_bytes
        events = size = 0
        for segment in self.log.segments_from(self.place.taken):
            if segment.on_disk:
                first = max(segment.start, self.place.taken)
                waiting = count(gaps_of(self.place.gaps, first, min(segment.end, self.end)))
                events += waiting
                size += self.log.size_of(segment) * waiting // max(1, segment.end - segment.start)
        return self.pending - events, max(0, self.pending_bytes - size)

    def room(self) -> tuple[int, int]:
        """Return how many more events, and bytes, are taken; what can be forgotten counts as room."""
        if self.forgets_oldest:
            return self.options.max_events - self.in_flight, self.options.max_bytes - self.in_flight_bytes
        events, size = self.held()
        return self.options.max_events - events, self.options.max_bytes - size

    def admits(self, size: int) -> bool:
        """Return whether an event of this size would be taken now."""
        if self.place.full_from is not None:
            return False
        events, room = self.room()
        return events > 0 and size <= room

    @property
    def ready(self) -> bool:
        """Whether a batch is full, or half of a bound is reached."""
        options, waiting = self.options, self.waiting
        if waiting >= options.batch_size:
            return True
        held, size = self.held()
        return (
            2 * held >= options.max_events
            or 2 * size >= options.max_bytes
            or size - self.in_flight_bytes >= options.max_batch_bytes
        ) and waiting > 0

    # --- events out

    def take(self, limit: int, max_bytes: int, *, at_least_one: bool = True) -> Piece:
        """Take the next events that are in memory, in order."""
        piece = self.log.read(self.place, self.end, limit, max_bytes, at_least_one=at_least_one)
        self.took(piece)
        return piece

    def took(self, piece: Piece) -> None:
        """Note that these events were read."""
        if not piece.events:
            return
        with self.log.changing(self):
            self.place = self.place.take(piece.positions[-1][1])
            self.in_flight += len(piece.events)
            self.in_flight_bytes += weigh(piece.events)

    def settle(self, piece: Piece) -> None:
        """Note that events which were taken are stored, dropped or dead."""
        with self.log.changing(self):
            size = weigh(piece.events)
            self.in_flight -= len(piece.events)
            self.in_flight_bytes -= size
            self.place = self.place.settle(piece.positions, size)

    def lose(self, positions: Ranges, reason: str) -> None:
        """Note that events which were not taken cannot be read any more."""
        with self.log.changing(self):
            first = max(self.place.taken, 0)
            lost = tuple(
                part for start, end in cut(positions, first, self.end) for part in gaps_of(self.place.gaps, start, end)
            )
            self.ledger.dropped[reason] += count(lost)
            self.place = self.place.settle(lost, 0)

    def forget_oldest(self) -> None:
        """Forget the oldest events that were not taken until the bounds hold."""
        while True:
            held, size = self.held()
            excess = held - self.options.max_events
            if excess <= 0 and size <= self.options.max_bytes:
                return
            piece = self.log.read(self.place, self.end, max(1, excess), NEVER)
            if not piece.events:
                return
            place = self.place.settle(piece.positions, weigh(piece.events), overflow=len(piece))
            self.place = place.take(piece.positions[-1][1])  # or its segments stay while a batch is in flight

    def close(self) -> None:
        """Give up what is pending, as dropped: closed, but for events that the spool has."""
        with self.log.changing(self):
            place = self.place.reopen(self.log.end, self.log.size)
            pending = gaps_of(place.gaps, place.position, self.log.end)
            kept = common(pending, self.log.on_disk)
            lost = tuple(part for first, end in pending for part in gaps_of(kept, first, end))
            self.ledger.dropped["closed"] += count(lost)
            place = place.settle(lost, 0)
            self.place = attrs.evolve(place, taken=place.position)
            self.in_flight = self.in_flight_bytes = 0

    def next_on_disk(self) -> tuple[int, int] | None:
        """Return the stretch that has the next event, if only the spool has it."""
        place = self.place
        for first, end in gaps_of(place.gaps, place.taken, self.end):
            segment = self.log.segment_at(first)
            if segment is None or segment.events is not None:
                return None
            return first, min(segment.end, end)
        return None

    def needs(self, segment: Segment) -> bool:
        """Return whether it has events that are to be taken; or, while they are not on disk yet, to be settled."""
        place = self.place
        keeps = self.log.spooling and not segment.on_disk
        first = max(segment.start, place.position if keeps else place.taken)
        end = min(segment.end, self.end)
        return first < end and not holds(place.gaps, first, end)


class Log:
    """The accepted events of one delivery, or of a spool that an earlier process left.

    Args:
        wake: Makes a cursor's worker look at it; returns whether there is a worker that runs.
        spooling: Whether events are to be written to disk, so that they stay in memory until they are.
        start: The position of the first event.

    Attributes:
        refused: Events that no cursor had room for.
        on_disk: The positions that the spool has.
        newcomer: Called at the next append, then forgotten; it wakes the spool's thread.
        overflow_reason: What an event is lost to for want of room.
    """

    def __init__(
        self, wake: Callable[[Cursor], bool] = lambda _: True, *, spooling: bool = False, start: int = 0
    ) -> None:
        self.cursors: list[Cursor] = []
        self.refused = 0
        self.spooling = spooling
        self.on_disk: Ranges = ()
        self.newcomer: Callable[[], bool] | None = None
        self.overflow_reason = "overflow"
        self._wake = wake
        self._segments = [Segment(start, [], 0)]
        self._events: list[FrozenEvent] = []
        """The open segment's list, as of the latest measure; it is used only while ``_look_at`` says so."""
        self._end = start
        self._size = 0
        """Of all events, in bytes. An interrupted append leaves it, and ``_end``, too large until the next measure."""
        self._capacity = SEGMENT_EVENTS
        self._capacity_bytes = NEVER
        self._look_at = 0
        self._look_bytes = 0
        self._all_full = False
        self._busy = False
        self._meanwhile: deque[FrozenEvent] = deque()

    @classmethod
    def of_disk(cls, positions: Ranges) -> Log:
        """Return the log of a spool that has these positions, and gets no more."""
        first, end = positions[0][0], positions[-1][1]
        log = cls(start=end)
        log._segments.insert(0, Segment(first, None, 0, on_disk=True, length=end - first))
        log.on_disk = positions
        return log

    @property
    def end(self) -> int:
        """The position of the next event."""
        return self._segments[-1].end

    @property
    def size(self) -> int:
        """The size of all events that were ever appended, in bytes."""
        return self._size

    @property
    def recorded_meanwhile(self) -> int:
        """Accepted events that have no position yet: a finaliser recorded them inside an append."""
        return len(self._meanwhile)

    def add_cursor(
        self, name: str, options: DeliveryOptions, ledger: Ledger | None = None, place: Place | None = None
    ) -> Cursor:
        """Add a sink; it gets every event from here on, or from ``place`` on."""
        place = place or Place(self.end, self.end, self.end, self._size)
        cursor = Cursor(self, name, options, place, ledger or Ledger())
        self.cursors.append(cursor)
        self._capacity = max(1, min(self._capacity, options.max_events // 4))
        self._capacity_bytes = max(1, min(self._capacity_bytes, options.max_bytes // 4))
        self._look_at = 0
        return cursor

    # --- events in

    def append(self, event: FrozenEvent) -> bool:
        """Take one event for every cursor that has room; return False if none has."""
        # Nothing is called before the append: in between no signal handler runs.
        end = self._end
        size = self._size + event.size
        if end < self._look_at and size <= self._look_bytes:
            self._end = end + 1
            self._size = size
            self._events.append(event)
            return True
        if self._all_full:
            self.refused += 1
            return False
        return self._append_carefully(event)

    def has_room(self, size: int) -> bool:
        """Return whether every cursor that holds its callers would take an event of this size."""
        return all(cursor.admits(size) for cursor in self.cursors if cursor.options.policy == "block")

    def _append_carefully(self, event: FrozenEvent) -> bool:
        if self._busy:  # a finaliser or signal handler records inside a guarded section
            if len(self._meanwhile) >= MOST_MEANWHILE:
                self.refused += 1
                return False
            self._meanwhile.append(event)
            return True
        _have_stack()
        with self.changing():
            return self._admit(event)

    def _admit(self, event: FrozenEvent, *, promised: bool = False) -> bool:
        events = self._open_segment()
        size = event.size
        refusing = [cursor for cursor in self.cursors if not cursor.admits(size)]
        if not promised and len(refusing) == len(self.cursors):
            self.refused += 1
            self._fill(refusing, self.end, self._size)
            return False
        position, before = self.end, self._size
        self._size += size
        events.append(event)
        self._fill(refusing, position, before)
        for cursor in refusing:
            if cursor.place.full_from is None:
                cursor.place = cursor.place.settle(((position, position + 1),), size, overflow=1)
        self._wake_reached()
        return True

    def _fill(self, refusing: Sequence[Cursor], position: int, size: int) -> None:
        """Let cursors that had no room for an event skip all from there on, if next to nothing would fit."""
        for cursor in refusing:
            place, most = cursor.place, cursor.options.max_bytes
            if place.full_from is None and not cursor.forgets_oldest:
                left = most - (size - place.settled_bytes) + self._bytes_on_disk(cursor)
                if left < min(MOST_WASTED_BYTES, most // 2):
                    cursor.place = place.fill(position, size)

    def _bytes_on_disk(self, cursor: Cursor) -> int:
        return cursor.pending_bytes - cursor.held()[1] if self.on_disk else 0

    def _open_segment(self) -> list[FrozenEvent]:
        """Return the list that the next event goes to."""
        tail = self._segments[-1]
        assert tail.events is not None
        if len(tail.events) >= self._capacity or self._size - tail.base >= self._capacity_bytes:
            return self._seal(tail)
        return tail.events

    @contextmanager
    def changing(self, cursor: Cursor | None = None) -> Iterator[None]:
        """Guard a change against appends of finalisers and signal handlers inside it, then see what follows from it."""
        if self._busy:
            yield
            return
        self._busy = True
        self._look_at = 0  # until it is measured anew: after an interruption the next append is a careful one
        self._all_full = False
        before = None if cursor is None else cursor.place
        try:
            yield
            while self._meanwhile:
                self._admit(self._meanwhile.popleft(), promised=True)
            if cursor is not None and before is not None:
                if cursor.place.settled > before.settled:
                    self._reopen(cursor)
                self._free(before.position, max(cursor.place.taken, cursor.place.position))
            self._measure()
        finally:
            self._busy = False

    def _wake_reached(self) -> None:
        # Woken first, and noted then: an interruption in between wakes once more.
        for cursor in self.cursors:
            if (self.end >= cursor.wake_at or self._size >= cursor.wake_bytes) and self._wake(cursor):
                cursor.wake_at = cursor.wake_bytes = NEVER
        if self.newcomer is not None and self.newcomer():
            self.newcomer = None

    def _measure(self) -> None:
        """Find the nearest point at which a cursor, or the segment, must be looked at again."""
        for cursor in self.cursors:
            if cursor.forgets_oldest:
                taken = cursor.place.taken
                cursor.forget_oldest()
                self._free(taken, cursor.place.taken)
        tail = self._segments[-1]
        assert tail.events is not None
        self._events = tail.events
        self._end = tail.end
        look_at = tail.start + self._capacity
        look_bytes = tail.base + self._capacity_bytes
        open_cursors = 0
        for cursor in self.cursors:
            if cursor.place.full_from is None:
                events, room = cursor.room()
                if events <= 0 or room < OVERHEAD_BYTES or len(cursor.place.gaps) > MOST_GAPS:
                    cursor.place = cursor.place.fill(self.end, self._size)
                else:
                    open_cursors += 1
                    if not cursor.forgets_oldest:
                        look_at = min(look_at, self._end + events)
                    look_bytes = min(look_bytes, self._size + room)
            look_at = min(look_at, cursor.wake_at - 1)
            look_bytes = min(look_bytes, cursor.wake_bytes - 1)
        self._all_full = not open_cursors and bool(self.cursors)
        self._look_bytes = look_bytes
        self._look_at = look_at if self.newcomer is None and not self._all_full else 0

    def _reopen(self, cursor: Cursor) -> None:
        place = cursor.place
        if place.full_from is None:
            return
        cursor.place = attrs.evolve(place, full_from=None)  # an open cursor says what room there is
        events, room = cursor.room()
        events += self.end - place.full_from
        room += self._size - place.full_bytes
        cursor.place = place
        if events > 0 and room >= OVERHEAD_BYTES and len(place.gaps) <= MOST_GAPS:
            cursor.place = place.reopen(self.end, self._size)
            self._free(place.full_from, self.end)

    def sleep(self, cursor: Cursor) -> None:
        """Have the worker woken at the next event, or where some wait already, when they are to be written."""
        options = cursor.options
        with self.changing():
            cursor.wake_at = cursor.wake_bytes = NEVER
            if not cursor.waiting:
                cursor.wake_at = self.end + 1
            elif not cursor.ready:
                held, size = cursor.held()
                queued = size - cursor.in_flight_bytes
                cursor.wake_at = self.end + min(
                    options.batch_size - cursor.waiting, (options.max_events + 1) // 2 - held
                )
                cursor.wake_bytes = self._size + min(
                    options.max_batch_bytes - queued, (options.max_bytes + 1) // 2 - size
                )

    def catch_up(self) -> None:
        """Do what an append may leave for later: positions for events recorded meanwhile, exact bounds."""
        with self.changing():
            pass

    # --- segments

    def _seal(self, tail: Segment) -> list[FrozenEvent]:
        """Begin a new segment; return its list."""
        assert tail.events is not None
        self._look_at = 0
        self._size = tail.base + weigh(tail.events)
        events: list[FrozenEvent] = []
        self._segments.append(Segment(tail.end, events, self._size))
        self._free(tail.start, tail.end)
        return events

    def size_of(self, segment: Segment) -> int:
        """Return the size of a segment's events, in bytes."""
        return segment.size if segment.events is None else weigh(segment.events)

    def segments_from(self, position: int) -> Iterator[Segment]:
        """Yield the segments that have a position, or lie behind it."""
        return iter(self._segments[max(0, bisect_right(self._segments, position, key=_start_of) - 1) :])

    def segment_at(self, position: int) -> Segment | None:
        """Return the segment that has a position, if it is still here."""
        for segment in self.segments_from(position):
            return segment if segment.start <= position < segment.end else None
        return None

    def read(self, place: Place, stop: int, limit: int, max_bytes: int, *, at_least_one: bool = True) -> Piece:
        """Return the next events from a place on that are in memory; at most ``limit``, and ``max_bytes`` together."""
        events: list[FrozenEvent] = []
        positions: Ranges = ()
        size = 0
        for segment in self.segments_from(place.taken):
            for first, end in gaps_of(place.gaps, max(place.taken, segment.start), min(stop, segment.end)):
                if segment.events is None:  # only on disk
                    return Piece(positions, tuple(events))
                start = first - segment.start
                chosen = segment.events[start : min(end - segment.start, start + limit - len(events))]
                added = weigh(chosen)
                if size + added > max_bytes:
                    fitting = bisect_right(list(accumulate(map(_size_of, chosen))), max_bytes - size)
                    chosen = chosen[: max(fitting, 1 if at_least_one and not events else 0)]
                    added = max_bytes
                events += chosen
                size += added
                positions = add(positions, first, first + len(chosen))
                if len(events) >= limit or size >= max_bytes:
                    return Piece(positions, tuple(events))
        return Piece(positions, tuple(events))

    def _free(self, first: int, end: int) -> None:
        """Let go of the segments between two positions that no cursor needs."""
        segments = self._segments
        low = max(0, bisect_right(segments, first, key=_start_of) - 1)
        high = min(bisect_right(segments, end, key=_start_of), len(segments) - 1)
        kept = [segment for segment in segments[low:high] if self._is_needed(segment)]
        if len(kept) < high - low:
            segments[low:high] = kept
        tail = segments[-1]
        if tail.events and not self._is_needed(tail):
            self._size = tail.base + weigh(tail.events)
            segments[-1] = Segment(tail.end, [], self._size)

    def _is_needed(self, segment: Segment) -> bool:
        return any(cursor.needs(segment) for cursor in self.cursors)

    # --- the spool's side

    def unwritten(self) -> list[Segment]:
        """Return the segments with unsettled events that are not on disk."""
        with self.changing():
            tail = self._segments[-1]
            if tail.events:
                self._seal(tail)
        return [segment for segment in self._segments[:-1] if not segment.on_disk]

    def written(self, segments: Sequence[Segment], keep_bytes: int) -> None:
        """Note that segments are on disk; those beyond ``keep_bytes`` leave memory."""
        with self.changing():
            for segment in segments:
                segment.on_disk = True
                self.on_disk = add(self.on_disk, segment.start, segment.end)
            resident = [segment for segment in self._segments if segment.on_disk and segment.events is not None]
            size = sum(map(self.size_of, resident))
            while resident and size > keep_bytes:  # the newest first: the oldest are read next
                segment = resident.pop()
                size -= self.size_of(segment)
                segment.evict()
            self._merge_evicted()
            self._reopen_all()

    def _merge_evicted(self) -> None:
        merged: list[Segment] = []
        for segment in self._segments:
            last = merged[-1] if merged else None
            if last is not None and last.events is None and segment.events is None and last.end == segment.start:
                last.length += segment.length
                last.size += segment.size
            else:
                merged.append(segment)
        self._segments[:] = merged

    def set_overflow_reason(self, reason: str) -> None:
        """Count what is lost for want of room under another reason from here on."""
        if reason != self.overflow_reason:
            for cursor in self.cursors:
                cursor.overflow_before = cursor.overflow_by_reason()
            self.overflow_reason = reason

    def is_written(self, before: int = NEVER) -> bool:
        """Return whether no event before a position waits to be written."""
        return all(one.on_disk or one.start == one.end for one in self._segments if one.start < before)

    def call_newcomer(self, newcomer: Callable[[], bool]) -> None:
        """Have ``newcomer`` called at the next append, until it returns true."""
        with self.changing():
            self.newcomer = newcomer

    def forget(self, before: int) -> None:
        """Note that the spool has nothing before a position any more."""
        self.on_disk = cut(self.on_disk, before, NEVER)

    def lose_spool(self, reason: str) -> None:
        """Note that the spool cannot be read; events that are in memory too can be written anew."""
        with self.changing():
            self.on_disk = ()
            gone = tuple((segment.start, segment.end) for segment in self._segments if segment.events is None)
            for segment in self._segments:
                segment.on_disk = False
            for cursor in self.cursors:
                cursor.lose(gone, reason)
            self._segments[:] = [segment for segment in self._segments if segment.events is not None]
            self._reopen_all()

    def stop_spooling(self) -> None:
        """From here on events are kept in memory only."""
        with self.changing():
            self.spooling = False
            self.newcomer = None
            self._reopen_all()

    def _reopen_all(self) -> None:
        for cursor in self.cursors:
            self._reopen(cursor)
        self._free(0, self.end)

    def settled(self) -> Settled:
        """Return what has to be durable of the cursors: what is settled is neither delivered nor kept again."""
        positions = {cursor.name: cursor.place.position for cursor in self.cursors}
        gaps = {cursor.name: cursor.place.gaps for cursor in self.cursors}
        everywhere: Ranges = ((min(positions.values(), default=self.end), NEVER),)
        for cursor in self.cursors:
            everywhere = common(everywhere, add(cursor.place.gaps, 0, cursor.place.position))
        return Settled(positions, gaps, everywhere)


def _have_stack(frames: int = _STACK_FRAMES) -> None:
    """Return if there is room for so many calls; near the end of the stack an append would be cut short anywhere.

    Raises:
        RecursionError: there is not.
    """
    if frames:
        _have_stack(frames - 1)
