"""The delivery of one sink as a state machine: queue, batches, retry, bisection, ledger. No thread, clock or socket.

Whoever drives it (``worker``) holds the lock, passes in monotonic times, does what ``poll`` returns, and reports
what came of it::

    poll(now) ─> Write(batch) ─┬─> stored
                               ├─> failed(bad) ──> bisect: halves are written at once, what is left is a suspect
                               └─> failed(…) ────> pause with full jitter, then the same batch again
              ─> Load(limit)   ──> loaded: a batch out of the spool
              ─> Ping          ──> pinged: are the suspects bad, or is the backend?
              ─> Wait(until)

Rules of dead letters. A sink that says ``BadBatch`` has refused the content: the batch is halved until the refused
events stand alone. A batch whose writes raise something unexpected, or break the connection, ``SUSPECT_AFTER`` times is
halved in the same way. The suspects of such a round are dead if there is proof that the backend lives: a neighbour that
was stored, or, where they are few (``_most_bad``), a ping. Otherwise it is the backend that is broken: nothing is given
up. If they are many, only a tenth is given up at a time: the rest is tried again after a pause, behind the next events.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Hashable, Iterable, Sequence
from enum import Enum
from itertools import accumulate, islice
from operator import attrgetter

import attrs
from flag_analytics.frozen import FrozenEvent
from flag_analytics.protocols import Batch
from flag_analytics.reports import DeliveryOptions, SinkStats

__all__ = ["Admission", "Dead", "Failure", "Load", "Ping", "Resolved", "SinkMachine", "Wait", "Write", "weight"]

SUSPECT_AFTER = 3
CLOSING_PAUSE_SECONDS = 0.25


class Failure(Enum):
    """Why a write did not store its batch."""

    BAD = "bad"
    """The content was refused."""
    UNAVAILABLE = "unavailable"
    """Nothing was stored; not the batch's fault."""
    UNKNOWN = "unknown"
    """The answer was lost: it may be stored."""
    SUSPICIOUS = "suspicious"
    """Nothing was stored, and it may be the batch's fault."""
    TIMEOUT = "timeout"
    """No answer in time: it may be stored; a slow or locked backend is not the batch's fault."""


@attrs.frozen
class Write:
    """Write this batch."""

    batch: Batch


@attrs.frozen
class Load:
    """Read up to this many events from the spool."""

    limit: int


@attrs.frozen
class Ping:
    """Find out whether the backend answers."""


@attrs.frozen
class Wait:
    """Nothing to do before this monotonic time; None: before something arrives."""

    until: float | None


@attrs.frozen
class Dead:
    """An event that was given up."""

    event: FrozenEvent
    batch_id: str
    error: str
    code: str


@attrs.frozen
class Resolved:
    """What a report settled: the events given up by it, and the spool's sequence number to forget up to, if any."""

    dead: Sequence[Dead] = ()
    ack: int | None = None


_NOTHING = Resolved()
_size_of = attrgetter("size")


@attrs.define
class _Part:
    """A part of the batch in flight that is still to be written."""

    batch: Batch
    disconnects: int = 0
    timeouts: int = 0
    attempted: bool = False
    refused: bool = False
    """Whether each of its events was refused in an earlier round."""


@attrs.define
class _Round:
    """A batch on its way: what is still to be written, what was refused, and what is known of the backend."""

    size: int
    todo: list[_Part]
    last_seq: int | None
    suspects: list[Dead] = attrs.field(factory=list[Dead])
    stored_any: bool = False
    bisecting: bool = False
    typed: bool = True
    ping_wanted: bool = False
    proven: bool = False
    """Whether all of it was refused before, in a round in which others were stored."""


