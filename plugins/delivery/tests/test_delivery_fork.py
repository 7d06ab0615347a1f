"""After a fork the child is new: no inherited events, no deadlock, ids of its own; the parent goes on as it was."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from flag_analytics.errors import SinkUnavailable
from flag_analytics.events import new_event_id
from flag_analytics.processes import ForkBarrier
from flag_analytics.reports import DeliveryOptions
from flag_analytics.testing.faults import ScriptedSink
from flag_analytics.testing.samples import plain_event, plain_events
from flag_analytics_delivery import Delivery

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    # CPython 3.12 and newer warn of what is tested here.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

QUICK = DeliveryOptions(flush_interval_seconds=0.01, retry_initial_seconds=0.01, retry_max_seconds=0.05)


CHILD_SECONDS = 10.0


def in_child(work):
    """Run something in a forked child; return the bytes it returns, or fail if it takes longer than 10 seconds."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.write(writing, work() or b"")
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    # Killed from outside: a child can hang before its first line, in what runs after a fork.
    killer = threading.Timer(CHILD_SECONDS, os.kill, [pid, signal.SIGKILL])
    killer.start()
    with os.fdopen(reading, "rb") as pipe:
        result = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    killer.cancel()
    assert code == 0
    return result


def deliver_in_child(delivery, sink, events):
    def work():
        before = delivery.stats()
        for event in plain_events(events):
            delivery.record_nowait(event)
        complete = delivery.flush_sync(3.0).complete
        return repr((before.recorded, before.sinks["sink"].pending, complete, len(sink.stored))).encode()

    return in_child(work)


def test_a_child_starts_empty_and_delivers_its_own_events_alone():
    sink = ScriptedSink(always=SinkUnavailable())
    delivery = Delivery({"sink": sink}, QUICK)
    for event in plain_events(20):
        delivery.record_nowait(event)

    def healthy_in_child():
        sink.always = None
        sink.stored.clear()
        return b""

    pid_of_parent = os.getpid()

    def work():
        healthy_in_child()
        assert os.getpid() != pid_of_parent
        before = delivery.stats()
        for event in plain_events(7):
            delivery.record_nowait(event)
        complete = delivery.flush_sync(3.0).complete
        return repr((before.recorded, before.sinks["sink"].pending, complete, len(sink.stored))).encode()

    assert in_child(work) == repr((0, 0, True, 7)).encode()
    sink.always = None
    assert delivery.flush_sync(10.0)
    assert len(sink.stored) == 20
    assert sink.repeated == 0
    delivery.close_sync()


@pytest.mark.parametrize("durability", ["memory", "spool"])
def test_a_child_never_waits_for_a_lock_that_another_thread_held(durability, tmp_path):
    sink = ScriptedSink()
    delivery = Delivery({"sink": sink}, QUICK.evolve(durability=durability, spool_directory=tmp_path))
    delivery.record_nowait(plain_event())
    engine = delivery._engine
    held, go_on = threading.Event(), threading.Event()
    locks = [engine.lock, engine.settings.freezer._lock]
    if engine.spool is not None:
        assert delivery.persist()
        locks.append(engine.spool._sync_lock)

    def hold(lock):
        with lock:
            held.set()
            go_on.wait(10.0)

    for lock in locks * 5:
        held.clear()
        go_on.clear()
        thread = threading.Thread(target=hold, args=[lock])
        thread.start()
        held.wait(10.0)
        ok = in_child(lambda: repr(bool(delivery.record_nowait(plain_event()) and delivery.flush_sync(3.0))).encode())
        go_on.set()
        thread.join()
        assert ok == b"True"
    assert delivery.flush_sync(5.0)
    delivery.close_sync()


def test_forks_under_traffic_lose_and_repeat_nothing_in_the_parent():
    sink = ScriptedSink()
    delivery = Delivery({"sink": sink}, QUICK)
    stop = threading.Event()
    recorded = []

    def traffic():
        while not stop.wait(0.0005):
            event = plain_event()
            if delivery.record_nowait(event):
                recorded.append(event.event_id)

    thread = threading.Thread(target=traffic)
    thread.start()
    try:
        for _ in range(30):
            assert deliver_in_child(delivery, sink, 3).startswith(b"(0, 0, True")
    finally:
        stop.set()
        thread.join()
    assert delivery.flush_sync(10.0)
    assert list(sink.stored) == recorded
    assert sink.repeated == 0
    delivery.close_sync()


