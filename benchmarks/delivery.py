"""What the delivery engine costs its caller, how much it carries, and what an outage costs in memory.

``FLAG_ANALYTICS_BENCH_FULL=1`` lets the outage last 60 seconds instead of 10.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import repeat
from pathlib import Path

from flag_analytics import FlagEvaluationEvent
from flag_analytics.freezer import Freezer
from flag_analytics.protocols import Batch
from flag_analytics.reports import DeliveryOptions
from flag_analytics.testing.samples import plain_event
from flag_analytics_delivery import Delivery
from flag_analytics_delivery.spool import Spool

from ._harness import Contender, Figure, Limit, Table, Timed, calls, compare, installed, judge
from ._samples import EVENT
from .core import queueing_peers

_BATCH = 500
_SUSTAINED = 50_000
"""As many as a sink's queue holds by default, and enough for the workers to take their share of the interpreter."""
_BURST = 5_000
_TRAFFIC_SECONDS = 2e-6
"""Between two events of a caller that does nothing but record."""
_OUTAGE_SECONDS = 60 if os.environ.get("FLAG_ANALYTICS_BENCH_FULL") == "1" else 10


logging.getLogger("flag_analytics.delivery").setLevel(logging.ERROR)
"""Slow sinks are cut short at the end of a benchmark, as they were asked to be: nothing to tell."""


class _Sink:
    """Stores a batch in no time, or takes so many seconds for each event of it."""

    def __init__(self, seconds_per_event: float = 0.0) -> None:
        self._seconds_per_event = seconds_per_event

    async def write(self, batch: Batch) -> None:
        if self._seconds_per_event:
            await asyncio.sleep(self._seconds_per_event * len(batch))

    async def close(self) -> None:
        pass


class _Down(_Sink):
    async def write(self, _: Batch) -> None:
        raise ConnectionRefusedError


def _slow() -> _Sink:
    return _Sink(100 * _TRAFFIC_SECONDS)


# --- the caller's cost


def record() -> Table:
    """Time one event's way into the queues of up to four sinks, beside two peers' ways into the one queue they have."""
    one, four = "flag-analytics, 1 slow sink", "flag-analytics, 4 sinks, 2 of them slow"
    peers, absent = queueing_peers()
    contenders = [
        Contender(four, _recorded([_Sink(), _slow(), _Sink(), _slow()]), most=_SUSTAINED),
        Contender(one, _recorded([_slow()]), most=_SUSTAINED),
        Contender("flag-analytics, 1 sink", _recorded([_Sink()]), most=_SUSTAINED),
        Contender("… of which the canonical form of the event", _frozen(), most=_SUSTAINED),
        Contender("a lock and a deque.append", _locked_append(), most=_SUSTAINED),
        *peers,
    ]
    single = _single_calls()
    figures = [
        Figure("4 sinks, 2 of them slow, single calls: median", statistics.median(single) / 1_000, "us"),
        Figure("4 sinks, 2 of them slow, single calls: p99", _p99(single) / 1_000, "us", at_most=50.0),
    ]
    return compare(
        "record_nowait while sinks are 100 times slower than the traffic",
        contenders,
        limits=[
            Limit(four, at_most=0.8, times="LaunchDarkly send_event"),
            Limit(four, at_most=0.1, times="PostHog capture"),
            Limit(four, at_most=1.1, times=one),
        ],
        figures=figures,
        notes=[
            "a slow sink takes 0.2 ms for each event, so that its queue is full most of the time",
            *absent,
        ],
    )


def _delivery(sinks: Iterable[_Sink], **options: object) -> Delivery:
    named = {f"sink_{number}": sink for number, sink in enumerate(sinks)}
    return Delivery(named, DeliveryOptions(batch_size=_BATCH).evolve(**options))


def _recorded(sinks: Sequence[_Sink]) -> Timed:
    return calls(_delivery(sinks).record_nowait, EVENT)


def _frozen() -> Timed:
    return calls(Freezer().freeze, EVENT)


def _locked_append() -> Timed:
    lock, queue = threading.RLock(), deque[object](maxlen=_SUSTAINED)

    def append(event: object) -> None:
        with lock:
            queue.append(event)

    return calls(append, EVENT)


def _single_calls(count: int = 100_000) -> list[int]:
    delivery = _delivery([_Sink(), _slow(), _Sink(), _slow()])
    record_nowait = delivery.record_nowait
    clock = time.perf_counter_ns
    took = []
    for _ in range(count):
        started = clock()
        record_nowait(EVENT)
        took.append(clock() - started)
    delivery.close_sync(0.1)
    return took


