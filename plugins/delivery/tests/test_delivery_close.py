"""flush and close from everywhere at once: one report, honest, in time."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from flag_analytics.errors import SinkUnavailable
from flag_analytics.protocols import RecordResult
from flag_analytics.reports import DeliveryOptions
from flag_analytics.testing.faults import ScriptedSink, wait_until
from flag_analytics.testing.samples import plain_event, plain_events
from flag_analytics_delivery import Delivery

QUICK = DeliveryOptions(flush_interval_seconds=60.0, retry_initial_seconds=0.01, retry_max_seconds=0.05)


def test_ten_closes_at_once_return_one_report_while_four_threads_record():
    for _ in range(10):
        sink = ScriptedSink()
        delivery = Delivery({"sink": sink}, QUICK)
        outcomes: list[RecordResult] = []
        reports = []
        go = threading.Event()

        def record(delivery=delivery, outcomes=outcomes, go=go):
            go.wait()
            outcomes.extend([delivery.record_nowait(plain_event(number)) for number in range(200)])

        def close(delivery=delivery, reports=reports, go=go):
            go.wait()
            reports.append(delivery.close_sync())

        threads = [threading.Thread(target=record) for _ in range(4)]
        threads += [threading.Thread(target=close) for _ in range(10)]
        for thread in threads:
            thread.start()
        go.set()
        for thread in threads:
            thread.join(30.0)
        assert len(reports) == 10
        assert all(report is reports[0] for report in reports)
        accepted = sum(map(bool, outcomes))
        assert len(outcomes) == 800
        assert set(outcomes) <= {RecordResult.ACCEPTED, RecordResult.CLOSED}
        assert reports[0].stored == len(sink.stored) == accepted
        stats = delivery.stats()
        assert (stats.recorded, stats.accepted) == (800, accepted)
        assert stats.balanced()
        assert sink.closed == 1


async def test_a_thousand_cancelled_flushes_lose_and_repeat_nothing():
    async def slowly(_):
        await asyncio.sleep(0.01)
        return True

    sink = ScriptedSink(always=slowly)
    delivery = Delivery({"sink": sink}, QUICK.evolve(batch_size=20))
    for event in plain_events(1_000):
        delivery.record_nowait(event)

    async def cancelled():
        try:
            await asyncio.wait_for(delivery.flush(), 0.001)
        except TimeoutError:
            pass

    await asyncio.gather(*(cancelled() for _ in range(1_000)))
    assert await delivery.flush()
    assert (len(sink.stored), sink.repeated) == (1_000, 0)
    machine = next(iter(delivery._engine.accounts.sinks.values())).machine
    assert machine._draining == 0
    assert not delivery._engine.accounts._waiters
    await delivery.close()


async def test_flush_says_so_when_its_time_is_up():
    sink = ScriptedSink(always=SinkUnavailable())
    delivery = Delivery({"sink": sink}, QUICK)
    delivery.record_nowait(plain_event())
    report = await delivery.flush(timeout=0.05)
    assert not report
    assert report.pending == 1
    sink.always = None
    assert await delivery.flush(timeout=5.0)
    await delivery.close()


async def test_close_is_idempotent_and_refuses_what_comes_after():
    sink = ScriptedSink()
    delivery = Delivery({"sink": sink}, QUICK)
    delivery.record_nowait(plain_event())
    first = await delivery.close()
    assert first
    assert await delivery.close() is first
    assert delivery.close_sync() is first
    assert delivery.record_nowait(plain_event()) is RecordResult.CLOSED
    assert delivery.stats().refused == {"closed": 1}
    assert delivery.health()["status"] == "closed"
    assert sink.closed == 1


def test_close_closes_sinks_that_never_got_an_event():
    sink = ScriptedSink()
    delivery = Delivery({"sink": sink}, QUICK)
    assert delivery.close_sync()
    assert (sink.closed, sink.opened) == (1, 0)


def test_close_ends_a_write_at_its_deadline_and_accounts_for_it():
    async def hang(_):
        await asyncio.sleep(3_600)

    sink = ScriptedSink(always=hang)
    delivery = Delivery({"sink": sink}, QUICK.evolve(batch_size=3))
    for event in plain_events(10):
        delivery.record_nowait(event)
    sink.wait_for(lambda: sink.writes)
    started = time.monotonic()
    report = delivery.close_sync(timeout=0.2)
    assert time.monotonic() - started < 0.7
    assert (report.complete, report.stored, report.pending, report.dropped) == (False, 0, 0, {"closed": 10})
    assert report.sinks["sink"].balanced()


def test_close_from_inside_the_sinks_own_thread_returns_in_time():
    delivery: Delivery
    took = []

    async def close_me(_):
        started = time.monotonic()
        delivery.close_sync(timeout=0.1)
        took.append(time.monotonic() - started)
        return True

    delivery = Delivery({"sink": ScriptedSink(always=close_me)}, QUICK.evolve(batch_size=1))
    delivery.record_nowait(plain_event())
    assert wait_until(lambda: took)
    assert took[0] < 1.0


def test_a_close_that_is_cancelled_still_happens():
    sink = ScriptedSink()

    async def scenario(delivery):
        delivery.record_nowait(plain_event())
        closing = asyncio.ensure_future(delivery.close())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)

    delivery = Delivery({"sink": sink}, QUICK)
    asyncio.run(scenario(delivery))
    assert sink.wait_for(lambda: sink.closed)
    assert len(sink.stored) == 1


@pytest.mark.parametrize(("step", "unknown"), [(lambda batch: asyncio.sleep(60), 1), (SinkUnavailable(), 0)])
def test_a_write_that_close_cuts_short_may_have_been_stored_and_is_counted_so(step, unknown):
    sink = ScriptedSink(always=step)
    delivery = Delivery({"sink": sink}, DeliveryOptions(flush_interval_seconds=0.01, retry_initial_seconds=1e6))
    for event in plain_events(10):
        delivery.record_nowait(event)
    assert wait_until(lambda: delivery.stats().sinks["sink"].in_flight == 10)
    assert sink.wait_for(lambda: sink.writes)
    report = delivery.close_sync(0.05)
    assert report.dropped == {"closed": 10}
    assert report.sinks["sink"].commit_unknown == unknown


@pytest.mark.parametrize(
    ("durability", "said"), [("memory", 'set durability = "spool"'), ("spool", "wait in the spool")]
)
def test_what_a_close_leaves_behind_is_said_aloud(tmp_path, caplog, durability, said):
    options = QUICK.evolve(durability=durability, spool_directory=tmp_path)
    delivery = Delivery({"sink": ScriptedSink(always=SinkUnavailable())}, options)
    for event in plain_events(7):
        delivery.record_nowait(event)
    delivery.close_sync(0.01)
    delivery.close_sync()
    (line,) = [line for line in caplog.messages if line.startswith("sink: 7 events")]
    assert said in line


def test_a_close_that_leaves_nothing_behind_says_nothing(caplog):
    delivery = Delivery({"sink": ScriptedSink()}, QUICK)
    delivery.record_nowait(plain_event())
    assert delivery.close_sync()
    assert not caplog.messages
