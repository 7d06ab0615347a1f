"""Ingest into ClickHouse beside its client alone, and what an event takes on the disk.

The engine is that of the tests: chDB behind a small HTTP front, or a server by ``FLAG_ANALYTICS_TEST_CLICKHOUSE``.
``uv sync --group clickhouse`` installs chDB.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from clickhouse_connect.datatypes.registry import get_from_name
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.freezer import Freezer
from flag_analytics.protocols import Batch
from flag_analytics_clickhouse import ClickHouseAnalyticsCollector, ClickHouseOptions, ClickHouseStore
from flag_analytics_clickhouse.connecting import Writing, open_writing
from flag_analytics_clickhouse.rows import as_columns
from flag_analytics_clickhouse.schema import COLUMN_TYPES
from flag_analytics_clickhouse.writing import insert_settings

from ._harness import Contender, Figure, Limit, Table, Timed, compare

_BATCH = 20_000
_FRONT = Path(__file__).parents[1] / "plugins" / "clickhouse" / "tests" / "clickhouse_front.py"
_ALONE = "clickhouse-connect alone, ready-made tuples"
_TYPES = [*COLUMN_TYPES.values()]
_START = datetime(2026, 11, 1, tzinfo=UTC)

_thread = ThreadPoolExecutor(1)
_loop = asyncio.new_event_loop()


def _run(work: Any) -> Any:
    return _thread.submit(_loop.run_until_complete, work).result()


def ingest() -> Table:
    """Time what it takes to store one event, in batches of 20,000, counts and sketches included."""
    with _engine() as url:
        alone = _run(open_writing(ClickHouseOptions(url=url)))
        stores = [ClickHouseStore(ClickHouseOptions(url=url, database=_database())) for _ in range(2)]
        for store in stores:
            _run(store.open())
        collector = _run(ClickHouseAnalyticsCollector.create(url, database=_database(), flush_interval_seconds=600.0))
        _run(collector.event_source.ask("SELECT 1"))
        table = compare(
            "ClickHouse: store one event",
            [
                Contender(_ALONE, _rows_alone(alone, stores[0]), most=_BATCH),
                Contender(
                    "clickhouse-connect alone, ready-made columns", _columns_alone(alone, stores[0]), most=_BATCH
                ),
                Contender("flag-analytics, write of the sink", _sink(stores[1]), most=_BATCH),
                Contender("flag-analytics, record until stored", _collector(collector), most=_BATCH),
            ],
            limits=[Limit("flag-analytics, write of the sink", at_most=1 / 0.7, times=_ALONE)],
            round_ns=10**12,
            notes=["each round is one batch of 20,000 events, into tables with the same views"],
        )
        for opened in (alone, *stores):
            _run(opened.close())
        _run(collector.close())
        return table


def storage() -> Table:
    """Weigh an event, an hourly count and a daily sketch on the disk."""
    with _engine() as url:
        store = ClickHouseStore(ClickHouseOptions(url=url, database=_database()))
        total = 500_000
        for start in range(0, total, _BATCH):
            _run(store.write(Batch(uuid.uuid4().hex, _events(_BATCH, seed=start, days=10))))
        figures = []
        for name, suffix in (("an event", ""), ("an hourly count", "_counts"), ("a daily sketch", "_sketches")):
            _run(store.command(f"OPTIMIZE TABLE {store.tables.local(suffix)} FINAL"))
            ((size, rows),) = _run(
                store.ask(
                    "SELECT sum(bytes_on_disk), sum(rows) FROM system.parts WHERE active "
                    "AND database = {database:String} AND table = {table:String}",
                    {"database": store.tables.database, "table": store.tables.name + suffix},
                )
            )
            figures.append(Figure(f"bytes of {name} ({rows:,} of them)", size / rows, "bytes"))
        _run(store.close())
        return Table("ClickHouse: on the disk", figures=figures)


BENCHMARKS = (ingest, storage)


def _columns_alone(connection: Writing, store: ClickHouseStore) -> Timed:
    def timed(count: int) -> int:
        columns = as_columns(_fresh(count), "client")
        began = time.perf_counter_ns()
        _run(connection.insert(store.tables.events, columns, _TYPES, insert_settings(uuid.uuid4().hex)))
        return time.perf_counter_ns() - began

    return timed


def _rows_alone(connection: Any, store: ClickHouseStore) -> Timed:
    """Insert tuples, as the client's documentation does it."""
    types = [get_from_name(name) for name in _TYPES]

    def timed(count: int) -> int:
        rows = [*zip(*as_columns(_fresh(count), "client").values(), strict=True)]
        work = connection.client.insert(
            store.tables.events,
            rows,
            column_names=[*COLUMN_TYPES],
            column_types=types,
            settings=insert_settings(uuid.uuid4().hex),
        )
        began = time.perf_counter_ns()
        _run(work)
        return time.perf_counter_ns() - began

    return timed


def _sink(store: ClickHouseStore) -> Timed:
    def timed(count: int) -> int:
        batch = Batch(uuid.uuid4().hex, _fresh(count))
        began = time.perf_counter_ns()
        _run(store.write(batch))
        return time.perf_counter_ns() - began

    return timed


def _collector(collector: ClickHouseAnalyticsCollector) -> Timed:
    def timed(count: int) -> int:
        events = [event.thaw() for event in _fresh(count)]
        began = time.perf_counter_ns()
        for event in events:
            collector.record_nowait(event)
        assert _run(collector.flush())
        return time.perf_counter_ns() - began

    return timed


def _fresh(count: int) -> tuple[Any, ...]:
    return _events(count, seed=random.randrange(10**9))


def _events(count: int, seed: int = 0, days: float = 1 / 24) -> tuple[Any, ...]:
    """Return events of 200 flags and many users, as a shop has them."""
    chance, freezer = random.Random(seed), Freezer()
    events = []
    for _ in range(count):
        flag = min(199, int(chance.expovariate(1 / 30)))
        event = FlagEvaluationEvent(
            _START + timedelta(days=chance.random() * days),
            f"flag_{flag}",
            True,
            "SPLIT",
            ("on", "off")[chance.random() < 0.5],
            f"user-{int(chance.paretovariate(0.3)) % 100_000}",
            {"environment": "production", "plan": "pro", "country": "DE"},
            chance.expovariate(2.0),
        )
        events.append(freezer.freeze(event))
    return tuple(events)


def _database() -> str:
    return f"bench_{uuid.uuid4().hex}"


@contextmanager
def _engine() -> Iterator[str]:
    if os.environ.get("FLAG_ANALYTICS_TEST_CLICKHOUSE"):
        yield os.environ["FLAG_ANALYTICS_TEST_CLICKHOUSE"]
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen([sys.executable, str(_FRONT), folder], stdout=subprocess.PIPE, text=True) as process,
    ):
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()
