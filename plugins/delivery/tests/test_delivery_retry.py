"""Backends that are down, hang, or lose their answers: nothing is lost within the bounds, nothing is stored twice."""

from __future__ import annotations

import asyncio
import time

import pytest
from flag_analytics.errors import CommitUnknown, SinkUnavailable
from flag_analytics.reports import DeliveryOptions
from flag_analytics.testing.faults import FaultProxy, LostAnswer, ScriptedSink, TcpSink, TcpStore, wait_until
from flag_analytics.testing.samples import plain_event, plain_events
from flag_analytics_delivery import Delivery

QUICK = DeliveryOptions(flush_interval_seconds=0.02, retry_initial_seconds=0.01, retry_max_seconds=0.05)


def liveness(delivery, is_stored):
    """After every fault, one fresh event gets through (within 5 s)."""
    event = plain_event()
    assert delivery.record_nowait(event)
    assert wait_until(lambda: is_stored(event.event_id), 5.0)


def test_an_unavailable_backend_gets_the_same_batch_again_until_it_is_stored():
    sink = ScriptedSink([SinkUnavailable(code="DOWN")] * 5)
    delivery = Delivery({"sink": sink}, QUICK)
    for event in plain_events(40):
        delivery.record_nowait(event)
    assert delivery.flush_sync(5.0)
    first, *others = sink.writes[:6]
    assert all(batch.id == first.id and batch.events == first.events for batch in others)
    stats = delivery.stats().sinks["sink"]
    assert (stats.delivered, stats.retries, sink.repeated, stats.breaker) == (40, 5, 0, "closed")
    assert delivery.close_sync()


def test_a_lost_answer_is_counted_and_stores_nothing_twice():
    sink = ScriptedSink([LostAnswer(CommitUnknown(code="08006"))] * 2)
    delivery = Delivery({"sink": sink}, QUICK)
    for event in plain_events(10):
        delivery.record_nowait(event)
    assert delivery.flush_sync(5.0)
    assert len(sink.stored) == 10
    assert delivery.stats().sinks["sink"].commit_unknown == 2
    delivery.close_sync()


def test_answers_cut_after_the_commit_store_every_event_once():
    cuts = 20
    with TcpStore() as store, FaultProxy(store.address) as proxy:
        delivery = Delivery({"store": TcpSink(proxy.address)}, QUICK.evolve(batch_size=10))
        for _ in range(cuts):
            proxy.cut_after(b"COMMIT")
            for event in plain_events(10):
                delivery.record_nowait(event)
            assert delivery.flush_sync(5.0)
        stats = delivery.stats().sinks["store"]
        assert (len(store.stored), stats.delivered, stats.commit_unknown, proxy.cuts) == (200, 200, cuts, cuts)
        assert store.repeated == 200  # each batch came twice, under the same ids
        assert delivery.close_sync()


def test_a_backend_that_is_down_at_the_start_gets_everything_once_it_is_up():
    with TcpStore() as store, FaultProxy(store.address) as proxy:
        proxy.refuse()
        delivery = Delivery({"store": TcpSink(proxy.address)}, QUICK)
        for event in plain_events(1_000):
            assert delivery.record_nowait(event)
        assert wait_until(lambda: delivery.stats().sinks["store"].retries > 2)
        assert delivery.health()["status"] == "degraded"
        proxy.heal()
        assert wait_until(lambda: len(store.stored) == 1_000, 5.0)
        liveness(delivery, store.stored.__contains__)
        assert delivery.health()["status"] == "ok"
        assert delivery.close_sync()


def test_a_black_hole_neither_slows_record_nor_holds_close_beyond_its_timeout():
    with TcpStore() as store, FaultProxy(store.address) as proxy:
        delivery = Delivery({"store": TcpSink(proxy.address)}, QUICK.evolve(batch_size=100))
        delivery.record_nowait(plain_event())
        assert delivery.flush_sync(5.0)
        proxy.blackhole()
        for event in plain_events(300):
            assert delivery.record_nowait(event)
        started = time.monotonic()
        report = delivery.close_sync(timeout=0.5)
        assert time.monotonic() - started < 1.0
        assert not report
        assert report.stored + sum(report.dropped.values()) == 301
        assert report.dropped == {"closed": 300}


