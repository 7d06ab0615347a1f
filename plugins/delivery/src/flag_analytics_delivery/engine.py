"""What is behind one ``Delivery`` in one process: accounts, machines, workers, spool; made anew in a forked child."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import attrs
from flag_analytics.freezer import Freezer
from flag_analytics.frozen import FrozenEvent
from flag_analytics.processes import new_future, new_lock
from flag_analytics.protocols import RecordResult
from flag_analytics.reports import DeadLetter, DeliveryOptions, DeliveryReport, DeliveryStats

from .accounts import Accounts, Waiter
from .log import Cursor
from .retry import SinkMachine
from .spool_writer import SpoolWriter
from .worker import Question, SinkWorker

__all__ = ["GRACE_SECONDS", "Engine", "Settings"]

GRACE_SECONDS = 0.2
"""The time a close may take beyond its timeout, for the sinks to release their connections."""
FINISH_SECONDS = 0.2


@attrs.frozen
class Settings:
    """Enough to make an engine anew after a fork."""

    name: str
    sinks: Mapping[str, Any]
    options: DeliveryOptions
    sink_options: Mapping[str, DeliveryOptions]
    freezer: Freezer
    on_dead_letters: Callable[[str, str, Sequence[DeadLetter]], None] | None


class Engine:
    """See the module; ``Delivery`` is the only caller.

    Attributes:
        offer: Takes a frozen event for every sink that has room for it.
        all_done: Set when every worker has ended after a close.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        options = settings.options
        self.accounts = Accounts(options, self._wake, settings.on_dead_letters)
        self.lock = self.accounts.lock
        self.all_done: Future[None] = new_future()
        self.report: DeliveryReport | None = None
        self._finish_lock = new_lock()
        self._workers: dict[str, SinkWorker] = {}
        prefix = f"{os.getpid():x}-{time.time_ns():x}"
        for name, backend in settings.sinks.items():
            own = settings.sink_options.get(name, options)
            can_ping = callable(getattr(backend, "ping", None))
            machine = SinkMachine(name, own, can_ping=can_ping, batch_prefix=f"{prefix}-{name}")
            sink = self.accounts.add_sink(machine)
            self._workers[name] = SinkWorker(self.accounts, sink, backend, self._worker_ended)
            self.accounts.log.sleep(sink.cursor)
        self.spool: SpoolWriter | None = None
        if options.durability == "spool":
            self.spool = self.accounts.disk = SpoolWriter(self.accounts, options, settings.name)
        holds = [machine.options for machine in self._machines() if machine.options.policy == "block"]
        self._hold_seconds = min(1e8, max((own.block_timeout_seconds for own in holds), default=0.0))
        self.offer = self._offer_or_hold if holds else self.accounts.offer

    def _machines(self) -> list[SinkMachine]:
        return [sink.machine for sink in self.accounts.sinks.values()]

    def _wake(self, cursor: Cursor) -> bool:
        return self._workers[cursor.name].wake()

    def _offer_or_hold(self, event: FrozenEvent) -> RecordResult:
        if _runs_a_loop():
            return self.accounts.offer(event)
        return self.accounts.offer_when_there_is_room(event, self._hold_seconds)

    def refuse(self, reason: str) -> None:
        """Count an event that no sink will see."""
        with self.lock:
            self.accounts.refused[reason] += 1

    # --- flush

    def begin_flush(self) -> Waiter:
        """Ask for everything accepted so far to be delivered now; the waiter's future says whether it was stored."""
        with self.lock:
            if self.spool is not None:
                self.spool.start()  # in a forked child it is not started yet
            waiter = self.accounts.begin_wait()
            if not waiter.future.done():
                self._wake_all()
        return waiter

    def end_flush(self, waiter: Waiter) -> DeliveryReport:
        """Return what the flush achieved, whether or not it was waited out."""
        with self.lock:
            complete = self.accounts.end_wait(waiter)
            return self.report or self.accounts.report(complete=complete)

    def reopen(self, name: str) -> None:
        """Try a sink again that said that its configuration is wrong."""
        with self.lock:
            self.accounts.sinks[name].machine.resume(time.monotonic())
            self._workers[name].wake()

    def ask(self, name: str, question: Question) -> Future[Any] | None:
        """Have a question awaited in a sink's own loop; None if there is none any more."""
        with self.lock:
            return self._workers[name].ask(question)

    def _wake_all(self) -> None:
        for name, sink in self.accounts.sinks.items():
            if any(cursor.pending for cursor in sink.machine.cursors):
                self._workers[name].wake()

    # --- close

    def begin_close(self, timeout: float, *, start_workers: bool = True) -> Future[None]:
        """Refuse new events and drain for ``timeout`` seconds; the future tells when every worker is done.

        Of several closers the most impatient sets the deadline. ``start_workers``: also close sinks that never got an
        event, which takes a worker each.
        """
        accounts, now = self.accounts, time.monotonic()
        with self.lock:
            if accounts.close_deadline is not None:
                if now + timeout < accounts.close_deadline:
                    accounts.close_deadline = now + timeout
                    for worker in self._workers.values():
                        if not worker.done:
                            worker.wake()
                return self.all_done
            accounts.log.catch_up()
            accounts.closed = True
            accounts.close_deadline = now + timeout
            for name, sink in accounts.sinks.items():
                sink.machine.drain(on=True)
                sink.machine.close_soon(now)
                self._workers[name].wake_to_close(start=start_workers)
            accounts.room_freed.notify_all()
            if self.spool is not None:
                self.spool.wake()
        self._worker_ended()
        return self.all_done

    def _worker_ended(self) -> None:
        """Finish if that was the last worker; called without the lock."""
        if self.accounts.close_deadline is None or not all(worker.done for worker in self._workers.values()):
            return
        self.finish()
        with self.lock:
            if not self.all_done.done():
                self.all_done.set_result(None)

    def finish(self) -> DeliveryReport:
        """Account for whatever is left, once; return the report that everyone gets. Called without the lock."""
        accounts = self.accounts
        with self._finish_lock:
            with self.lock:
                if self.report is not None:
                    return self.report
                accounts.log.catch_up()
                accounts.finished = True  # what a worker still reports comes too late to be noted in the spool
                for sink in accounts.sinks.values():
                    sink.machine.close()
            if self.spool is not None:
                self.spool.finish(FINISH_SECONDS)
            with self.lock:
                for sink in accounts.sinks.values():
                    for cursor in sink.machine.cursors:
                        cursor.close()
                stats = accounts.sink_stats()
                lost = any(sink.lost for sink in accounts.sinks.values())
                spooled = any(sink.spooled for sink in stats.values())
                self.report = DeliveryReport.of(stats, complete=not lost and not spooled)
                accounts.end_all_waits()
        self._say_what_is_left(self.report)
        return self.report

    def _say_what_is_left(self, report: DeliveryReport) -> None:
        """Log what a close could not deliver, in case its report is not looked at."""
        spools = self.spool is not None
        for name, sink in report.sinks.items():
            lost, gone = sink.dropped.get("closed", 0), sink.dropped.get("spool_gone", 0)
            if lost:
                advice = "give close more time" if spools else 'give close more time, or set durability = "spool"'
                self.accounts.warn("%s: %d events were lost when it was closed: %s", name, lost, advice)
            if gone:
                self.accounts.warn("%s: %d events were lost with a spool's file that was deleted", name, gone)
            if sink.spooled:
                self.accounts.warn("%s: %d events wait in the spool for the next start", name, sink.spooled)

    # --- accounts

    def stats(self) -> DeliveryStats:
        """Return the ledger."""
        accounts = self.accounts
        with self.lock:
            accounts.log.catch_up()
            refused = accounts.refusals()
            return DeliveryStats(
                recorded=accounts.accepted + sum(refused.values()),
                accepted=accounts.accepted,
                refused=refused,
                sanitised=self.settings.freezer.changes(),
                sinks=accounts.sink_stats(),
                spool={} if self.spool is None else dict(self.spool.counters),
            )

    def leave_in_child(self) -> None:
        """Forget, without touching it, what belongs to the parent's threads and files."""
        for worker in self._workers.values():
            worker.leave_in_child()
        if self.spool is not None:
            self.spool.leave_in_child()


def _runs_a_loop() -> bool:
    import asyncio

    return asyncio._get_running_loop() is not None  # noqa: SLF001 - the documented form raises, at ten times the cost
