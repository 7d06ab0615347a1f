"""Ingest and metrics on SQLite, PostgreSQL and MariaDB, beside the raw drivers, hand-written SQL and litestar-flags.

Servers are those of the tests: ``FLAG_ANALYTICS_TEST_POSTGRES`` and ``FLAG_ANALYTICS_TEST_MYSQL``, else the local
defaults; one that does not answer is left out and named. ``FLAG_ANALYTICS_BENCH_FULL=1`` asks about 1,000,000 of
5,000,000 events instead of 100,000 of 500,000.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import resource
import shutil
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flag_analytics.events import EvaluationReason, FlagEvaluationEvent
from flag_analytics.freezer import Freezer
from flag_analytics.protocols import Batch
from flag_analytics.reports import DeliveryOptions
from flag_analytics.sources import Window
from flag_analytics_database import DatabaseAnalyticsCollector, DatabaseOptions, DatabaseStore
from flag_analytics_database.rows import PLAIN_COLUMNS, as_rows, id_bytes
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from ._harness import Contender, Figure, Limit, Table, Timed, compare, installed, judge

_SERVERS = {
    "postgresql": ("FLAG_ANALYTICS_TEST_POSTGRES", "postgresql+asyncpg://postgres@127.0.0.1:5432/postgres"),
    "mysql": ("FLAG_ANALYTICS_TEST_MYSQL", "mysql+asyncmy://root@127.0.0.1:3306/test"),
}
_FULL = os.environ.get("FLAG_ANALYTICS_BENCH_FULL") == "1"
_STORED = 5_000_000 if _FULL else 500_000
_FLAGS = 5
_BATCH = 500
_EVENTS = 20_000
_MIB = 2**20
_PERCENTILES = (50.0, 90.0, 99.0)
_WINDOW = Window(None, datetime(2100, 1, 1, tzinfo=UTC))
_IN_WINDOW = "flag_key = 'flag_1' AND timestamp <= 4102444800000000 AND kind IN (0, 1)"

_thread = ThreadPoolExecutor(1)
_loop = asyncio.new_event_loop()
"""One loop for all: connections are kept between rounds, as an application keeps them."""


_closing: list[Callable[[], Any]] = []
"""What the databases' users still have open."""


def _run(work: Any) -> Any:
    return _thread.submit(_loop.run_until_complete, work).result()


# --- ingest


def ingest_sqlite() -> Table:
    """Time what it takes to store one event in a SQLite file, in batches of 500."""
    with _databases("sqlite") as urls:
        raw_path = make_url(urls[0]).database
        contenders = [
            Contender("raw sqlite3.executemany, ready-made tuples", _raw_sqlite(urls[0], raw_path), most=_EVENTS),
            Contender("flag-analytics, write of the sink", _sink(urls[1]), most=_EVENTS),
            Contender("flag-analytics, record until stored", _collector(urls[2]), most=_EVENTS),
        ]
        notes = _with_litestar_flags(contenders, urls[3])
        return compare(
            "Ingest, SQLite file, batches of 500",
            contenders,
            limits=[
                Limit("flag-analytics, record until stored", at_most=2.0, times=contenders[0].name),
                Limit("litestar-flags", at_least=15.0, times="flag-analytics, record until stored"),
            ],
            notes=notes,
            rounds=5,
            round_ns=200_000_000,
        )


def ingest_postgresql() -> Table:
    """Time what it takes to store one event in PostgreSQL, in batches of 500."""
    return _ingest_server("postgresql", "raw asyncpg COPY, ready-made tuples", _raw_postgresql, 6.0)


def ingest_mariadb() -> Table:
    """Time what it takes to store one event in MySQL or MariaDB, in batches of 500."""
    return _ingest_server("mysql", "raw asyncmy executemany, ready-made tuples", _raw_mysql, None)


