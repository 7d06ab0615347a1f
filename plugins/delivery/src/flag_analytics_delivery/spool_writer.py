"""The thread that makes a delivery's log durable, and what workers ask of the spool."""

from __future__ import annotations

import sys
import threading
import time
from _queue import Empty, SimpleQueue  # the originals, whatever a framework has made of ``queue``
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from flag_analytics.frozen import FrozenEvent
from flag_analytics.processes import keep_inherited, new_lock, start_thread
from flag_analytics.reports import DeadLetter, DeliveryOptions

from .accounts import Accounts
from .log import Cursor, Log, Piece, Segment, Settled
from .ranges import gaps_of
from .spool import (
    Spool,
    SpoolCorruptError,
    SpoolError,
    SpoolGoneError,
    bytes_of,
    default_directory,
    orphans,
)
from .spool_adopt import Adopted, adopt
from .spool_directory import private_in

__all__ = ["SpoolWriter"]

RETRY_SECONDS = 0.5
"""The pause before another attempt to create a spool that could not be created."""
FINISH_SECONDS = 0.15
"""The wait for the disk at the end of the process, where no thread can be had."""
CLOSING_SECONDS = 5.0
"""The longest a delivery that was closed lets its files go, in the background."""
MIN_SPOOL_BYTES = 2**18
MOST_FAULTS = 5
"""How often a spool may fail to be read before it is set aside."""
MOST_SECONDS = 3_600.0

_finishing: set[threading.Thread] = set()
"""Threads that close files of deliveries that were closed, each for as long as its disk takes."""


