"""Where events enter: one append under one lock, whatever the number of sinks; the queues are filled chunk by chunk.

Filling a sink's queue costs more than an append, so an event first joins the ``inbox``, and a whole inbox is handed to
every sink at once: when a chunk is full, when a sink takes a batch, and whenever someone looks. Since every change of a
queue is preceded by that, each event meets the queues exactly as they were when it arrived.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

import attrs
from flag_analytics.canonical import MAX_EVENT_BYTES
from flag_analytics.frozen import FrozenEvent
from flag_analytics.protocols import RecordResult

from .machine import Admission, SinkMachine, weight

__all__ = ["Intake"]

CHUNK_EVENTS = 256
CHUNK_BYTES = 4 * MAX_EVENT_BYTES
MOST_MEANWHILE = 1_024
"""How many events may come from inside a hand-over, out of finalisers and signal handlers."""
MOST_INTERRUPTIONS = 100
_STACK_FRAMES = 16
"""More than a hand-over needs below it."""
_ACCEPTED = RecordResult.ACCEPTED


@attrs.define
class _Chunk:
    events: list[FrozenEvent]
    size: int | None = None
    handed_over: int = 0
    """How many events will have been handed over once these are."""


_NOTHING = _Chunk([], 0)


def _have_stack(frames: int = _STACK_FRAMES) -> None:
    """Return if there is room for so many calls; near the end of the stack a hand-over would be cut short anywhere.

    Raises:
        RecursionError: there is not.
    """
    if frames:
        _have_stack(frames - 1)


class Intake:
    """The entrance of a delivery, and the lock that guards everything behind it.

    Args:
        machines: The sinks' queues.
        max_events: The most events in the inbox; it matters only while a spool takes events from there.
        max_bytes: The same in bytes.
        spooling: Events leave the inbox through ``take_inbox`` instead of being handed to the queues.
        wake: Called under the lock with a machine whose worker has something to do now; returns whether it runs.
    """

    def __init__(
        self,
        machines: Sequence[SinkMachine],
        *,
        max_events: int,
        max_bytes: int,
        spooling: bool,
        wake: Callable[[SinkMachine], bool],
        wake_spool: Callable[[], bool],
    ) -> None:
        # Re-entrant, since a finaliser or signal handler that runs inside a guarded section may evaluate a flag.
        self.lock = threading.RLock()
        self.machines = tuple(machines)
        self.handed_over = 0
        """Events that came as far as the queues or the spool."""
        self.taken_inline = 0
        """Events that an inline sink took, and no queue."""
        self.exhausted = 0
        """Events that were refused where the stack had no room for counting them under ``refused``."""
        self.refused: Counter[str] = Counter()
        self.closed = False
        self.finished = False
        """Whether the accounts were closed: nothing that still moves is counted any more."""
        self.asleep = True
        """Whether somebody is to be woken by the next event."""
        self.in_transit = 0
        """Events on their way from the inbox to the spool."""
        self._idle: set[SinkMachine] = set(self.machines)
        self._filling: set[SinkMachine] = set()
        self.count_overflow = True
        """Whether an event that no queue takes is refused; not if an inline sink may still take it."""
        self._inbox: list[FrozenEvent] = []
        self._inbox_bytes = 0
        self._handing = _NOTHING
        """The chunk that is being handed over."""
        self._next_machine = 0
        self._admission: tuple[int, Admission] | None = None
        self._busy = False
        self._spooling = spooling
        self._wake = wake
        self._wake_spool = wake_spool
        self._chunk = min([CHUNK_EVENTS, *(machine.options.batch_size for machine in self.machines)])
        self._hand_over_at = self._chunk
        """So many events in the inbox are a chunk, or complete the batch that some worker waits for."""
        self._most_events, self._most_bytes = max_events, max_bytes
        if not spooling:
            self._measure_room()

    def offer(self, event: FrozenEvent) -> RecordResult:
        """Take one event for every sink that has room for it."""
        lock = self.lock
        outcome: RecordResult | None = None
        try:
            # The with statement would cost twice as much. Inside try, since a signal's handler may raise right after.
            lock.acquire()
            size = event.size
            if self.closed:
                self.refused["closed"] += 1
                outcome = RecordResult.CLOSED
            elif (
                len(self._inbox) >= self._most_events or self._inbox_bytes + size > self._most_bytes
            ) and not self._make_room(size):
                self.refused["overflow"] += self.count_overflow
                outcome = RecordResult.OVERFLOW
            else:
                self._inbox.append(event)  # first, and alone: whatever interrupts the rest, the event is in or not
                outcome = RecordResult.ACCEPTED
                self._inbox_bytes += size
                if self.asleep:
                    self._wake_sleepers()
                if len(self._inbox) >= self._hand_over_at:
                    self.hand_over()
        except BaseException as error:
            # Before anything is called: another signal's handler may raise at the next call.
            try:
                lock.release()
            except RuntimeError:
                pass  # the exception came while the lock was waited for
            if outcome is not None and isinstance(error, RecursionError | MemoryError):
                return outcome  # it is handed over with a later one
            raise
        lock.release()
        return outcome

    def _make_room(self, size: int) -> bool:
        """Empty the inbox into the queues; return whether one more event of this size has a place, else count it."""
        if self._busy and len(self._inbox) < MOST_MEANWHILE and self._inbox_bytes < CHUNK_BYTES:
            return True  # called from inside a hand-over, by a finaliser or a signal handler
        if not self._spooling and not self._busy:
            self.hand_over()
            if any(machine.fits(size) for machine in self.machines):
                return True
        for machine in self.machines:
            machine.refuse()
        return False

    def sleep(self, machine: SinkMachine, *, filling: bool) -> None:
        """Note that a worker sleeps: until an event arrives, or (``filling``) until a batch is full or due."""
        if filling:
            self._filling.add(machine)
            self._hand_over_at = min(self._hand_over_at, machine.missing)
        else:
            self._idle.add(machine)
            if not self._spooling:  # else it is the spool's thread that sleeps or not
                self.asleep = True

    def awake(self, machine: SinkMachine) -> None:
        """Note that a machine's worker is up."""
        self._idle.discard(machine)
        self._filling.discard(machine)

    def sleep_spool(self) -> bool:
        """Note that the spool's thread sleeps until an event arrives; return false where some are there already."""
        self.asleep = self._spooling
        idle = not self.waiting
        if not idle:
            self.asleep = False
        return idle

    @property
    def unseen(self) -> bool:
        """Whether events wait that no queue knows of, though nothing keeps them from there."""
        return bool(self._inbox) and not self._spooling

    def _wake_sleepers(self) -> None:
        # Woken first, and noted then: who is interrupted in between is woken once more.
        if self._spooling:
            self.asleep = not self._wake_spool()
        else:
            self._wake_idle()
            self.asleep = bool(self._idle)

    def _wake_idle(self) -> None:
        for machine in tuple(self._idle):
            if self._wake(machine):  # one whose thread does not start is tried again
                self._idle.discard(machine)

    def hand_over(self) -> None:
        """Hand the inbox to every queue."""
        if self._spooling or self._busy or not (self._inbox or self._handing.events):
            return
        _have_stack()
        interrupted: BaseException | None = None
        self._busy = True
        try:
            for _ in range(MOST_INTERRUPTIONS):
                try:
                    self._hand_on()
                    self._measure_room()
                    break
                except BaseException as error:  # out of a signal handler: each queue gets the events all the same
                    interrupted = error
        finally:
            self._busy = False
        self._wake_full()
        if interrupted is not None:
            raise interrupted

    def _hand_on(self) -> None:
        """Hand one chunk to every queue, going on from where an interruption left it.

        Each step is a single assignment, or says by itself whether it was done.
        """
        if not self._handing.events:
            self._next_machine, self._admission = 0, None
            self._handing = _Chunk(self._inbox)
        chunk = self._handing
        if self._inbox is chunk.events:
            self._inbox = []
        if chunk.size is None:  # only now, since until then the chunk could grow
            chunk.handed_over = self.handed_over + len(chunk.events)
            chunk.size = weight(chunk.events)
        while self._next_machine < len(self.machines):
            machine = self.machines[self._next_machine]
            if self._admission is None or self._admission[0] != self._next_machine:
                self._admission = (self._next_machine, machine.plan(chunk.events, chunk.size))
            machine.commit(self._admission[1])
            self._next_machine += 1
        self.handed_over = chunk.handed_over
        self._handing = _NOTHING
        self._inbox_bytes = weight(self._inbox)  # what came meanwhile

    def _wake_full(self) -> None:
        filling = tuple(self._filling)  # in one step: a signal handler may record meanwhile
        for machine in filling:
            if machine.batch_is_full and self._wake(machine):
                self._filling.discard(machine)
        self._hand_over_at = min([self._chunk, *(machine.missing for machine in filling if machine in self._filling)])

    def _measure_room(self) -> None:
        """Let a chunk gather as far as the roomiest queue surely takes it all; beyond that, each event is weighed."""
        events, size = max([machine.room() for machine in self.machines], default=(CHUNK_EVENTS, CHUNK_BYTES))
        self._most_events = min(self._chunk, events)
        self._most_bytes = min(CHUNK_BYTES, size)

    def has_room(self, size: int) -> bool:
        """Return whether every queue that holds its callers could take one more event of this size."""
        with self.lock:
            if self._spooling:
                return len(self._inbox) < self._most_events and self._inbox_bytes + size <= self._most_bytes
            self.hand_over()
            return all(machine.fits(size) for machine in self.machines if machine.options.policy == "block")

    @property
    def accepted(self) -> int:
        """Events taken for at least one sink."""
        return self.handed_over + self._not_handed_over + self.taken_inline

    @property
    def _not_handed_over(self) -> int:
        left = self._handing.events
        return len(left) + (0 if self._inbox is left else len(self._inbox))

    # --- the spool's side

    @property
    def waiting(self) -> int:
        """Events that no queue and no spool has yet."""
        return self._not_handed_over + self.in_transit

    def take_inbox(self) -> list[FrozenEvent]:
        """Take everything that is to be spooled; report back with ``spooled`` or ``not_spooled``."""
        events, self._inbox = self._inbox, []  # first: a finaliser may record at whatever allocates
        self._inbox_bytes = 0
        self._transit(len(events), weight(events))
        self.handed_over += len(events)
        return events

    def _transit(self, count: int, size: int) -> None:
        """Note what is on its way to the spool: it still counts against the bounds."""
        self.in_transit += count
        if self._spooling:
            self._most_events -= count
            self._most_bytes -= size

    def spooled(self, events: Sequence[FrozenEvent], spool: Hashable = None) -> None:
        """Note that events taken from the inbox are durable in this spool."""
        if self.finished:  # they were accounted for without waiting any longer
            return
        self._transit(-len(events), -weight(events))
        for machine in self.machines:
            machine.add_spooled(len(events), spool)
        self._wake_full()
        self._wake_idle()

    def not_spooled(self, events: Sequence[FrozenEvent]) -> None:
        """Keep events in memory that the spool could not take."""
        if self.finished:
            return
        size = weight(events)
        self._transit(-len(events), -size)
        for machine in self.machines:
            machine.take_in(events, size, overflow="spool_full")
        self._wake_full()
        self._wake_idle()

    def stop_spooling(self) -> None:
        """From here on events are kept in memory only: there is no spool to write to."""
        self._spooling = False
        self._measure_room()
        self.hand_over()
        self._wake_sleepers()

    def finish(self) -> int:
        """Return how many events no queue and no spool has, at the end; what becomes of them later is not counted."""
        left = self.waiting
        self.handed_over = self.accepted - self.taken_inline
        self._handing = _NOTHING
        self._inbox, self._inbox_bytes = [], 0
        self.in_transit = 0
        self.finished = True
        return left
