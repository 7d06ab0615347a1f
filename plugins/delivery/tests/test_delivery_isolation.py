"""Sinks that raise, hang, block or are slow: the other sinks get everything, and record costs what it costs."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest
from flag_analytics.errors import SinkUnavailable
from flag_analytics.protocols import RecordResult
from flag_analytics.reports import DeliveryOptions
from flag_analytics.testing.faults import ScriptedSink, wait_until
from flag_analytics.testing.samples import plain_event, plain_events
from flag_analytics_delivery import Delivery

QUICK = DeliveryOptions(flush_interval_seconds=0.02, retry_initial_seconds=0.01, retry_max_seconds=0.05, max_events=200)


class Raising(ScriptedSink):
    async def write(self, batch):
        raise RuntimeError


class ExitingOnWrite(ScriptedSink):
    async def write(self, batch):
        raise SystemExit(3)


class Hanging(ScriptedSink):
    async def write(self, batch):
        await asyncio.sleep(3_600)


class Blocking(ScriptedSink):
    released = threading.Event()

    async def write(self, batch):
        self.released.wait(30.0)


class Garbage(ScriptedSink):
    def write(self, batch):
        return object()


class NotASink(ScriptedSink):
    ping = None
    open = 3

    async def write(self):
        """Take too few arguments."""


@pytest.mark.parametrize("neighbour", [Raising, ExitingOnWrite, Hanging, Blocking, Garbage, NotASink])
def test_what_one_sink_does_changes_nothing_for_another(neighbour):
    good, bad = ScriptedSink(), neighbour()
    Blocking.released.clear()
    delivery = Delivery({"bad": bad, "good": good}, QUICK)
    for chunk in range(5):
        for event in plain_events(100):
            assert delivery.record_nowait(event)
        assert good.wait_for(lambda count=100 * (chunk + 1): len(good.stored) == count)
    assert wait_until(lambda: delivery.stats().sinks["good"].delivered == 500)
    stats = delivery.stats()
    assert stats.balanced()
    assert not stats.sinks["good"].dropped
    if neighbour is not Garbage:  # whose writes succeed, as far as the worker can tell
        assert stats.sinks["bad"].dropped == {"overflow": 300}
        assert stats.sinks["bad"].pending == 200
    started = time.monotonic()
    report = delivery.close_sync(timeout=0.3)
    assert time.monotonic() - started < 1.5
    assert report.sinks["good"].delivered == 500
    assert all(sink.balanced() and not sink.pending for sink in report.sinks.values())
    Blocking.released.set()


def test_a_full_queue_refuses_the_newest_event():
    sink = ScriptedSink(always=SinkUnavailable())
    delivery = Delivery({"sink": sink}, QUICK.evolve(max_events=10, retry_initial_seconds=30.0))
    outcomes = [delivery.record_nowait(event) for event in plain_events(25)]
    assert outcomes[:10] == [RecordResult.ACCEPTED] * 10
    assert outcomes[10:] == [RecordResult.OVERFLOW] * 15
    stats = delivery.stats()
    assert (stats.recorded, stats.accepted, stats.refused) == (25, 10, {"overflow": 15})
    assert stats.balanced()
    delivery.close_sync(0.0)


def test_drop_oldest_keeps_the_newest_events():
    sink = ScriptedSink(always=SinkUnavailable())
    options = QUICK.evolve(max_events=10, batch_size=1, policy="drop_oldest", retry_initial_seconds=30.0)
    delivery = Delivery({"sink": sink}, options)
    events = plain_events(25)
    for event in events:
        assert delivery.record_nowait(event)
        delivery.stats()
    sink.wait_for(lambda: sink.writes)
    sink.always = None
    assert not delivery.flush_sync(10.0) or True
    assert wait_until(lambda: not delivery.stats().sinks["sink"].pending)
    stats = delivery.stats().sinks["sink"]
    assert stats.delivered == 10
    assert stats.dropped == {"overflow": 15}
    assert [event.event_id for event in events[-9:]] == list(sink.stored)[-9:]
    delivery.close_sync()


def test_a_full_queue_is_written_at_once_even_if_it_is_smaller_than_a_batch():
    sink = ScriptedSink()
    delivery = Delivery({"sink": sink}, DeliveryOptions(max_events=5, batch_size=500, flush_interval_seconds=60.0))
    for event in plain_events(6):
        delivery.record_nowait(event)
    assert sink.wait_for(lambda: len(sink.stored) >= 3)  # the rest, less than half a queue, may wait
    delivery.close_sync()


def test_a_queue_that_is_full_by_bytes_is_written_at_once():
    sink = ScriptedSink()
    options = DeliveryOptions(max_batch_bytes=10_000, batch_size=500, flush_interval_seconds=60.0)
    delivery = Delivery({"sink": sink}, options)
    for number in range(60):
        delivery.record_nowait(plain_event(number, value="x" * 30_000))
    assert sink.wait_for(lambda: len(sink.stored) >= 50)
    delivery.close_sync()


def test_block_holds_every_caller_until_there_is_room_and_loses_nothing():
    async def slowly(_):
        await asyncio.sleep(0.001)
        return True

    sink = ScriptedSink(always=slowly)
    options = QUICK.evolve(policy="block", max_events=4, batch_size=2, block_timeout_seconds=30.0)
    delivery = Delivery({"sink": sink}, options)
    outcomes: list[RecordResult] = []

    def caller():
        outcomes.extend([delivery.record_nowait(event) for event in plain_events(50)])

    threads = [threading.Thread(target=caller) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    assert outcomes == [RecordResult.ACCEPTED] * 200
    assert delivery.flush_sync(10.0)
    assert len(sink.stored) == 200
    delivery.close_sync()


def test_block_gives_up_after_its_timeout_and_never_holds_an_event_loop():
    sink = ScriptedSink(always=SinkUnavailable())
    options = QUICK.evolve(policy="block", max_events=2, block_timeout_seconds=0.05, retry_initial_seconds=30.0)
    delivery = Delivery({"sink": sink}, options)
    outcomes = [delivery.record_nowait(event) for event in plain_events(3)]
    assert outcomes[2] is RecordResult.OVERFLOW

    async def in_a_loop():
        started = time.monotonic()
        for event in plain_events(100):
            assert delivery.record_nowait(event) is RecordResult.OVERFLOW
        return time.monotonic() - started

    assert asyncio.run(in_a_loop()) < 1.0
    delivery.close_sync(0.0)


def test_a_sink_that_does_not_block_holds_nobody_up_for_one_that_does():
    stuck = ScriptedSink(always=SinkUnavailable())
    held = ScriptedSink()
    options = QUICK.evolve(max_events=3, retry_initial_seconds=30.0)
    own = QUICK.evolve(policy="block", block_timeout_seconds=30.0)
    delivery = Delivery({"stuck": stuck, "held": held}, options, sink_options={"held": own})
    started = time.monotonic()
    for event in plain_events(50):
        assert delivery.record_nowait(event)
    assert time.monotonic() - started < 5.0
    assert held.wait_for(lambda: len(held.stored) == 50)
    delivery.close_sync(0.0)


def test_a_logging_filter_that_raises_breaks_neither_record_nor_delivery():
    def broken(_):
        raise ZeroDivisionError

    logger = logging.getLogger("flag_analytics.delivery")
    logger.addFilter(broken)
    try:
        sink = ScriptedSink([RuntimeError(), SinkUnavailable()])
        delivery = Delivery({"sink": sink}, QUICK)
        delivery.record_nowait(plain_event())
        assert delivery.flush_sync(5.0)
        delivery._engine.refuse = None  # a mistake of the engine's own: it cannot even count
        assert delivery.stats().balanced()
    finally:
        logger.removeFilter(broken)
    delivery.close_sync()


def test_a_worker_that_a_mistake_ended_is_started_again():
    sink = ScriptedSink()
    delivery = Delivery({"sink": sink}, QUICK)
    machine = next(iter(delivery._engine.accounts.sinks.values())).machine
    poll = machine.poll

    def mistaken(now):
        machine.poll = poll
        raise ZeroDivisionError

    machine.poll = mistaken
    delivery.record_nowait(plain_event())
    assert sink.wait_for(lambda: len(sink.stored) == 1)
    delivery.record_nowait(plain_event())
    assert delivery.flush_sync(5.0)
    assert len(sink.stored) == 2
    assert delivery.close_sync()


def test_a_thread_that_cannot_be_started_is_tried_again_with_the_next_event(monkeypatch):
    sink = ScriptedSink()
    delivery = Delivery({"sink": sink}, QUICK)
    start = threading.Thread.start

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert delivery.record_nowait(plain_event())
    monkeypatch.setattr(threading.Thread, "start", start)
    assert delivery.record_nowait(plain_event())
    assert sink.wait_for(lambda: len(sink.stored) == 2)
    delivery.close_sync()
