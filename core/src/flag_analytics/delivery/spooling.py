"""The spool at work: one daemon thread that makes recorded events durable, and adopts what gone processes left."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .ledger import DeadLetter
from .machine import SinkMachine
from .spool import Loaded, Spool, SpoolCorruptError, SpoolError, SpoolGoneError, default_directory, orphans, set_aside

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .engine import Engine

__all__ = ["SpoolWorker"]

RETRY_SECONDS = 0.5
"""How long to wait before trying again to create a spool that could not be created."""
FINISH_SECONDS = 0.15
"""How long to wait for the disk at the end of the process, where no thread can be had."""
CLOSING_SECONDS = 5.0
"""How long a delivery that was closed may take to let its file go, in the background."""
MIN_SPOOL_BYTES = 2**18
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
        self.directory = options.spool_directory or default_directory(_identity(engine.settings.name))
        self._own: Spool | None = None
        self._adopted: list[Spool] = []
        self._counts: Counter[tuple[Path, str]] = Counter()
        self._reading: dict[str, Spool] = {}
        self._create_after = 0.0
        self._drain_lock = threading.Lock()
        self._wanted = threading.Event()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self.adopting = True
        """Whether the orphans are still to be looked through, so that a flush does not know of all events yet."""
        self.counters: Counter[str] = Counter()

    def start(self) -> None:
        """Start the thread, which first adopts orphans."""
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._run, name="flag-analytics-spool", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no thread to be had, or the interpreter is ending: finish() spools what is left
            self._thread = None
            self.adopting = False

    def wake(self) -> None:
        """Make events durable soon; called under the engine's lock."""
        self.start()
        self._wanted.set()

    def leave_in_child(self) -> None:
        spools = [*self._adopted, *([self._own] if self._own is not None else [])]
        for spool in spools:
            spool.abandon_in_child()
        _graveyard.append((spools, self._thread))

    # --- the spool's own thread

    def _run(self) -> None:
        try:
            try:
                self._adopt()
            finally:
                with self._engine.lock:
                    self.adopting = False
                    self._engine.adopted()
            while not self._stopped:
                self._wait_for_events()
                self.drain()
        except Exception as error:  # nothing may be lost to a mistake here: keep events in memory from now on
            self._engine.log("spool:worker", "the spool's thread ended by %s", type(error).__name__)
            with self._engine.lock:
                self._engine.intake.stop_spooling()

    def _wait_for_events(self) -> None:
        with self._engine.lock:
            idle = not self._engine.intake.waiting
            if idle:
                self._engine.intake.sleep_spool()
            self._wanted.clear()
        closing = self._engine.close_deadline is not None
        if idle:
            self._wanted.wait(0.02 if closing else None)
        elif not closing:
            self._wanted.wait(self._options.spool_interval_seconds)

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
            left = sum(path.stat().st_size for path in orphans(self.directory) if path.exists())
            self._own = Spool.create(
                self.directory,
                self._names,
                max_bytes=max(MIN_SPOOL_BYTES, self._options.spool_max_bytes - left),
                fsync=self._options.spool_fsync,
            )
            self._create_after = 0.0
        return self._own

    def _adopt(self) -> None:
        deadline = time.monotonic() + CLOSING_SECONDS
        for thread in tuple(_finishing):  # what this process closed a moment ago is an orphan as well
            thread.join(max(0.0, deadline - time.monotonic()))
        for path in orphans(self.directory):
            if self._stopped:
                return
            try:
                spool = Spool(path, (), max_bytes=self._options.spool_max_bytes, fsync=self._options.spool_fsync)
            except SpoolCorruptError:
                set_aside(path)
                self.counters["quarantined"] += 1
                self._engine.log("spool:corrupt", "a spool was not sound and was set aside")
                continue
            except SpoolError:
                continue  # its process lives
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
        self.counters["adopted"] += 1
        with self._engine.lock:
            self._adopted.append(spool)
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
            for machine in self._engine.machines:
                machine.lose_spooled(self._counts.pop((spool.path, machine.name), 0), spool.path)
            self._engine.resolved()

    # --- the sinks' workers' side

    def read(self, machine: SinkMachine, limit: int) -> Loaded:
        """Return the next events for a sink: those of gone processes first."""
        for spool in self._spools():
            if self._counts[spool.path, machine.name] <= 0:
                continue
            try:
                loaded = spool.read(machine.name, limit, machine.options.max_batch_bytes)
            except SpoolError as error:
                if spool is self._own and not isinstance(error, SpoolCorruptError):
                    raise  # a passing fault, it may be
                self._quarantine(spool)  # what a gone process left, and cannot be read, holds nobody up
                continue
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
        except SpoolError as error:
            self.counters["errors"] += 1
            self._engine.log("spool:dead", "dead letters could not be written to the spool (%s)", error)

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
        self._stopped = True
        self._wanted.set()
        self.drain(timeout)
        if self._drain_lock.acquire(timeout=timeout):
            try:
                for spool in self._spools():
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
