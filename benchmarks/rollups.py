"""Fast answers from rollups beside the exact ones from the events, in one run: 200 flags over 30 days.

``answers_…`` stores events, 200,000 of them (5,000,000 with ``FLAG_ANALYTICS_BENCH_FULL=1``, or as many as
``FLAG_ANALYTICS_BENCH_EVENTS`` says), a fifth of them of one hot flag. ``growth_…`` makes the rollups of 5,000,000
events and of ten times as many, without the events, and asks about both in turn. Servers are those of ``database``.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from flag_analytics.events import new_event_id
from flag_analytics.frozen import FrozenEvent
from flag_analytics.protocols import Batch
from flag_analytics.sources import PARTS, Grouping, Window
from flag_analytics.weighting import MILLION
from flag_analytics_database import DatabaseOptions, DatabaseStore
from flag_analytics_database.count_statements import as_parameters
from flag_analytics_database.counting import DAY, HOUR, Cell, with_day_totals
from flag_analytics_database.rollups.durations import Durations
from flag_analytics_database.rollups.summary import Figures, pack_cells
from flag_analytics_database.rollups.users import Users
from flag_analytics_database.rows import micros
from sqlalchemy.ext.asyncio import create_async_engine

from ._harness import Figure, Table, judge
from .database import _FULL, _databases, _run

_EVENTS = int(os.environ.get("FLAG_ANALYTICS_BENCH_EVENTS", "5000000" if _FULL else "200000"))
_FLAGS = 200
_DAYS = 30
_BATCH = 5_000
_ROUNDS = 7
_START = datetime(2026, 1, 10, tzinfo=UTC)
_WINDOW = Window(_START, _START + timedelta(days=_DAYS))
_LATER = Window(_START + timedelta(hours=9, minutes=7), _START + timedelta(days=_DAYS - 1, hours=13, minutes=41))
_COUNTS = frozenset({"count", "variants", "reasons", "errors"})
_PERCENTILES = (50.0, 90.0, 99.0)
_KEYS = [f"flag_{number}" for number in range(_FLAGS)]
_Question = Callable[[DatabaseStore, Window, str], Awaitable[Any]]


async def _overview(store: DatabaseStore, window: Window, accuracy: str) -> Any:
    await store.list_flags(window, accuracy=accuracy)
    return await store.summarise(_KEYS, window, parts=_COUNTS, accuracy=accuracy)


async def _everything(store: DatabaseStore, window: Window, accuracy: str) -> Any:
    parts = PARTS - {"variant_users"}
    return await store.summarise(_KEYS, window, parts=parts, percentiles=_PERCENTILES, accuracy=accuracy)


async def _hot_flag(store: DatabaseStore, window: Window, accuracy: str) -> Any:
    parts = PARTS - {"variant_users"}
    return await store.summarise(_KEYS[:1], window, parts=parts, percentiles=_PERCENTILES, accuracy=accuracy)


async def _series(store: DatabaseStore, window: Window, accuracy: str) -> Any:
    return await store.count_steps(_KEYS[0], window, 3_600.0, group_by=Grouping("variant"), accuracy=accuracy)


_QUESTIONS: tuple[tuple[str, _Question, float], ...] = (
    ("overview of all flags", _overview, 100.0),
    ("overview with users and percentiles", _everything, 300.0),
    ("hot flag with all", _hot_flag, 50.0),
    ("720 steps by variant", _series, 50.0),
)
_MOST_GROWTH = 1.3
_ROLLED_UP = (5_000_000, 50_000_000)
_USERS = 20_000
"""Of each flag, in ``growth_…``."""


def answers_sqlite() -> Table:
    """Time fast and exact answers on SQLite."""
    return _answers("sqlite")


def answers_postgresql() -> Table:
    """Time fast and exact answers on PostgreSQL."""
    return _answers("postgresql")


def answers_mariadb() -> Table:
    """Time fast and exact answers on MariaDB."""
    return _answers("mysql")


def _answers(family: str) -> Table:
    title = f"Answers about {_EVENTS:,} events of {_FLAGS} flags in {_DAYS} days, {family}"
    with _databases(family, count=1) as urls:
        if not urls:
            return Table(title, notes=[f"no {family} server answers"])
        store = _store(urls[0])
        took = _run(_fill(store))
        figures = [Figure("summaries of all days", took, "s")]
        for name, question, most in _QUESTIONS:
            (fast,) = _run(_rounds(question, (store,), _WINDOW, "fast"))
            (exact,) = _run(_rounds(question, (store,), _WINDOW, "exact", rounds=1))
            limit = None if family == "mysql" else most
            figures += [
                Figure(f"{name}, fast", min(fast), "ms", at_most=limit),
                Figure(f"{name}, exact", exact[0], "ms"),
            ]
            if question is not _series:
                (later,) = _run(_rounds(question, (store,), _LATER, "fast", rounds=3))
                figures.append(Figure(f"{name}, fast, from within a day to within a day", min(later), "ms"))
        _run(store.close())
        return Table(title, figures=figures, verdicts=judge(figures))


def growth_sqlite() -> Table:
    """Time fast answers on SQLite about ten times the events per flag."""
    return _growth("sqlite")


def growth_postgresql() -> Table:
    """Time fast answers on PostgreSQL about ten times the events per flag."""
    return _growth("postgresql")


def _growth(family: str) -> Table:
    few, many = _ROLLED_UP
    title = f"Fast answers about {few:,} and {many:,} events of {_FLAGS} flags in {_DAYS} days, {family}"
    with _databases(family, count=2) as urls:
        if not urls:
            return Table(title, notes=[f"no {family} server answers"])
        stores = tuple(_store(url) for url in urls)
        for store, events in zip(stores, _ROLLED_UP, strict=True):
            _run(_roll_up(store, events))
        figures = []
        for name, question, most in _QUESTIONS:
            took = _run(_rounds(question, stores, _WINDOW, "fast"))
            growth = statistics.median(more / less for less, more in zip(*took, strict=True))
            figures += [
                Figure(f"{name}, {few:,} events", min(took[0]), "ms", at_most=most),
                Figure(f"{name}, {many:,} events", min(took[1]), "ms"),
                Figure(f"{name}, growth", growth, "x", at_most=_MOST_GROWTH),
            ]
        for store in stores:
            _run(store.close())
        return Table(title, figures=figures, verdicts=judge(figures), notes=["fastest of seven rounds in turn"])


def _store(url: str) -> DatabaseStore:
    seconds = {"query_timeout_seconds": 3_600.0, "statement_timeout_seconds": 600.0}
    return DatabaseStore(DatabaseOptions(connection_string=url, rollups=True, **seconds))


async def _roll_up(store: DatabaseStore, events: int) -> None:
    """Store what events leave in the tables of counts and summaries, without the events."""
    await store.open()
    engine = create_async_engine(store.engines.url)
    draw = random.Random(events)
    each = events // _FLAGS // _DAYS
    for day in range(_DAYS):
        start = micros(_START) + day * DAY
        cells: list[Cell] = []
        summaries: list[dict[str, Any]] = []
        for flag in _KEYS:
            mine = [
                (
                    start + hour * HOUR,
                    flag,
                    variant,
                    reason,
                    environment,
                    count,
                    count * MILLION,
                    errors,
                    errors * MILLION,
                )
                for hour in range(24)
                for variant in "ab"
                for reason, environment, count in (
                    ("SPLIT", "production", each // 24 * 3 // 8 + 1),
                    ("SPLIT", "staging", each // 24 // 16 + 1),
                    ("TARGETING_MATCH", "production", each // 24 // 16 + 1),
                    ("ERROR", "production", 1),
                )
                for errors in (count if reason == "ERROR" else 0,)
            ]
            full = [(*cell, cell[0] + 1, cell[0] + HOUR - 1) for cell in mine]
            cells += full
            whole: dict[Any, Figures] = {}
            for _, _, variant, reason, environment, *figures in full:
                key, more = (variant, reason, environment), Figures(*figures)
                whole[key] = whole[key].plus(more) if key in whole else more
            people = {(draw.randrange(_USERS), 1.0) for _ in range(each)}
            measured = ((0.2 + 2 * draw.random() ** 4, each * MILLION // 500 + 1) for _ in range(500))
            summaries.append(
                {
                    "start": start,
                    "days": 1,
                    "flag_key": flag,
                    "events": sum(figures.events for figures in whole.values()),
                    "cells": pack_cells(whole),
                    "users": Users.of((f"{user}", rate) for user, rate in people).pack(),
                    "durations": Durations.of(measured).pack(),
                    "variant_users": None,
                }
            )

        async with engine.begin() as connection:
            await connection.execute(store.tables.counts.insert(), as_parameters(with_day_totals(cells)))
            await connection.execute(store.tables.sketches.insert(), summaries)
    await engine.dispose()
    while await store.compact(2_000):
        pass


async def _rounds(
    question: _Question, stores: tuple[DatabaseStore, ...], window: Window, accuracy: str, rounds: int = _ROUNDS
) -> list[list[float]]:
    """Return the milliseconds of each store, its question asked in turn with that of the others."""
    took: list[list[float]] = [[] for _ in stores]
    for number in range(rounds + (1 if rounds > 1 else 0)):
        for store, measured in zip(stores, took, strict=True):
            started = time.perf_counter()
            await question(store, window, accuracy)
            if number or rounds == 1:  # the first one opens connections
                measured.append((time.perf_counter() - started) * 1_000)
    return took


async def _fill(store: DatabaseStore) -> float:
    """Store the events and make their summaries; return how many seconds the latter took."""
    for batch in _batches(_EVENTS):
        await store.write(Batch("", batch))
    started = time.perf_counter()
    while await store.compact():
        pass
    return time.perf_counter() - started


def _batches(events: int) -> Iterator[tuple[FrozenEvent, ...]]:
    draw = random.Random(events).random
    for first in range(0, events, _BATCH):
        batch = []
        for number in range(first, min(first + _BATCH, events)):
            at = _START + timedelta(days=_DAYS) * ((number + draw()) / events)
            hot = draw() < 0.2
            flag = 0 if hot else 1 + int(draw() * (_FLAGS - 1))
            user = f"{flag}-{int(draw() * (events if hot else events / 100))}"
            reason = "ERROR" if draw() < 0.01 else ("SPLIT" if draw() < 0.8 else "TARGETING_MATCH")
            context = b'{"environment":"production"}' if draw() < 0.9 else b'{"environment":"staging"}'
            duration = 0.2 + 2.0 * draw() ** 4
            batch.append(
                FrozenEvent(
                    at, _KEYS[flag], b"true", reason, "ab"[draw() < 0.5], user, context, duration, new_event_id(),
                    None, None, None, None, None, "evaluation", 1.0, at.timestamp(), 200,
                )
            )  # fmt: skip
        yield tuple(batch)


BENCHMARKS = (answers_sqlite, answers_postgresql, answers_mariadb, growth_sqlite, growth_postgresql)
