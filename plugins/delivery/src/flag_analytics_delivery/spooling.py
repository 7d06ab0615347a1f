"""The spool at work: one daemon thread that makes recorded events durable, and adopts what gone processes left."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from flag_analytics.reports import DeadLetter

from .machine import SinkMachine
from .spool import (
    Loaded,
    Spool,
    SpoolCorruptError,
    SpoolError,
    SpoolGoneError,
    bytes_of,
    default_directory,
    orphans,
    set_aside,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .engine import Engine

__all__ = ["SpoolWorker"]

RETRY_SECONDS = 0.5
"""How long to wait before trying again to create a spool that could not be created."""
FINISH_SECONDS = 0.15
"""How long to wait for the disk at the end of the process, where no thread can be had."""
CLOSING_SECONDS = 5.0
"""How long a delivery that was closed may take to let its file go, in the background."""
MIN_SPOOL_BYTES = 2**18
MOST_FAULTS = 5
"""How often a spool of a gone process may fail to be read before it is set aside."""
MOST_SECONDS = 3_600.0
_graveyard: list[Any] = []
_finishing: set[threading.Thread] = set()
"""Threads that close files of deliveries that were closed, each for as long as its disk takes."""


class SpoolWorker:
    """Moves events from the intake into this process's spool, and gives the sinks' workers what they read back."""

    def __init__(self, engine: Engine) -> None:
        options = engine.settings.options
        self._engine = engine
        self._options = options
        self._names = tuple(machine.name for machine in engine.machines)
        # Absolute, since the application may change its directory.
        self.directory = (options.spool_directory or default_directory(_identity(engine.settings.name))).absolute()
        self._own: Spool | None = None
        self._adopted: list[Spool] = []
        self._counts: Counter[tuple[Path, str]] = Counter()
        self._faults: Counter[Path] = Counter()
        self._reading: dict[str, Spool] = {}
        self._create_after = 0.0
        self._drain_lock = threading.Lock()
        self._wanted: SimpleQueue[None] = SimpleQueue()
        """A token wakes the thread. Unlike an event's, this lock is no trouble to a signal handler that records."""
        self._thread: threading.Thread | None = None
        self._stopped = False
        self.adopting = True
        """Whether the orphans are still to be looked through, so that a flush does not know of all events yet."""
        self.counters: Counter[str] = Counter()

    def start(self) -> None:
        """Start the thread, and another one that adopts orphans: what is recorded meanwhile does not wait for them."""
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._run, name="flag-analytics-spool", daemon=True)
        try:
            self._thread.start()
            threading.Thread(target=self._adopt_all, name="flag-analytics-adopt", daemon=True).start()
        except RuntimeError:  # no thread to be had, or the interpreter is ending: finish() spools what is left
            if not self._thread.ident:
                self._thread = None
            self.adopting = False

    def wake(self) -> bool:
        """Make events durable soon; return whether there is a thread for it. Called under the engine's lock."""
        self.start()
        self._wanted.put(None)
        return self._thread is not None

    def leave_in_child(self) -> None:
        spools = [*self._adopted, *([self._own] if self._own is not None else [])]
        for spool in spools:
            spool.abandon_in_child()
        _graveyard.append((spools, self._thread))

    # --- the spool's own thread

    def _run(self) -> None:
        try:
            while not self._stopped:
                self._wait_for_events()
                self.drain()
        except Exception as error:  # nothing may be lost to a mistake here: keep events in memory from now on
            self._engine.log("spool:worker", "the spool's thread ended by %s", type(error).__name__)
            with self._engine.lock:
                self._engine.intake.stop_spooling()

    def _wait_for_events(self) -> None:
        with self._engine.lock:
            self._take_tokens()
            idle = self._engine.intake.sleep_spool()
        closing = self._engine.close_deadline is not None
        if idle:
            self._wait(0.02 if closing else None)
        elif not closing:
            self._wait(min(self._options.spool_interval_seconds, MOST_SECONDS))

    def _take_tokens(self) -> None:
        while not self._wanted.empty():
            try:
                self._wanted.get_nowait()
            except Empty:
                return

    def _wait(self, timeout: float | None) -> None:
        try:
            self._wanted.get(timeout=timeout)
        except Empty:
            pass  # the time has come

    def drain(self, timeout: float = -1.0) -> bool:
        """Make everything recorded so far durable; return false if some of it could only be kept in memory."""
        if not self._drain_lock.acquire(timeout=timeout):
            return False
        try:
            with self._engine.lock:
                events = self._engine.intake.take_inbox()
            if not events:
                return True
            try:
                self._append(events)
            except Exception as error:
                self.counters["errors"] += 1
                reason = error if isinstance(error, SpoolError) else type(error).__name__
                self._engine.log("spool:append", "events are kept in memory only: the spool refused them (%s)", reason)
                with self._engine.lock:
                    self._engine.intake.not_spooled(events)
                return False
        finally:
            self._drain_lock.release()
        return True

    def _append(self, events: Sequence[Any]) -> None:
        spool = self._open_own()
        try:
            spool.append(events)
        except SpoolCorruptError:
            self._quarantine(spool)
            spool = self._open_own()
            spool.append(events)
        except SpoolGoneError:  # what is in it can still be read by this process, and by no other
            self.counters["errors"] += 1
            self._engine.log("spool:gone", "a spool was deleted while it was in use: another one is made")
            with self._engine.lock:
                self._adopted.append(spool)
                self._own = None
            spool = self._open_own()
            spool.append(events)
        with self._engine.lock:
            for name in self._names:
                self._counts[spool.path, name] += len(events)
            self._engine.intake.spooled(events, spool.path)

    def _open_own(self) -> Spool:
        if self._own is None:
            now = time.monotonic()
            if now < self._create_after:
                raise SpoolError("it cannot be created")
            self._create_after = now + RETRY_SECONDS
            # What gone processes left counts against the bound: a crash loop does not fill the disk.
            left = sum(map(bytes_of, orphans(self.directory)))
            self._own = Spool.create(
                self.directory,
                self._names,
                max_bytes=max(MIN_SPOOL_BYTES, self._options.spool_max_bytes - left),
                fsync=self._options.spool_fsync,
            )
            self._create_after = 0.0
        return self._own

    # --- what gone processes left

    def _adopt_all(self) -> None:
        try:
            self._adopt()
        except Exception as error:
            self._engine.log("spool:adopt", "spools of gone processes are left alone (%s)", type(error).__name__)
        finally:
            with self._engine.lock:
                self.adopting = False
                self._engine.adopted()

    def _adopt(self) -> None:
        deadline = time.monotonic() + CLOSING_SECONDS
        for thread in tuple(_finishing):  # what this process closed a moment ago is an orphan as well
            thread.join(max(0.0, deadline - time.monotonic()))
        for path in orphans(self.directory):
            if self._stopped:
                return
            try:
                spool = Spool(
                    path, (), max_bytes=self._options.spool_max_bytes, fsync=self._options.spool_fsync, patient=False
                )
            except SpoolCorruptError:
                set_aside(path)
                self.counters["quarantined"] += 1
                self._engine.log("spool:corrupt", "a spool was not sound and was set aside")
                continue
            except SpoolError:
                continue  # its process lives, or somebody looks at it: it is for a later start
            self._take_over(spool)

    def _take_over(self, spool: Spool) -> None:
        try:
            pending = {name: spool.pending(name) for name in self._names if name in spool.sinks}
        except SpoolError:
            self._quarantine(spool)
            return
        strangers = spool.sinks.difference(self._names)
        if strangers and spool.has_events():
            self.counters["unclaimed"] += 1
            self._engine.log(
                "spool:strangers", "a spool holds events for %d sinks that are not configured", len(strangers)
            )
        if not any(pending.values()):
            spool.close()
            return
        with self._engine.lock:
            late = self._stopped
            if not late:
                self.counters["adopted"] += 1
                self._adopted.append(spool)
                self._count_adopted(spool, pending)
        if late:  # closed meanwhile: it is for the next one
            spool.close()

    def _count_adopted(self, spool: Spool, pending: Mapping[str, int]) -> None:
        for machine in self._engine.machines:
            count = pending.get(machine.name, 0)
            if count:
                self._counts[spool.path, machine.name] = count
                machine.add_spooled(count, spool.path, recovered=True)
                self._engine.wake(machine)

    def _quarantine(self, spool: Spool) -> None:
        """Set a spool aside that turned out corrupt, and account for what was in it."""
        self.counters["quarantined"] += 1
        spool.quarantine()
        self._engine.log("spool:corrupt", "a spool was not sound and was set aside")
        with self._engine.lock:
            if spool is self._own:
                self._own = None
            elif spool in self._adopted:
                self._adopted.remove(spool)
        self._lose(spool, "spool_corrupt")

    def _lose(self, spool: Spool, reason: str) -> None:
        with self._engine.lock:
            if self._engine.intake.finished:  # the accounts are closed
                return
            for machine in self._engine.machines:
                machine.lose_spooled(self._counts.pop((spool.path, machine.name), 0), spool.path, reason)
            self._engine.resolved()

    # --- the sinks' workers' side

    def read(self, machine: SinkMachine, limit: int) -> Loaded:
        """Return the next events for a sink: those of gone processes first."""
        for spool in self._spools():
            if self._counts[spool.path, machine.name] <= 0:
                continue
            try:
                # No more than was counted: a row is there a moment before its event is counted.
                most = min(limit, self._counts[spool.path, machine.name])
                loaded = spool.read(machine.name, most, machine.options.max_batch_bytes)
            except SpoolError as error:
                self._faults[spool.path] += 1
                passing = spool is self._own or self._faults[spool.path] < MOST_FAULTS
                if passing and not isinstance(error, SpoolCorruptError):
                    raise
                self._quarantine(spool)  # what a gone process left, and cannot be read, holds nobody up
                continue
            self._faults.pop(spool.path, None)
            with self._engine.lock:
                self._counts[spool.path, machine.name] -= len(loaded.events) + loaded.unreadable
                if not loaded.events and not loaded.unreadable:  # fewer than were counted: somebody changed the file
                    machine.lose_spooled(self._counts.pop((spool.path, machine.name)), spool.path)
                self._reading[machine.name] = spool  # before anybody sees the count: a spool in use is not let go
            return loaded
        return Loaded((), 0, 0)

    def acknowledge(self, sink: str, seq: int) -> None:
        """Forget, for a sink, what was read for it up to ``seq``."""
        spool = self._reading.pop(sink, None)
        if spool is None:
            return
        try:
            spool.acknowledge(sink, seq)
        except SpoolError as error:
            # The next process will deliver these again, under the same ids.
            self.counters["errors"] += 1
            self._engine.log("spool:acknowledge", "the spool could not forget delivered events (%s)", error)
        if spool is not self._own and not any(self._counts[spool.path, name] for name in self._names):
            self._let_go(spool)

    def _let_go(self, spool: Spool) -> None:
        with self._engine.lock:
            if spool not in self._adopted or spool in self._reading.values():
                return
            self._adopted.remove(spool)
        spool.close()

    def add_dead(self, letters: Sequence[DeadLetter]) -> None:
        """Keep dead letters on disk, for ``flag-analytics dead-letters``."""
        try:
            with self._drain_lock:
                self._open_own().add_dead(letters)
        except Exception as error:
            self.counters["errors"] += 1
            reason = error if isinstance(error, SpoolError) else type(error).__name__
            self._engine.log("spool:dead", "dead letters could not be written to the spool (%s)", reason)

    def holds_everything(self) -> bool:
        """Return whether no queue has events in memory, and the files that have them are there."""
        with self._engine.lock:
            in_memory = any(machine.in_memory for machine in self._engine.machines)
            spools = self._spools()
        return not in_memory and not any(spool.is_gone() for spool in spools)

    def is_gone(self, sink: str) -> bool:
        """Return whether the file that a sink's batch in flight came from was deleted."""
        spool = self._reading.get(sink)
        return spool is not None and spool.is_gone()

    def _spools(self) -> list[Spool]:
        with self._engine.lock:
            return [*self._adopted, *([self._own] if self._own is not None else [])]

    def finish(self, timeout: float) -> None:
        """Make the rest durable and close the files; called without the engine's lock. Waits so long for the disk.

        In a thread, since a disk can hang; at the end of the process, where none can be had, in this one.
        """
        thread = threading.Thread(
            target=self._finish, args=[CLOSING_SECONDS], name="flag-analytics-finish", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            self._finish(FINISH_SECONDS)
            return
        _finishing.difference_update([ended for ended in tuple(_finishing) if not ended.is_alive()])
        _finishing.add(thread)
        thread.join(timeout)

    def _finish(self, timeout: float) -> None:
        with self._engine.lock:
            self._stopped = True
        self._wanted.put(None)
        self.drain(timeout)
        if self._drain_lock.acquire(timeout=timeout):
            try:
                for spool in self._spools():
                    if spool.is_gone():
                        self._lose(spool, "spool_gone")
                    spool.close()
            finally:
                self._drain_lock.release()


def _identity(name: str) -> str:
    """Return what tells one application's spools from another's: the program and the folder it was started in.

    Not its sinks: those change with the configuration, and what is in the spool has to be found again.
    """
    try:
        folder = str(Path.cwd())
    except OSError:  # it was deleted
        folder = ""
    return "\0".join([name, str(Path(folder, sys.argv[0] if sys.argv else "")), folder])
