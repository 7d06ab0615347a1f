"""The accounts of one delivery: its lock, the ledger of each sink, those who wait for a flush, dead letters, warnings.

Workers see this instead of the engine. Every method but those that say otherwise is called under ``lock``.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol

import attrs
from flag_analytics.frozen import FrozenEvent
from flag_analytics.logs import get_logger, warn
from flag_analytics.processes import in_greenlet, new_condition, new_future, new_rlock
from flag_analytics.protocols import RecordResult
from flag_analytics.reports import DeadLetter, DeliveryOptions, DeliveryReport, SinkStats

from .log import Cursor, Ledger, Log
from .retry import Resolved, SinkMachine

__all__ = ["Accounts", "Disk", "Sink", "Waiter"]

logger = get_logger("flag_analytics.delivery")

_ACCEPTED = RecordResult.ACCEPTED
"""An enumeration's member costs a look-up in its metaclass; this one is in the way of each event."""
DEAD_LETTERS_KEPT = 1_000
DEAD_LETTER_BYTES_KEPT = 8 * 2**20
_GREENLET_PAUSE_SECONDS = 0.005


class Disk(Protocol):
    """What workers ask of the spool; called without the lock."""

    def read(self, cursor: Cursor, first: int, end: int, limit: int) -> bool:
        """Hand the next events to a sink's machine; return False if they cannot be read for now."""
        ...

    def add_dead(self, letters: Sequence[DeadLetter]) -> None:
        """Keep dead letters."""
        ...

    def wake(self) -> bool:
        """Make events, or what became of them, durable soon; called under the lock."""
        ...


@attrs.define(eq=False)
class Sink:
    """One sink's accounts."""

    name: str
    machine: SinkMachine
    ledger: Ledger
    cursor: Cursor
    """In this delivery's own log."""
    last_success: float | None = None
    lost_before: int = 0
    """How many lost events earlier flushes have reported."""

    @property
    def lost(self) -> int:
        """Accepted events that will never be stored."""
        forgotten = self.cursor.place.overflow if self.cursor.options.policy == "drop_oldest" else 0
        return self.ledger.dead + sum(self.ledger.dropped.values()) + forgotten

    def stats(self, wall: float) -> SinkStats:
        """Return the ledger; ``wall`` is the time of day in seconds since the epoch."""
        own, cursors = self.cursor, self.machine.cursors
        dropped = self.ledger.dropped + own.overflow_by_reason()
        spooled = sum(cursor.spooled for cursor in cursors)
        meanwhile = own.log.recorded_meanwhile
        waiting = self.machine.oldest_in_flight()
        following = own.log.read(own.place, own.end, 1, 1).events
        ages = [event.received_at for event in (*waiting, *following)]
        return SinkStats(
            accepted=own.accepted + meanwhile,
            recovered=self.ledger.recovered,
            delivered=self.ledger.delivered,
            queued=sum(cursor.waiting for cursor in cursors) - spooled + meanwhile,
            in_flight=sum(cursor.in_flight for cursor in cursors),
            set_aside=self.machine.set_aside,
            spooled=spooled,
            dropped=dict(dropped),
            dead=self.ledger.dead,
            retries=self.machine.retries,
            commit_unknown=self.machine.commit_unknown,
            attempts=self.machine.attempts,
            backlog_bytes=own.held()[1],
            backlog_age_seconds=max(0.0, wall - min(ages)) if ages else None,
            last_success=self.last_success,
            breaker=self.machine.breaker,
            last_error=self.machine.last_error,
            position=own.place.position,
            lag=sum(cursor.lag for cursor in cursors),
        )


@attrs.define(eq=False)
class Waiter:
    """A flush under way: the position that each cursor must reach."""

    targets: dict[Cursor, int]
    future: Future[bool] = attrs.field(factory=new_future)


