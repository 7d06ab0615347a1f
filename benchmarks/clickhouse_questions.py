"""Questions of a dashboard on ClickHouse: events made up by the engine, asked through the store, fast and exact.

The engine is chDB, in a folder that is removed afterwards; ``FLAG_ANALYTICS_TEST_CLICKHOUSE`` names a server instead.
``FLAG_ANALYTICS_BENCH_EVENTS`` is the number of events, 5,000,000 by default (``FLAG_ANALYTICS_BENCH_FULL=1``:
50,000,000); exposures are a fifth of them, and the year has a twentieth of a billion of events for each million.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flag_analytics.sources import PARTS, Grouping, Window

from ._harness import Figure, Table, installed, judge

_FULL = os.environ.get("FLAG_ANALYTICS_BENCH_FULL") == "1"
_EVENTS = int(os.environ.get("FLAG_ANALYTICS_BENCH_EVENTS", "50000000" if _FULL else "5000000"))
_FLAGS = 200
_DAYS = 30
_ROUNDS = 5
_PERCENTILES = (50.0, 90.0, 99.0)
_KEYS = [f"flag-{number}" for number in range(_FLAGS)]
_HOT = _KEYS[0]
_END = datetime(2026, 10, 31, tzinfo=UTC)
_START = _END - timedelta(days=_DAYS)
_WINDOW = Window(_START + timedelta(hours=13, minutes=7), _END - timedelta(microseconds=1))
_ALIGNED = Window(_START, _END - timedelta(microseconds=1))
_DAY = 86_400_000_000
_COLUMNS = (
    "event_id, batch_id, timestamp, received_at, kind, flag_key, reason, variant, targeting_key, "
    "evaluation_duration_ms, value, context_attributes, environment, sample_rate"
)


def overview() -> Table:
    """Time what the pages of all flags and of one flag ask, of events of 30 days and 200 flags."""
    return _with_store(_overview, f"ClickHouse, {_EVENTS:,} events of {_FLAGS} flags in {_DAYS} days")


async def _overview(store: Any) -> list[Figure]:
    await store.open()
    filled = time.perf_counter()
    for day in range(_DAYS):
        await store.ask(_events_of(store, day, _EVENTS // _DAYS), settings=_PATIENT)
    filled = time.perf_counter() - filled
    figures = [Figure("events made, their rollups with them", filled, "s")]
    light = frozenset({"count", "variants", "reasons", "errors"})
    everything = PARTS - {"variant_users"}
    asked: list[tuple[str, Callable[[], Awaitable[Any]], float | None]] = [
        ("all flags, counts, fast", lambda: _summarise(store, _KEYS, light, "fast"), None),
        ("all flags with users and percentiles, fast", lambda: _summarise(store, _KEYS, everything, "fast"), 600),
        ("flags listed, fast", lambda: store.list_flags(_WINDOW, accuracy="fast"), None),
        ("720 steps of the hot flag by variant, fast", lambda: _steps(store, "fast"), 20),
        ("the hot flag with all, fast", lambda: _summarise(store, [_HOT], PARTS, "fast"), 100),
        ("a flag of the smallest, with all, fast", lambda: _summarise(store, _KEYS[-1:], PARTS, "fast"), 100),
        ("the hot flag with all, exact", lambda: _summarise(store, [_HOT], PARTS, "exact"), None),
        ("720 steps of the hot flag by variant, exact", lambda: _steps(store, "exact"), None),
    ]
    figures += [Figure(name, await _best(ask), "ms", at_most=most) for name, ask, most in asked]
    exact = (await store.summarise([_HOT], _WINDOW, percentiles=_PERCENTILES))[_HOT]
    fast = (await store.summarise([_HOT], _WINDOW, percentiles=_PERCENTILES, accuracy="fast"))[_HOT]
    off = max(abs(fast.percentiles[percent] / exact.percentiles[percent] - 1) for percent in _PERCENTILES)
    figures.append(Figure("error of users", abs(fast.unique_users / exact.unique_users - 1) * 100, "%", at_most=1.0))
    figures.append(Figure("error of percentiles", off * 100, "%", at_most=2.0))
    assert fast.total == exact.total
    return figures


def crossovers() -> Table:
    """Time users with more than one variant, among exposures that are a fifth of the events."""
    return _with_store(_crossovers, f"ClickHouse, {_EVENTS // 5:,} exposures of one flag")


async def _crossovers(store: Any) -> list[Figure]:
    await store.open()
    for day in range(_DAYS):
        await store.ask(_exposures_of(store, day, _EVENTS // 5 // _DAYS), settings=_PATIENT)
    parts = frozenset({"variant_users"})
    return [
        Figure(
            "users by variant, and crossovers",
            await _best(lambda: _summarise(store, ["exp"], parts, "exact")),
            "ms",
            2_000,
        ),
        Figure("exposures by first variant", await _best(lambda: store.get_exposures("exp", _WINDOW)), "ms"),
    ]


def year() -> Table:
    """Time what a page asks of the rollups of a year, whose events were removed."""
    return _with_store(_year, f"ClickHouse, rollups of a year of {_EVENTS * 20:,} events, no event")


async def _year(store: Any) -> list[Figure]:
    await store.open()
    first = int((_END - timedelta(days=365)).timestamp()) * 1_000_000
    a_day = _EVENTS * 20 // 365 // _FLAGS
    for month in range(0, 365, 30):
        days = min(30, 365 - month)
        begin = first + month * _DAY
        await store.ask(
            f"INSERT INTO {store.tables.counts} SELECT concat('flag-', toString(number % {_FLAGS})), "
            f"{begin} + intDiv(number, {_FLAGS} * 9) * 3600000000 AS hour, "
            f"['on', 'off', 'other'][intDiv(number, {_FLAGS}) % 3 + 1], "
            f"['SPLIT', 'DEFAULT', 'ERROR'][intDiv(number, {_FLAGS} * 3) % 3 + 1], 'production', "
            f"{a_day // 24 // 9 + 1} AS many, many * 1000000, 1, 1000000, hour, hour + 3599999999 "
            f"FROM numbers({_FLAGS * 9 * 24 * days})",
            settings=_PATIENT,
        )
        await store.ask(
            f"INSERT INTO {store.tables.sketches} SELECT concat('flag-', toString(flag)), {begin} + day * {_DAY}, "
            f"{a_day}, uniqCombined64StateIf(16)(toString(cityHash64(number) % 1000000), toUInt8(1)), "
            "sumMap(map(toInt32(number % 300), toInt64(1000000))) FROM (SELECT number, "
            f"number % {_FLAGS} AS flag, intDiv(number, {_FLAGS}) % {days} AS day "
            f"FROM numbers({_FLAGS * days * min(a_day, 3_000)})) GROUP BY flag, day",
            settings=_PATIENT,
        )
    await store.ask(f"INSERT INTO {store.tables.state} VALUES ('pruned_before', '{first + 365 * _DAY}', 1)")
    whole_year = Window(_END - timedelta(days=365), _END - timedelta(microseconds=1))
    group_by = Grouping("variant")
    asked: list[tuple[str, Callable[[], Awaitable[Any]]]] = [
        ("one flag with all, a year", lambda: store.summarise([_HOT], whole_year, percentiles=_PERCENTILES)),
        (
            "its 365 steps by variant",
            lambda: store.count_steps(_HOT, whole_year, 86_400.0, group_by=group_by, accuracy="fast"),
        ),
        (
            "its 720 steps by variant, the latest 30 days",
            lambda: store.count_steps(_HOT, _ALIGNED, 3_600.0, group_by=group_by, accuracy="fast"),
        ),
        ("flags listed, 30 days", lambda: store.list_flags(_ALIGNED, accuracy="fast")),
        ("flags listed, a year", lambda: store.list_flags(whole_year, accuracy="fast")),
    ]
    figures = [Figure(name, await _best(ask), "ms", at_most=100) for name, ask in asked]
    light = frozenset({"count", "variants", "reasons", "errors"})
    figures.append(
        Figure("all flags, counts, a year", await _best(lambda: store.summarise(_KEYS, whole_year, parts=light)), "ms")
    )
    return figures


_PATIENT = {"max_execution_time": "3600", "max_partitions_per_insert_block": "0"}
"""Making events up takes longer than a question may."""


def _events_of(store: Any, day: int, count: int) -> str:
    """Return the statement that makes the events of one day: flags as the squares of a draw, the first the hottest."""
    first = int(_START.timestamp()) * 1_000_000 + day * _DAY
    number = f"(number + {day * count})"
    return (
        f"INSERT INTO {store.tables.events} ({_COLUMNS}) SELECT generateUUIDv4(number), 'made up', "
        f"{first} + intDiv(number * {_DAY}, {count}) AS at, at, 'evaluation', "
        f"concat('flag-', toString(toUInt32(floor(pow(cityHash64({number}, 1) % 1000000 / 1000000, 2) * {_FLAGS})))), "
        f"['SPLIT', 'SPLIT', 'DEFAULT', 'ERROR'][cityHash64({number}, 2) % 4 + 1], "
        f"['on', 'off', 'other'][cityHash64({number}, 3) % 3 + 1], "
        f"concat('user-', toString(cityHash64({number}, 4) % 1000000)), "
        f"exp(cityHash64({number}, 5) % 1000 / 250 - 2), 'true', "
        """'{"environment":"production","plan":"pro"}', 'production', 1.0 """
        f"FROM numbers({count})"
    )


def _exposures_of(store: Any, day: int, count: int) -> str:
    """Return the statement that makes exposures of one day: of five users one sees both variants."""
    first = int(_START.timestamp()) * 1_000_000 + day * _DAY
    user = f"cityHash64(number + {day * count}, 6) % {max(1, _EVENTS // 25)}"
    return (
        f"INSERT INTO {store.tables.events} ({_COLUMNS}) SELECT generateUUIDv4(number), 'made up', "
        f"{first} + intDiv(number * {_DAY}, {count}) AS at, at, 'exposure', 'exp', 'SPLIT', "
        f"if({user} % 5 = 0, ['on', 'off'][cityHash64(number, 7) % 2 + 1], ['on', 'off'][{user} % 2 + 1]), "
        f"concat('user-', toString({user})), 0.0, 'true', '{{}}', '__none__', 1.0 FROM numbers({count})"
    )


async def _summarise(store: Any, keys: list[str], parts: frozenset[str], accuracy: str) -> Any:
    return await store.summarise(keys, _WINDOW, parts=parts, percentiles=_PERCENTILES, accuracy=accuracy)


async def _steps(store: Any, accuracy: str) -> Any:
    return await store.count_steps(_HOT, _ALIGNED, 3_600.0, group_by=Grouping("variant"), accuracy=accuracy)


async def _best(ask: Callable[[], Awaitable[Any]]) -> float:
    """Return the milliseconds of the fastest of some rounds."""
    took = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        await ask()
        took.append(time.perf_counter() - started)
    return min(took) * 1_000


def _with_store(measure: Callable[[Any], Awaitable[list[Figure]]], title: str) -> Table:
    if not installed("chdb") and not os.environ.get("FLAG_ANALYTICS_TEST_CLICKHOUSE"):
        return Table(title, notes=["chDB is not installed, and no server is named"])
    from flag_analytics_clickhouse import ClickHouseOptions, ClickHouseStore

    folder = Path(tempfile.gettempdir(), "flag-analytics-questions")
    shutil.rmtree(folder, ignore_errors=True)
    url = os.environ.get("FLAG_ANALYTICS_TEST_CLICKHOUSE") or f"chdb://{folder}"
    table = f"questions_{os.getpid()}_{measure.__name__.strip('_')}"
    store = ClickHouseStore(ClickHouseOptions(url=url, table=table, query_timeout_seconds=3_600.0))

    async def run() -> list[Figure]:
        try:
            return await measure(store)
        finally:
            for suffix in ("_counts_view", "_sketches_view", "", "_counts", "_sketches", "_dead_letters", "_state"):
                await store.ask(f"DROP TABLE IF EXISTS `{store.tables.database}`.`{table}{suffix}` SYNC", settle=False)
            await store.close()

    figures = asyncio.run(run())
    load = os.getloadavg()[0]
    return Table(title, figures=figures, verdicts=judge(figures), notes=[f"load of the machine at the end: {load:.1f}"])


BENCHMARKS = [overview, crossovers, year]