def _ingest_server(
    family: str, raw_name: str, raw: Callable[[str], Timed], ahead_of_litestar_flags: float | None
) -> Table:
    title = f"Ingest, {family}, batches of 500"
    with _databases(family) as urls:
        if not urls:
            return Table(title, notes=[f"no {family} server answers"])
        contenders = [
            Contender(raw_name, raw(urls[0]), most=_EVENTS),
            Contender("flag-analytics, write of the sink", _sink(urls[1]), most=_EVENTS),
            Contender("flag-analytics, record until stored", _collector(urls[2]), most=_EVENTS),
        ]
        limits = [Limit("flag-analytics, record until stored", at_most=1 / 0.7, times=raw_name)]
        notes: list[str] = []
        if ahead_of_litestar_flags is not None:
            notes = _with_litestar_flags(contenders, urls[3])
            limits.append(
                Limit("litestar-flags", at_least=ahead_of_litestar_flags, times="flag-analytics, record until stored")
            )
        return compare(title, contenders, limits=limits, notes=notes, rounds=5, round_ns=300_000_000)


def rollups_sqlite() -> Table:
    """Time what counts add to storing one event in a SQLite file."""
    return _rollups("sqlite")


def rollups_postgresql() -> Table:
    """Time what counts add to storing one event in PostgreSQL."""
    return _rollups("postgresql")


def rollups_mariadb() -> Table:
    """Time what counts add to storing one event in MySQL or MariaDB."""
    return _rollups("mysql")


def _rollups(family: str) -> Table:
    title = f"Ingest with rollups, {family}"
    with _databases(family, count=6) as urls:
        if not urls:
            return Table(title, notes=[f"no {family} server answers"])
        contenders, limits = [], []
        asked = [
            (_sink, _BATCH, "write of the sink"),
            *((_collector, size, "record until stored") for size in (_BATCH, 100)),
        ]
        for place, (maker, size, what) in enumerate(asked):
            plain, counted = (f"{what}, batches of {size}{with_rollups}" for with_rollups in ("", ", with rollups"))
            contenders += [
                Contender(plain, _whole_batches(maker(urls[2 * place], size)), most=_EVENTS),
                Contender(counted, _whole_batches(maker(urls[2 * place + 1], size, rollups=True)), most=_EVENTS),
            ]
            if family != "mysql":
                limits.append(Limit(counted, at_most=1 / 0.7, times=plain))
        return compare(title, contenders, limits=limits, rounds=7, round_ns=200_000_000)


def _events(count: int) -> list[FlagEvaluationEvent]:
    now = datetime.now(UTC)
    return [
        FlagEvaluationEvent(
            now + timedelta(microseconds=number),
            f"flag_{number % 20}",
            True,
            EvaluationReason.TARGETING_MATCH,
            ("control", "treatment")[number % 2],
            f"user-{random.randrange(100_000)}",
            {"plan": "premium", "country": "GB"},
            random.random() * 3 + 0.1,
        )
        for number in range(count)
    ]


def _rows(count: int, event_id: Callable[[str], Any]) -> list[tuple[Any, ...]]:
    freeze = Freezer().freeze
    return as_rows([freeze(event) for event in _events(count)], event_id)[1]


def _whole_batches(timed: Timed) -> Timed:
    """Store whole batches even where a round asks for a few events: a commit for each one would be another figure."""

    def scaled(operations: int) -> int:
        count = max(operations, 4 * _BATCH)
        return timed(count) * operations // count

    return scaled


def _made(url: str, *, rollups: bool = False) -> DatabaseStore:
    store = DatabaseStore(DatabaseOptions(connection_string=url, rollups=rollups))
    _run(store.open())
    return store


