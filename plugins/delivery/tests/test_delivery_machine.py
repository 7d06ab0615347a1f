"""The machine and the intake under random schedules of faults: what must hold at every step, and at the end.

Hypothesis plays the caller, the clock, the backend, the disk and ``kill -9``. The mutants below are the machine with
one mistake each; the same schedules must find every one of them.
"""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime

import pytest
from flag_analytics.frozen import FrozenEvent
from flag_analytics.protocols import Batch, RecordResult
from flag_analytics.reports import DeliveryOptions
from flag_analytics_delivery.intake import Intake
from flag_analytics_delivery.machine import Failure, Load, Ping, SinkMachine, Wait, Write
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
MOST_POISON = 4
ANSWERS = ["store", "store", "store", "lose the answer", "unavailable", "timeout", "unreadable"]
JITTER = 0.5


def make_event(number: int, size: int = 100) -> FrozenEvent:
    return FrozenEvent(
        MOMENT, "f", b"true", "STATIC", None, None, b"{}", 0.0, f"{number:06d}",
        None, None, None, None, None, "evaluation", 1.0, 0.0, size,
    )  # fmt: skip


class Schedule(RuleBasedStateMachine):
    """One process after the other, one sink, one spool file."""

    machine_class = SinkMachine

    @initialize(
        policy=st.sampled_from(["drop_newest", "drop_oldest"]),
        batch_size=st.sampled_from([1, 2, 4, 8, 8]),
        spooling=st.booleans(),
        can_ping=st.booleans(),
    )
    def begin(self, policy, batch_size, spooling, can_ping):
        self.options = DeliveryOptions(
            policy=policy, batch_size=batch_size, max_events=16, max_bytes=2_400, max_batch_bytes=900
        )
        self.spooling, self.can_ping = spooling, can_ping
        self.now = 0.0
        self.count = 0
        self.spool: list[FrozenEvent] = []
        self.spool_first = 1
        self.stored: set[str] = set()
        self.dead: set[str] = set()
        self.bad: set[str] = set()
        self.breaking: set[str] = set()
        self.lost_alone: Counter[str] = Counter()
        self.start_process()

    def start_process(self):
        self.machine = self.machine_class("sink", self.options, can_ping=self.can_ping, batch_prefix="b")
        self.intake = Intake(
            [self.machine],
            max_events=self.options.max_events,
            max_bytes=self.options.max_bytes,
            spooling=self.spooling,
            wake=lambda machine: None,
            wake_spool=lambda: None,
        )
        self.machine.add_spooled(len(self.spool), recovered=True)
        self.recorded = 0
        self.accepted: list[str] = [event.event_id for event in self.spool]
        self.acknowledged: set[str] = set()
        self.members: dict[str, tuple[str, ...]] = {}
        self.written: list[str] = []
        self.by_root: dict[str, list[Failure | None]] = {}
        self.must_repeat: str | None = None
        self.mixed = False
        self.flushes: list[tuple[set[str], int, int]] = []

    # --- the caller

    @rule(sizes=st.lists(st.sampled_from([100, 100, 100, 400, 2_500]), min_size=1, max_size=12), kind=st.integers(0, 9))
    def record(self, sizes, kind):
        for place, size in enumerate(sizes):
            self.count += 1
            event = make_event(self.count, size)
            if place == 0 and kind < 3 and len((self.bad | self.breaking) - self.dead) < MOST_POISON:
                breaks = kind == 0 and not self.spooling
                (self.breaking if breaks else self.bad).add(event.event_id)
            self.recorded += 1
            if self.intake.offer(event) is RecordResult.ACCEPTED:
                self.accepted.append(event.event_id)

    @rule()
    def flush(self):
        self.intake.hand_over()
        entered, _, lost = self.machine.progress()
        in_flight = self.machine._round
        parts = [*in_flight.todo] if in_flight else []
        waiting = [
            *self.machine._queue,
            *self.intake._inbox,
            *self.spool,
            *(each for part in parts for each in part.batch),
        ]
        pending = {event.event_id for event in waiting} - self.acknowledged - self.dead
        self.machine.drain(on=True)
        self.flushes.append((pending, entered + self.intake.waiting, lost))

    # --- the disk

    @rule(full=st.booleans())
    def spool_what_waits(self, full):
        if not self.spooling:
            return
        events = self.intake.take_inbox()
        if full and events:
            self.mixed = True
            self.intake.not_spooled(events)
        elif events:
            self.spool.extend(events)
            self.intake.spooled(events)

    @rule()
    def kill(self):
        if self.spooling:
            self.stored |= self.acknowledged  # what the spool still has will come again, and is stored once
            self.start_process()

    # --- the backend

    @rule(seconds=st.sampled_from([0.01, 1.0, 40.0]))
    def let_time_pass(self, seconds):
        self.now += seconds

    @rule(answers=st.lists(st.tuples(st.sampled_from(ANSWERS), st.booleans()), min_size=1, max_size=6))
    def deliver(self, answers):
        for how, alive in answers:
            self.step(how, alive)
            self.the_ledger_balances()

    def step(self, how, alive=True):
        self.intake.hand_over()
        action = self.machine.poll(self.now)
        if isinstance(action, Wait):
            if action.until is not None:
                assert self.now < action.until <= self.now + self.options.retry_max_seconds
                self.now = action.until
            return
        if isinstance(action, Load):
            self.load(action.limit, how)
        elif isinstance(action, Ping):
            self.settle(self.machine.pinged(alive, self.now, JITTER))
            self.must_repeat = None
        else:
            assert isinstance(action, Write)
            self.write(action.batch, how)

    def load(self, limit, how):
        if how == "unreadable":
            self.machine.load_failed(self.now, JITTER)
            return
        events = tuple(self.spool[:limit])
        self.machine.loaded(events, self.spool_first + len(events) - 1)

    def write(self, batch: Batch, how):
        ids = tuple(event.event_id for event in batch)
        self.check_write(batch, ids)
        failure = None
        if how in ("unavailable", "unreadable"):
            failure = Failure.UNAVAILABLE
        elif self.bad & set(ids):
            failure = Failure.BAD
        elif self.breaking & set(ids):
            failure = Failure.UNKNOWN if self.can_ping else Failure.SUSPICIOUS
        elif how == "timeout":
            failure = Failure.TIMEOUT
        elif how == "lose the answer":
            failure = Failure.UNKNOWN
        if failure is None or (
            how == "lose the answer" and failure is Failure.UNKNOWN and not self.breaking & set(ids)
        ):
            self.stored.update(ids)
        self.by_root.setdefault(batch.id.partition(".")[0], []).append(failure)
        self.must_repeat = batch.id if failure in (Failure.UNAVAILABLE, Failure.TIMEOUT) else None
        if failure in (Failure.UNKNOWN, Failure.SUSPICIOUS) and len(ids) == 1:
            self.lost_alone[ids[0]] += 1
        if failure is None:
            assert not self.acknowledged & set(ids)
            self.acknowledged.update(ids)
            self.settle(self.machine.stored(self.now, 0.0, JITTER))
        else:
            self.settle(self.machine.failed(failure, "Error", "", self.now, JITTER))

    def check_write(self, batch, ids):
        assert 0 < len(ids) <= self.options.batch_size
        assert self.members.setdefault(batch.id, ids) == ids, "a batch changed its members"
        assert self.must_repeat in (None, batch.id), "a batch that is not resolved was not tried again as it was"
        assert not self.acknowledged & set(ids), "stored events were written again without a lost answer"
        assert not self.dead & set(ids), "dead events were written again"
        if not self.mixed and not self.breaking & set(self.written):
            assert list(ids) == sorted(ids), "events changed their order"
            fresh = [each for each in ids if each not in self.written]
            assert not fresh or not self.written or fresh[0] > max(self.written), "events changed their order"
        self.written.extend(each for each in ids if each not in self.written)

    def settle(self, resolved):
        gone = {letter.event.event_id for letter in resolved.dead}
        for each in gone - self.bad - self.breaking:
            assert self.lost_alone[each] >= 3, "a good event was given up"
        assert not gone & self.acknowledged
        self.dead |= gone
        if resolved.ack is not None:
            done = self.spool[: resolved.ack - self.spool_first + 1]
            assert {event.event_id for event in done} <= self.acknowledged | self.dead, "forgotten before it was stored"
            del self.spool[: len(done)]
            self.spool_first += len(done)

    # --- what always holds

    @invariant()
    def the_ledger_balances(self):
        if not hasattr(self, "machine"):
            return
        self.intake.hand_over()
        stats = self.machine.stats(0.0)
        assert stats.balanced(), stats
        assert stats.delivered == len(self.acknowledged)
        assert stats.pending + self.intake.waiting == self.oracle_pending()
        assert self.recorded == self.intake.accepted + sum(self.intake.refused.values())

    def oracle_pending(self):
        """Count what is neither stored nor dead nor lost, from what was seen outside of the machine."""
        refused = sum(self.intake.refused.values())
        lost = sum(self.machine.dropped.values()) - refused
        gone = len(self.dead & set(self.accepted))
        return len(self.accepted) - len(self.acknowledged) - gone - lost

    @invariant()
    def what_waits_in_memory_is_bounded(self):
        if not hasattr(self, "machine"):
            return
        stats = self.machine.stats(0.0)
        from_spool = self.options.batch_size if self.spooling else 0
        assert stats.queued + stats.in_flight <= self.options.max_events + from_spool
        assert stats.backlog_bytes <= self.options.max_bytes + from_spool * 2_500
        assert self.intake.waiting <= self.options.max_events

    @invariant()
    def flush_is_honest(self):
        if not hasattr(self, "machine"):
            return
        _, resolved, lost = self.machine.progress()
        for waiting in [flush for flush in self.flushes if resolved >= flush[1]]:
            pending, _, lost_before = waiting
            self.flushes.remove(waiting)
            self.machine.drain(on=False)
            if lost == lost_before:
                assert pending <= self.acknowledged, "a flush said that events were stored which were not"

    @invariant()
    def bisection_is_cheap(self):
        if not hasattr(self, "machine"):
            return
        for root, outcomes in self.by_root.items():
            if root in self.members and set(outcomes) <= {None, Failure.BAD}:
                size = len(self.members[root])
                bad = len(self.bad & set(self.members[root]))
                assert len(outcomes) <= 2 * bad * math.ceil(math.log2(size)) + 1 if size > 1 else 2

    # --- the end

    def teardown(self):
        if not hasattr(self, "machine"):
            return
        before = set(self.accepted)
        for turn in range(1_500):
            if turn % 20 == 0 and turn <= 160:  # traffic goes on: a neighbour that is stored is what proves a batch bad
                self.record([100, 100], 9)
            if self.spooling:
                self.spool_what_waits(full=False)
            self.step("store")
            self.the_ledger_balances()
            self.flush_is_honest()
            if turn > 160 and self.machine.idle and not self.intake.waiting:
                break
        assert self.machine.idle, "the backend is well, and still events are pending"
        assert not self.flushes, "everything is resolved, and still a flush waits"
        lost = sum(self.machine.dropped.values())
        if not lost:
            assert before <= self.acknowledged | self.dead
        assert self.stored & self.bad == set()