class _Lane:
    """The numbers, in order of arrival, of the events that wait in one place, as stretches [first, count]."""

    def __init__(self) -> None:
        self._stretches: deque[list[int]] = deque()

    def push(self, first: int, count: int) -> None:
        if not count:
            return
        last = self._stretches[-1] if self._stretches else None
        if last is not None and last[0] + last[1] == first:
            last[1] += count
        else:
            self._stretches.append([first, count])

    def pop(self, count: int) -> None:
        while count and self._stretches:
            stretch = self._stretches[0]
            taken = min(count, stretch[1])
            stretch[0] += taken
            stretch[1] -= taken
            count -= taken
            if not stretch[1]:
                self._stretches.popleft()

    def first(self) -> int | None:
        return self._stretches[0][0] if self._stretches else None

    def copy(self) -> _Lane:
        lane = _Lane()
        lane._stretches.extend(list(stretch) for stretch in self._stretches)
        return lane


@attrs.define
class Admission:
    """What taking events in makes of a machine: everything as it will be, so that it can be done more than once."""

    taken: Sequence[FrozenEvent]
    left: int
    """How many queued events stay."""
    lane: _Lane
    accepted: int
    queued_bytes: int
    entered: int
    lost: int
    dropped: Counter[str]
    pressed: bool
    emptied: bool = False


_MEMORY = "memory"
"""The lane of the queue; every spool has one of its own."""