def test_ids_of_parent_and_children_are_distinct():
    ids = []
    for _ in range(16):
        ids += in_child(lambda: "\n".join(new_event_id() for _ in range(500)).encode()).decode().split("\n")
    ids += [new_event_id() for _ in range(500)]
    assert len(set(ids)) == len(ids) == 17 * 500


def test_a_fork_while_the_spool_works_deadlocks_no_child(tmp_path):
    sink = ScriptedSink()
    options = QUICK.evolve(durability="spool", spool_directory=tmp_path, spool_interval_seconds=0.001)
    delivery = Delivery({"sink": sink}, options)
    stop = threading.Event()

    def traffic():
        while not stop.wait(0.0002):
            delivery.record_nowait(plain_event())

    thread = threading.Thread(target=traffic)
    thread.start()
    try:
        for _ in range(30):
            assert deliver_in_child(delivery, sink, 3).startswith(b"(0, 0, True")
    finally:
        stop.set()
        thread.join()
    assert delivery.flush_sync(10.0)
    assert delivery.stats().balanced()
    delivery.close_sync()


def test_two_forks_at_once_let_everybody_in_again():
    barrier = ForkBarrier()
    soon = time.monotonic() + 0.05
    barrier.before_fork(soon)
    second = threading.Thread(target=lambda: (barrier.before_fork(soon), barrier.after_fork_in_parent()))
    second.start()
    second.join()
    barrier.after_fork_in_parent()
    assert in_another_thread(lambda: enter(barrier))


def test_a_fork_waits_a_moment_for_what_uses_sqlite():
    barrier = ForkBarrier()
    inside, leave = threading.Event(), threading.Event()

    def use():
        with barrier:
            inside.set()
            leave.wait(10.0)

    user = threading.Thread(target=use)
    user.start()
    inside.wait(10.0)
    barrier.before_fork(time.monotonic() + 0.05)  # in vain
    barrier.after_fork_in_parent()
    leave.set()
    user.join()
    assert in_another_thread(lambda: enter(barrier))


def enter(barrier):
    with barrier, barrier:
        return True


def in_another_thread(work):
    results = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    return results[0]


def test_a_closed_delivery_stays_closed_in_a_child():
    delivery = Delivery({"sink": ScriptedSink()}, QUICK)
    delivery.record_nowait(plain_event())
    delivery.close_sync()
    assert in_child(lambda: repr(bool(delivery.record_nowait(plain_event()))).encode()) == b"False"


def test_workers_forked_from_a_loaded_parent_deliver_each_event_once(tmp_path):
    """The shape of ``gunicorn --preload``: the parent records, four workers fork, all record, the workers exit."""
    path = tmp_path / "stored"

    class File:
        async def write(self, batch):
            with path.open("a") as file:
                file.write("".join(f"{event.event_id}\n" for event in batch))

        async def close(self):
            pass

    delivery = Delivery({"file": File()}, QUICK)
    ids = []
    for event in plain_events(50):
        delivery.record_nowait(event)
        ids.append(event.event_id)
    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            signal.alarm(10)
            mine = list(plain_events(50))
            for event in mine:
                delivery.record_nowait(event)
            (tmp_path / f"ids-{os.getpid()}").write_text("\n".join(event.event_id for event in mine))
            os._exit(0 if delivery.close_sync(5.0) else 1)
        children.append(pid)
    for pid in children:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert delivery.close_sync(5.0)
    for file in tmp_path.glob("ids-*"):
        ids += file.read_text().split()
    stored = path.read_text().split()
    assert len(stored) == 250
    assert sorted(stored) == sorted(ids)


@pytest.mark.chaos
def test_two_hundred_forks_under_traffic():
    for _ in range(7):
        test_forks_under_traffic_lose_and_repeat_nothing_in_the_parent()