def run(machine_class, examples, *, steps=60, derandomize=True, phases=(Phase.generate,)):
    schedule = type("Schedule", (Schedule,), {"machine_class": machine_class})
    run_state_machine_as_test(
        schedule,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            derandomize=derandomize,
            phases=phases,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        ),
    )


def test_the_machine_keeps_its_ledger_and_its_word_under_any_schedule():
    run(SinkMachine, 80)


@pytest.mark.chaos
def test_the_machine_keeps_its_ledger_and_its_word_under_thousands_of_schedules():
    run(SinkMachine, 5_000, derandomize=False, phases=(Phase.generate, Phase.shrink))


class ForgetsSuspects(SinkMachine):
    def _start_over(self, now, jitter):
        self._round.suspects.clear()
        if not self._round.todo:
            self._finish()
        else:
            super()._start_over(now, jitter)


class WritesTwice(SinkMachine):
    def stored(self, now, wall, jitter):
        part = self._round.todo[-1]
        resolved = super().stored(now, wall, jitter)
        if self._batches % 3 == 0 and self._round is None and resolved.ack is None:
            self._begin(part.batch.events, 0, None)
        return resolved


class GrowsARetriedBatch(SinkMachine):
    def _pause(self, now, jitter):
        super()._pause(now, jitter)
        if self._round is not None and self._round.last_seq is None and self._queue:
            more, size = self._take_queue(self._in_flight)
            part = self._round.todo[-1]
            part.batch = Batch(part.batch.id, (*part.batch.events, *more))
            self._in_flight += len(more)
            self._in_flight_bytes += size