class SinkMachine:
    """The state of one sink's delivery. Not thread-safe: every call is made under the driver's lock.

    Args:
        name: The sink's name, used in batch ids.
        options: Bounds, batch size and pauses.
        can_ping: Whether the driver can answer ``Ping``.
        batch_prefix: Makes batch ids unique among processes and sinks.
    """

    def __init__(self, name: str, options: DeliveryOptions, *, can_ping: bool, batch_prefix: str) -> None:
        self.name = name
        self.options = options
        self._can_ping = can_ping
        self._batch_prefix = batch_prefix
        self._queue: deque[FrozenEvent] = deque()
        self._queued_bytes = 0
        self._round: _Round | None = None
        self._in_flight = 0
        self._in_flight_bytes = 0
        self._batches = 0
        self._failures = 0
        self._restarts = 0
        self._retry_at: float | None = None
        self._attempted_at = 0.0
        self._waiting_since: float | None = None
        self._draining = 0
        self._entered = 0
        self._lost = 0
        self._lanes: dict[Hashable, _Lane] = {}
        self._oldest_in_flight: int | None = None
        self._load_failed = False
        self._writing = False
        self._pressed = False
        self._closed = False
        self._closing = False
        self.spooled = 0
        self.accepted = 0
        self.recovered = 0
        self._recovered_waiting = 0
        self.delivered = 0
        self.dead = 0
        self.attempts = 0
        self.retries = 0
        self.commit_unknown = 0
        self.dropped: Counter[str] = Counter()
        self.last_success: float | None = None
        self.last_error: str | None = None

    # --- events in

    def room(self) -> tuple[int, int]:
        """Return how many more events, and bytes, would surely be taken."""
        if self.options.policy == "drop_oldest":
            return self.options.max_events, self.options.max_bytes
        return (
            self.options.max_events - len(self._queue) - self._in_flight,
            self.options.max_bytes - self._queued_bytes - self._in_flight_bytes,
        )

    def fits(self, size: int) -> bool:
        """Return whether one more event of this size would be taken now."""
        if self.options.policy == "drop_oldest":
            return size <= self.options.max_bytes
        return self._has_place(size)

    def refuse(self) -> None:
        """Count an event for which there is no room."""
        self.accepted += 1
        self.dropped["overflow"] += 1
        self._pressed = True

    def press(self) -> None:
        """Do not wait for a batch to fill: somebody waits for room."""
        self._pressed = True

    def take_in(self, events: Sequence[FrozenEvent], size: int, overflow: str = "overflow") -> None:
        """Queue events that weigh ``size`` bytes together, as far as there is room for them."""
        self.commit(self.plan(events, size, overflow))

    def plan(self, events: Sequence[FrozenEvent], size: int, overflow: str = "overflow") -> Admission:
        """Return what taking these events in amounts to; changes nothing."""
        held = len(self._queue) + self._in_flight
        held_bytes = self._queued_bytes + self._in_flight_bytes
        forgotten, forgotten_bytes, displaced, taken = 0, 0, 0, events
        if held + len(events) > self.options.max_events or held_bytes + size > self.options.max_bytes:
            if self.options.policy == "drop_oldest":
                forgotten, forgotten_bytes, displaced, taken = self._newest(events)
            else:
                taken = self._fitting(events)
            size = weight(taken)
        refused = len(events) - displaced - len(taken)
        dropped, gone = self.dropped, refused + displaced + forgotten
        if gone:
            dropped = Counter(self.dropped)
            dropped[overflow] += gone
        # What was accepted when it was recorded (the spool was to take it, or an older event to make room) counts as
        # come, and as lost: a flush may ask for it.
        awaited = refused if overflow == "spool_full" or self.options.policy == "drop_oldest" else 0
        lane = self._lanes.get(_MEMORY, _Lane()).copy()
        lane.pop(forgotten)
        lane.push(self._entered + displaced, len(taken))
        return Admission(
            taken=taken,
            left=len(self._queue) - forgotten,
            lane=lane,
            accepted=self.accepted + len(events),
            queued_bytes=self._queued_bytes - forgotten_bytes + size,
            entered=self._entered + displaced + len(taken) + awaited,
            lost=self._lost + forgotten + displaced + awaited,
            dropped=dropped,
            pressed=self._pressed or gone > 0,
        )

    def commit(self, admission: Admission) -> None:
        """Do what was planned. Interrupted anywhere, by an exception out of a signal handler, it can be done again."""
        queue = self._queue
        if not admission.emptied:
            while len(queue) > admission.left:
                queue.popleft()
            admission.emptied = True
        if len(queue) == admission.left:
            queue.extend(admission.taken)
        self._queued_bytes = admission.queued_bytes
        self.accepted = admission.accepted
        self._entered = admission.entered
        self._lost = admission.lost
        self.dropped = admission.dropped
        self._pressed = admission.pressed
        if admission.lane.first() is None:
            self._lanes.pop(_MEMORY, None)
        else:
            self._lanes[_MEMORY] = admission.lane

    def _fitting(self, events: Sequence[FrozenEvent]) -> Sequence[FrozenEvent]:
        """Return those of the events that there is room for, in their order."""
        room = self.options.max_events - len(self._queue) - self._in_flight
        room_bytes = self.options.max_bytes - self._queued_bytes - self._in_flight_bytes
        taken: list[FrozenEvent] = []
        for event in events if room > 0 else ():
            if len(taken) < room and event.size <= room_bytes:
                taken.append(event)
                room_bytes -= event.size
        return taken

    def _newest(self, events: Sequence[FrozenEvent]) -> tuple[int, int, int, Sequence[FrozenEvent]]:
        """Return what ``drop_oldest`` does: how many queued events, of how many bytes, and how many of these go.

        The last member is those that stay. What would not even fit beside the batch in flight costs no other event.
        """
        room = self.options.max_events - self._in_flight
        room_bytes = self.options.max_bytes - self._in_flight_bytes
        able = [event for event in events if event.size <= room_bytes] if room > 0 else []
        displaced = max(0, len(able) - room)
        size = weight(able[displaced:])
        while displaced < len(able) and size > room_bytes:
            size -= able[displaced].size
            displaced += 1
        staying = able[displaced:]
        forgotten, left, left_bytes = 0, len(self._queue), self._queued_bytes
        for event in self._queue:
            if left + len(staying) <= room and left_bytes + size <= room_bytes:
                break
            forgotten += 1
            left -= 1
            left_bytes -= event.size
        return forgotten, self._queued_bytes - left_bytes, displaced, staying

    def _enter(self, count: int, lane: Hashable = _MEMORY) -> None:
        self._lanes.setdefault(lane, _Lane()).push(self._entered, count)
        self._entered += count

    def _leave(self, count: int, lane: Hashable = _MEMORY) -> None:
        if lane in self._lanes:
            self._lanes[lane].pop(count)
            if self._lanes[lane].first() is None:
                del self._lanes[lane]

    def _has_place(self, size: int) -> bool:
        return (
            len(self._queue) + self._in_flight < self.options.max_events
            and self._queued_bytes + self._in_flight_bytes + size <= self.options.max_bytes
        )

    def add_spooled(self, count: int, spool: Hashable = None, *, recovered: bool = False) -> None:
        """Note events that are in a spool for this sink: newly written, or recovered from an earlier process."""
        if recovered:
            self.recovered += count
            self._recovered_waiting += count
        else:
            self.accepted += count
        self.spooled += count
        self._enter(count, spool)

    # --- what to do next

    def poll(self, now: float) -> Write | Load | Ping | Wait:
        """Return the next thing to do at monotonic time ``now``."""
        if self._round is None:
            if self._closed or not (self._queue or self.spooled):
                self._waiting_since = None
                return Wait(None)
            if self._waiting_since is None:
                self._waiting_since = now
            ready_at = self._ready_at(now)
            if now < ready_at:
                return Wait(ready_at)
        if self._retry_at is not None:
            if now < self._retry_at:
                return Wait(self._retry_at)
            self._retry_at = None
        if self._round is None:
            if self.spooled and not (self._load_failed and self._queue):
                return Load(self.options.batch_size)
            self._load_failed = False  # after the next batch of the queue the spool gets another chance
            events, size = self._take_queue()
            self._begin(events, size, None)
        self._attempted_at = now
        return self._next_of_round()

    def _ready_at(self, now: float) -> float:
        waiting = len(self._queue) + self.spooled
        if (
            self._draining > 0
            or waiting >= self.options.batch_size
            or self._queued_bytes >= self.options.max_batch_bytes
            or self._pressed
            or self._failures
            or self._recovered_waiting > 0
        ):
            return now
        assert self._waiting_since is not None
        return self._waiting_since + self.options.flush_interval_seconds

    def _take_queue(self, reserved: int = 0, reserved_bytes: int = 0) -> tuple[tuple[FrozenEvent, ...], int]:
        """Take up to one batch off the queue, of which some room is already used."""
        queue = self._queue
        limit = self.options.max_batch_bytes - reserved_bytes
        events = tuple(islice(queue, self.options.batch_size - reserved))
        size = weight(events)
        if size > limit:
            fitting = bisect_right(tuple(accumulate(map(_size_of, events))), limit)
            events = events[: max(fitting, 0 if reserved else 1)]
            size = weight(events)
        for _ in events:
            queue.popleft()
        self._queued_bytes -= size
        self._fly(_MEMORY, len(events))
        return events, size

    def _fly(self, lane: Hashable, count: int) -> None:
        """Move events off a lane and into flight."""
        oldest = self._lanes[lane].first() if lane in self._lanes else None
        if oldest is not None and (self._oldest_in_flight is None or oldest < self._oldest_in_flight):
            self._oldest_in_flight = oldest
        self._leave(count, lane)

    def _begin(self, events: tuple[FrozenEvent, ...], size: int, last_seq: int | None) -> None:
        self._batches += 1
        self._in_flight = len(events)
        self._in_flight_bytes = size
        self._waiting_since = None
        self._pressed = False
        batch = Batch(f"{self._batch_prefix}-{self._batches}", events)
        self._round = _Round(len(events), [_Part(batch)], last_seq)

    def _next_of_round(self) -> Write | Ping:
        round_ = self._round
        assert round_ is not None
        if round_.ping_wanted:
            return Ping()
        part = round_.todo[-1]
        self.attempts += 1
        if part.attempted:
            self.retries += 1
        part.attempted = True
        self._writing = True
        return Write(part.batch)

    def loaded(self, events: tuple[FrozenEvent, ...], last_seq: int, spool: Hashable = None) -> None:
        """Begin a batch of events out of a spool, the last of which has this sequence number there."""
        if self._closed:  # they stay in the spool
            return
        self._load_failed = False
        self.spooled -= len(events)
        self._recovered_waiting = max(0, self._recovered_waiting - len(events))
        self._fly(spool, len(events))
        self._begin(events, weight(events), last_seq)

    def load_failed(self, now: float, jitter: float) -> None:
        """Note that the spool could not be read for now; what waits in memory does not wait for it."""
        self._load_failed = True
        self._pause(now, jitter)

    def interrupted(self, now: float, jitter: float) -> None:
        """Note that the worker ended in the middle of something: whatever did that may do it again."""
        self._pause(now, jitter)

    def lose_spooled(self, count: int, spool: Hashable = None, reason: str = "spool_corrupt") -> None:
        """Note events of a spool that cannot be read back."""
        if not count:
            return
        self.spooled -= count
        self.dropped[reason] += count
        self._leave(count, spool)
        self._lost += count

    # --- what came of it

    def stored(self, now: float, wall: float, jitter: float) -> Resolved:
        """Note that the part just written is stored; ``wall`` is the time of day in seconds since the epoch."""
        round_ = self._round
        if round_ is None:  # closed while the write was under way: its events are already accounted for
            return _NOTHING
        self._writing = False
        part = round_.todo.pop()
        self._resolve(part.batch.events)
        self.delivered += len(part.batch)
        round_.stored_any = True
        self.last_success = wall
        self.last_error = None
        self._failures = 0
        self._retry_at = None
        return self._end_of_round(now, jitter)

    def failed(self, failure: Failure, error: str, code: str, now: float, jitter: float) -> Resolved:
        """Note that the part just written is not stored.

        Args:
            failure: Why.
            error: The name of the exception's class.
            code: The sink's own code of the cause.
            now: Monotonic seconds.
            jitter: A number drawn uniformly from [0, 1), which sets the length of a pause.
        """
        round_ = self._round
        if round_ is None:
            return _NOTHING
        self._writing = False
        self.last_error = f"{error} {code}".strip()
        if failure in (Failure.UNKNOWN, Failure.TIMEOUT):
            self.commit_unknown += 1
        part = round_.todo[-1]
        if failure is Failure.BAD:
            return self._split(part, error, code, now, jitter)
        if failure is Failure.TIMEOUT:
            # A slow or locked backend is nobody's fault: the part is only made smaller, unless it is a single event
            # whose neighbours were stored.
            part.timeouts += 1
            small = len(part.batch) == 1 and not round_.stored_any
            round_.ping_wanted = part.timeouts >= SUSPECT_AFTER and self._can_ping and not small
        elif failure in (Failure.UNKNOWN, Failure.SUSPICIOUS):
            part.disconnects += 1
            # Halving costs little, giving up an event does: what stands alone gets all its attempts.
            at_once = round_.bisecting and not round_.typed and len(part.batch) > 1
            suspect = at_once or part.disconnects >= SUSPECT_AFTER
            if suspect and (round_.bisecting or (failure is Failure.SUSPICIOUS and not self._can_ping)):
                round_.typed = False
                return self._split(part, error, code, now, jitter)
            round_.ping_wanted = suspect and self._can_ping
        self._pause(now, jitter)
        return _NOTHING

    def _split(self, part: _Part, error: str, code: str, now: float, jitter: float) -> Resolved:
        """Halve a part, or set its only event aside; the statement count is 2k⌈log2 n⌉ + 1 for k bad events in n."""
        round_ = self._round
        assert round_ is not None
        round_.bisecting = True
        if len(part.batch) > 1:
            self._halve(part)
            return _NOTHING
        round_.todo.pop()
        self._retry_at = None
        round_.suspects.append(Dead(part.batch.events[0], part.batch.id, error, code))
        # Without the sink's own word and without a single success, a second suspect speaks against the backend.
        lives = round_.stored_any or round_.proven
        most_bad = _most_bad(round_.size) if round_.typed or lives else 1
        if len(round_.suspects) <= most_bad:
            return self._end_of_round(now, jitter)
        dead = self._give_up_suspects() if lives else ()
        if not round_.todo and not round_.suspects:
            return Resolved(dead, self._finish())
        self._start_over(now, jitter)
        return Resolved(dead)

    def _halve(self, part: _Part) -> None:
        assert self._round is not None
        self._round.todo.pop()
        self._retry_at = None
        events = part.batch.events
        middle = len(events) // 2
        self._round.todo.append(_Part(Batch(f"{part.batch.id}.{middle}-", events[middle:]), refused=part.refused))
        self._round.todo.append(_Part(Batch(f"{part.batch.id}.-{middle}", events[:middle]), refused=part.refused))

    def pinged(self, alive: bool, now: float, jitter: float) -> Resolved:
        """Note whether the backend answered."""
        round_ = self._round
        if round_ is None:
            return _NOTHING
        round_.ping_wanted = False
        if not alive:
            if round_.bisecting:
                self._start_over(now, jitter)
            else:
                self._pause(now, jitter)
            return _NOTHING
        if not round_.todo:
            return self._bury()
        part = round_.todo[-1]
        if part.disconnects < SUSPECT_AFTER and len(part.batch) > 1:  # too large to be written in time
            self._halve(part)
            return _NOTHING
        round_.typed = False
        return self._split(part, "Suspect", self.last_error or "", now, jitter)

    def _end_of_round(self, now: float, jitter: float) -> Resolved:
        round_ = self._round
        assert round_ is not None
        if round_.todo:
            return _NOTHING
        if not round_.suspects:
            return Resolved(ack=self._finish())
        proven = round_.stored_any or round_.proven or (round_.typed and (round_.size == 1 or not self._can_ping))
        if proven:
            return self._bury()
        if self._can_ping:
            round_.ping_wanted = True
        else:
            self._start_over(now, jitter)
        return _NOTHING

    def _bury(self) -> Resolved:
        dead = self._give_up_suspects()
        self._failures = 0
        return Resolved(dead, self._finish())

    def _give_up_suspects(self) -> tuple[Dead, ...]:
        round_ = self._round
        assert round_ is not None
        dead = tuple(round_.suspects)
        round_.suspects.clear()
        self._resolve(tuple(letter.event for letter in dead))
        self.dead += len(dead)
        self._lost += len(dead)
        return dead

    def _start_over(self, now: float, jitter: float) -> None:
        """Take back what this round left over and try it again later, with events beside it that wait behind it.

        Suspects come last: whatever is stored before them in the same round proves that it is they who are bad. So
        each round either gets further through the others, or gives some suspects up.
        """
        round_ = self._round
        assert round_ is not None
        suspects = [letter.event for letter in round_.suspects]
        suspects += [event for part in reversed(round_.todo) if part.refused for event in part.batch.events]
        untried = [event for part in reversed(round_.todo) if not part.refused for event in part.batch.events]
        if round_.last_seq is None and len(untried) < self.options.batch_size:
            more, _ = self._take_queue(len(untried), weight(untried))
            untried.extend(more)
        events = (*untried, *suspects)
        self._begin(events, weight(events), round_.last_seq)
        assert self._round is not None
        # With new events beside them, it is those that must prove anew that the backend lives.
        self._round.proven = not untried and (round_.stored_any or round_.proven)
        self._part_into(untried, suspects)
        self._failures = self._restarts
        self._restarts += 1
        self._pause(now, jitter)

    def _part_into(self, untried: Sequence[FrozenEvent], suspects: Sequence[FrozenEvent]) -> None:
        """Write the batch that just began in parts of the usual size, the suspects last."""
        assert self._round is not None
        batch_id = self._round.todo[0].batch.id
        step = self.options.batch_size
        parts: list[_Part] = []
        for events, refused in ((untried, False), (suspects, True)):
            for at in range(0, len(events), step):
                batch = Batch(f"{batch_id}.{len(parts)}", tuple(events[at : at + step]))
                parts.append(_Part(batch, refused=refused))
        self._round.todo = parts[::-1]

    def _resolve(self, events: tuple[FrozenEvent, ...]) -> None:
        self._in_flight -= len(events)
        self._in_flight_bytes -= weight(events)

    def _finish(self) -> int | None:
        assert self._round is not None
        last_seq = self._round.last_seq
        self._restarts = 0
        self._round = None
        self._oldest_in_flight = None
        self._in_flight = 0
        self._in_flight_bytes = 0
        return last_seq

    def _pause(self, now: float, jitter: float) -> None:
        self._failures += 1
        bound = self.options.retry_initial_seconds * 2.0 ** min(self._failures - 1, 60)
        longest = CLOSING_PAUSE_SECONDS if self._closing else self.options.retry_max_seconds
        self._retry_at = now + jitter * min(longest, bound)

    # --- flush, close, ledger

    def progress(self) -> tuple[int, int, int]:
        """Return how many events ever came, how many of the first ones are all resolved, and how many events were lost.

        Events are not resolved in the order they came (a refused one is tried again later, a spool overtakes the
        queue): whoever waits for the first n has to wait until the oldest one that is pending is younger than those.
        """
        pending = [first for lane in self._lanes.values() if (first := lane.first()) is not None]
        if self._oldest_in_flight is not None:
            pending.append(self._oldest_in_flight)
        return self._entered, min(pending, default=self._entered), self._lost

    def drain(self, on: bool) -> None:
        """While on, batches do not wait to be full."""
        self._draining += 1 if on else -1

    def hurry(self, now: float) -> None:
        """End a pause early, since someone waits for the outcome; at most once a second, however many wait."""
        if self._retry_at is not None and now - self._attempted_at >= 1.0:
            self._retry_at = now

    def close_soon(self, now: float) -> None:
        """End a pause at once, and keep the next ones short: there will be no later."""
        self._closing = True
        if self._retry_at is not None:
            self._retry_at = now

    def close(self, unqueued: int, *, spool_gone: bool = False) -> None:
        """Give up what is in memory, as dropped: closed; ``unqueued`` events never came as far as the queue.

        What came out of the spool stays there, unless its file was deleted.
        """
        self._closed = True
        from_spool = self._round is not None and self._round.last_seq is not None
        self.commit_unknown += self._writing  # what is given up may be stored
        self.accepted += unqueued
        self._entered += unqueued
        lost = len(self._queue) + unqueued
        if not from_spool:
            lost += self._in_flight
        elif not spool_gone:
            self.spooled += self._in_flight
        else:
            self.dropped["spool_gone"] += self._in_flight
            self._lost += self._in_flight
        if lost:
            self.dropped["closed"] += lost
        self._lost += lost
        self._lanes.clear()
        self._oldest_in_flight = None
        self._queue.clear()
        self._queued_bytes = 0
        self._round = None
        self._in_flight = 0
        self._in_flight_bytes = 0

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is in flight."""
        return self._round is None and not self._queue and not self.spooled

    @property
    def in_memory(self) -> bool:
        """Whether events wait, or are in flight, that no spool has."""
        return bool(self._queue) or (self._round is not None and self._round.last_seq is None)

    @property
    def missing(self) -> int:
        """How many more events make the next batch full, at least 1."""
        return max(1, self.options.batch_size - len(self._queue) - self.spooled)

    @property
    def batch_is_full(self) -> bool:
        return (
            len(self._queue) + self.spooled >= self.options.batch_size
            or self._queued_bytes >= self.options.max_batch_bytes
            or self._pressed
        )

    def stats(self, wall: float) -> SinkStats:
        """Return the ledger; ``wall`` is the time of day in seconds since the epoch."""
        waiting = [self._queue[0].received_at] if self._queue else []
        if self._round is not None:
            waiting += [part.batch.events[0].received_at for part in self._round.todo]
            waiting += [suspect.event.received_at for suspect in self._round.suspects]
        return SinkStats(
            accepted=self.accepted,
            recovered=self.recovered,
            delivered=self.delivered,
            queued=len(self._queue),
            in_flight=self._in_flight,
            spooled=self.spooled,
            dropped=dict(self.dropped),
            dead=self.dead,
            retries=self.retries,
            commit_unknown=self.commit_unknown,
            attempts=self.attempts,
            backlog_bytes=self._queued_bytes + self._in_flight_bytes,
            backlog_age_seconds=max(0.0, wall - min(waiting)) if waiting else None,
            last_success=self.last_success,
            breaker=self._breaker(),
            last_error=self.last_error,
        )

    def _breaker(self) -> str:
        if not self._failures:
            return "closed"
        return "open" if self._retry_at is not None else "half_open"


def weight(events: Iterable[FrozenEvent]) -> int:
    """Return what events weigh together, in bytes."""
    return sum(map(_size_of, events))


def _most_bad(size: int) -> int:
    """Return how many events of a batch may be given up in one round: a tenth, and a few of a small batch."""
    return max(5, size // 10)
