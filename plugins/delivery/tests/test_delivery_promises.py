"""What flush and close say is so, however they are called and whatever the sinks do."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from flag_analytics.errors import BadBatch, SinkUnavailable
from flag_analytics.protocols import RecordResult
from flag_analytics.reports import DeliveryOptions
from flag_analytics.testing.faults import ScriptedSink, wait_until
from flag_analytics.testing.samples import plain_event, plain_events
from flag_analytics_delivery import Delivery
from flag_analytics_delivery.spool import Spool

QUICK = DeliveryOptions(flush_interval_seconds=0.01, retry_initial_seconds=0.01, retry_max_seconds=0.05)


def run(code, *arguments, limit=20.0):
    """Run a program of its own; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True, text=True, timeout=limit, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.split()


# --- close


def test_a_close_during_a_long_pause_tries_again_at_once():
    sink = ScriptedSink([SinkUnavailable()])
    delivery = Delivery({"sink": sink}, DeliveryOptions(flush_interval_seconds=0.0, retry_initial_seconds=1e6))
    delivery.record_nowait(plain_event())
    assert wait_until(lambda: delivery.stats().sinks["sink"].breaker == "open")
    assert delivery.close_sync(10.0).complete
    assert len(sink.stored) == 1


def test_the_most_impatient_of_several_closers_sets_the_deadline():
    sink = ScriptedSink(always=lambda batch: asyncio.sleep(3_600))
    delivery = Delivery({"sink": sink}, QUICK)
    delivery.record_nowait(plain_event())
    patient = threading.Thread(target=delivery.close_sync, args=[30.0])
    patient.start()
    assert wait_until(lambda: delivery.closed)
    started = time.monotonic()
    report = delivery.close_sync(0.2)
    assert time.monotonic() - started < 2.0
    assert report.dropped == {"closed": 1}
    patient.join(5.0)
    assert not patient.is_alive()


def test_a_close_that_was_cancelled_is_finished_at_the_end_of_the_process(tmp_path):
    out = run(
        """
        import asyncio
        from flag_analytics import Delivery, DeliveryOptions
        from flag_analytics.testing.samples import plain_events

        class Slow:
            async def write(self, batch):
                await asyncio.sleep(0.3)
                print(len(batch), flush=True)
            async def close(self):
                pass

        delivery = Delivery({"slow": Slow()}, DeliveryOptions(flush_interval_seconds=5, exit_timeout_seconds=5))

        async def main():
            for event in plain_events(10):
                delivery.record_nowait(event)
            try:
                await asyncio.wait_for(delivery.close(5), 0.02)
            except TimeoutError:
                pass

        asyncio.run(main())
        """
    )
    assert out == ["10"]


@pytest.mark.skipif(sys.platform == "win32", reason="children are forked on POSIX only")
def test_children_of_multiprocessing_deliver_what_they_recorded(tmp_path):
    out = run(
        """
        import multiprocessing, sys
        from flag_analytics import Delivery
        from flag_analytics.testing.samples import plain_events

        class File:
            async def write(self, batch):
                with open(sys.argv[1], "a") as file:
                    file.writelines("x\\n" for _ in batch)
            async def close(self):
                pass

        delivery = Delivery({"file": File()})

        def work():
            for event in plain_events(10):
                delivery.record_nowait(event)

        context = multiprocessing.get_context("fork")
        children = [context.Process(target=work) for _ in range(3)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        print(len(open(sys.argv[1]).readlines()))
        """,
        tmp_path / "events",
    )
    assert out == ["30"]


# --- flush


def test_a_flush_after_a_close_that_lost_events_says_so():
    delivery = Delivery({"sink": ScriptedSink(always=SinkUnavailable())}, QUICK)
    delivery.record_nowait(plain_event())
    assert not delivery.close_sync(0.05)
    assert not delivery.flush_sync(1.0)


def test_a_flush_says_that_older_events_made_room_for_newer_ones():
    sink = ScriptedSink(always=SinkUnavailable())
    delivery = Delivery({"sink": sink}, QUICK.evolve(max_events=5, batch_size=5, policy="drop_oldest"))
    for event in plain_events(100):
        delivery.record_nowait(event)
    sink.always = None
    assert not delivery.flush_sync(10.0)
    assert delivery.flush_sync(10.0)  # said once
    delivery.close_sync()


class Patient:
    """An inline sink that takes its time to flush and close."""

    def record_nowait(self, event):
        return RecordResult.ACCEPTED

    async def flush(self):
        await asyncio.sleep(3_600)

    close = flush


@pytest.mark.parametrize("timeout", [float("inf"), 1e300])
def test_a_timeout_may_be_infinite(timeout):
    delivery = Delivery({"sink": ScriptedSink()}, QUICK.evolve(exit_timeout_seconds=timeout))
    delivery.record_nowait(plain_event())
    assert delivery.flush_sync(timeout)
    assert delivery.close_sync(timeout)


