"""The ledger under threads, signals and re-entrance: it balances exactly, whatever happens at once."""

from __future__ import annotations

import gc
import itertools
import random
import signal
import sys
import threading
import time

import pytest
from flag_analytics.errors import BadBatch, CommitUnknown, SinkUnavailable
from flag_analytics.reports import DeliveryOptions
from flag_analytics.testing.faults import LostAnswer, ScriptedSink, wait_until
from flag_analytics.testing.samples import plain_event, plain_events
from flag_analytics_delivery import Delivery


@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest"])
def test_eight_threads_and_a_small_ring_balance_exactly(policy):
    sink, slow = ScriptedSink(), ScriptedSink(always=SinkUnavailable())
    options = DeliveryOptions(max_events=500, batch_size=100, flush_interval_seconds=0.01, policy=policy)
    delivery = Delivery({"sink": sink, "slow": slow}, options)
    event = plain_event()
    taken = [0] * 8

    def record(number):
        taken[number] = sum(bool(delivery.record_nowait(event)) for _ in range(20_000))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=record, args=[number]) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120.0)
    finally:
        sys.setswitchinterval(interval)
    slow.always = None
    delivery.flush_sync(30.0)
    stats = delivery.stats()
    assert stats.balanced()
    assert stats.recorded == 160_000
    assert stats.accepted == sum(taken)
    for name in ("sink", "slow"):
        mine = stats.sinks[name]
        assert mine.accepted == 160_000
        assert mine.delivered + mine.dropped.get("overflow", 0) == 160_000
        assert mine.pending == 0
    assert stats.sinks["slow"].dropped["overflow"] > 0
    delivery.close_sync()


def chaos(seconds, seed, capacity):  # noqa: C901 - the schedule of one test, told in order
    """Record from three threads into a backend with random faults; return what was recorded and what came of it."""
    chance = random.Random(seed)
    answers = [None, None, None, SinkUnavailable(), LostAnswer(CommitUnknown()), RuntimeError(), TimeoutError()]

    async def misbehave(batch):
        if any(event.variant == "bad" for event in batch):
            raise BadBatch
        answer = chance.choice(answers)
        if isinstance(answer, LostAnswer):
            sink._store(batch)
            raise answer.error
        if answer is not None:
            raise answer
        return True

    sink = ScriptedSink(always=misbehave)
    options = DeliveryOptions(
        max_events=capacity, batch_size=50, flush_interval_seconds=0.005, retry_initial_seconds=0.001,
        retry_max_seconds=0.01,
    )  # fmt: skip
    delivery = Delivery({"sink": sink}, options)
    accepted: set[str] = set()
    poison: set[str] = set()
    outcomes = itertools.count()
    stop = threading.Event()

    def caller(number):
        mine = random.Random(seed * 10 + number)
        while not stop.wait(0.001):
            for event in plain_events(20, variant="bad" if mine.random() < 0.01 else "good"):
                next(outcomes)
                if delivery.record_nowait(event):
                    accepted.add(event.event_id)
                    if event.variant == "bad":
                        poison.add(event.event_id)

    threads = [threading.Thread(target=caller, args=[number]) for number in range(3)]
    for thread in threads:
        thread.start()
    stop.wait(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    answers[:] = [None]
    for event in plain_events(100):  # good ones, that prove the last bad ones to be bad
        next(outcomes)
        if delivery.record_nowait(event):
            accepted.add(event.event_id)
    started = time.monotonic()
    delivery.flush_sync(30.0)
    drained = time.monotonic() - started
    stats = delivery.stats()
    delivery.close_sync()
    return sink, stats, accepted, poison, next(outcomes), drained


def check_chaos(seconds, seed, capacity):
    sink, stats, accepted, poison, recorded, drained = chaos(seconds, seed, capacity)
    mine = stats.sinks["sink"]
    assert stats.balanced()
    assert (stats.recorded, stats.accepted) == (recorded, len(accepted))
    assert mine.pending == 0
    assert mine.delivered + mine.dead == len(accepted)
    assert mine.dead >= len(poison)
    dead = {letter.event.event_id for letter in sink.letters}
    assert poison <= dead
    assert set(sink.stored) | dead == accepted
    assert mine.delivered == len(accepted) - mine.dead
    assert drained < 5.0
    assert mine.commit_unknown > 0
    return stats


def test_random_faults_lose_nothing_and_store_nothing_twice():
    check_chaos(1.0, seed=1, capacity=50_000)


def test_random_faults_with_a_small_queue_balance_while_events_are_dropped():
    sink, stats, accepted, _, recorded, _ = chaos(0.7, seed=2, capacity=100)
    assert stats.balanced()
    assert stats.refused["overflow"] > 0
    assert (stats.recorded, stats.accepted) == (recorded, len(accepted))
    assert set(sink.stored) <= accepted


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(5))
def test_a_minute_of_random_faults_loses_nothing(seed):
    check_chaos(60.0, seed, 1_000_000)


