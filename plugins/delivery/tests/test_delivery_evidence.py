"""The evidence on which an event is given up, and how a batch that times out gets through; with a clock of its own."""

from __future__ import annotations

import random

import pytest
from flag_analytics.reports import DeliveryOptions
from flag_analytics.testing.samples import frozen_event
from flag_analytics_delivery.log import Log
from flag_analytics_delivery.retry import Failure, Ping, SinkMachine, Wait, chance_of_failing
from hypothesis import given
from hypothesis import strategies as st


class Simulation:
    """A machine, a backend that fails as told, and a clock that is moved to whatever the machine waits for."""

    def __init__(self, seed, *, batch_size=50, can_ping=False, fails=lambda ids, draw: None):
        options = DeliveryOptions(batch_size=batch_size, retry_initial_seconds=0.01, retry_max_seconds=1.0)
        self.draw = random.Random(seed)
        self.log = Log()
        self.machine = SinkMachine("sink", options, can_ping=can_ping, batch_prefix="b")
        self.cursor = self.log.add_cursor("sink", options)
        self.machine.cursors.append(self.cursor)
        self.fails = fails
        self.now = 0.0
        self.recorded = 0
        self.writes: list[int] = []
        self.stored: set[int] = set()
        self.dead: dict[int, float] = {}

    def record(self, count):
        for _ in range(count):
            assert self.log.append(frozen_event(self.recorded))
            self.recorded += 1

    def step(self, until=float("inf")):
        """Do one thing; return False if there is none before ``until``."""
        action = self.machine.poll(self.now)
        if isinstance(action, Wait):
            if action.until is None or action.until > until:
                return False
            self.now = max(self.now, action.until)
            return True
        self.now += 0.002
        if isinstance(action, Ping):
            resolved = self.machine.pinged(True, self.now, self.draw.random())
        else:
            ids = [int(event.event_id) for event in action.batch]
            self.writes.append(len(ids))
            failure = self.fails(ids, self.draw)
            if failure is None:
                resolved = self.machine.stored()
            else:
                resolved = self.machine.failed(failure, "Error", "", self.now, self.draw.random())
        for cursor, piece in resolved.stored:
            cursor.settle(piece)
            self.stored.update(int(event.event_id) for event in piece.events)
        for dead in resolved.dead:
            dead.cursor.settle(dead.piece)
            self.dead[int(dead.event.event_id)] = self.now
        return True

    def run(self, seconds):
        ends = self.now + seconds
        while self.step(ends):
            pass
        self.now = ends


@pytest.mark.parametrize("share", [0.5, 0.7, 0.8, 0.95])
def test_no_good_event_is_given_up_however_often_a_backend_refuses_at_random(share):
    for seed in range(50):
        run = Simulation(seed, fails=lambda _, draw: Failure.UNEXPECTED if draw.random() < share else None)
        run.record(2_000)
        while run.cursor.pending:
            assert run.step()
        assert run.dead == {}
        assert len(run.stored) == 2_000
        assert len(run.writes) <= 4 * 40 / (1 - share), "a backend that is told to slow down gets a storm of requests"


@pytest.mark.parametrize("failure", [Failure.UNEXPECTED, Failure.UNKNOWN])
def test_an_event_that_fails_each_time_is_one_dead_letter_once_others_prove_it(failure):
    run = Simulation(1, fails=lambda ids, _: failure if 777 in ids else None)
    run.record(2_000)
    run.run(5.0)
    assert run.machine.set_aside <= 50
    while not run.dead:
        run.record(1)
        run.run(1.0)
        assert run.now < 600.0
    assert run.dead.keys() == {777}
    assert run.dead[777] >= 30.0
    run.run(5.0)
    assert run.stored == set(range(run.recorded)) - {777}
    assert run.cursor.place.position == run.log.end


def test_without_another_event_stored_meanwhile_there_is_no_proof():
    run = Simulation(1, fails=lambda ids, _: Failure.UNEXPECTED if 5 in ids else None)
    run.record(20)
    run.run(100_000.0)
    assert run.dead == {}
    assert run.stored == set(range(20)) - {5}
    assert run.machine.set_aside == run.cursor.pending == 1
    assert run.cursor.place.position == 5


def test_an_outage_proves_nothing_against_an_event():
    down = [True]
    run = Simulation(3, fails=lambda _, __: Failure.UNEXPECTED if down[0] else None)
    run.record(200)
    run.run(3_600.0)
    assert run.dead == {}
    assert run.machine.set_aside <= 1_000
    down[0] = False
    run.run(60.0)
    assert len(run.stored) == 200


def test_what_is_set_aside_is_bounded():
    run = Simulation(3, batch_size=400, fails=lambda _, __: Failure.UNEXPECTED)
    run.record(20_000)
    run.run(3_600.0)
    assert 0 < run.machine.set_aside <= 1_000
    assert run.dead == {}


@pytest.mark.parametrize("can_ping", [False, True])
def test_a_batch_that_times_out_each_time_is_stored_in_parts(can_ping):
    """T46: a role's statement_timeout that is too short for 2,000 rows."""
    run = Simulation(
        1, batch_size=2_000, can_ping=can_ping, fails=lambda ids, _: Failure.TIMEOUT if len(ids) > 300 else None
    )
    run.record(2_000)
    run.run(60.0)
    assert len(run.stored) == 2_000
    assert run.dead == {}


def test_the_chance_of_a_good_event_follows_the_rule_of_succession():
    assert chance_of_failing(0, others=10, others_failed=3) == 1.0
    assert chance_of_failing(1, others=0, others_failed=0) == pytest.approx(1 / 2)
    assert chance_of_failing(1, others=8, others_failed=3) == pytest.approx(4 / 10)
    assert chance_of_failing(16, others=16, others_failed=0) < 1e-9 < chance_of_failing(14, others=14, others_failed=0)


@given(st.integers(1, 40), st.integers(0, 200), st.data())
def test_more_failures_of_an_event_speak_against_it_and_more_of_others_for_it(failures, others, data):
    failed = data.draw(st.integers(0, others))
    chance = chance_of_failing(failures, others=others, others_failed=failed)
    assert 0.0 < chance <= 1.0
    assert chance_of_failing(failures + 1, others=others, others_failed=failed) < chance
    assert chance_of_failing(failures, others=others + 1, others_failed=failed + 1) >= chance