def _raw_sqlite(url: str, path: str | None) -> Timed:
    _run(_made(url).close())
    connection = sqlite3.connect(str(path), isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA wal_autocheckpoint=10000")
    connection.execute("PRAGMA cache_size=-32768")
    insert = (
        f"INSERT INTO analytics_events ({', '.join(PLAIN_COLUMNS)}) "
        f"VALUES ({', '.join('?' * len(PLAIN_COLUMNS))}) ON CONFLICT (event_id) DO NOTHING"
    )

    def timed(operations: int) -> int:
        rows = _rows(operations, id_bytes)
        started = time.perf_counter_ns()
        for start in range(0, operations, _BATCH):
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(insert, rows[start : start + _BATCH])
            connection.execute("COMMIT")
        return time.perf_counter_ns() - started

    return timed


def _raw_postgresql(url: str) -> Timed:
    import asyncpg

    _run(_made(url).close())
    connection = _run(asyncpg.connect(url.replace("+asyncpg", "")))
    _closing.append(connection.close)

    async def copy(rows: Sequence[Any]) -> int:
        started = time.perf_counter_ns()
        for start in range(0, len(rows), _BATCH):
            await connection.copy_records_to_table(
                "analytics_events", records=rows[start : start + _BATCH], columns=PLAIN_COLUMNS
            )
        return time.perf_counter_ns() - started

    return lambda operations: _run(copy(_rows(operations, str)))


def _raw_mysql(url: str) -> Timed:
    import asyncmy

    _run(_made(url).close())
    parts = make_url(url)
    connection = _run(
        asyncmy.connect(
            host=parts.host, port=parts.port, user=parts.username, password=parts.password or "", db=parts.database,
            autocommit=True, charset="utf8mb4",
        )
    )  # fmt: skip
    _closing.append(connection.ensure_closed)
    insert = (
        f"INSERT INTO analytics_events ({', '.join(f'`{name}`' for name in PLAIN_COLUMNS)}) "
        f"VALUES ({', '.join(['%s'] * len(PLAIN_COLUMNS))})"
    )

    async def execute_many(rows: Sequence[Any]) -> int:
        cursor = connection.cursor()
        started = time.perf_counter_ns()
        for start in range(0, len(rows), _BATCH):
            await cursor.executemany(insert, rows[start : start + _BATCH])
        return time.perf_counter_ns() - started

    return lambda operations: _run(execute_many(_rows(operations, id_bytes)))


def _sink(url: str, size: int = _BATCH, *, rollups: bool = False) -> Timed:
    store = _made(url, rollups=rollups)
    _closing.append(store.close)
    freeze = Freezer().freeze

    async def write(frozen: Sequence[Any]) -> int:
        started = time.perf_counter_ns()
        for start in range(0, len(frozen), size):
            await store.write(Batch("", tuple(frozen[start : start + size])))
        return time.perf_counter_ns() - started

    return lambda operations: _run(write([freeze(event) for event in _events(operations)]))


def _collector(url: str, size: int = _BATCH, *, rollups: bool = False) -> Timed:
    async def create() -> DatabaseAnalyticsCollector:
        return await DatabaseAnalyticsCollector.create(
            url,
            batch_size=size,
            flush_interval_seconds=60.0,
            delivery=DeliveryOptions(max_events=100_000),
            rollups=rollups,
        )

    collector = _run(create())
    _closing.append(collector.close)

    async def record(events: Sequence[FlagEvaluationEvent]) -> int:
        started = time.perf_counter_ns()
        for event in events:
            await collector.record(event)
        report = await collector.flush()
        took = time.perf_counter_ns() - started
        assert report, report
        return took

    _run(record(_events(1)))  # connects and creates the tables
    return _whole_batches(lambda operations: _run(record(_events(operations))))


def _with_litestar_flags(contenders: list[Contender], url: str) -> list[str]:
    if not (installed("litestar_flags") and installed("advanced_alchemy")):
        return ["not installed: litestar_flags with its database extra"]
    from litestar_flags.analytics.collectors.database import DatabaseAnalyticsCollector as TheirCollector

    collector = _run(TheirCollector.create(url, batch_size=_BATCH, flush_interval_seconds=3_600))
    _closing.append(collector.close)

    async def record(events: Sequence[FlagEvaluationEvent]) -> int:
        started = time.perf_counter_ns()
        for event in events:
            await collector.record(event)
        await collector.flush()
        return time.perf_counter_ns() - started

    contenders.append(
        Contender("litestar-flags", _whole_batches(lambda operations: _run(record(_events(operations)))), most=_EVENTS)
    )
    return []


# --- metrics


def metrics_sqlite() -> Table:
    """Measure a flag's metrics over a large SQLite file."""
    return _metrics("sqlite")


def metrics_postgresql() -> Table:
    """Measure a flag's metrics over a large PostgreSQL table."""
    return _metrics("postgresql")


def metrics_mariadb() -> Table:
    """Measure a flag's metrics over a large MariaDB table."""
    return _metrics("mysql")


def crossovers_postgresql() -> Table:
    """Measure users with more than one variant among the exposures of one flag."""
    count = 10_000_000 if _FULL else 1_000_000
    title = f"Crossovers, postgresql, {count:,} exposures of 300,000 users"
    with _databases("postgresql", 1) as urls:
        if not urls:
            return Table(title, notes=["no postgresql server answers"])
        store = _made(urls[0])
        _run(_fill(store, "exp", 1, count))
        parts = frozenset({"variant_users"})
        took = _best(lambda: store.summarise(["exp"], _WINDOW, parts=parts))
        first = _best(lambda: store.get_exposures("exp", _WINDOW))
        figures = [
            Figure("users by variant, and crossovers", took * 1_000, "ms", at_most=10_000),
            Figure("exposures by first variant", first * 1_000, "ms"),
        ]
        load = f"load of the machine at the end: {os.getloadavg()[0]:.1f}"
        return Table(title, figures=figures, verdicts=judge(figures), notes=[load])


# The best that was found by hand for each database: groups, users by variant, percentiles.
_GROUPS = (
    "SELECT variant, reason, count(*), min(timestamp), min(sample_rate), {typed} "
    f"FROM analytics_events WHERE {_IN_WINDOW} GROUP BY 1, 2"
)
_TYPED = "count(CASE WHEN error_type <> '' THEN 1 END)"
_MEASURED = f"FROM analytics_events WHERE {_IN_WINDOW} AND evaluation_duration_ms > 0"
_PLACES = (
    "(SELECT evaluation_duration_ms AS d, "
    f"row_number() OVER (ORDER BY evaluation_duration_ms) - 1 AS place {_MEASURED})"
)
# Users by the set of their variants, of which everything else follows.
_SETS = (
    "SELECT variants, count(*) FROM (SELECT {gathered} AS variants FROM analytics_events "
    f"WHERE {_IN_WINDOW} AND targeting_key <> '' GROUP BY {{user}}) AS people GROUP BY variants"
)
_BY_HAND = {
    "sqlite": [
        _GROUPS.format(typed=_TYPED),
        _SETS.format(gathered="json_group_array(DISTINCT variant)", user="targeting_key"),
        f"WITH n AS MATERIALIZED (SELECT count(*) AS c {_MEASURED}) SELECT d FROM {_PLACES} WHERE place IN ("
        + " UNION ALL ".join(
            f"SELECT CAST({percent / 100} * (c - 1) AS INTEGER) + {one} FROM n"
            for percent in _PERCENTILES
            for one in (0, 1)
        )
        + ")",
    ],
    "postgresql": [
        _GROUPS.format(typed=_TYPED),
        _SETS.format(gathered="array_agg(DISTINCT variant)", user="targeting_key"),
        "SELECT percentile_cont(ARRAY[0.5, 0.9, 0.99]) WITHIN GROUP (ORDER BY evaluation_duration_ms) " + _MEASURED,
    ],
    "mysql": [
        _GROUPS.format(typed="count(typed_error)"),
        _SETS.format(
            gathered="bit_or(CASE variant WHEN 'a' THEN 1 WHEN 'b' THEN 2 ELSE 4 END)",
            user="CAST(left(unhex(sha2(targeting_key, 256)), 16) AS BINARY(16))",
        ),
        "SELECT d FROM (SELECT evaluation_duration_ms AS d, count(*) OVER () AS n, "
        f"row_number() OVER (ORDER BY evaluation_duration_ms) - 1 AS place {_MEASURED}) AS ranked WHERE "
        + " OR ".join(f"place - floor({percent / 100}e0 * (n - 1)) IN (0, 1)" for percent in _PERCENTILES),
    ],
}


def _metrics(family: str) -> Table:
    matching = _STORED // _FLAGS
    title = f"Metrics of one flag, {family}: {matching:,} of {_STORED:,} events"
    with _databases(family, count=1) as urls:
        if not urls:
            return Table(title, notes=[f"no {family} server answers"])
        store = DatabaseStore(DatabaseOptions(connection_string=urls[0], query_timeout_seconds=600.0))
        _run(store.open())
        few = _STORED // 10 // _FLAGS
        half = matching // 2
        _run(_fill(store, "few", 1, few))
        _run(_fill(store, "flag_1", 1, half))
        before = _best(lambda: _ask(store, "few"))
        _run(_fill(store, "flag_1", half + 1, matching))
        for number in range(2, _FLAGS + 1):
            _run(_fill(store, f"flag_{number}", 1, matching))
        after = _best(lambda: _ask(store, "few"))
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        ratios = []
        ours, by_hand, stalls = [], [], []
        for _ in range(3):
            took, stall = _run(_timed(_ask(store, "flag_1")))
            ours.append(took)
            stalls.append(stall)
            by_hand.append(_run(_timed(_each(store, _BY_HAND[family])))[0])
            ratios.append(ours[-1] / by_hand[-1])
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident) / 1024
        payload, on_disk = _run(_sizes(store, urls[0]))
        figures = [
            Figure("get metrics of one flag", min(ours) * 1_000, "ms"),
            Figure("the same by hand, in three statements", min(by_hand) * 1_000, "ms"),
            Figure("ratio, median", sorted(ratios)[1], "x", at_most=1.2),
            Figure("memory grown meanwhile", grown, "MiB", at_most=50.0),
            Figure("longest stall of the caller's loop", max(stalls) * 1_000, "ms", at_most=50.0),
            Figure(f"a flag with {few:,} events, {half:,} of other flags", before * 1_000, "ms"),
            Figure(f"… {matching * _FLAGS:,} of other flags", after * 1_000, "ms"),
            Figure("… ratio", after / before, "x", at_most=1.2),
            Figure("on disk, per event", on_disk, "bytes"),
            Figure("the payload itself, as JSON", payload, "bytes"),
        ]
        _run(store.close())
        return Table(title, figures=figures, verdicts=judge(figures))


