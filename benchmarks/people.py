"""One person among many: what the index costs that finds them, and what their export and erasure take.

Servers and ``FLAG_ANALYTICS_BENCH_FULL=1`` (5,000,000 events instead of 500,000) are those of ``database``.
"""

from __future__ import annotations

import time

from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.freezer import Freezer
from flag_analytics.protocols import Batch
from flag_analytics.sources import EventFilter
from flag_analytics_database import DatabaseOptions, DatabaseStore
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from ._harness import Contender, Figure, Limit, Table, compare, judge
from .database import _BATCH, _EVENTS, _FLAGS, _STORED, _collector, _databases, _fill, _run

_WITH = "with the index"
_WITHOUT = "with one by time alone"
_PEOPLE = 10
_PER_PERSON = 20


def ingest_sqlite() -> Table:
    """Time the storing of one event in SQLite with the index, beside one without the targeting key."""
    return _ingest("sqlite")


def ingest_postgresql() -> Table:
    """Time the storing of one event in PostgreSQL with the index, beside one without the targeting key."""
    return _ingest("postgresql")


def ingest_mariadb() -> Table:
    """Time the storing of one event in MariaDB with the index, beside one without the targeting key."""
    return _ingest("mysql")


def forget_sqlite() -> Table:
    """Time the export and erasure of one person among many events in SQLite."""
    return _forget("sqlite")


def forget_postgresql() -> Table:
    """Time the export and erasure of one person among many events in PostgreSQL."""
    return _forget("postgresql")


def forget_mariadb() -> Table:
    """Time the export and erasure of one person among many events in MariaDB."""
    return _forget("mysql")


def _ingest(family: str) -> Table:
    title = f"Ingest with the index that finds a person, {family}, record until stored"
    with _databases(family, count=2) as urls:
        if not urls:
            return Table(title, notes=[f"no {family} server answers"])
        contenders = [
            Contender(_WITHOUT, _collector(urls[0]), most=_EVENTS),
            Contender(_WITH, _collector(urls[1]), most=_EVENTS),
        ]
        _run(_without_targeting_key(urls[0], family))
        return compare(
            title,
            contenders,
            limits=[Limit(_WITH, at_most=1 / 0.85, times=_WITHOUT)],
            rounds=9,
            round_ns=300_000_000,
        )


async def _without_targeting_key(url: str, family: str) -> None:
    engine = create_async_engine(url, poolclass=NullPool)
    on_table = " ON analytics_events" if family == "mysql" else ""
    async with engine.begin() as connection:
        await connection.execute(text(f"DROP INDEX analytics_events_by_time_and_user{on_table}"))
        await connection.execute(text("CREATE INDEX analytics_events_by_time ON analytics_events (timestamp)"))
    await engine.dispose()


def _forget(family: str) -> Table:
    title = f"One person among {_STORED:,} events, {family}"
    with _databases(family, count=1) as urls:
        if not urls:
            return Table(title, notes=[f"no {family} server answers"])
        store = DatabaseStore(DatabaseOptions(connection_string=urls[0], query_timeout_seconds=600.0))
        _run(store.open())
        events = _PEOPLE * _PER_PERSON
        for flag in range(_FLAGS):
            _run(_fill(store, f"flag_{flag}", 1, _STORED // _FLAGS))
            _run(store.write(_batch(flag * events // _FLAGS, (flag + 1) * events // _FLAGS)))
        exports, erasures = [], []
        for person in range(_PEOPLE):
            where = EventFilter(targeting_key=frozenset({f"person-{person}"}))
            started = time.perf_counter()
            assert len(_run(_read(store, where))) == _PER_PERSON
            exports.append(time.perf_counter() - started)
            started = time.perf_counter()
            assert _run(store.forget([f"person-{person}"])) == _PER_PERSON
            erasures.append(time.perf_counter() - started)
        _run(store.close())
        # MariaDB compares texts several times as slowly.
        most = None if family == "mysql" else 1_000.0
        figures = [
            Figure("export, fastest of ten", min(exports) * 1_000, "ms"),
            Figure("forget, fastest of ten", min(erasures) * 1_000, "ms", at_most=most),
            Figure("forget, median of ten", sorted(erasures)[_PEOPLE // 2] * 1_000, "ms"),
        ]
        return Table(title, figures=figures, verdicts=judge(figures))


async def _read(store: DatabaseStore, where: EventFilter) -> list[FlagEvaluationEvent]:
    return await store.get_events(where=where)


def _batch(first: int, last: int) -> Batch:
    assert last - first <= _BATCH
    freeze = Freezer().freeze
    events = (
        FlagEvaluationEvent.now("flag_1", True, "SPLIT", "a", f"person-{number % _PEOPLE}")
        for number in range(first, last)
    )
    return Batch("", tuple(freeze(event) for event in events))


BENCHMARKS = (ingest_sqlite, ingest_postgresql, ingest_mariadb, forget_sqlite, forget_postgresql, forget_mariadb)
"""In this order, since the largest tables come last."""
