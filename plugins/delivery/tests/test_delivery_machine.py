"""The log and the machine under random schedules of faults: the laws at every step, and at the end.

Hypothesis plays the caller, the clock, the backend, the disk and ``kill -9``. The mutants below are the engine with one
mistake each; the same schedules must find every one of them.
"""

from __future__ import annotations

import math
from collections import Counter

import attrs
import pytest
from flag_analytics.protocols import Batch
from flag_analytics.reports import DeliveryOptions
from flag_analytics.testing.samples import frozen_event
from flag_analytics_delivery.accounts import Accounts, Sink
from flag_analytics_delivery.bisect import Bisection, Dead
from flag_analytics_delivery.log import NEVER, Cursor, Log, Piece, Place
from flag_analytics_delivery.ranges import count, gaps_of
from flag_analytics_delivery.retry import Failure, Ping, Read, Resolved, SinkMachine, Wait, Write
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

MOST_POISON = 4
ANSWERS = ["store", "store", "store", "lose the answer", "unavailable", "timeout", "unexpected", "unreadable"]
JITTER = 0.5
LEAST = 700


class Schedule(RuleBasedStateMachine):
    """One process after the other, one sink, one spool."""

    machine_class = SinkMachine

    @initialize(
        policy=st.sampled_from(["drop_newest", "drop_oldest"]),
        batch_size=st.sampled_from([1, 2, 4, 8, 8]),
        spooling=st.booleans(),
        keep_bytes=st.sampled_from([0, NEVER]),
        can_ping=st.booleans(),
    )
    def begin(self, policy, batch_size, spooling, keep_bytes, can_ping):
        self.options = DeliveryOptions(
            policy=policy,
            batch_size=batch_size,
            max_events=16,
            max_bytes=16_800,
            max_batch_bytes=6_300,
            durability="spool" if spooling else "memory",
        )
        self.spooling, self.keep_bytes, self.can_ping = spooling, keep_bytes, can_ping
        self.now = 0.0
        self.number = 0
        self.disk: dict[int, object] = {}
        self.disk_position = 0
        self.stored: set[str] = set()
        self.dead: set[str] = set()
        self.bad: set[str] = set()
        self.breaking: set[str] = set()
        self.start_process()

    def start_process(self):
        self.accounts = Accounts(self.options, lambda _: True, None)
        self.accounts.lock.acquire()  # as every caller holds it; re-entrant
        self.log = self.accounts.log
        self.machine = self.machine_class("sink", self.options, can_ping=self.can_ping, batch_prefix="b")
        self.sink: Sink = self.accounts.add_sink(self.machine)
        self.logs = [self.log]
        self.recorded = 0
        self.accepted: list[str] = [event.event_id for event in self.disk.values()]
        self.dead -= set(self.accepted)  # a dead letter that the disk still has is tried again
        self.adopted = dict(self.disk)
        if self.disk:
            self.adopt()
        self.own: dict[int, object] = {}
        self.acknowledged: set[str] = set()
        self.members: dict[str, tuple[str, ...]] = {}
        self.written: list[str] = []
        self.by_root: dict[str, list[Failure | None]] = {}
        self.lone_failures: Counter[str] = Counter()
        self.must_repeat: str | None = None
        self.mixed = bool(self.disk)
        self.flushes: list[tuple[set[str], object, int]] = []

    def adopt(self):
        positions = tuple((at, at + 1) for at in sorted(self.disk))
        log = Log.of_disk(positions)
        log.on_disk = positions
        at = positions[0][0]
        place = Place(at, at, at, 0).settle(gaps_of(positions, at, log.end), 0)
        cursor = log.add_cursor("sink", self.options, self.sink.ledger, place)
        self.machine.cursors.insert(0, cursor)
        self.sink.ledger.recovered += cursor.pending
        self.logs.append(log)

    # --- the caller

    @rule(sizes=st.lists(st.sampled_from([0, 0, 0, 2_100, 16_800]), min_size=1, max_size=12), kind=st.integers(0, 9))
    def record(self, sizes, kind):
        for place, size in enumerate(sizes):
            self.number += 1
            event = frozen_event(self.number, size=LEAST + size)
            if place == 0 and kind < 3 and len((self.bad | self.breaking) - self.dead) < MOST_POISON:
                (self.breaking if kind == 0 and not self.spooling else self.bad).add(event.event_id)
            self.recorded += 1
            if self.accounts.offer(event):
                self.accepted.append(event.event_id)

    @rule()
    def flush(self):
        self.log.catch_up()
        lost = self.sink.lost
        pending = set(self.accepted) - self.acknowledged - self.dead
        waiter = self.accounts.begin_wait()
        self.flushes.append((pending if not lost else set(), waiter, lost))

    # --- the disk

    @rule(full=st.booleans())
    def write_what_waits(self, full):
        if not self.spooling:
            return
        segments = self.log.unwritten()
        if full:
            return
        for segment in segments:
            self.own.update((segment.start + index, event) for index, event in enumerate(segment.events))
        self.log.written(segments, self.keep_bytes)

    @rule()
    def acknowledge(self):
        if self.spooling:
            for log, disk in zip(self.logs, [self.own, self.adopted], strict=False):
                settled = log.settled()
                before, later = min(settled.positions.values()), settled.everywhere
                gone = [at for at in disk if at < before or any(first <= at < end for first, end in later)]
                for at in gone:
                    event = disk.pop(at).event_id
                    assert event in self.acknowledged | self.dead or self.sink.lost, "forgotten before it was stored"
                log.forget(before)

    @rule()
    def kill(self):
        if self.spooling:
            self.stored |= self.acknowledged  # what the spool still has will come again, and is stored once
            left = [*self.adopted.values(), *self.own.values()]
            self.disk = dict(enumerate(left))
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
        self.log.catch_up()
        action = self.machine.poll(self.now)
        if isinstance(action, Wait):
            if action.until is not None:
                assert self.now < action.until <= self.now + self.options.retry_max_seconds
                self.now = action.until
        elif isinstance(action, Read):
            self.read(action, how)
        elif isinstance(action, Ping):
            self.settle(self.machine.pinged(alive, self.now, JITTER))
            self.must_repeat = None
        else:
            assert isinstance(action, Write)
            self.write(action.batch, how)

    def read(self, action, how):
        if how == "unreadable":
            self.machine.cannot_read(action.cursor, self.now, JITTER)
            return
        disk = self.own if action.cursor.log is self.log else self.adopted
        at = [at for at in sorted(disk) if action.first <= at < action.end][: action.limit]
        assert at, "there is nothing where the log says that the spool has it"
        piece = Piece(tuple((one, one + 1) for one in at), tuple(disk[one] for one in at))
        action.cursor.took(piece)
        self.machine.begin(action.cursor, piece)

    def write(self, batch: Batch, how):
        ids = tuple(event.event_id for event in batch)
        alone = self.machine._alone is not None
        self.check_write(batch, ids)
        failure = None
        if how in ("unavailable", "unreadable"):
            failure = Failure.UNAVAILABLE
        elif self.bad & set(ids):
            failure = Failure.BAD
        elif self.breaking & set(ids):
            failure = Failure.UNKNOWN if self.can_ping else Failure.UNEXPECTED
        elif how == "timeout":
            failure = Failure.TIMEOUT
        elif how == "unexpected":
            failure = Failure.UNEXPECTED
        elif how == "lose the answer":
            failure = Failure.UNKNOWN
        if failure is None or (
            how == "lose the answer" and failure is Failure.UNKNOWN and not self.breaking & set(ids)
        ):
            self.stored.update(ids)
        self.by_root.setdefault(batch.id.partition(".")[0], []).append(failure)
        self.must_repeat = batch.id if failure is Failure.UNAVAILABLE and not alone else None
        if failure in {Failure.UNKNOWN, Failure.UNEXPECTED, Failure.TIMEOUT} and len(ids) == 1:
            self.lone_failures[ids[0]] += 1
        if failure is None:
            assert not self.acknowledged & set(ids)
            self.acknowledged.update(ids)
            self.settle(self.machine.stored())
        else:
            self.settle(self.machine.failed(failure, "Error", "", self.now, JITTER))

    def check_write(self, batch, ids):
        assert 0 < len(ids) <= self.options.batch_size
        assert self.members.setdefault(batch.id, ids) == ids, "a batch changed its members"
        assert self.must_repeat in (None, batch.id), "a batch that is not resolved was not tried again as it was"
        assert not self.acknowledged & set(ids), "stored events were written again without a lost answer"
        assert not self.dead & set(ids), "dead events were written again"
        assert list(ids) == sorted(ids), "events changed their order"
        if not self.mixed:
            fresh = [each for each in ids if each not in self.written]
            assert not fresh or not self.written or fresh[0] > max(self.written), "events changed their order"
        self.written.extend(each for each in ids if each not in self.written)

    def settle(self, resolved):
        gone = {dead.event.event_id for dead in resolved.dead}
        for each in gone - self.bad:
            assert each in self.breaking, "a good event was given up"
            assert self.lone_failures[each] >= 5, "an event was given up without proof"
        assert not gone & self.acknowledged
        self.dead |= gone
        self.accounts.settle(self.sink, resolved)

    # --- what always holds

    @invariant()
    def the_ledger_balances(self):
        if not hasattr(self, "machine"):
            return
        self.log.catch_up()
        stats = self.sink.stats(0.0)
        assert stats.balanced(), stats
        assert stats.delivered == len(self.acknowledged)
        assert stats.pending == self.oracle_pending()
        assert self.recorded == self.accounts.accepted + sum(self.accounts.refusals().values())
        assert stats.position <= self.log.end

    def oracle_pending(self):
        """Count what is neither stored nor dead nor lost, from what was seen outside of the machine."""
        refused = self.log.refused
        lost = sum(self.sink.stats(0.0).dropped.values()) - refused
        gone = len(self.dead & set(self.accepted))
        return len(self.accepted) - len(self.acknowledged) - gone - lost

    @invariant()
    def what_waits_in_memory_is_bounded(self):
        if not hasattr(self, "machine"):
            return
        cursor = self.sink.cursor
        events, size = cursor.held()
        if not self.spooling:
            assert events <= self.options.max_events
            assert size <= self.options.max_bytes
        held = [event for segment in self.log._segments for event in segment.events or ()]
        most = 0 if self.keep_bytes == 0 else len(self.own)
        assert len(held) <= self.options.max_events * 2 + most + self.options.batch_size

    @invariant()
    def flush_is_honest(self):
        if not hasattr(self, "machine"):
            return
        for waiting in [flush for flush in self.flushes if self.accounts.reached(flush[1])]:
            pending, waiter, lost_before = waiting
            self.flushes.remove(waiting)
            self.accounts.end_wait(waiter)
            if self.sink.lost == lost_before:
                assert pending <= self.acknowledged | self.dead, "a flush said that events were stored which were not"

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
        for turn in range(6_000):
            unproven = self.breaking & set(self.accepted) - self.dead - self.acknowledged
            if turn % 8 == 0 and (turn <= 160 or (unproven and turn < 4_000)):
                self.record([0, 0], 9)  # traffic goes on: others that are stored are what proves an event bad
            if self.spooling:
                self.write_what_waits(full=False)
            self.step("store")
            if turn % 10 == 0:
                self.the_ledger_balances()
                self.flush_is_honest()
            if turn > 160 and not unproven and self.machine.idle:
                break
        self.the_ledger_balances()
        self.flush_is_honest()
        assert self.machine.idle, "the backend is well, and still events are pending"
        assert not self.flushes, "everything is resolved, and still a flush waits"
        assert self.sink.cursor.place.position == self.log.end
        if not self.sink.lost - self.sink.ledger.dead:
            assert before <= self.acknowledged | self.dead
        assert self.stored & self.bad == set()
        if self.spooling:
            self.acknowledge()
            assert not self.own
            assert not self.adopted


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