class SpoolWriter:
    """Writes what is not settled to disk at each interval, with the cursors; reads back what memory no longer has.

    An event that is settled within the interval is never written.
    """

    def __init__(self, accounts: Accounts, options: DeliveryOptions, name: str) -> None:
        self._accounts = accounts
        self._log = accounts.log
        self._options = options
        # Absolute, since the application may change its directory.
        self.directory = (options.spool_directory or default_directory(_identity(name))).absolute()
        self._own: Spool | None = None
        self._adopted: list[Adopted] = []
        self._faults: Counter[Path] = Counter()
        self._acknowledged: dict[Log, Settled] = {}
        self._create_after = 0.0
        self._sync_lock = new_lock()
        self._wanted: SimpleQueue[None] = SimpleQueue()
        """A token wakes the thread. Unlike an event's, this lock is no trouble to a signal handler that records."""
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._closed = False
        self.counters: Counter[str] = Counter()
        accounts.adopting = True
        accounts.log.call_newcomer(self.wake)

    def start(self) -> None:
        """Start the thread, and another one that adopts spools: what is recorded meanwhile does not wait for them."""
        if self._thread is not None:
            return
        self._accounts.adopting = True
        self._thread = start_thread(self._run, name="spool")
        if self._thread is None or start_thread(self._adopt_all, name="adopt") is None:
            self._accounts.adopting = False  # at the end of the process: finish() writes what is left

    def wake(self) -> bool:
        """Make events durable soon; return whether there is a thread for it. Called under the accounts' lock."""
        self.start()
        self._wanted.put(None)
        return self._thread is not None

    def leave_in_child(self) -> None:
        """Forget the parent's files and threads, in a forked child, without closing them."""
        # Without the lock: a thread that is not here may hold it.
        for spool in [self._own, *(adopted.spool for adopted in self._adopted)]:
            if spool is not None:
                spool.abandon_in_child()
        keep_inherited(self)

    # --- the thread

    def _run(self) -> None:
        try:
            while not self._stopped:
                self._wait_for_work()
                self.sync()
        except Exception as error:  # nothing may be lost to a mistake here: keep events in memory from now on
            self._accounts.warn("the spool's thread ended by %s", type(error).__name__)
            with self._accounts.lock:
                self._log.stop_spooling()

    def _wait_for_work(self) -> None:
        accounts = self._accounts
        with accounts.lock:
            while not self._wanted.empty():
                self._take_token(0.0)
            idle = self._log.is_written() and not self._to_acknowledge()
            if idle:
                self._log.call_newcomer(self.wake)
        closing = accounts.close_deadline is not None
        if idle:
            self._take_token(0.02 if closing else None)
        if not closing:
            self._pause(min(self._options.spool_interval_seconds, MOST_SECONDS))

    def _pause(self, seconds: float) -> None:
        """Let events gather; a close ends the pause."""
        ends = time.monotonic() + seconds
        while self._accounts.close_deadline is None and not self._stopped and time.monotonic() < ends:
            self._take_token(max(0.001, ends - time.monotonic()))

    def _take_token(self, timeout: float | None) -> None:
        try:
            self._wanted.get(timeout=timeout)
        except Empty:
            pass  # the time has come

    def sync(self, timeout: float = -1.0) -> bool:
        """Make everything recorded so far durable; return False if some of it could only be kept in memory."""
        if not self._sync_lock.acquire(timeout=timeout):
            return False
        try:
            if self._closed:
                return False
            if self._own is not None and self._own.is_gone():
                self._save(self._own)
            with self._accounts.lock:
                segments = self._log.unwritten()
            written = not segments or self._write(segments)
            self._acknowledge_all()
        finally:
            self._sync_lock.release()
        return written

    def _write(self, segments: Sequence[Segment]) -> bool:
        for first, some in _runs(segments):
            events = [event for segment in some for event in segment.events or ()]
            try:
                self._append(first, events)
            except Exception as error:
                self.counters["errors"] += 1
                reason = error if isinstance(error, SpoolError) else type(error).__name__
                self._accounts.warn("events are kept in memory only: the spool refused them (%s)", reason)
                with self._accounts.lock:
                    self._log.set_overflow_reason("spool_full")
                return False
            with self._accounts.lock:
                self._log.set_overflow_reason("overflow")
                self._log.written(some, self._options.max_bytes // 2)
        return True

    def _append(self, first: int, events: Sequence[FrozenEvent]) -> None:
        spool = self._open_own()
        try:
            spool.append(first, events)
        except SpoolCorruptError:
            self._quarantine(self._log, spool)
            self._open_own().append(first, events)
        except SpoolGoneError:
            self._save(spool)
            self._open_own().append(first, events)

    def _open_own(self) -> Spool:
        if self._closed:
            raise SpoolError("its delivery is closed")
        if self._own is None:
            now = time.monotonic()
            if now < self._create_after:
                raise SpoolError("it cannot be created")
            self._create_after = now + RETRY_SECONDS
            # What earlier processes left counts against the bound: a crash loop does not fill the disk.
            left = sum(map(bytes_of, orphans(private_in(self.directory))))
            with self._accounts.lock:
                cursors = {cursor.name: cursor.place.position for cursor in self._log.cursors}
            self._own = Spool.create(
                self.directory,
                cursors,
                max_bytes=max(MIN_SPOOL_BYTES, self._options.spool_max_bytes - left),
                fsync=self._options.spool_fsync,
            )
            self._create_after = 0.0
        return self._own

    def _save(self, gone: Spool) -> None:
        """Write what a deleted file has into a new one; this process can read it still, and no other."""
        self.counters["errors"] += 1
        self._accounts.warn("a spool was deleted while it was in use: another one is made")
        self._own = None
        self._acknowledged.pop(self._log, None)
        try:
            gone.copy_to(self._open_own())
        except SpoolError:
            with self._accounts.lock:
                self._log.lose_spool("spool_gone")
        gone.close()

    # --- what became of the events

    def _logs(self) -> list[tuple[Log, Spool]]:
        with self._accounts.lock:
            own = [(self._log, self._own)] if self._own is not None else []
            return [*own, *((adopted.log, adopted.spool) for adopted in self._adopted)]

    def _to_acknowledge(self) -> list[tuple[Log, Spool]]:
        logs = [(log, spool) for log, spool in self._logs() if log.on_disk]
        return [(log, spool) for log, spool in logs if log.settled() != self._acknowledged.get(log)]

    def _acknowledge_all(self) -> None:
        with self._accounts.lock:
            changed = [(log, spool, log.settled()) for log, spool in self._to_acknowledge()]
        for log, spool, settled in changed:
            try:
                past = spool.acknowledge(settled.positions, settled.gaps, settled.everywhere)
            except SpoolError as error:
                # The next process will deliver these again, under the same ids.
                self.counters["errors"] += 1
                self._accounts.warn("the spool could not forget delivered events (%s)", error)
                continue
            self._acknowledged[log] = settled
            with self._accounts.lock:
                log.forget(past)
        self._let_go()

    def _let_go(self) -> None:
        """Close adopted spools that have nothing more for the configured sinks, and know it."""
        with self._accounts.lock:
            done = [
                one
                for one in self._adopted
                if not any(cursor.pending for cursor in one.cursors)
                and self._acknowledged.get(one.log) == one.log.settled()
            ]
            for adopted in done:
                self._drop(adopted)
        for adopted in done:
            adopted.spool.close()

    def _drop(self, adopted: Adopted) -> None:
        self._adopted.remove(adopted)
        for cursor in adopted.cursors:
            self._accounts.sinks[cursor.name].machine.cursors.remove(cursor)

    # --- what earlier processes left

    def _adopt_all(self) -> None:
        deadline = time.monotonic() + CLOSING_SECONDS
        for thread in tuple(_finishing):  # what this process closed a moment ago is there to be adopted as well
            thread.join(max(0.0, deadline - time.monotonic()))
        try:
            for adopted in adopt(private_in(self.directory), self._accounts.sinks, self._open_orphan, self._tell):
                if not self._take_over(adopted):
                    adopted.spool.close()  # closed meanwhile: it is for the next start
                    return
        except Exception as error:
            self._accounts.warn("spools of earlier processes are left alone (%s)", type(error).__name__)
        finally:
            with self._accounts.lock:
                self._accounts.adopting = False
                self._accounts.tell_waiters()

    def _open_orphan(self, path: Path) -> Spool:
        options = self._options
        return Spool(path, {}, max_bytes=options.spool_max_bytes, fsync=options.spool_fsync, patient=False)

    def _tell(self, what: str) -> None:
        self.counters[what] += 1
        if what == "skipped":
            self._accounts.warn("a file among the spools is none of this user's spools, and was left as it is")
        elif what == "unclaimed":
            self._accounts.warn("a spool holds events for sinks that are not configured")
        else:
            self._accounts.warn("a spool was not sound and was set aside")

    def _take_over(self, adopted: Adopted) -> bool:
        accounts = self._accounts
        with accounts.lock:
            if self._stopped or accounts.finished:
                return False
            self.counters["adopted"] += 1
            self._adopted.append(adopted)
            for cursor in adopted.cursors:
                machine = accounts.sinks[cursor.name].machine
                machine.cursors.insert(len(machine.cursors) - 1, cursor)
                cursor.ledger.recovered += cursor.pending
                accounts.wake(accounts.sinks[cursor.name].cursor)
            accounts.extend_waits(adopted.cursors)
        return True

    def _quarantine(self, log: Log, spool: Spool) -> None:
        """Set a spool aside that turned out corrupt, and account for what only it had."""
        self._tell("quarantined")
        spool.quarantine()
        with self._accounts.lock:
            if spool is self._own:
                self._own = None
            log.lose_spool("spool_corrupt")
            for adopted in [one for one in self._adopted if one.spool is spool]:
                self._drop(adopted)
            self._accounts.tell_waiters()

    # --- for the workers

    def read(self, cursor: Cursor, first: int, end: int, limit: int) -> bool:
        """Hand the next events to a sink's machine; return False if they cannot be read for now."""
        spool = next((spool for log, spool in self._logs() if log is cursor.log), None)
        if spool is None:
            return False
        try:
            loaded = spool.read(first, end, limit, cursor.options.max_batch_bytes)
        except SpoolError as error:
            self._faults[spool.path] += 1
            if isinstance(error, SpoolCorruptError) or self._faults[spool.path] >= MOST_FAULTS:
                self._quarantine(cursor.log, spool)  # what cannot be read holds up no sink
                return True
            self._accounts.warn("%s: the spool cannot be read (%s)", cursor.name, error)
            return False
        self._faults.pop(spool.path, None)
        with self._accounts.lock:
            if not self._accounts.finished:
                cursor.lose(gaps_of(loaded.positions, first, loaded.end), "spool_corrupt")
                if loaded.events:
                    piece = Piece(loaded.positions, loaded.events)
                    cursor.took(piece)
                    self._accounts.sinks[cursor.name].machine.begin(cursor, piece)
                self._accounts.tell_waiters()
        return True

    def add_dead(self, letters: Sequence[DeadLetter]) -> None:
        """Keep dead letters on disk, for ``flag-analytics dead-letters``."""
        try:
            with self._sync_lock:
                self._open_own().add_dead(letters)
        except Exception as error:
            self.counters["errors"] += 1
            reason = error if isinstance(error, SpoolError) else type(error).__name__
            self._accounts.warn("dead letters could not be written to the spool (%s)", reason)

    def persist(self) -> bool:
        """Make everything recorded before this call durable, in this thread; return whether it is."""
        with self._accounts.lock:
            self._log.catch_up()
            end = self._log.end
        self.sync()
        with self._accounts.lock:
            written = self._log.is_written(before=end)
        return written and not any(spool.is_gone() for spool in self._spools())

    def _spools(self) -> list[Spool]:
        return [spool for _, spool in self._logs()]

    # --- the end

    def finish(self, timeout: float) -> None:
        """Make the rest durable and close the files; called without the lock. Waits so long for the disk.

        In a thread, since a disk can hang; at the end of the process, where none can be had, in this one.
        """
        thread = start_thread(self._finish, CLOSING_SECONDS, name="finish")
        if thread is None:
            self._finish(FINISH_SECONDS)
            return
        _finishing.difference_update([ended for ended in tuple(_finishing) if not ended.is_alive()])
        _finishing.add(thread)
        thread.join(timeout)

    def _finish(self, timeout: float) -> None:
        with self._accounts.lock:
            self._stopped = True
        self._wanted.put(None)
        self.sync(timeout)
        if self._sync_lock.acquire(timeout=timeout):
            try:
                self._closed = True
                for spool in self._spools():
                    spool.close()
            finally:
                self._sync_lock.release()


def _runs(segments: Sequence[Segment]) -> Iterator[tuple[int, list[Segment]]]:
    """Yield segments that follow on each other, with the position of the first event."""
    run: list[Segment] = []
    for segment in segments:
        if run and run[-1].end != segment.start:
            yield run[0].start, run
            run = []
        run.append(segment)
    if run:
        yield run[0].start, run


def _identity(name: str) -> str:
    """Return what tells one application's spools from another's: the program and the folder it was started in.

    Not its sinks: those change with the configuration, and what is in the spool has to be found again.
    """
    try:
        folder = str(Path.cwd())
    except OSError:  # it was deleted
        folder = ""
    return "\0".join([name, str(Path(folder, sys.argv[0] if sys.argv else "")), folder])
