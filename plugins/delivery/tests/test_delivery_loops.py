"""Any thread, any loop, no loop, many loops."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from flag_analytics.reports import DeliveryOptions
from flag_analytics.testing.faults import ScriptedSink
from flag_analytics.testing.samples import plain_event, plain_events
from flag_analytics_delivery import Delivery

QUICK = DeliveryOptions(flush_interval_seconds=0.02)


def test_every_thread_with_a_loop_of_its_own_records_and_flushes():
    sink = ScriptedSink()
    delivery = Delivery({"sink": sink}, QUICK)

    async def work():
        for event in plain_events(50):
            delivery.record_nowait(event)
        return await delivery.flush()

    with ThreadPoolExecutor(8) as pool:
        reports = list(pool.map(lambda _: asyncio.run(work()), range(16)))
    assert all(reports)
    assert len(sink.stored) == 800
    assert asyncio.run(delivery.close())


def test_a_loop_that_is_closed_and_a_new_one_and_none_at_all():
    sink = ScriptedSink()
    delivery = Delivery({"sink": sink}, QUICK)
    for _ in range(5):
        loop = asyncio.new_event_loop()
        delivery.record_nowait(plain_event())
        assert loop.run_until_complete(delivery.flush())
        abandoned = loop.create_task(delivery.flush())
        loop.run_until_complete(asyncio.sleep(0))
        abandoned.cancel()
        loop.run_until_complete(asyncio.gather(abandoned, return_exceptions=True))
        loop.close()
    delivery.record_nowait(plain_event())
    assert delivery.flush_sync()
    assert len(sink.stored) == 6
    assert delivery.close_sync()


def test_the_sink_always_runs_in_one_thread_and_one_loop():
    seen = set()

    async def look(_):
        seen.add((threading.get_ident(), id(asyncio.get_running_loop())))
        return True

    delivery = Delivery({"sink": ScriptedSink(always=look)}, QUICK)
    for _ in range(3):
        delivery.record_nowait(plain_event())
        delivery.flush_sync()
    assert len(seen) == 1
    assert threading.get_ident() not in {thread for thread, _ in seen}
    delivery.close_sync()


def test_no_thread_runs_before_the_first_event():
    before = threading.active_count()
    delivery = Delivery({"sink": ScriptedSink()}, QUICK)
    assert threading.active_count() == before
    delivery.close_sync()


def test_uvloop_is_welcome():
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed")
    sink = ScriptedSink()
    delivery = Delivery({"sink": sink}, QUICK)

    async def work():
        delivery.record_nowait(plain_event())
        return await delivery.close()

    assert uvloop.run(work())
    assert len(sink.stored) == 1
