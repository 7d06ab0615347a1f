"""Events that a backend refuses: found by bisection, set aside, and never mistaken for a backend that is broken."""

from __future__ import annotations

import math
import random

import pytest
from flag_analytics.errors import BadBatch, CommitUnknown, SinkUnavailable
from flag_analytics.reports import DeliveryOptions
from flag_analytics.testing.faults import ScriptedSink, wait_until
from flag_analytics.testing.samples import plain_event, plain_events
from flag_analytics_delivery import Delivery
from flag_analytics_delivery.bisect import Bisection, Part

QUICK = DeliveryOptions(flush_interval_seconds=5.0, retry_initial_seconds=0.005, retry_max_seconds=0.02)


def refusing(error):
    """Return a step that raises ``error`` for a batch with a bad event in it."""

    async def write(batch):
        if any(event.variant == "bad" for event in batch):
            raise error
        return True

    return write


def write_with_poison(bad, size):
    sink = ScriptedSink(always=refusing(BadBatch(code="22P02")))
    delivery = Delivery({"sink": sink}, QUICK.evolve(batch_size=size, max_events=10 * size))
    chosen = set(random.Random(bad).sample(range(size), bad))
    for number in range(size):
        delivery.record_nowait(plain_event(number, variant="bad" if number in chosen else "good"))
    report = delivery.flush_sync(10.0)
    stats = delivery.stats().sinks["sink"]
    delivery.close_sync()
    assert not report
    assert (len(sink.stored), stats.delivered, stats.dead) == (size - bad, size - bad, bad)
    assert {(letter.error, letter.code, letter.sink) for letter in sink.letters} == {("BadBatch", "22P02", "sink")}
    return sink


@pytest.mark.parametrize("bad", [1, 3, 10, 50])
def test_bad_events_are_found_with_at_most_2k_log_n_plus_1_writes(bad):
    sink = write_with_poison(bad, 1_000)
    assert len(sink.writes) <= 2 * bad * math.ceil(math.log2(1_000)) + 1


def test_the_bound_of_writes_would_notice_a_search_one_by_one(monkeypatch):
    def one_by_one(self, **_):
        part = self.todo.pop()
        singles = [Part(f"{part.batch_id}.{at}", part.piece.choose([at])) for at in range(len(part))]
        self.todo += reversed(singles)
        self.halved = True

    monkeypatch.setattr(Bisection, "halve", one_by_one)
    assert len(write_with_poison(3, 1_000).writes) > 2 * 3 * 10 + 1


def test_an_event_that_breaks_the_connection_is_set_aside_while_the_backend_answers_pings(caplog):
    sink = ScriptedSink(always=refusing(CommitUnknown(code="08006")))
    delivery = Delivery({"sink": sink}, QUICK.evolve(batch_size=16))
    for number in range(32):
        delivery.record_nowait(plain_event(number, variant="bad" if number in {5, 20} else "good"))
    assert wait_until(lambda: delivery.stats().sinks["sink"].delivered == 30)
    assert wait_until(lambda: delivery.stats().sinks["sink"].set_aside == 2)
    stats = delivery.stats().sinks["sink"]
    assert (stats.dead, stats.delivered, stats.pending) == (0, 30, 2)
    assert sink.pings == 2
    assert caplog.text.count("the backend answers a ping") == 1
    delivery.close_sync()


def test_a_batch_is_not_suspected_while_the_backend_does_not_answer_pings(caplog):
    sink = ScriptedSink(always=CommitUnknown(code="08006"))
    sink.alive = False
    delivery = Delivery({"sink": sink}, QUICK.evolve(batch_size=4))
    for event in plain_events(4):
        delivery.record_nowait(event)
    assert wait_until(lambda: sink.pings >= 3)
    assert {len(batch) for batch in sink.writes} == {4}
    assert "answers a ping" not in caplog.text
    sink.always, sink.alive = None, True
    assert delivery.flush_sync(5.0)
    assert delivery.stats().sinks["sink"].dead == 0
    delivery.close_sync()