# --- what it carries


def throughput() -> Table:
    """Time an event from ``record_nowait`` until it is delivered, in batches of 500, to a sink that does nothing."""
    contenders = [
        Contender("flag-analytics, record until delivered", _delivered(), most=_SUSTAINED),
        Contender("… of which the canonical form of the event", _frozen(), most=_SUSTAINED),
    ]
    if installed("opentelemetry.sdk"):
        contenders.append(Contender("OpenTelemetry BatchLogRecordProcessor, emit until flushed", _otel_logs()))
    table = compare(
        "Engine throughput, batches of 500",
        contenders,
        limits=[Limit(contenders[0].name, at_most=1e9 / 500_000)],
    )
    per_second = Figure("flag-analytics", 1e9 / table.rows[0].ns, "events/s")
    return Table(table.title, table.rows, [per_second], table.verdicts, table.notes)


def _delivered() -> Timed:
    delivery = _delivery([_Sink()])

    def timed(operations: int) -> int:
        started = time.perf_counter_ns()
        for _ in repeat(None, operations):
            delivery.record_nowait(EVENT)
        report = delivery.flush_sync()
        took = time.perf_counter_ns() - started
        assert report, report
        return took

    return timed


def _otel_logs() -> Timed:
    from opentelemetry._logs import LogRecord
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter, LogRecordExportResult

    class Nothing(LogRecordExporter):
        def export(self, batch: object) -> LogRecordExportResult:  # noqa: ARG002 - the interface
            return LogRecordExportResult.SUCCESS

        def force_flush(self, timeout_millis: int = 0) -> bool:  # noqa: ARG002 - the interface
            return True

        def shutdown(self) -> None:
            pass

    provider = LoggerProvider()
    provider.add_log_record_processor(
        BatchLogRecordProcessor(Nothing(), max_queue_size=_SUSTAINED, max_export_batch_size=_BATCH)
    )
    logger = provider.get_logger("benchmark")
    attributes = {
        "feature_flag.key": "checkout_redesign",
        "feature_flag.result.variant": "treatment_a",
        "feature_flag.result.reason": "targeting_match",
        "feature_flag.context.id": "user-12345",
    }

    def timed(operations: int) -> int:
        started = time.perf_counter_ns()
        for _ in range(operations):
            logger.emit(
                LogRecord(timestamp=time.time_ns(), event_name="feature_flag.evaluation", attributes=attributes)
            )
        provider.force_flush()
        return time.perf_counter_ns() - started

    return timed