def test_a_timeout_is_a_number():
    delivery = Delivery({"sink": ScriptedSink()}, QUICK)
    with pytest.raises(ValueError, match="NaN"):
        delivery.flush_sync(float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        delivery.close_sync(float("nan"))
    assert delivery.close_sync()


def test_a_write_with_a_stray_yield_has_stored_nothing():
    class Stray(ScriptedSink):
        async def write(self, batch):
            yield

    delivery = Delivery({"stray": Stray()}, QUICK)
    delivery.record_nowait(plain_event())
    assert not delivery.flush_sync(0.3)
    assert delivery.stats().sinks["stray"].delivered == 0
    delivery.close_sync(0.0)


# --- refused and slow batches


def test_a_cluster_of_refused_events_is_given_up_bit_by_bit_and_holds_nobody_up_for_good():
    async def picky(batch):
        if any(event.variant == "bad" for event in batch):
            raise BadBatch(code="22")
        return True

    sink = ScriptedSink(always=picky)
    delivery = Delivery({"sink": sink}, QUICK.evolve(batch_size=10, retry_max_seconds=0.02))
    bad, good = list(plain_events(150, variant="bad")), list(plain_events(200))
    for event in [*bad, *good]:
        delivery.record_nowait(event)
    delivery.flush_sync(30.0)
    stats = delivery.stats().sinks["sink"]
    assert (stats.delivered, stats.dead, stats.pending) == (200, 150, 0)
    assert set(sink.stored) == {event.event_id for event in good}
    delivery.close_sync()


@pytest.mark.parametrize("first", [1, 46, 99])
def test_a_batch_is_written_as_soon_as_its_last_event_is_there(first):
    sink = ScriptedSink()
    delivery = Delivery({"sink": sink}, DeliveryOptions(flush_interval_seconds=60.0, batch_size=100))
    cursor = delivery._engine.accounts.sinks["sink"].cursor
    for event in plain_events(first):
        delivery.record_nowait(event)
    assert wait_until(lambda: cursor.wake_at == 100)  # the worker has seen these, and waits for more
    for event in plain_events(100 - first):
        delivery.record_nowait(event)
    assert wait_until(lambda: len(sink.stored) == 100)
    delivery.close_sync()


def test_a_backend_that_refuses_everything_is_asked_ever_more_rarely():
    sink = ScriptedSink(always=BadBatch(code="42"))
    options = DeliveryOptions(flush_interval_seconds=60.0, batch_size=100, retry_initial_seconds=0.01)
    delivery = Delivery({"sink": sink}, options)
    for event in plain_events(100):
        delivery.record_nowait(event)
    machine = next(iter(delivery._engine.accounts.sinks.values())).machine
    assert wait_until(lambda: machine._restarts >= 5 and machine.backoff.failures >= 5)
    assert delivery.stats().sinks["sink"].dead == 0
    delivery.close_sync(0.0)


def test_a_batch_that_is_too_slow_to_be_written_in_time_is_made_smaller():
    async def slow(batch):
        await asyncio.sleep(0.004 * len(batch))
        return True

    sink = ScriptedSink(always=slow)
    delivery = Delivery({"sink": sink}, QUICK.evolve(batch_size=100, attempt_timeout_seconds=0.2))
    for event in plain_events(100):
        delivery.record_nowait(event)
    assert delivery.flush_sync(30.0)
    assert delivery.stats().sinks["sink"].dead == 0
    delivery.close_sync()


# --- spool


def spooling(directory):
    return QUICK.evolve(durability="spool", spool_directory=directory, flush_interval_seconds=30.0)


def leave_behind(directory, sinks=("sink",)):
    down = {name: ScriptedSink(always=SinkUnavailable()) for name in sinks}
    first = Delivery(down, spooling(directory))
    for event in plain_events(10):
        first.record_nowait(event)
    assert first.persist()
    assert first.close_sync(0.05).spooled == 10 * len(sinks)


def test_a_flush_covers_what_the_start_takes_over_from_earlier_processes(tmp_path):
    leave_behind(tmp_path)
    sink = ScriptedSink()
    second = Delivery({"sink": sink}, spooling(tmp_path))
    assert second.flush_sync(10.0)
    assert len(sink.stored) == 10
    second.close_sync()


def test_a_flush_covers_what_a_delivery_left_whose_disk_is_still_busy_closing_it(tmp_path, monkeypatch):
    disk_is_done = threading.Event()
    close = Spool.close

    def slowly(spool):
        assert disk_is_done.wait(10.0)
        close(spool)

    monkeypatch.setattr(Spool, "close", slowly)
    leave_behind(tmp_path)
    sink = ScriptedSink()
    second = Delivery({"sink": sink}, spooling(tmp_path))
    threading.Timer(0.1, disk_is_done.set).start()
    assert second.flush_sync(10.0)
    assert len(sink.stored) == 10
    second.close_sync()


def test_what_was_spooled_is_found_after_the_configuration_has_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    leave_behind(None)
    sink, new = ScriptedSink(), ScriptedSink()
    second = Delivery({"sink": sink, "new": new}, spooling(None))
    assert second.flush_sync(10.0)
    assert (len(sink.stored), len(new.stored)) == (10, 0)
    second.close_sync()


@pytest.mark.skipif(sys.platform == "win32", reason="a file in use cannot be deleted there")
def test_a_spool_that_is_deleted_while_in_use_loses_nothing(tmp_path):
    sink = ScriptedSink(always=SinkUnavailable())
    delivery = Delivery({"sink": sink}, spooling(tmp_path / "spool"))
    first, second = plain_events(2)
    delivery.record_nowait(first)
    assert delivery.persist()
    shutil.rmtree(tmp_path / "spool")
    delivery.record_nowait(second)
    assert delivery.persist()  # the first event is written anew as well
    assert list((tmp_path / "spool").glob("*.spool"))
    sink.always = None
    assert delivery.flush_sync(10.0)
    assert set(sink.stored) == {first.event_id, second.event_id}
    delivery.close_sync()