def test_a_good_event_survives_lost_answers_in_the_middle_of_a_bisection():
    bad = refusing(BadBatch(code="22P02"))
    lost = CommitUnknown(code="08006")
    sink = ScriptedSink([bad, bad, lost, bad, lost, bad, lost], always=bad)
    delivery = Delivery({"sink": sink}, QUICK.evolve(batch_size=4))
    for number in range(4):
        delivery.record_nowait(plain_event(number, variant="bad" if number == 0 else "good"))
    delivery.flush_sync(10.0)
    assert [letter.event.variant for letter in sink.letters] == ["bad"]
    assert len(sink.stored) == 3
    delivery.close_sync()


def test_a_backend_that_refuses_everything_gets_no_dead_letters_but_another_chance():
    async def refuse(batch):
        # Repaired between two rounds: what was refused before a repair in the middle of one would look like bad events.
        if len(sink.writes) > 60 and len(batch) == 100:
            sink.always = None
            return True
        raise BadBatch(code="42P01")

    sink = ScriptedSink(always=refuse)
    delivery = Delivery({"sink": sink}, QUICK.evolve(batch_size=100))
    for event in plain_events(100):
        delivery.record_nowait(event)
    assert sink.wait_for(lambda: len(sink.writes) > 60)
    assert delivery.stats().sinks["sink"].dead == 0
    assert delivery.flush_sync(10.0)
    assert len(sink.stored) == 100
    delivery.close_sync()


@pytest.mark.parametrize("error", [RuntimeError("schema"), KeyError("column")])
def test_a_backend_that_fails_in_any_other_way_gets_no_dead_letters(error):
    sink = ScriptedSink(always=error)
    delivery = Delivery({"sink": sink}, QUICK.evolve(batch_size=100))
    for event in plain_events(100):
        delivery.record_nowait(event)
    assert sink.wait_for(lambda: len(sink.writes) > 20)
    stats = delivery.stats().sinks["sink"]
    assert (stats.dead, stats.pending, stats.set_aside) == (0, 100, 100)
    assert not delivery.flush_sync(0.0)
    assert delivery.stats().health(closed=False)["sinks"]["sink"]["set_aside"] == 100
    sink.always = None
    assert delivery.flush_sync(10.0)
    assert len(sink.stored) == 100
    delivery.close_sync()


def test_flush_is_not_true_before_an_event_that_is_tried_again_is_settled():
    sink = ScriptedSink(always=refusing(BadBatch(code="22P02")))
    delivery = Delivery({"sink": sink}, QUICK.evolve(batch_size=2))
    for variant in ("bad", "good"):
        delivery.record_nowait(plain_event(variant=variant))
    report = delivery.flush_sync(5.0)
    assert (report.complete, report.dead, report.stored) == (False, 1, 1)
    delivery.close_sync()


def test_dead_letters_are_told_to_the_handler_even_if_it_raises():
    told = []

    def handler(sink, error, letters):
        told.extend((sink, error, letter.event.variant) for letter in letters)
        raise RuntimeError

    sink = ScriptedSink(always=refusing(BadBatch(code="22P02")))
    delivery = Delivery({"sink": sink}, QUICK, on_dead_letters=handler)
    delivery.record_nowait(plain_event(variant="bad"))
    delivery.flush_sync(5.0)
    assert told == [("sink", "BadBatch", "bad")]
    assert [letter.event.variant for letter in delivery.dead_letters()] == ["bad"]
    sink.always = SinkUnavailable()
    delivery.close_sync(0.1)


def test_an_answer_that_names_no_event_refuses_none():
    async def busy(_):
        raise BadBatch(refused={}, stored=())

    sink = ScriptedSink(script=[busy] * 5)
    delivery = Delivery({"sink": sink}, QUICK)
    for event in plain_events(3):
        delivery.record_nowait(event)
    assert delivery.flush_sync(10.0)
    assert len(sink.stored) == 3
    assert delivery.dead_letters() == ()
    delivery.close_sync()