def test_the_engine_keeps_its_ledger_and_its_word_under_any_schedule():
    run(SinkMachine, 40)


@pytest.mark.chaos
def test_the_engine_keeps_its_ledger_and_its_word_under_thousands_of_schedules():
    run(SinkMachine, 3_000, derandomize=False, phases=(Phase.generate, Phase.shrink))


class ForgetsRefusedEvents(SinkMachine):
    def _start_over(self, now, jitter):
        self._round.refused.clear()
        if not self._round.todo:
            self._finish_round()
        else:
            super()._start_over(now, jitter)


class WritesTwice(SinkMachine):
    def stored(self):
        resolved = super().stored()
        if self._batches % 3 == 0 and self._round is None and resolved.stored:
            self.begin(*resolved.stored[0])
        return resolved


class GrowsARetriedBatch(SinkMachine):
    def failed(self, *args, **kwargs):
        resolved = super().failed(*args, **kwargs)
        if self._round is not None and self._round.todo:
            part, cursor = self._round.part, self._round.cursor
            more = cursor.take(self.options.batch_size - len(part), NEVER)
            if more.events:
                part.piece = Piece((*part.piece.positions, *more.positions), (*part.piece.events, *more.events))
                part.batch = Batch(part.batch_id, part.piece.events)
        return resolved


