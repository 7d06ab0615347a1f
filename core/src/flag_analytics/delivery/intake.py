"""Where events enter: one append under one lock, whatever the number of sinks; the queues are filled chunk by chunk.

Filling a sink's queue costs more than an append, so an event first joins the ``inbox``, and a whole inbox is handed to
every sink at once: when a chunk is full, when a sink takes a batch, and whenever someone looks. Since every change of a
queue is preceded by that, each event meets the queues exactly as they were when it arrived.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence

from ..normal_form import MAX_EVENT_BYTES, FrozenEvent
from ..protocols import Outcome
from .machine import SinkMachine

__all__ = ["Intake"]

CHUNK_EVENTS = 256
CHUNK_BYTES = 4 * MAX_EVENT_BYTES


class Intake:
    """The entrance of a delivery, and the lock that guards everything behind it.

    Args:
        machines: The sinks' queues.
        max_events: The most events in the inbox; it matters only while a spool takes events from there.
        max_bytes: The same in bytes.
        spooling: Events leave the inbox through ``take_inbox`` instead of being handed to the queues.
        wake: Called under the lock with a machine whose worker has something to do now.
    """

    def __init__(
        self,
        machines: Sequence[SinkMachine],
        *,
        max_events: int,
        max_bytes: int,
        spooling: bool,
        wake: Callable[[SinkMachine], None],
        wake_spool: Callable[[], None],
    ) -> None:
        # Re-entrant, since a finaliser or signal handler that runs inside a guarded section may evaluate a flag.
        self.lock = threading.RLock()
        self.machines = tuple(machines)
        self.accepted = 0
        self.refused: Counter[str] = Counter()
        self.closed = False
        self.asleep = True
        """Whether somebody is to be woken by the next event."""
        self.in_transit = 0
        """Events on their way from the inbox to the spool."""
        self._idle: set[SinkMachine] = set(self.machines)
        self._filling: set[SinkMachine] = set()
        self._inbox: list[FrozenEvent] = []
        self._inbox_bytes = 0
        self._busy = False
        self._spooling = spooling
        self._wake = wake
        self._wake_spool = wake_spool
        self._chunk = min([CHUNK_EVENTS, *(machine.options.batch_size for machine in self.machines)])
        self._most_events, self._most_bytes = max_events, max_bytes
        if not spooling:
            self._measure_room()

    def offer(self, event: FrozenEvent) -> Outcome:
        """Take one event for every sink that has room for it."""
        self.lock.acquire()  # the with statement would cost twice as much
        try:
            if self.closed:
                self.refused["closed"] += 1
                return Outcome.CLOSED
            size = event.size
            if (
                len(self._inbox) >= self._most_events or self._inbox_bytes + size > self._most_bytes
            ) and not self._make_room(size):
                self.refused["overflow"] += 1
                return Outcome.OVERFLOW
            self._inbox.append(event)
            self._inbox_bytes += size
            self.accepted += 1
            if self.asleep:
                self._wake_sleepers()
            return Outcome.ACCEPTED
        finally:
            self.lock.release()

    def _make_room(self, size: int) -> bool:
        """Empty the inbox into the queues; return whether one more event of this size has a place, else count it."""
        if self._busy:  # called from inside a hand-over, by a finaliser or a signal handler
            return True
        if self._spooling:
            return False
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
        else:
            self._idle.add(machine)
            self.asleep = not self._spooling

    def awake(self, machine: SinkMachine) -> None:
        """Note that a machine's worker is up."""
        self._idle.discard(machine)
        self._filling.discard(machine)

    def sleep_spool(self) -> None:
        """Note that the spool's thread sleeps until an event arrives."""
        self.asleep = self._spooling

    def _wake_sleepers(self) -> None:
        self.asleep = False
        if self._spooling:
            self._wake_spool()
        else:
            self._wake_idle()

    def _wake_idle(self) -> None:
        for machine in self._idle:
            self._wake(machine)
        self._idle.clear()

    def hand_over(self) -> None:
        """Hand the inbox to every queue."""
        if self._spooling or not self._inbox or self._busy:
            return
        self._busy = True
        try:
            events, size = self._inbox, self._inbox_bytes
            self._inbox, self._inbox_bytes = [], 0
            for machine in self.machines:
                machine.take_in(events, size)
            self._measure_room()
        finally:
            self._busy = False
        self._wake_full()

    def _wake_full(self) -> None:
        for machine in [machine for machine in self._filling if machine.batch_is_full]:
            self._filling.discard(machine)
            self._wake(machine)

    def _measure_room(self) -> None:
        """Let a chunk gather as far as the roomiest queue surely takes it all; beyond that, each event is weighed."""
        events, size = max([machine.room() for machine in self.machines], default=(CHUNK_EVENTS, CHUNK_BYTES))
        self._most_events = min(self._chunk, events)
        self._most_bytes = min(CHUNK_BYTES, size)

    def has_room(self, size: int) -> bool:
        """Return whether every queue could take one more event of this size."""
        with self.lock:
            if self._spooling:
                return len(self._inbox) < self._most_events and self._inbox_bytes + size <= self._most_bytes
            self.hand_over()
            return all(machine.fits(size) for machine in self.machines)

    # --- the spool's side

    @property
    def waiting(self) -> int:
        """Events that no queue and no spool has yet."""
        return len(self._inbox) + self.in_transit

    @property
    def waiting_bytes(self) -> int:
        return self._inbox_bytes

    def take_inbox(self) -> list[FrozenEvent]:
        """Take everything that is to be spooled; report back with ``spooled`` or ``not_spooled``."""
        events = self._inbox
        self._inbox, self._inbox_bytes = [], 0
        self.in_transit += len(events)
        return events

    def spooled(self, count: int) -> None:
        """Note that events taken from the inbox are durable."""
        self.in_transit -= count
        for machine in self.machines:
            machine.add_spooled(count)
        self._wake_full()
        self._wake_idle()

    def not_spooled(self, events: Sequence[FrozenEvent]) -> None:
        """Keep events in memory that the spool could not take."""
        self.in_transit -= len(events)
        size = sum(event.size for event in events)
        for machine in self.machines:
            machine.take_in(events, size, overflow="spool_full")
        self._wake_full()
        self._wake_idle()

    def stop_spooling(self) -> None:
        """From here on events are kept in memory only: there is no spool to write to."""
        self._spooling = False
        self.asleep = bool(self._idle)
        self._measure_room()
        self.hand_over()
