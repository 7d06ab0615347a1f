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
        self.idle: set[SinkMachine] = set()
        """Machines whose workers sleep until an event arrives."""
        self.filling: set[SinkMachine] = set()
        """Machines whose workers sleep until a batch is full or due."""
        self.spool_idle = False
        self.in_transit = 0
        """Events on their way from the inbox to the spool."""
        self._inbox: list[FrozenEvent] = []
        self._inbox_bytes = 0
        self._busy = False
        self._spooling = spooling
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._wake = wake
        self._wake_spool = wake_spool
        self._chunk = min([CHUNK_EVENTS, *(machine.options.batch_size for machine in self.machines)])
        self._hand_over_at = 1

    def offer(self, event: FrozenEvent) -> Outcome:
        """Take one event for every sink that has room for it."""
        with self.lock:
            if self.closed:
                self.refused["closed"] += 1
                return Outcome.CLOSED
            if self._spooling and not self._inbox_has_room(event.size):
                self.refused["overflow"] += 1
                return Outcome.OVERFLOW
            self._inbox.append(event)
            self._inbox_bytes += event.size
            if (
                (len(self._inbox) >= self._hand_over_at or self._inbox_bytes >= CHUNK_BYTES)
                and not self._spooling
                and not self._busy
                and not self.hand_over()
            ):
                self.refused["overflow"] += 1
                return Outcome.OVERFLOW
            self.accepted += 1
            if self.idle or self.spool_idle:
                self._wake_sleepers()
            return Outcome.ACCEPTED

    def _inbox_has_room(self, size: int) -> bool:
        return len(self._inbox) + self.in_transit < self._max_events and self._inbox_bytes + size <= self._max_bytes

    def _wake_sleepers(self) -> None:
        if self._spooling:
            self.spool_idle = False
            self._wake_spool()
            return
        for machine in self.idle:
            self._wake(machine)
        self.idle.clear()

    def hand_over(self) -> int:
        """Hand the inbox to every queue; return how many of its events the roomiest one took (1 for an empty inbox)."""
        if self._spooling or not self._inbox or self._busy:
            return 1
        self._busy = True
        try:
            events, size = self._inbox, self._inbox_bytes
            self._inbox, self._inbox_bytes = [], 0
            taken = max([machine.take_in(events, size) for machine in self.machines], default=len(events))
            self._measure_room()
        finally:
            self._busy = False
        self._wake_full()
        return taken

    def _wake_full(self) -> None:
        for machine in [machine for machine in self.filling if machine.batch_is_full]:
            self.filling.discard(machine)
            self._wake(machine)

    def _measure_room(self) -> None:
        """Let a chunk gather only as far as some queue surely takes all of it; else every event is decided at once."""
        room = max([machine.room(CHUNK_BYTES + MAX_EVENT_BYTES) for machine in self.machines], default=CHUNK_EVENTS)
        self._hand_over_at = max(1, min(self._chunk, room))

    def has_room(self, size: int) -> bool:
        """Return whether every queue could take one more event of this size."""
        with self.lock:
            if self._spooling:
                return self._inbox_has_room(size)
            self.hand_over()
            return all(machine.room(size) for machine in self.machines)

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
        for machine in self.idle:
            self._wake(machine)
        self.idle.clear()

    def not_spooled(self, events: Sequence[FrozenEvent]) -> None:
        """Keep events in memory that the spool could not take."""
        self.in_transit -= len(events)
        size = sum(event.size for event in events)
        for machine in self.machines:
            machine.take_in(events, size, overflow="spool_full")
        self._wake_full()
        for machine in self.idle:
            self._wake(machine)
        self.idle.clear()

    def stop_spooling(self) -> None:
        """From here on events are kept in memory only: there is no spool to write to."""
        self._spooling = False
        self._measure_room()
        self.hand_over()