class IgnoresWhatIsInFlight(SinkMachine):
    def plan(self, events, size, overflow="overflow"):
        in_flight, self._in_flight = self._in_flight, 0
        try:
            return super().plan(events, size, overflow)
        finally:
            self._in_flight = in_flight

    def fits(self, size):
        return len(self._queue) < self.options.max_events


class DropsWithoutCounting(SinkMachine):
    def plan(self, events, size, overflow="overflow"):
        admission = super().plan(events, size, overflow)
        if self.options.policy == "drop_oldest":
            admission.dropped = self.dropped
        return admission


class ReversesABatch(SinkMachine):
    def _take_queue(self, reserved=0, reserved_bytes=0):
        events, size = super()._take_queue(reserved, reserved_bytes)
        return events[::-1], size


class GivesUpTheWholeBatch(SinkMachine):
    def failed(self, failure, error, code, now, jitter):
        if failure is Failure.BAD:
            self._round.bisecting = True
        return super().failed(Failure.BAD if failure is Failure.UNAVAILABLE else failure, error, code, now, jitter)


class CountsInsteadOfLooking(SinkMachine):
    """A flush waits for a number of events to be resolved, whichever those are."""

    def progress(self):
        entered, _, lost = super().progress()
        pending = len(self._queue) + self._in_flight + self.spooled
        return entered, entered - pending, lost


class AcknowledgesEarly(SinkMachine):
    def loaded(self, events, last_seq, spool=None):
        super().loaded(events, last_seq + 1, spool)


class NeverRecovers(SinkMachine):
    def _pause(self, now, jitter):
        super()._pause(now, jitter)
        if self._failures > 3:
            self._retry_at = math.inf


class WaitsForAnUnreadableSpool(SinkMachine):
    def load_failed(self, now, jitter):
        super().load_failed(now, jitter)
        self._retry_at = math.inf


@pytest.mark.parametrize(
    "mutant",
    [
        ForgetsSuspects, WritesTwice, GrowsARetriedBatch, IgnoresWhatIsInFlight, DropsWithoutCounting, ReversesABatch,
        GivesUpTheWholeBatch, CountsInsteadOfLooking, AcknowledgesEarly, NeverRecovers, WaitsForAnUnreadableSpool,
    ],
)  # fmt: skip
def test_the_schedules_find_every_planted_mistake(mutant):
    with pytest.raises((Exception, BaseExceptionGroup)):
        run(mutant, 3_000)