async def _ask(store: DatabaseStore, flag_key: str) -> Any:
    return await store.summarise([flag_key], _WINDOW, percentiles=_PERCENTILES)


async def _each(store: DatabaseStore, statements: Sequence[str]) -> None:
    for statement in statements:
        await store._ask(text(statement))  # noqa: SLF001


async def _timed(work: Any) -> tuple[float, float]:
    """Return how long the work took, and for how long it kept the loop from anything else."""
    longest, last = 0.0, time.perf_counter()
    task = asyncio.ensure_future(work)
    started = last
    while not task.done():
        await asyncio.sleep(0.001)
        now = time.perf_counter()
        longest, last = max(longest, now - last - 0.001), now
    await task
    return time.perf_counter() - started, longest


def _best(ask: Callable[[], Any]) -> float:
    _run(ask())
    return min(_run(_timed(ask()))[0] for _ in range(5))


async def _fill(store: DatabaseStore, flag_key: str, first: int, last: int) -> None:
    """Let the database make events itself: half a millisecond apart, from 300,000 users, 2 % errors."""
    at = f"{int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())}000000"
    columns = ", ".join(PLAIN_COLUMNS)
    context = '{"plan": "premium", "country": "GB"}'
    made = {
        "sqlite": (
            f"WITH RECURSIVE s(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM s WHERE i < {last}) "
            f"SELECT randomblob(16), {at} + i * 500, {at} + i * 500, 0, '{flag_key}', "
            "CASE abs(random()) % 50 WHEN 0 THEN 'ERROR' ELSE 'SPLIT' END, "
            "CASE abs(random()) % 3 WHEN 0 THEN 'a' WHEN 1 THEN 'b' END, 'user-' || (abs(random()) % 300000), "
            f"abs(random() % 1000000) / 1e5 + 0.01, 'true', '{context}' FROM s"
        ),
        "postgresql": (
            f"SELECT gen_random_uuid(), {at} + i::bigint * 500, {at} + i::bigint * 500, 0, '{flag_key}', "
            "CASE WHEN random() < 0.02 THEN 'ERROR' ELSE 'SPLIT' END, "
            "(ARRAY['a', 'b', NULL])[1 + floor(random() * 3)], "
            "'user-' || floor(random() * 300000)::int, random() * 10 + 0.01, 'true', "
            f"'{context}'::json FROM generate_series({first}, {last}) AS i"
        ),
        "mysql": (
            f"SELECT unhex(md5(concat('{flag_key}', seq))), {at} + seq * 500, {at} + seq * 500, 0, '{flag_key}', "
            "if(rand() < 0.02, 'ERROR', 'SPLIT'), elt(1 + floor(rand() * 3), 'a', 'b', NULL), "
            f"concat('user-', floor(rand() * 300000)), rand() * 10 + 0.01, 'true', '{context}' "
            f"FROM seq_{first}_to_{last}"
        ),
    }[store.family]
    connection = await store._writing.get()  # noqa: SLF001
    if store.family == "mysql":  # a mere fill: each flag's events one after the other
        await connection.exec_driver_sql("SET SESSION bulk_insert_buffer_size = 67108864")
    await connection.exec_driver_sql(f"INSERT INTO analytics_events ({columns}) {made}".replace("%", _percent(store)))
    await connection.commit()
    await _settle(store)


