"""Fast answers from rollups beside the exact ones from the events, in one run: 200 flags over 30 days.

``FLAG_ANALYTICS_BENCH_EVENTS`` says how many events there are, by default 200,000; ``FLAG_ANALYTICS_BENCH_FULL=1`` asks
about 5,000,000. A tenth of them is asked about before, for the growth with the number of events. Servers are those of
``database``. Every flag has its own users, but for the hot one, which has a fifth of all events.
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
from flag_analytics_database import DatabaseOptions, DatabaseStore

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
    with _databases(family, count=2) as urls:
        if not urls:
            return Table(title, notes=[f"no {family} server answers"])
        few, all_ = (
            DatabaseStore(
                DatabaseOptions(
                    connection_string=url, rollups=True, query_timeout_seconds=3_600.0, statement_timeout_seconds=600.0
                )
            )
            for url in urls
        )
        figures = []
        for store, events in ((few, _EVENTS // 10), (all_, _EVENTS)):
            took = _run(_fill(store, events))
        figures += [Figure("summaries of all days", took, "s")]
        for name, question, most in _QUESTIONS:
            limit = None if family == "mysql" else most
            fast_few, fast = _run(_rounds(question, (few, all_), _WINDOW, "fast"))
            (exact,) = _run(_rounds(question, (all_,), _WINDOW, "exact", rounds=1))
            growth = statistics.median(one / other for one, other in zip(fast, fast_few, strict=True))
            figures += [
                Figure(f"{name}, fast", statistics.median(fast), "ms", at_most=limit),
                Figure(f"{name}, exact", exact[0], "ms"),
                Figure(f"{name}, growth with ten times the events", growth, "x", at_most=_MOST_GROWTH),
            ]
            if question is not _series:
                (later,) = _run(_rounds(question, (all_,), _LATER, "fast", rounds=3))
                figures.append(Figure(f"{name}, fast, from within a day to within a day", min(later), "ms"))
        for store in (few, all_):
            _run(store.close())
        return Table(title, figures=figures, verdicts=judge(figures))


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


async def _fill(store: DatabaseStore, events: int) -> float:
    """Store events and make their summaries; return how many seconds the latter took."""
    for batch in _batches(events):
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


BENCHMARKS = (answers_sqlite, answers_postgresql, answers_mariadb)
"""In this order, since the largest tables come last."""