class GivesUpTheWholeBatch(SinkMachine):
    def failed(self, failure, *args, **kwargs):
        return super().failed(Failure.BAD if failure is Failure.UNAVAILABLE else failure, *args, **kwargs)


class GivesUpWithoutProof(SinkMachine):
    def _set_aside(self, now):
        part, cursor = self._round.todo.pop(), self._round.cursor
        dead = [part.piece.choose([index]) for index in range(len(part))]
        self._end_of_round()
        return tuple(Dead(cursor, piece, part.batch_id, "Error", "") for piece in dead)


class ForgetsWhatIsSetAside(SinkMachine):
    def _set_aside(self, now):
        dead = super()._set_aside(now)
        self.suspects.clear()
        return dead


class NeverRecovers(SinkMachine):
    def failed(self, *args, **kwargs):
        resolved = super().failed(*args, **kwargs)
        if self.backoff.failures > 3:
            self.backoff.until = math.inf
        return resolved


class WaitsForAnUnreadableSpool(SinkMachine):
    def cannot_read(self, cursor, now, jitter):
        super().cannot_read(cursor, now, jitter)
        self.backoff.until = math.inf


class SettlesTwice(SinkMachine):
    def stored(self):
        resolved = super().stored()
        return Resolved([*resolved.stored, *resolved.stored], resolved.dead)