def _percent(store: DatabaseStore) -> str:
    return "%%" if store.family == "mysql" else "%"


async def _settle(store: DatabaseStore) -> None:
    """Do what the server's own housekeeping does sooner or later."""
    connection = await store._writing.get()  # noqa: SLF001
    await connection.rollback()
    if store.family == "postgresql":
        engine = create_async_engine(store.engines.url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        async with engine.connect() as autonomous:
            await autonomous.exec_driver_sql("VACUUM ANALYZE analytics_events")
        await engine.dispose()
    elif store.family == "mysql":
        await connection.exec_driver_sql("ANALYZE TABLE analytics_events")


async def _sizes(store: DatabaseStore, url: str) -> tuple[float, float]:
    event = _events(1)[0]
    payload = len(json.dumps(event.to_dict(), separators=(",", ":")))
    ((count,),) = await store._ask(text("SELECT count(*) FROM analytics_events"))  # noqa: SLF001
    if store.family == "sqlite":
        size = Path(str(make_url(url).database)).stat().st_size  # noqa: ASYNC240 - no other task waits
    else:
        query = {
            "postgresql": "SELECT pg_total_relation_size('analytics_events')",
            "mysql": "SELECT data_length + index_length FROM information_schema.tables "
            "WHERE table_schema = database() AND table_name = 'analytics_events'",
        }[store.family]
        ((size,),) = await store._ask(text(query))  # noqa: SLF001
    return float(payload), float(size) / count


# --- databases


@contextlib.contextmanager
def _databases(family: str, count: int = 4) -> Iterator[list[str]]:
    """Give the URLs of empty databases, or none where no server answers."""
    if family == "sqlite":
        directory = tempfile.mkdtemp(prefix="flag-analytics-bench-")
        try:
            yield [f"sqlite+aiosqlite:///{directory}/{number}.db" for number in range(count)]
        finally:
            _close_all()
            shutil.rmtree(directory, ignore_errors=True)
        return
    variable, default = _SERVERS[family]
    server = make_url(os.environ.get(variable) or default)
    names = [f"fa_bench_{uuid.uuid4().hex[:12]}" for _ in range(count)]
    try:
        for name in names:
            _run(_administer(server, f"CREATE DATABASE {name}"))
    except Exception:
        yield []
        return
    try:
        yield [server.set(database=name).render_as_string(hide_password=False) for name in names]
    finally:
        _close_all()
        for name in names:
            _run(_administer(server, f"DROP DATABASE {name}{' WITH (FORCE)' if family == 'postgresql' else ''}"))


def _close_all() -> None:
    while _closing:
        _run(_closing.pop()())


async def _administer(server: Any, statement: str) -> None:
    engine = create_async_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.execute(text(statement))
    await engine.dispose()


BENCHMARKS = (
    ingest_sqlite,
    ingest_postgresql,
    ingest_mariadb,
    rollups_sqlite,
    rollups_postgresql,
    rollups_mariadb,
    metrics_sqlite,
    metrics_postgresql,
    metrics_mariadb,
    crossovers_postgresql,
)