def spool() -> Table:
    """Time what it takes to make events durable: batches into the spool's file, and from ``record_nowait`` on."""
    with tempfile.TemporaryDirectory(prefix="flag-analytics-bench-") as directory:
        contenders = [
            Contender("raw sqlite3.executemany of ready-made lines", _raw_lines(Path(directory)), most=_SUSTAINED),
            Contender("flag-analytics, spool, batches of 500", _spooled(Path(directory)), most=_SUSTAINED),
            Contender("flag-analytics, record until durable", _durable(Path(directory)), most=_SUSTAINED // 2),
        ]
        table = compare("Spool", contenders, limits=[Limit(contenders[1].name, at_most=1e9 / 100_000)])
    figures = [Figure(row.name, 1e9 / row.ns, "events/s") for row in table.rows]
    return Table(table.title, table.rows, figures, table.verdicts, table.notes)


def _raw_lines(directory: Path) -> Timed:
    import sqlite3

    from flag_analytics.frozen import encode_event

    connection = sqlite3.connect(directory / "raw.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL)")
    line = (encode_event(Freezer().freeze(EVENT)),)

    def timed(operations: int) -> int:
        rows = [line] * operations
        started = time.perf_counter_ns()
        for at in range(0, operations, _BATCH):
            connection.execute("BEGIN")
            connection.executemany("INSERT INTO events (body) VALUES (?)", rows[at : at + _BATCH])
            connection.execute("COMMIT")
        took = time.perf_counter_ns() - started
        connection.execute("DELETE FROM events")
        return took

    return timed


def _spooled(directory: Path) -> Timed:
    spool = Spool.create(directory, {"sink": 0}, max_bytes=2**28, fsync="normal")
    batch = tuple(repeat(Freezer().freeze(EVENT), _BATCH))
    end = 0

    def timed(operations: int) -> int:
        nonlocal end
        started = time.perf_counter_ns()
        for at in range(0, operations, _BATCH):
            some = batch[: operations - at]
            spool.append(end, some)
            end += len(some)
        took = time.perf_counter_ns() - started
        spool.acknowledge({"sink": end})
        return took

    return timed


def _durable(directory: Path) -> Timed:
    """Return what times ``record_nowait`` and ``persist``; delivery from the spool to the sink goes on meanwhile."""
    delivery = _delivery([_Sink()], durability="spool", spool_directory=directory / "spools")

    def timed(operations: int) -> int:
        count = max(operations, 10 * _BATCH)  # a commit for a few events would be another figure
        started = time.perf_counter_ns()
        for _ in range(count):
            delivery.record_nowait(EVENT)
        assert delivery.persist()
        took = time.perf_counter_ns() - started
        assert delivery.flush_sync()
        return took * operations // count

    return timed


# --- the host


def lag() -> Table:
    """Measure how late the host's event loop is while it records 20,000 events/s for a sink that is too slow."""
    figures = [*asyncio.run(_lag("idle loop", None))]
    figures += asyncio.run(_lag("20,000 events/s to a slow sink", [_slow()]))
    figures += asyncio.run(_lag("20,000 events/s to 4 sinks, 2 of them slow", [_Sink(), _slow(), _Sink(), _slow()]))
    return Table("Lag of the host's event loop", (), figures, judge(figures))


async def _lag(name: str, sinks: Sequence[_Sink] | None, seconds: float = 5.0) -> list[Figure]:
    """Return the lag of 1 ms sleeps in a loop that records 20 events after each."""
    delivery = None if sinks is None else _delivery(sinks)
    lags: list[float] = []
    recorded = 0
    started = time.perf_counter()
    while (now := time.perf_counter()) < started + seconds:
        await asyncio.sleep(0.001)
        woken = time.perf_counter()
        lags.append((woken - now - 0.001) * 1_000)
        due = int((woken - started) * 20_000)
        if delivery is not None:
            for _ in range(due - recorded):
                delivery.record_nowait(EVENT)
        recorded = due
    if delivery is not None:
        await delivery.close(0.1)
    return [
        Figure(f"{name}: lag p99", _p99(lags), "ms", at_most=None if delivery is None else 10.0),
        Figure(f"{name}: lag worst", max(lags), "ms"),
    ]


def outage() -> Table:
    """Measure how far the process grows while a backend is down and 5,000 events/s go on coming."""
    code = f"from benchmarks.delivery import down; print(down({_OUTAGE_SECONDS}))"
    answer = json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    bound = answer["max_bytes"]
    figures = [
        Figure("configured bound", bound / 2**20, "MiB"),
        Figure("what the queue says it holds", answer["backlog"] / 2**20, "MiB", at_most=bound / 2**20),
        Figure("the process grew by", answer["grown"] / 2**20, "MiB"),
        Figure("… of the bound", answer["grown"] / bound, "x", at_most=1.5),
        Figure("recorded", answer["recorded"], "events"),
        Figure("attempts to write", answer["attempts"], "batches"),
    ]
    return Table(f"Memory with the backend down for {_OUTAGE_SECONDS} s at 5,000 events/s", (), figures, judge(figures))


def down(seconds: float) -> str:
    """Record 5,000 events/s for a sink that refuses connections; return as JSON what that took. Run on its own."""
    delivery = _delivery([_Down()], max_events=10_000_000)
    for _ in range(1_000):
        delivery.record_nowait(_new_event(0))
    gc.collect()
    before, started, recorded = _resident(), time.monotonic(), 0
    while (passed := time.monotonic() - started) < seconds:
        for _ in range(int(passed * 5_000) - recorded):
            delivery.record_nowait(_new_event(recorded))
            recorded += 1
        time.sleep(0.005)
    stats = delivery.stats()
    sink = stats.sinks["sink_0"]
    grown = _resident() - before
    assert stats.balanced(), stats
    delivery.close_sync(0.1)
    answer = {
        "max_bytes": DeliveryOptions().max_bytes,
        "backlog": sink.backlog_bytes,
        "grown": grown,
        "recorded": recorded,
        "attempts": sink.attempts,
    }
    return json.dumps(answer)


def _new_event(number: int) -> FlagEvaluationEvent:
    """Return an event whose text and context are its own, as those of an application are."""
    return plain_event(
        number,
        flag_key="checkout_redesign",
        value=True,
        context_attributes={"plan": "premium", "country": "GB", "session": f"session-{number}", "cart": number},
    )


def _resident() -> int:
    """Return the memory of this process in bytes, where the system says it."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if status.exists() else 0


def _p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[-1]


BENCHMARKS = (record, throughput, spool, lag, outage)