def test_a_hanging_write_ends_at_its_deadline_and_is_tried_again():
    async def hang(_):
        await asyncio.sleep(60)

    sink = ScriptedSink([hang, hang])
    delivery = Delivery({"sink": sink}, QUICK.evolve(attempt_timeout_seconds=0.05))
    delivery.record_nowait(plain_event())
    assert delivery.flush_sync(5.0)
    assert delivery.stats().sinks["sink"].commit_unknown == 2
    delivery.close_sync()


def test_a_sink_that_ignores_its_deadline_is_never_called_again_meanwhile():
    running = 0
    most = 0
    release = asyncio.Event()

    async def stubborn(_):
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(2_000):
            try:
                await asyncio.wait_for(release.wait(), 1.0)
                break
            except (asyncio.CancelledError, TimeoutError):
                continue
        running -= 1
        return True

    sink = ScriptedSink(always=stubborn)
    delivery = Delivery({"sink": sink}, QUICK.evolve(attempt_timeout_seconds=0.02))
    delivery.record_nowait(plain_event())
    assert wait_until(lambda: delivery.stats().sinks["sink"].attempts >= 3, 10.0)
    assert most == 1
    thread_loop = delivery._engine._workers["sink"]._loop
    thread_loop.call_soon_threadsafe(release.set)
    assert delivery.flush_sync(5.0)
    assert most == 1
    delivery.close_sync()


def test_an_outage_costs_few_attempts_and_few_lines_of_log(caplog):
    sink = ScriptedSink(always=SinkUnavailable(code="DOWN"))
    delivery = Delivery({"sink": sink}, DeliveryOptions(flush_interval_seconds=0.01, batch_size=10))
    for event in plain_events(500):
        delivery.record_nowait(event)
    sink.wait_for(lambda: len(sink.writes) >= 4, 5.0)
    assert len(sink.writes) <= 40
    assert len(caplog.records) == 1
    assert "DOWN" in caplog.text
    sink.always = None
    assert delivery.flush_sync(10.0)
    assert len(sink.stored) == 500
    delivery.close_sync()


@pytest.mark.chaos
def test_a_minute_of_outage_costs_at_most_twenty_attempts_and_three_lines_of_log(caplog):
    sink = ScriptedSink(always=SinkUnavailable(code="DOWN"))
    delivery = Delivery({"sink": sink})
    began = time.monotonic()
    while time.monotonic() - began < 60.0:
        for event in plain_events(200):
            delivery.record_nowait(event)
        sink.wait_for(lambda: False, 0.1)
    assert len(sink.writes) <= 20
    assert len(caplog.records) <= 3
    sink.always = None
    delivery.flush_sync(30.0)  # the queue was full: now it has room again
    liveness(delivery, sink.stored.__contains__)
    assert delivery.stats().balanced()
    delivery.close_sync()


@pytest.mark.parametrize("fault", ["refuse", "cut", "blackhole", "delay"])
def test_a_fresh_event_is_stored_soon_after_any_fault_of_the_network(fault):
    with TcpStore() as store, FaultProxy(store.address) as proxy:
        options = QUICK.evolve(attempt_timeout_seconds=0.3)
        delivery = Delivery({"store": TcpSink(proxy.address, connect_seconds=0.2)}, options)
        for event in plain_events(50):
            delivery.record_nowait(event)
        assert delivery.flush_sync(5.0)
        getattr(proxy, fault)(*([0.4] if fault == "delay" else []))
        for event in plain_events(50):
            delivery.record_nowait(event)
        if fault != "cut":
            assert wait_until(lambda: delivery.stats().sinks["store"].breaker != "closed", 5.0)
        proxy.heal()
        liveness(delivery, store.stored.__contains__)
        assert delivery.flush_sync(5.0)
        assert len(store.stored) == 101
        assert delivery.stats().balanced()
        delivery.close_sync()