def with_cursor(**methods):
    """Return a machine whose cursors have a mistake."""

    class Mistaken(SinkMachine):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.cursors = Cursors()

    mistaken = type("MistakenCursor", (Cursor,), methods)

    class Cursors(list):
        def append(self, cursor):
            cursor.__class__ = mistaken
            super().append(cursor)

    return Mistaken


def take_reversed(self, *args, **kwargs):
    piece = Cursor.take(self, *args, **kwargs)
    return attrs.evolve(piece, events=piece.events[::-1])


def forget_without_counting(self):
    before = self.place.overflow
    Cursor.forget_oldest(self)
    self.place = attrs.evolve(self.place, overflow=before)


def room_beside_what_is_in_flight(self):
    events, size = Cursor.room(self)
    return events + self.in_flight, size + self.in_flight_bytes


def settle_as_far_as_taken(self, piece):
    Cursor.settle(self, piece)
    self.place = attrs.evolve(self.place, position=self.place.taken)


mutants = {
    "reverses a batch": with_cursor(take=take_reversed),
    "forgets without counting": with_cursor(forget_oldest=forget_without_counting),
    "a flush looks at what was taken": with_cursor(settle=settle_as_far_as_taken),
    "room beside what is in flight": with_cursor(room=room_beside_what_is_in_flight),
}
FOUND_LATE = [ForgetsRefusedEvents, GrowsARetriedBatch, WaitsForAnUnreadableSpool, *list(mutants.values())[1:]]
"""Those that take seconds."""


@pytest.mark.parametrize(
    "mutant",
    [
        WritesTwice, GivesUpTheWholeBatch, GivesUpWithoutProof, ForgetsWhatIsSetAside, NeverRecovers, SettlesTwice,
        pytest.param(mutants["reverses a batch"], id="reverses a batch"),
        *(pytest.param(mutant, marks=pytest.mark.chaos) for mutant in FOUND_LATE),
    ],
)  # fmt: skip
def test_the_schedules_find_every_planted_mistake(mutant):
    with pytest.raises((Exception, BaseExceptionGroup)):
        run(mutant, 3_000)


def test_the_schedules_find_a_log_that_forgets_before_every_cursor_is_past(monkeypatch):
    settled = Log.settled

    def early(self):
        true = settled(self)
        return attrs.evolve(true, positions={name: min(at + 1, self.end) for name, at in true.positions.items()})

    monkeypatch.setattr(Log, "settled", early)
    with pytest.raises((Exception, BaseExceptionGroup)):
        run(SinkMachine, 3_000)


def count_writes(size, bad):
    """Return the writes that it takes to store all of one batch but its bad event."""
    options = DeliveryOptions(batch_size=size)
    log = Log()
    machine = SinkMachine("sink", options, can_ping=True, batch_prefix="b")
    cursor = log.add_cursor("sink", options)
    machine.cursors.append(cursor)
    for number in range(size):
        assert log.append(frozen_event(number))
    log.catch_up()
    writes = 0
    while cursor.pending:
        action = machine.poll(0.0)
        writes += isinstance(action, Write)
        if isinstance(action, Ping):
            resolved = machine.pinged(True, 0.0, 0.0)
        elif bad in {int(event.event_id) for event in action.batch}:
            resolved = machine.failed(Failure.BAD, "BadBatch", "", 0.0, 0.0)
        else:
            resolved = machine.stored()
        for stored, piece in resolved.stored:
            stored.settle(piece)
        for dead in resolved.dead:
            dead.cursor.settle(dead.piece)
    return writes


def test_a_bisection_takes_two_writes_for_each_halving():
    assert max(count_writes(16, bad) for bad in range(16)) <= 2 * 4 + 1


def test_a_bisection_that_asks_one_by_one_is_found(monkeypatch):
    def one_by_one(self, **_):
        part = self.todo.pop()
        self.todo += [
            attrs.evolve(part, batch_id=f"{part.batch_id}.{at}", piece=part.piece.choose([at]))
            for at in reversed(range(len(part)))
        ]

    monkeypatch.setattr(Bisection, "halve", one_by_one)
    assert max(count_writes(16, bad) for bad in range(16)) > 2 * 4 + 1


def test_positions_are_counted_as_ranges():
    assert count(((0, 3), (5, 6))) == 4
