"""Signals, ends of the stack, forks and callers' mistakes in the middle of anything: nothing hangs, all is counted."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from flag_analytics.errors import BadBatch, SinkUnavailable
from flag_analytics.freezer import Freezer
from flag_analytics.processes import MOST_THREADS, DaemonExecutor
from flag_analytics.protocols import RecordResult
from flag_analytics.reports import DeliveryOptions
from flag_analytics.testing.faults import ScriptedSink, wait_until
from flag_analytics.testing.samples import plain_event, plain_events
from flag_analytics_delivery import Delivery
from flag_analytics_delivery.spool import Spool, SpoolFullError

QUICK = DeliveryOptions(flush_interval_seconds=60.0, retry_initial_seconds=0.01, retry_max_seconds=0.05)
posix = pytest.mark.skipif(sys.platform == "win32", reason="interval timers and fork")


class Interruption(Exception):  # noqa: N818 - it is no error
    pass


class Alarm:
    """Does something every so many seconds while the block lasts, in the middle of the delivery engine."""

    def __init__(self, action, seconds=0.0003):
        self.action, self.seconds = action, seconds

    def __enter__(self):
        self.before = signal.signal(signal.SIGALRM, self._handle)
        signal.setitimer(signal.ITIMER_REAL, self.seconds, self.seconds)

    def _handle(self, _, frame):
        if Path(frame.f_code.co_filename).name in {"log.py", "accounts.py", "engine.py", "retry.py"}:
            self.action()

    def __exit__(self, *_):
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)


def spooling(directory, **options):
    return QUICK.evolve(durability="spool", spool_directory=directory, spool_interval_seconds=0.002, **options)


@posix
@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest", "block"])
def test_whatever_a_signal_handler_raises_into_record_each_sinks_ledger_balances(policy):
    def interrupt():
        raise Interruption

    sinks = {"one": ScriptedSink(), "two": ScriptedSink()}
    options = QUICK.evolve(batch_size=8, max_events=100, policy=policy, block_timeout_seconds=0.01)
    delivery = Delivery(sinks, options)
    event, outcomes, raised = plain_event(), [], 0
    outcomes.append(delivery.record_nowait(event))
    assert delivery.flush_sync(10.0)  # both workers run
    ends = time.monotonic() + 0.7
    with Alarm(interrupt):
        while time.monotonic() < ends:
            try:
                outcomes.append(delivery.record_nowait(event))
            except Interruption:
                raised += 1
    assert delivery.flush_sync(10.0) is not None
    stats = delivery.stats()
    assert stats.balanced(), stats
    assert raised
    assert outcomes.count(RecordResult.ACCEPTED) <= stats.accepted <= outcomes.count(RecordResult.ACCEPTED) + raised
    for sink in stats.sinks.values():
        assert sink.pending == 0
        assert sink.backlog_bytes == 0
    delivery.close_sync()


@posix
@pytest.mark.parametrize("durability", ["memory", "spool"])
def test_a_signal_handler_that_records_wakes_no_lock_that_its_thread_holds(tmp_path, durability):
    options = spooling(tmp_path) if durability == "spool" else QUICK
    delivery = Delivery({"sink": ScriptedSink()}, options)
    nested = []
    event = plain_event()
    count = 0
    with Alarm(lambda: nested.append(delivery.record_nowait(event))):
        ends = time.monotonic() + 0.7
        while time.monotonic() < ends:
            delivery.record_nowait(event)
            count += 1
    assert delivery.flush_sync(10.0)
    assert delivery.stats().recorded == count + len(nested)
    delivery.close_sync()


@posix
def test_a_caller_that_is_held_lets_no_signal_handler_wait_inside_the_queue():
    sink = ScriptedSink()
    options = QUICK.evolve(batch_size=5, max_events=20, policy="block", block_timeout_seconds=0.2)
    delivery = Delivery({"sink": sink}, options)
    event = plain_event()
    nested = []
    with Alarm(lambda: nested.append(delivery.record_nowait(event))):
        ends = time.monotonic() + 0.7
        outcomes = []
        while time.monotonic() < ends:
            outcomes.append(delivery.record_nowait(event))
    delivery.flush_sync(10.0)
    stats = delivery.stats()
    assert stats.balanced(), stats
    assert stats.recorded == len(outcomes) + len(nested)
    assert stats.sinks["sink"].backlog_bytes == 0
    delivery.close_sync()


def test_near_the_end_of_the_stack_an_event_is_taken_or_counted_and_never_half_taken():
    delivery = Delivery({"one": ScriptedSink(), "two": ScriptedSink()}, QUICK.evolve(batch_size=10))
    outcomes = []

    def dive(depth):
        if depth:
            return dive(depth - 1)
        outcomes.append(delivery.record_nowait(plain_event()))
        return None

    limit = sys.getrecursionlimit()
    for depth in [*range(limit - 150, limit)] * 5:
        try:
            dive(depth)
        except RecursionError:
            continue  # there was no room for the test itself
    assert outcomes.count(RecordResult.ACCEPTED) > 20
    assert delivery.flush_sync(10.0)
    stats = delivery.stats()
    assert stats.balanced(), stats
    assert stats.sinks["one"].delivered == stats.sinks["two"].delivered == stats.accepted
    delivery.close_sync()


# --- spools


@posix
def test_a_forked_child_that_recorded_nothing_has_flushed_everything(tmp_path):
    delivery = Delivery({"sink": ScriptedSink()}, spooling(tmp_path))
    delivery.record_nowait(plain_event())
    assert delivery.flush_sync(10.0)
    pid = os.fork()
    if not pid:
        started = time.monotonic()
        well = bool(delivery.flush_sync(5.0)) and time.monotonic() - started < 4.0
        os._exit(0 if well else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    delivery.close_sync()


def leave_a_spool(directory, events=3):
    spool = Spool.create(directory, {"sink": 0}, max_bytes=2**26, fsync="normal")
    spool.append(0, [Freezer().freeze(event) for event in plain_events(events)])
    spool.close()
    return spool.path


def test_events_become_durable_while_what_gone_processes_left_is_looked_at(tmp_path, monkeypatch):
    leave_a_spool(tmp_path)
    looking, go_on = threading.Event(), threading.Event()
    init = Spool.__init__

    def slowly(self, path, *args, **kwargs):
        if kwargs.get("patient") is False:
            looking.set()
            go_on.wait(10.0)
        init(self, path, *args, **kwargs)

    monkeypatch.setattr(Spool, "__init__", slowly)
    sink = ScriptedSink(always=SinkUnavailable())
    delivery = Delivery({"sink": sink}, spooling(tmp_path))
    assert looking.wait(10.0)
    delivery.record_nowait(plain_event(7))
    assert delivery.persist()
    go_on.set()
    sink.always = None
    assert delivery.flush_sync(10.0)
    assert len(sink.stored) == 4
    delivery.close_sync()


def test_a_spool_that_is_taken_over_while_the_delivery_closes_is_left_to_the_next_one(tmp_path, monkeypatch):
    leave_a_spool(tmp_path)
    looking, go_on, done = threading.Event(), threading.Event(), threading.Event()
    init = Spool.__init__

    def slowly(self, path, *args, **kwargs):
        init(self, path, *args, **kwargs)
        if kwargs.get("patient") is False and not done.is_set():
            looking.set()
            go_on.wait(10.0)
            done.set()

    monkeypatch.setattr(Spool, "__init__", slowly)
    first = Delivery({"sink": ScriptedSink()}, spooling(tmp_path))
    assert looking.wait(10.0)
    report = first.close_sync(0.0)
    go_on.set()
    assert report.spooled == 0
    assert wait_until(lambda: not first._engine.accounts.adopting)
    assert first.stats().sinks["sink"].recovered == 0
    sink = ScriptedSink()
    second = Delivery({"sink": sink}, spooling(tmp_path))
    assert second.flush_sync(10.0)
    assert len(sink.stored) == 3
    second.close_sync()


def test_a_spool_that_another_program_has_open_holds_nobody_up(tmp_path):
    path = leave_a_spool(tmp_path)
    other = sqlite3.connect(path)
    other.execute("BEGIN IMMEDIATE")
    delivery = Delivery({"sink": ScriptedSink(always=SinkUnavailable())}, spooling(tmp_path))
    delivery.record_nowait(plain_event(5))
    assert delivery.persist()
    other.rollback()
    other.close()
    delivery.close_sync(0.01)


@posix
def test_a_file_that_is_deleted_is_written_anew(tmp_path):
    delivery = Delivery({"sink": ScriptedSink(always=SinkUnavailable())}, spooling(tmp_path / "spool"))
    for event in plain_events(700):
        delivery.record_nowait(event)
    assert delivery.persist()
    assert wait_until(lambda: delivery.stats().sinks["sink"].in_flight == 500)
    for path in (tmp_path / "spool").iterdir():
        path.unlink()
    assert delivery.persist()
    report = delivery.close_sync(0.05)
    assert (report.spooled, report.dropped) == (700, {})
    sink = ScriptedSink()
    second = Delivery({"sink": sink}, spooling(tmp_path / "spool"))
    assert second.flush_sync(10.0)
    assert len(sink.stored) == 700
    second.close_sync()


def test_a_reader_that_never_ends_does_not_let_the_log_grow_without_bound(tmp_path, monkeypatch):
    monkeypatch.setattr("flag_analytics_delivery.spool.LEAST_LOG_BYTES", 2**20)
    delivery = Delivery({"sink": ScriptedSink()}, spooling(tmp_path, spool_max_bytes=2**20))
    delivery.record_nowait(plain_event())
    assert delivery.persist()
    (path,) = tmp_path.glob("*.spool")
    reader = sqlite3.connect(path)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM events").fetchall()
    for event in plain_events(6_000, context_attributes={"text": "x" * 3_000}):
        delivery.record_nowait(event)
        if event.evaluation_duration_ms % 100 < 1:
            delivery.flush_sync(10.0)
    assert path.with_name(f"{path.name}-wal").stat().st_size < 4 * 2**20
    assert delivery.stats().balanced()
    reader.close()
    delivery.close_sync()


def test_a_directory_that_is_relative_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    delivery = Delivery({"sink": ScriptedSink(always=SinkUnavailable())}, spooling("spool"))
    delivery.record_nowait(plain_event(1))
    assert delivery.persist()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    delivery.record_nowait(plain_event(2))
    assert delivery.persist()
    assert delivery.close_sync(0.01).spooled == 2
    assert len(list((tmp_path / "spool").glob("*.spool"))) == 1
    sink = ScriptedSink()
    with_all = Delivery({"sink": sink}, spooling(tmp_path / "spool"))
    assert with_all.flush_sync(10.0)
    assert len(sink.stored) == 2
    with_all.close_sync()


@pytest.mark.parametrize("error", [SystemExit, asyncio.CancelledError, RuntimeError])
def test_a_handler_of_dead_letters_that_raises_anything_repeats_no_batch(tmp_path, error):
    async def refuse_bad(batch):
        if any(event.variant == "bad" for event in batch):
            raise BadBatch(code="22001")
        return True

    def raise_it(*_):
        raise error

    sink = ScriptedSink(always=refuse_bad)
    delivery = Delivery({"sink": sink}, spooling(tmp_path, batch_size=10), on_dead_letters=raise_it)
    for number in range(40):
        delivery.record_nowait(plain_event(number, variant="bad" if number % 10 == 5 else "good"))
    delivery.flush_sync(10.0)
    stats = delivery.stats()
    assert (stats.sinks["sink"].delivered, stats.sinks["sink"].dead) == (36, 4)
    assert (len(sink.stored), sink.repeated) == (36, 0)
    delivery.close_sync()


# --- bounds and deadlines


def test_drop_oldest_gives_up_nothing_for_an_event_that_finds_no_room_anyway():
    size = Freezer().freeze(plain_event(0)).size
    options = QUICK.evolve(
        policy="drop_oldest",
        max_bytes=100 * size,
        batch_size=40,
        flush_interval_seconds=60.0,
        attempt_timeout_seconds=60.0,
    )
    sink = ScriptedSink(always=lambda batch: asyncio.sleep(60.0))
    delivery = Delivery({"sink": sink}, options)
    for number in range(60):
        delivery.record_nowait(plain_event(number % 10))
    assert sink.wait_for(lambda: sink.writes)
    for number in range(30):
        delivery.record_nowait(plain_event(number % 10))
    delivery.record_nowait(plain_event(1, context_attributes={"blob": "x" * (65 * size)}))
    stats = delivery.stats().sinks["sink"]
    assert (stats.queued, stats.in_flight, stats.dropped) == (50, 40, {"overflow": 1})
    delivery.close_sync(0.01)


def test_dead_letters_in_memory_are_bounded_in_bytes():
    sink = ScriptedSink(always=BadBatch(code="22001"))
    delivery = Delivery({"sink": sink}, QUICK.evolve(batch_size=1))
    for event in plain_events(400, context_attributes={"text": "x" * 60_000}):
        delivery.record_nowait(event)
        delivery.flush_sync(10.0)
    letters = delivery.dead_letters()
    assert delivery.stats().sinks["sink"].dead == 400
    assert 50 < len(letters) < 200
    assert sum(letter.event.size for letter in letters) <= 8 * 2**20
    delivery.close_sync()


@pytest.mark.parametrize("trace", [5, "\ud800", "x" * 1_000_000, None, b"00-ab"])
def test_a_trace_context_of_another_form_is_none(trace):
    class Tracing(ScriptedSink):
        def traceparent(self):
            return trace

    sink = Tracing()
    delivery = Delivery({"sink": sink}, QUICK)
    delivery.record_nowait(plain_event())
    assert delivery.flush_sync(10.0)
    ((event,),) = sink.writes
    assert event.traceparent is None
    delivery.close_sync()


def test_a_large_context_of_one_list_many_times_is_cut_quickly():
    """Work is bounded as well as size: what stands in fifty places would be gone through fifty times."""
    seen = 0

    class Counted(list):
        def __iter__(self):
            nonlocal seen
            for item in super().__iter__():
                seen += 1
                yield item

    shared = Counted(range(60_000))
    one = Freezer()
    frozen = one.freeze(plain_event(context_attributes={f"name-{number}": shared for number in range(50)}))
    assert len(frozen.context_json) <= 65_536
    assert seen < 500_000
    assert one.changes()["size"]


def test_a_process_ends_while_a_look_up_of_a_name_hangs():
    code = """
        import asyncio, socket, time
        socket.getaddrinfo = lambda *_, **__: time.sleep(60)
        from flag_analytics import Delivery, DeliveryOptions
        from flag_analytics.testing.samples import plain_event

        class Remote:
            async def write(self, batch):
                await asyncio.get_running_loop().getaddrinfo("example.invalid", 80)
            async def close(self):
                pass

        delivery = Delivery({"sink": Remote()}, DeliveryOptions(flush_interval_seconds=0.01))
        delivery.record_nowait(plain_event())
        time.sleep(0.3)
    """
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True, timeout=30)
    assert time.monotonic() - started < 20.0  # the look-up takes 60


def test_many_calls_at_once_take_a_bounded_number_of_threads_and_all_come_to_their_turn():
    executor = DaemonExecutor()
    leave = threading.Event()
    begun = [executor.submit(leave.wait, 30.0) for _ in range(3 * MOST_THREADS)]
    assert sum(thread.name == "flag-analytics-call" for thread in threading.enumerate()) == MOST_THREADS
    leave.set()
    assert all(future.result(10.0) for future in begun)
    with pytest.raises(ValueError, match="invalid literal"):
        executor.submit(int, "x").result(10.0)
    assert wait_until(lambda: executor._running == 0)


def test_settings_without_end_break_nothing(tmp_path):
    options = spooling(tmp_path).evolve(spool_interval_seconds=float("inf"), exit_timeout_seconds=1e300)
    delivery = Delivery({"sink": ScriptedSink()}, options)
    delivery.record_nowait(plain_event())
    assert delivery.persist()
    assert delivery.flush_sync(10.0)
    delivery.close_sync(float("inf"))


def test_a_spool_takes_events_again_once_the_reader_has_gone(tmp_path, monkeypatch):
    monkeypatch.setattr("flag_analytics_delivery.spool.LEAST_LOG_BYTES", 2**20)
    spool = Spool.create(tmp_path, {"sink": 0}, max_bytes=2**20, fsync="normal")
    one = Freezer().freeze(plain_event(context_attributes={"text": "x" * 30_000}))
    spool.append(0, [one])
    reader = sqlite3.connect(spool.path)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM events").fetchall()

    def fill():
        for position in range(1, 101):
            spool.append(position, [one])
            spool.acknowledge({"sink": position + 1})

    with pytest.raises(SpoolFullError):
        fill()
    reader.close()
    spool.append(1_000, [one])
    assert spool.positions()[-1] == (1_000, 1_001)
    spool.close()


def test_a_spools_thread_that_cannot_be_started_is_tried_again_with_the_next_event(tmp_path, monkeypatch):
    start = threading.Thread.start
    refused = iter([True] * 3)

    def starts(self):
        if self.name.startswith("flag-analytics") and next(refused, False):
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", starts)
    sink = ScriptedSink()
    delivery = Delivery({"sink": sink}, spooling(tmp_path).evolve(flush_interval_seconds=0.01))
    for event in plain_events(10):
        delivery.record_nowait(event)
    assert sink.wait_for(lambda: len(sink.stored) == 10)
    delivery.close_sync()


def test_persist_is_about_what_was_recorded_before_it(tmp_path):
    delivery = Delivery({"sink": ScriptedSink(always=SinkUnavailable())}, spooling(tmp_path))
    stop = threading.Event()

    def record():
        while not stop.is_set():
            delivery.record_nowait(plain_event())

    thread = threading.Thread(target=record)
    thread.start()
    try:
        results = [delivery.persist() for _ in range(20)]
    finally:
        stop.set()
        thread.join()
    if not delivery.stats().spool.get("errors") and not delivery.stats().refused:
        assert all(results)
    delivery.close_sync(0.01)