class Accounts:
    """See the module.

    Args:
        options: Settings of the whole delivery.
        wake: Makes the worker of a cursor look at it; returns whether there is one that runs.
        on_dead_letters: Called, without the lock, with a sink's name, an error's class and the events given up.

    Attributes:
        adopting: Whether spools of earlier processes are still looked for, so that a flush does not know all events.
        close_deadline: The monotonic time at which a close gives up, once it began.
        finished: Whether the accounts are closed: nothing that still moves is counted any more.
    """

    def __init__(
        self,
        options: DeliveryOptions,
        wake: Callable[[Cursor], bool],
        on_dead_letters: Callable[[str, str, Sequence[DeadLetter]], None] | None,
    ) -> None:
        # Re-entrant, since a finaliser or signal handler that runs inside a guarded section may record an event.
        self.lock = new_rlock()
        self.room_freed = new_condition(self.lock)
        self.log = Log(wake, spooling=options.durability == "spool")
        self.sinks: dict[str, Sink] = {}
        self.disk: Disk | None = None
        self.refused: Counter[str] = Counter()
        self.exhausted = 0
        """Events refused where the stack had no room for counting them under ``refused``."""
        self.chains_sigterm = options.sigterm == "chain"
        self.adopting = False
        self.closed = False
        self.finished = False
        self.close_deadline: float | None = None
        self.dead_letters: deque[DeadLetter] = deque()
        self._dead_letter_bytes = 0
        self._waiters: list[Waiter] = []
        self._on_dead_letters = on_dead_letters
        self.wake = wake

    def add_sink(self, machine: SinkMachine) -> Sink:
        """Open the accounts of a sink."""
        ledger = Ledger()
        cursor = self.log.add_cursor(machine.name, machine.options, ledger)
        machine.cursors.append(cursor)
        sink = self.sinks[machine.name] = Sink(machine.name, machine, ledger, cursor)
        return sink

    # --- events in

    def offer(self, event: FrozenEvent) -> RecordResult:
        """Take one event for every sink that has room for it; called without the lock."""
        lock = self.lock
        result: RecordResult | None = None
        try:
            # The with statement would cost twice as much. Inside try, since a signal's handler may raise right after.
            lock.acquire()
            if self.closed:
                self.refused["closed"] += 1
                result = RecordResult.CLOSED
            else:
                result = _ACCEPTED if self.log.append(event) else RecordResult.OVERFLOW
        except BaseException as error:
            # Before anything is called: another signal's handler may raise at the next call.
            try:
                lock.release()
            except RuntimeError:
                pass  # the exception came while the lock was waited for
            if result is not None and isinstance(error, RecursionError | MemoryError):
                return result
            raise
        lock.release()
        return result

    def offer_when_there_is_room(self, event: FrozenEvent, hold_seconds: float) -> RecordResult:
        """Take one event, and hold the caller so long at most while a sink with ``block`` has no room for it."""
        if self.lock._is_owned():  # noqa: SLF001
            # A finaliser or a signal handler inside a guarded section: to wait would let others into it.
            return self.offer(event)
        deadline = time.monotonic() + hold_seconds
        while True:
            with self.room_freed:  # held from the look to the append: the room is this caller's
                left = deadline - time.monotonic()
                if self.closed or self.log.has_room(event.size) or left <= 0 or self._never_fits(event.size):
                    return self.offer(event)
                if not in_greenlet():
                    self.room_freed.wait(left)
                    continue
            time.sleep(_GREENLET_PAUSE_SECONDS)  # other greenlets go on, without the lock

    def _never_fits(self, size: int) -> bool:
        return any(size > sink.cursor.options.max_bytes for sink in self.sinks.values())

    @property
    def accepted(self) -> int:
        """Events taken for at least one sink."""
        return self.log.end + self.log.recorded_meanwhile

    # --- what workers report

    def settle(self, sink: Sink, resolved: Resolved) -> None:
        """Count what a report settled, and tell those who wait."""
        if self.finished:
            return
        on_disk = False
        for cursor, piece in resolved.stored:
            sink.ledger.delivered += len(piece)
            cursor.settle(piece)
            on_disk = on_disk or bool(cursor.log.on_disk)
        for dead in resolved.dead:
            sink.ledger.dead += 1
            dead.cursor.settle(dead.piece)
            on_disk = on_disk or bool(dead.cursor.log.on_disk)
        if on_disk and self.disk is not None:
            self.disk.wake()
        self.tell_waiters()

    def keep_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Keep dead letters in memory, and tell the listener; called without the lock."""
        with self.lock:
            for letter in letters:
                self.dead_letters.append(letter)
                self._dead_letter_bytes += letter.event.size
            while len(self.dead_letters) > DEAD_LETTERS_KEPT or self._dead_letter_bytes > DEAD_LETTER_BYTES_KEPT:
                self._dead_letter_bytes -= self.dead_letters.popleft().event.size
        first = letters[0]
        self.warn("%s: events are dead letters: they were refused (%s %s)", first.sink, first.error, first.code)
        if self._on_dead_letters is None:
            return
        try:
            self._on_dead_letters(first.sink, first.error, letters)
        except BaseException as error:  # a worker does not end for it
            self.warn("a handler of failed deliveries raised %s", type(error).__name__)

    def forget_dead_letters(self, targeting_keys: Collection[str]) -> int:
        """Forget the dead letters in memory of these targeting keys; return how many there were."""
        with self.lock:
            before = len(self.dead_letters)
            kept = [letter for letter in self.dead_letters if letter.event.targeting_key not in targeting_keys]
            self.dead_letters.clear()
            self.dead_letters.extend(kept)
            self._dead_letter_bytes = sum(letter.event.size for letter in kept)
            return before - len(kept)

    def warn(self, message: str, *arguments: object) -> None:
        """Log a warning, at most once a minute for each cause; arguments are names and codes, never content."""
        warn(logger, message, *arguments)

    # --- those who wait

    def begin_wait(self) -> Waiter:
        """Return a waiter for everything accepted so far."""
        self.log.catch_up()
        waiter = Waiter({cursor: cursor.log.end for sink in self.sinks.values() for cursor in sink.machine.cursors})
        if self.reached(waiter) or self.finished:
            waiter.future.set_result(True)
        else:
            self._waiters.append(waiter)
            now = time.monotonic()
            for sink in self.sinks.values():
                sink.machine.drain(on=True)
                sink.machine.skip_backoff(now)
        return waiter

    def end_wait(self, waiter: Waiter) -> bool:
        """Forget a waiter; return whether all that it waited for is stored."""
        self._forget(waiter)
        lost = [sink.lost > sink.lost_before for sink in self.sinks.values()]
        halted = any(sink.machine.halted and sink.cursor.pending for sink in self.sinks.values())
        for sink in self.sinks.values():
            sink.lost_before = sink.lost
        return self.reached(waiter) and not any(lost) and not halted

    def reached(self, waiter: Waiter) -> bool:
        """Return whether every cursor is at or beyond its target; a sink that is halted is not waited for."""
        halted = {cursor for sink in self.sinks.values() if sink.machine.halted for cursor in sink.machine.cursors}
        behind = (cursor.place.position < end for cursor, end in waiter.targets.items() if cursor not in halted)
        return not self.adopting and not any(behind)

    def extend_waits(self, cursors: Sequence[Cursor]) -> None:
        """Extend pending flushes to recovered events."""
        for waiter in self._waiters:
            waiter.targets.update((cursor, cursor.log.end) for cursor in cursors)

    def tell_waiters(self) -> None:
        """Tell those who wait that something was resolved."""
        self.room_freed.notify_all()
        for waiter in [waiter for waiter in self._waiters if self.reached(waiter)]:
            self._end(waiter, stored=True)

    def end_all_waits(self) -> None:
        """Tell those who wait that nothing more will be resolved."""
        for waiter in tuple(self._waiters):
            self._end(waiter, stored=False)

    def _end(self, waiter: Waiter, *, stored: bool) -> None:
        self._forget(waiter)
        if not waiter.future.done():
            waiter.future.set_result(stored)

    def _forget(self, waiter: Waiter) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
            for sink in self.sinks.values():
                sink.machine.drain(on=False)

    # --- reports

    def sink_stats(self) -> Mapping[str, SinkStats]:
        """Return each sink's ledger."""
        wall = time.time()
        return {name: sink.stats(wall) for name, sink in self.sinks.items()}

    def refusals(self) -> dict[str, int]:
        """Return the events taken for no sink, by reason."""
        refused = +self.refused
        refused["overflow"] += self.log.refused
        refused["error"] += self.exhausted
        return dict(+refused)

    def report(self, *, complete: bool) -> DeliveryReport:
        """Return what was achieved so far."""
        return DeliveryReport.of(self.sink_stats(), complete=complete)
