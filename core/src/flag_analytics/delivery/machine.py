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
halved in the same way. At the end of such a round the suspects are dead if they are few (``_most_bad``) and there is
proof that the backend lives: a ping, or where it has none, a neighbour that was stored. Otherwise it is the backend
that is broken: nothing is given up, and the same events are tried again after a pause, with the next ones beside them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from enum import Enum

import attrs

from ..normal_form import FrozenEvent
from ..protocols import Batch
from .ledger import SinkStats
from .options import DeliveryOptions

__all__ = ["Dead", "Failure", "Load", "Ping", "Resolved", "SinkMachine", "Wait", "Write"]

SUSPECT_AFTER = 3


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


@attrs.define
class _Part:
    """A part of the batch in flight that is still to be written."""

    batch: Batch
    disconnects: int = 0
    attempted: bool = False


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
        self._retry_at: float | None = None
        self._attempted_at = 0.0
        self._waiting_since: float | None = None
        self._draining = 0
        self._entered = 0
        self._left = 0
        self._lost = 0
        self._closed = False
        self.spooled = 0
        self.accepted = 0
        self.recovered = 0
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

    def take_in(self, events: Sequence[FrozenEvent], size: int, overflow: str = "overflow") -> int:
        """Queue events that weigh ``size`` bytes together; return how many of them were taken."""
        self.accepted += len(events)
        lost_before = self.dropped[overflow]
        taken = self._take_in(events, size, overflow)
        if overflow == "spool_full":  # these were waited for since they were recorded: they count as resolved
            lost = self.dropped[overflow] - lost_before
            self._entered += lost
            self._left += lost
            self._lost += lost
        return taken

    def _take_in(self, events: Sequence[FrozenEvent], size: int, overflow: str) -> int:
        count = len(events)
        held = len(self._queue) + self._in_flight
        held_bytes = self._queued_bytes + self._in_flight_bytes
        if held + count <= self.options.max_events and held_bytes + size <= self.options.max_bytes:
            self._queue.extend(events)
            self._queued_bytes += size
            self._entered += count
            return count
        if self.options.policy == "drop_oldest":
            return self._take_in_newest(events, overflow)
        if held >= self.options.max_events:
            self.dropped[overflow] += count
            return 0
        taken = 0
        for event in events:
            if held + taken >= self.options.max_events or held_bytes + event.size > self.options.max_bytes:
                self.dropped[overflow] += 1
                continue
            self._queue.append(event)
            held_bytes += event.size
            self._queued_bytes += event.size
            taken += 1
        self._entered += taken
        return taken

    def _take_in_newest(self, events: Sequence[FrozenEvent], overflow: str) -> int:
        taken = 0
        for event in events:
            while self._queue and not self._has_place(event.size):
                self._queued_bytes -= self._queue.popleft().size
                self.dropped[overflow] += 1
                self._left += 1
                self._lost += 1
            if not self._has_place(event.size):  # the batch in flight alone fills the bound
                self.dropped[overflow] += 1
                continue
            self._queue.append(event)
            self._queued_bytes += event.size
            self._entered += 1
            taken += 1
        return taken

    def _has_place(self, size: int) -> bool:
        return (
            len(self._queue) + self._in_flight < self.options.max_events
            and self._queued_bytes + self._in_flight_bytes + size <= self.options.max_bytes
        )

    def add_spooled(self, count: int, *, recovered: bool = False) -> None:
        """Note events that are in the spool for this sink: newly written, or recovered from an earlier process."""
        if recovered:
            self.recovered += count
        else:
            self.accepted += count
        self.spooled += count
        self._entered += count

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
            if self.spooled:
                return Load(self.options.batch_size)
            self._begin(*self._take_queue(), None)
        self._attempted_at = now
        return self._next_of_round()

    def _ready_at(self, now: float) -> float:
        waiting = len(self._queue) + self.spooled
        if (
            self._draining > 0
            or waiting >= self.options.batch_size
            or self._queued_bytes >= self.options.max_batch_bytes
            or self._failures
        ):
            return now
        assert self._waiting_since is not None
        return self._waiting_since + self.options.flush_interval_seconds

    def _take_queue(self, reserved: int = 0, reserved_bytes: int = 0) -> tuple[tuple[FrozenEvent, ...], int]:
        """Take up to one batch off the queue, of which some room is already used."""
        queue = self._queue
        events: list[FrozenEvent] = []
        room = self.options.batch_size - reserved
        size = 0
        limit = self.options.max_batch_bytes - reserved_bytes
        while queue and len(events) < room:
            weight = queue[0].size
            if size + weight > limit and (events or reserved):
                break
            events.append(queue.popleft())
            size += weight
        self._queued_bytes -= size
        return tuple(events), size

    def _begin(self, events: tuple[FrozenEvent, ...], size: int, last_seq: int | None) -> None:
        self._batches += 1
        self._in_flight = len(events)
        self._in_flight_bytes = size
        self._waiting_since = None
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
        return Write(part.batch)

    def loaded(self, events: tuple[FrozenEvent, ...], last_seq: int) -> None:
        """Begin a batch of events out of the spool, the last of which has this sequence number there."""
        self.spooled -= len(events)
        self._begin(events, sum(event.size for event in events), last_seq)

    def load_failed(self, now: float, jitter: float) -> None:
        """Note that the spool could not be read for now."""
        self._pause(now, jitter)

    def lose_spooled(self, count: int) -> None:
        """Note events of the spool that cannot be read back."""
        if not count:
            return
        self.spooled -= count
        self.dropped["spool_corrupt"] += count
        self._left += count
        self._lost += count

    # --- what came of it

    def stored(self, now: float, wall: float, jitter: float) -> Resolved:
        """Note that the part just written is stored; ``wall`` is the time of day in seconds since the epoch."""
        round_ = self._round
        if round_ is None:  # closed while the write was under way: its events are already accounted for
            return _NOTHING
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
        self.last_error = f"{error} {code}".strip()
        if failure in (Failure.UNKNOWN, Failure.TIMEOUT):
            self.commit_unknown += 1
        part = round_.todo[-1]
        if failure is Failure.BAD:
            return self._split(part, error, code, now, jitter)
        if failure in (Failure.UNKNOWN, Failure.SUSPICIOUS):
            part.disconnects += 1
            suspect = round_.bisecting or part.disconnects >= SUSPECT_AFTER
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
        round_.todo.pop()
        round_.bisecting = True
        self._retry_at = None
        events = part.batch.events
        if len(events) > 1:
            middle = len(events) // 2
            round_.todo.append(_Part(Batch(f"{part.batch.id}.{middle}-", events[middle:])))
            round_.todo.append(_Part(Batch(f"{part.batch.id}.-{middle}", events[:middle])))
            return _NOTHING
        round_.suspects.append(Dead(events[0], part.batch.id, error, code))
        # Without the sink's own word and without a single success, a second suspect speaks against the backend.
        most_bad = _most_bad(round_.size) if round_.typed or round_.stored_any else 1
        if len(round_.suspects) > most_bad:
            self._start_over(now, jitter)
            return _NOTHING
        return self._end_of_round(now, jitter)

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
        if round_.todo:  # a batch under suspicion, not yet split
            round_.typed = False
            return self._split(round_.todo[-1], "Suspect", self.last_error or "", now, jitter)
        return self._bury()

    def _end_of_round(self, now: float, jitter: float) -> Resolved:
        round_ = self._round
        assert round_ is not None
        if round_.todo:
            return _NOTHING
        if not round_.suspects:
            return Resolved(ack=self._finish())
        proven = round_.stored_any or (round_.typed and (round_.size == 1 or not self._can_ping))
        if proven:
            return self._bury()
        if self._can_ping:
            round_.ping_wanted = True
        else:
            self._start_over(now, jitter)
        return _NOTHING

    def _bury(self) -> Resolved:
        round_ = self._round
        assert round_ is not None
        dead = tuple(round_.suspects)
        self._resolve(tuple(letter.event for letter in dead))
        self.dead += len(dead)
        self._lost += len(dead)
        self._failures = 0
        return Resolved(dead, self._finish())

    def _start_over(self, now: float, jitter: float) -> None:
        """Take back what this round left over and try it again later, topped up with the events that wait behind it."""
        round_ = self._round
        assert round_ is not None
        left = [letter.event for letter in round_.suspects]
        for part in reversed(round_.todo):
            left.extend(part.batch.events)
        size = sum(event.size for event in left)
        more: tuple[FrozenEvent, ...] = ()
        more_size = 0
        if round_.last_seq is None:
            more, more_size = self._take_queue(len(left), size)
        self._begin((*left, *more), size + more_size, round_.last_seq)
        self._pause(now, jitter)

    def _resolve(self, events: tuple[FrozenEvent, ...]) -> None:
        self._in_flight -= len(events)
        self._in_flight_bytes -= sum(event.size for event in events)
        self._left += len(events)

    def _finish(self) -> int | None:
        assert self._round is not None
        last_seq = self._round.last_seq
        self._round = None
        self._in_flight = 0
        self._in_flight_bytes = 0
        return last_seq

    def _pause(self, now: float, jitter: float) -> None:
        self._failures += 1
        bound = self.options.retry_initial_seconds * 2.0 ** min(self._failures - 1, 60)
        self._retry_at = now + jitter * min(self.options.retry_max_seconds, bound)

    # --- flush, close, ledger

    def progress(self) -> tuple[int, int, int]:
        """Return how many events ever entered the queue, how many of them are resolved, and how many of those lost."""
        return self._entered, self._left, self._lost

    def drain(self, on: bool) -> None:
        """While on, batches do not wait to be full."""
        self._draining += 1 if on else -1

    def hurry(self, now: float) -> None:
        """End a pause early, since someone waits for the outcome; at most once a second, however many wait."""
        if self._retry_at is not None and now - self._attempted_at >= 1.0:
            self._retry_at = now

    def close(self, unqueued: int) -> None:
        """Give up what is in memory, as dropped: closed; ``unqueued`` events never came as far as the queue.

        What came out of the spool stays there.
        """
        self._closed = True
        from_spool = self._round is not None and self._round.last_seq is not None
        self.accepted += unqueued
        self._entered += unqueued
        lost = len(self._queue) + unqueued
        if from_spool:
            self.spooled += self._in_flight
        else:
            lost += self._in_flight
        if lost:
            self.dropped["closed"] += lost
        self._left += lost
        self._lost += lost
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
    def batch_is_full(self) -> bool:
        return len(self._queue) + self.spooled >= self.options.batch_size

    def stats(self, wall: float) -> SinkStats:
        """Return the ledger; ``wall`` is the time of day in seconds since the epoch."""
        oldest = self._queue[0] if self._queue else None
        if self._round is not None and self._round.todo:
            oldest = self._round.todo[-1].batch.events[0]
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
            backlog_age_seconds=None if oldest is None else max(0.0, wall - oldest.received_at),
            last_success=self.last_success,
            breaker=self._breaker(),
            last_error=self.last_error,
        )

    def _breaker(self) -> str:
        if not self._failures:
            return "closed"
        return "open" if self._retry_at is not None else "half_open"


def _most_bad(size: int) -> int:
    """Return how many events of a batch may be given up in one round: a tenth, and a few of a small batch."""
    return max(5, size // 10)
