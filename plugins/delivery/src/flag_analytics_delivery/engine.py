"""Everything behind one ``Delivery`` in one process: intake, machines, workers, spool. Made anew in a forked child."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Literal

import attrs
from flag_analytics.freezer import Freezer
from flag_analytics.frozen import FrozenEvent
from flag_analytics.protocols import InlineSink, RecordResult
from flag_analytics.reports import DeadLetter, DeliveryOptions, DeliveryReport, DeliveryStats, SinkStats

from .intake import Intake
from .machine import SinkMachine
from .spooling import SpoolWorker
from .worker import SinkWorker

__all__ = ["Engine", "Settings"]

logger = logging.getLogger("flag_analytics.delivery")

GRACE_SECONDS = 0.2
"""What a close may take beyond its timeout, for the sinks to release their connections."""
LOG_PAUSE_SECONDS = 60.0
FINISH_SECONDS = 0.2
DEAD_LETTERS_KEPT = 1_000
DEAD_LETTER_BYTES_KEPT = 8 * 2**20
_ACCEPTED = RecordResult.ACCEPTED


@attrs.frozen
class Settings:
    """What a delivery was made of: enough to make its engine anew after a fork."""

    name: str
    sinks: Mapping[str, Any]
    options: DeliveryOptions
    sink_options: Mapping[str, DeliveryOptions]
    freezer: Freezer
    on_dead_letters: Callable[[str, str, Sequence[DeadLetter]], None] | None


@attrs.define
class InlineLane:
    """An inline sink with its ledger."""

    name: str
    sink: InlineSink
    take: Callable[[Any], RecordResult | None]
    delivered: int = 0
    """Events this sink took that another one refused; what all of them took is counted once, by the engine."""
    dropped: Counter[str] = attrs.field(factory=Counter[str])

    def stats(self, taken_by_all: int) -> SinkStats:
        delivered = taken_by_all + self.delivered
        accepted = delivered + sum(self.dropped.values())
        return SinkStats(accepted=accepted, delivered=delivered, dropped=dict(self.dropped))


@attrs.define(eq=False)
class _Waiter:
    """Somebody who flushes: for each machine, how many events must be resolved, and how many were lost before."""

    targets: dict[SinkMachine, tuple[int, int]]
    future: Future[bool]
    complete_list: bool
    """Whether the targets are final: not while a spool is still looked through for what gone processes left."""
    recovered: dict[SinkMachine, int]
    """How many events of gone processes the targets have in them."""

    def reached(self) -> bool:
        return self.complete_list and all(
            machine.progress()[1] >= target for machine, (target, _) in self.targets.items()
        )

    def all_stored(self) -> bool:
        return all(machine.progress()[2] == lost for machine, (_, lost) in self.targets.items())


class Engine:
    """See the module; ``Delivery`` is the only caller."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.pid = os.getpid()
        self.close_deadline: float | None = None
        self.dead_letters: deque[DeadLetter] = deque()
        self._dead_letter_bytes = 0
        self.inline: list[InlineLane] = []
        self._taken_by_all = 0
        self._lost_before: dict[SinkMachine, int] = {}
        """How many events of each sink earlier flushes have reported as lost."""
        self._workers: dict[SinkMachine, SinkWorker] = {}
        self._waiters: list[_Waiter] = []
        self.all_done: Future[None] = Future()
        """Set when every worker has ended after a close."""
        self._finish_lock = threading.Lock()
        self._report: DeliveryReport | None = None
        self._log_next: dict[str, float] = {}
        options = settings.options
        prefix = f"{self.pid:x}-{time.time_ns():x}"
        for name, sink in settings.sinks.items():
            if callable(getattr(sink, "write", None)):
                own = settings.sink_options.get(name, options)
                machine = SinkMachine(
                    name, own, can_ping=callable(getattr(sink, "ping", None)), batch_prefix=f"{prefix}-{name}"
                )
                self._workers[machine] = SinkWorker(self, sink, machine)
            else:
                self.inline.append(InlineLane(name, sink, sink.record_nowait))
        self.inline_open = list(self.inline)
        """Inline sinks that are still to be closed."""
        self.machines = tuple(self._workers)
        spooling = options.durability == "spool" and bool(self.machines)
        self.intake = Intake(
            self.machines,
            max_events=options.max_events,
            max_bytes=options.max_bytes,
            spooling=spooling,
            wake=lambda machine: self._workers[machine].wake(),
            wake_spool=self._wake_spool,
        )
        self.lock = self.intake.lock
        self.room_freed = threading.Condition(self.lock)
        self.offer = self.intake.offer
        """Gives a frozen event to every sink."""
        holds = [machine.options for machine in self.machines if machine.options.policy == "block"]
        self.blocking = bool(holds)
        self._hold_seconds = as_timeout(max((own.block_timeout_seconds for own in holds), default=0.0))
        if self.blocking or self.inline:
            self.offer = self._offer
            self.intake.count_overflow = not self.inline
        self.spool = SpoolWorker(self) if spooling else None

    def _wake_spool(self) -> bool:
        return self.spool is None or self.spool.wake()

    def wake(self, machine: SinkMachine) -> None:
        """Make a sink's worker look at its machine; called under the lock."""
        self._workers[machine].wake()

    # --- events in

    def _offer(self, event: FrozenEvent) -> RecordResult:
        if self.blocking and not _runs_a_loop():
            outcome = self._offer_when_there_is_room(event)
        else:
            outcome = self.intake.offer(event)
        if outcome is RecordResult.CLOSED or not self.inline:
            return outcome
        with self.lock:
            self._taken_by_all += 1
        refusals, ending = self._give_inline(event)
        if refusals is not None:
            with self.lock:
                self._take_back(refusals)
        if not outcome:  # no queue had room
            if refusals is None or len(refusals) < len(self.inline):
                with self.lock:
                    self.intake.taken_inline += 1
                outcome = _ACCEPTED
            else:
                self.refuse(outcome.value)
        if ending is not None:
            raise ending
        return outcome

    def offer_inline(self, event: Any) -> RecordResult:
        """Give an event, as it came, to sinks that are all inline."""
        lock = self.lock
        try:
            lock.acquire()  # as in Intake.offer
            closed = self.intake.closed
            if closed:
                self.intake.refused["closed"] += 1
            else:  # counted before it is given, so that the report of a close that comes between has it
                self._taken_by_all += 1
                self.intake.taken_inline += 1
        except BaseException:
            try:
                lock.release()
            except RuntimeError:
                pass  # as in Intake.offer
            raise
        lock.release()
        if closed:
            return RecordResult.CLOSED
        refusals, ending = self._give_inline(event)
        if refusals is None:
            return _ACCEPTED
        with self.lock:
            self._take_back(refusals)
            outcome = _ACCEPTED
            if len(refusals) == len(self.inline):
                outcome = next(iter(refusals.values()))
                self.intake.taken_inline -= 1
                self.intake.refused[outcome.value] += 1
        if ending is not None:
            raise ending
        return outcome

    def _give_inline(self, event: Any) -> tuple[dict[str, RecordResult] | None, BaseException | None]:
        """Give an event to the inline sinks; return which ones refused it and why, and what is to end the process."""
        refusals = ending = None
        for lane in self.inline:
            try:
                taken = lane.take(event)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt | SystemExit):
                    ending = error  # most likely out of a signal handler; the other sinks get the event all the same
                taken = RecordResult.ERROR
                self.log(f"{lane.name}:{type(error).__name__}", "%s raised %s", lane.name, type(error).__name__)
            if taken is not _ACCEPTED and taken is not None:
                refusals = refusals or {}
                refusals[lane.name] = taken if isinstance(taken, RecordResult) else RecordResult.ERROR
        return refusals, ending

    def _take_back(self, refusals: dict[str, RecordResult]) -> None:
        """Count an event, taken to be taken by all, for each inline sink by itself."""
        self._taken_by_all -= 1
        for lane in self.inline:
            refusal = refusals.get(lane.name)
            if refusal is None:
                lane.delivered += 1
            else:
                lane.dropped[refusal.value] += 1

    async def finish_lanes(self, lanes: list[InlineLane], method: Literal["flush", "close"], ends: float) -> bool:
        """Flush or close inline sinks, all at once and until a monotonic time; return whether all of them could.

        What was done is taken off ``lanes``: after a call that was cancelled the next one goes on with the rest.
        """
        return all(await asyncio.gather(*(self._finish_lane(lanes, lane, method, ends) for lane in tuple(lanes))))

    async def _finish_lane(
        self, lanes: list[InlineLane], lane: InlineLane, method: Literal["flush", "close"], ends: float
    ) -> bool:
        if lane not in lanes:
            return True  # somebody else is at it
        lanes.remove(lane)
        try:
            result = getattr(lane.sink, method)()
            if inspect.isawaitable(result):
                await asyncio.wait_for(result, max(0.05, ends - time.monotonic()))
            done = True
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                lanes.append(lane)
                raise
            done = self._lane_failed(lane, method, error)
        return done

    def finish_lanes_sync(self, lanes: list[InlineLane], method: Literal["flush", "close"]) -> bool:
        """``finish_lanes`` for callers without an event loop."""
        results = []
        while lanes:
            try:
                lane = lanes.pop(0)
            except IndexError:  # another thread took the last one
                break
            try:
                run_inline(getattr(lane.sink, method)())
                results.append(True)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                results.append(self._lane_failed(lane, method, error))
        return all(results)

    def _lane_failed(self, lane: InlineLane, method: str, error: BaseException) -> bool:
        self.log(f"{lane.name}:{method}", "%s: %s raised %s", lane.name, method, type(error).__name__)
        return False

    def _offer_when_there_is_room(self, event: FrozenEvent) -> RecordResult:
        if self.lock._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001
            # A finaliser or a signal handler inside a guarded section: to wait would let others into it.
            return self.intake.offer(event)
        with self.room_freed:  # held from the look to the offer: the room is this caller's
            deadline = 0.0
            while not self.intake.closed and not self.intake.has_room(event.size):
                deadline = deadline or time.monotonic() + self._hold_seconds
                left = deadline - time.monotonic()
                if left <= 0 or self._can_never_fit(event.size):
                    break
                for machine in self.machines:
                    machine.press()
                    self._workers[machine].wake()
                self.room_freed.wait(left)
            return self.intake.offer(event)

    def _can_never_fit(self, size: int) -> bool:
        return any(size > machine.options.max_bytes for machine in self.machines if machine.options.policy == "block")

    @property
    def reported(self) -> bool:
        """Whether everything is accounted for, after a close."""
        return self._report is not None

    def refuse(self, reason: str) -> None:
        """Count an event that no sink will see."""
        with self.lock:
            self.intake.refused[reason] += 1

    # --- flush

    def begin_flush(self) -> _Waiter:
        """Ask for everything accepted so far to be delivered now; the waiter's future says whether it was stored."""
        with self.lock:
            self.intake.hand_over()
            waiting = self.intake.waiting
            targets = {}
            for machine in self.machines:
                entered = machine.progress()[0]
                targets[machine] = (entered + waiting, self._lost_before.get(machine, 0))
            complete_list = self.spool is None or not self.spool.adopting
            if not complete_list and self.spool is not None:
                self.spool.start()  # in a forked child nothing has started it yet
                complete_list = not self.spool.adopting
            recovered = {machine: machine.recovered for machine in self.machines}
            waiter = _Waiter(targets, Future(), complete_list, recovered)
            if waiter.reached() or self._report is not None:
                waiter.future.set_result(True)
                return waiter
            self._waiters.append(waiter)
            now = time.monotonic()
            for machine in self.machines:
                machine.drain(on=True)
                machine.hurry(now)
                self._workers[machine].wake()
            self._wake_spool_if_needed()
        return waiter

    def end_flush(self, waiter: _Waiter) -> DeliveryReport:
        """Return what the flush achieved, whether or not it was waited out."""
        with self.lock:
            self._forget(waiter)
            if self._report is not None:
                return self._report
            complete = waiter.reached() and waiter.all_stored()
            for machine in self.machines:  # what is reported as lost now is not reported by the next flush
                self._lost_before[machine] = machine.progress()[2]
            return self._make_report(complete=complete)

    def adopted(self) -> None:
        """Let those who wait wait for the events of gone processes too; called under the lock, once they are known."""
        for waiter in self._waiters:
            waiter.complete_list = True
            for machine, (target, lost) in waiter.targets.items():
                waiter.targets[machine] = (target + machine.recovered - waiter.recovered[machine], lost)
        self.resolved()

    def _forget(self, waiter: _Waiter) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
            for machine in self.machines:
                machine.drain(on=False)

    def resolved(self) -> None:
        """Tell those who wait that something was resolved; called under the lock by the workers."""
        self.room_freed.notify_all()
        for waiter in [waiter for waiter in self._waiters if waiter.reached()]:
            self._forget(waiter)
            if not waiter.future.done():
                waiter.future.set_result(True)

    # --- close

    def begin_close(self, timeout: float, *, start_workers: bool = True) -> Future[None]:
        """Refuse new events and drain for ``timeout`` seconds; the future tells when every worker is done.

        Of several closers the most impatient sets the deadline. ``start_workers``: also close sinks that never got an
        event, which takes a worker each.
        """
        with self.lock:
            if self.close_deadline is not None:
                self._bring_forward(time.monotonic() + timeout)
                return self.all_done
            self.intake.hand_over()
            self.intake.closed = True
            self.close_deadline = time.monotonic() + timeout
            for machine in self.machines:
                machine.drain(on=True)
                machine.close_soon(time.monotonic())
                self._workers[machine].wake_to_close(start=start_workers)
            self.room_freed.notify_all()
            self._wake_spool_if_needed()
        self.worker_done()
        return self.all_done

    def _bring_forward(self, deadline: float) -> None:
        if self.close_deadline is not None and deadline < self.close_deadline:
            self.close_deadline = deadline
            for worker in self._workers.values():
                if not worker.done:
                    worker.wake()

    def _wake_spool_if_needed(self) -> None:
        if self.spool is not None and self.intake.waiting:
            self.spool.wake()

    def worker_done(self) -> None:
        """Finish if that was the last worker; called without the lock."""
        if self.close_deadline is None or not all(worker.done for worker in self._workers.values()):
            return
        self.finish()
        with self.lock:
            if not self.all_done.done():
                self.all_done.set_result(None)

    def finish(self) -> DeliveryReport:
        """Account for whatever is left, once; return the report that everyone gets. Called without the lock."""
        with self._finish_lock:
            if self.spool is not None and self._report is None:
                self.spool.finish(FINISH_SECONDS)
        spool_gone = {machine: self.spool is not None and self.spool.is_gone(machine.name) for machine in self.machines}
        with self.lock:
            first = self._report is None
            if first:
                left = self.intake.finish()
                for machine in self.machines:
                    machine.close(left, spool_gone=spool_gone[machine])
                lost = any(machine.progress()[2] for machine in self.machines)
                spooled = any(machine.spooled for machine in self.machines)
                self._report = self._make_report(complete=not lost and not spooled and not left)
                for waiter in list(self._waiters):
                    self._forget(waiter)
                    if not waiter.future.done():
                        waiter.future.set_result(False)
            report = self._report
        assert report is not None
        if first:
            self._say_what_is_left(report)
        return report

    def _say_what_is_left(self, report: DeliveryReport) -> None:
        """Log what a close could not deliver: nobody may be there to look at its report."""
        spools = self.spool is not None
        for name, sink in report.sinks.items():
            lost = sink.dropped.get("closed", 0)
            if lost:
                advice = "give close more time" if spools else 'give close more time, or set durability = "spool"'
                self.log(f"{name}:lost", "%s: %d events were lost when it was closed: %s", name, lost, advice)
            gone = sink.dropped.get("spool_gone", 0)
            if gone:
                self.log(f"{name}:gone", "%s: %d events were lost with a spool's file that was deleted", name, gone)
            if sink.spooled:
                self.log(f"{name}:left", "%s: %d events wait in the spool for the next start", name, sink.spooled)

    # --- accounts

    def sink_stats(self) -> dict[str, SinkStats]:
        wall = time.time()
        waiting = self.intake.waiting
        stats = {lane.name: lane.stats(self._taken_by_all) for lane in self.inline}
        for machine in self.machines:
            sink = machine.stats(wall)
            if waiting:
                sink = attrs.evolve(sink, accepted=sink.accepted + waiting, queued=sink.queued + waiting)
            stats[machine.name] = sink
        return {name: stats[name] for name in self.settings.sinks}

    def stats(self) -> DeliveryStats:
        with self.lock:
            self.intake.hand_over()
            refused = +self.intake.refused
            if self.intake.exhausted:
                refused["error"] += self.intake.exhausted
            return DeliveryStats(
                recorded=self.intake.accepted + sum(refused.values()),
                accepted=self.intake.accepted,
                refused=dict(refused),
                sanitised=self.settings.freezer.changes(),
                sinks=self.sink_stats(),
                spool={} if self.spool is None else dict(self.spool.counters),
            )

    def _make_report(self, *, complete: bool) -> DeliveryReport:
        self.intake.hand_over()
        sinks = self.sink_stats()
        dropped: Counter[str] = Counter()
        for sink in sinks.values():
            dropped.update(sink.dropped)
        return DeliveryReport(
            stored=sum(sink.delivered for sink in sinks.values()),
            spooled=sum(sink.spooled for sink in sinks.values()),
            pending=sum(sink.queued + sink.in_flight for sink in sinks.values()),
            dropped=dict(dropped),
            dead=sum(sink.dead for sink in sinks.values()),
            complete=complete,
            sinks=sinks,
        )

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Keep dead letters in memory and tell whoever wants to hear; called from a worker's thread, unlocked."""
        with self.lock:
            for letter in letters:
                self.dead_letters.append(letter)
                self._dead_letter_bytes += letter.event.size
            while len(self.dead_letters) > DEAD_LETTERS_KEPT or self._dead_letter_bytes > DEAD_LETTER_BYTES_KEPT:
                self._dead_letter_bytes -= self.dead_letters.popleft().event.size
        first = letters[0]
        self.log(
            f"{first.sink}:dead", "%s: %d events were refused for good (%s %s): they are dead letters",
            first.sink, len(letters), first.error, first.code,
        )  # fmt: skip
        if self.settings.on_dead_letters is None:
            return
        try:
            self.settings.on_dead_letters(letters[0].sink, letters[0].error, letters)
        except BaseException as error:  # a worker does not end for it
            self.log("on_dead_letters", "a handler of failed deliveries raised %s", type(error).__name__)

    def log(self, cause: str, message: str, *arguments: object) -> None:
        """Log a warning, at most once a minute for each cause; arguments are names and codes, never content."""
        now = time.monotonic()
        if now < self._log_next.get(cause, 0.0):
            return
        if len(self._log_next) > 1_000:
            self._log_next.clear()
        self._log_next[cause] = now + LOG_PAUSE_SECONDS
        try:
            logger.warning(message, *arguments)
        except Exception:  # the application's own filter or handler: it must not break record, nor end a worker
            return

    # --- fork

    def leave_in_child(self) -> None:
        """Forget, without touching it, what belongs to the parent's threads and files."""
        for worker in self._workers.values():
            worker.leave_in_child()
        if self.spool is not None:
            self.spool.leave_in_child()


def as_timeout(seconds: float) -> float:
    """Return a number of seconds that every clock can add; infinity is as good as three years.

    Raises:
        ValueError: it is not a number.
    """
    if math.isnan(seconds):
        raise ValueError("a timeout is NaN: expected a number of seconds")
    return min(float(seconds), 1e8)


def run_inline(coroutine: Any) -> Any:
    """Run a coroutine that is not expected to wait, where there may be no loop; one that waits gets a thread's."""
    if not inspect.iscoroutine(coroutine):
        return coroutine
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise RuntimeError("an inline sink waited in flush or close: expected it to return at once")


def _runs_a_loop() -> bool:
    import asyncio

    return asyncio._get_running_loop() is not None  # noqa: SLF001 - the documented form raises, at ten times the cost