def test_the_control_loses_events_under_the_same_faults():
    """litestar-flags' own collector, which has no ids, no retry bound and no ledger, cannot pass this."""
    litestar = pytest.importorskip("litestar_flags.analytics.collectors.database", reason="litestar-flags is missing")
    pytest.importorskip("aiosqlite", reason="aiosqlite is missing")
    import asyncio

    from sqlalchemy import event as on
    from sqlalchemy import text

    async def scenario():
        collector = await litestar.DatabaseAnalyticsCollector.create(
            "sqlite+aiosqlite://", batch_size=10, flush_interval_seconds=60.0
        )
        chance = random.Random(3)
        engine = collector._engine

        @on.listens_for(engine.sync_engine, "commit")
        def lose(connection):
            if chance.random() < 0.3:
                connection.connection.driver_connection  # noqa: B018 - it is made, then its answer is lost
                connection.connection.dbapi_connection.commit()
                raise ConnectionError

        try:
            for event in plain_events(300):
                try:
                    await collector.record(event)
                except Exception:
                    continue
            on.remove(engine.sync_engine, "commit", lose)
            await collector.flush()
            async with engine.connect() as connection:
                return (await connection.execute(text("SELECT count(*) FROM analytics_events"))).scalar()
        finally:
            await collector.close()

    assert asyncio.run(scenario()) != 300


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
def test_an_exception_out_of_a_signal_handler_never_leaves_the_lock_held():
    class OutOfTheHandler(BaseException):
        pass

    def interrupt(*_):
        raise OutOfTheHandler

    sink = ScriptedSink()
    delivery = Delivery({"sink": sink}, DeliveryOptions(flush_interval_seconds=0.01))
    event = plain_event()
    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        for turn in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0002 + turn % 7 * 1e-5)
                for _ in range(2_000):
                    delivery.record_nowait(event)
            except OutOfTheHandler:
                continue
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0.0)
    finally:
        signal.signal(signal.SIGALRM, previous)
    free = []

    def try_lock():
        free.append(delivery._engine.lock.acquire(timeout=5.0))
        if free[0]:
            delivery._engine.lock.release()

    thread = threading.Thread(target=try_lock)
    thread.start()
    thread.join()
    assert free == [True]
    delivery.close_sync()


def test_a_signal_handler_or_finaliser_may_record_while_record_holds_its_locks():
    delivery = Delivery({"sink": ScriptedSink()})
    naive = plain_event(timestamp=plain_event().timestamp.replace(tzinfo=None))
    done = []

    def reenter():
        with delivery._engine.lock, delivery._engine.settings.freezer._lock:
            done.append(delivery.record_nowait(naive))

    thread = threading.Thread(target=reenter, daemon=True)
    thread.start()
    thread.join(5.0)
    assert done
    assert done[0]
    delivery.close_sync()


def test_a_delivery_that_is_dropped_warns_drains_and_leaves_nothing_behind():
    sink = ScriptedSink()
    threads = threading.active_count()
    delivery = Delivery({"sink": sink}, DeliveryOptions(flush_interval_seconds=60.0))
    for event in plain_events(10):
        delivery.record_nowait(event)
    with pytest.warns(ResourceWarning, match="close"):  # noqa: PT031 - both are what a drop takes
        del delivery
        gc.collect()
    assert sink.wait_for(lambda: len(sink.stored) == 10)
    assert sink.wait_for(lambda: sink.closed)
    assert wait_until(lambda: threading.active_count() <= threads)


def test_memory_is_bounded_while_the_backend_is_down():
    sink = ScriptedSink(always=SinkUnavailable())
    delivery = Delivery({"sink": sink}, DeliveryOptions(max_bytes=2**20))
    for _ in range(20):
        for event in plain_events(500):
            delivery.record_nowait(event)
    stats = delivery.stats()
    assert stats.sinks["sink"].backlog_bytes <= 2**20
    assert stats.refused["overflow"] > 5_000
    assert stats.balanced()
    delivery.close_sync(0.0)
