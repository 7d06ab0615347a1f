"""A law: the counts are what the events say, and what the pruned ones said, after any schedule of faults."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from flag_analytics.errors import DeliveryError
from flag_analytics.events import EvaluationReason
from flag_analytics.testing.faults import FaultProxy
from flag_analytics_database import DatabaseStore, rebuilding
from flag_analytics_database.count_statements import cell_from, cells_query
from flag_analytics_database.counting import DAY_TOTALS, with_day_totals
from flag_analytics_database.rebuilding import _difference, _look
from flag_analytics_database.rollup_state import EVER
from flag_analytics_database.writers import postgresql
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

NOW = datetime(2026, 3, 1, 12, 20, tzinfo=UTC)
PRUNED_BEFORE = datetime(2026, 3, 1, tzinfo=UTC)
EVENTS = 40
OLD = 10
"""The first events of a schedule are so old that pruning removes them; no write of those is broken."""
PATIENT = {"connect_timeout_seconds": 20.0, "statement_timeout_seconds": 20.0}

_tables = itertools.count()

ranges = st.tuples(st.integers(0, EVENTS - 1), st.integers(1, 20), st.booleans())
young = st.tuples(st.integers(OLD, EVENTS - 1), st.integers(1, 20), st.booleans())
steps = st.one_of(
    st.tuples(st.just("write"), ranges),
    st.tuples(st.just("together"), st.lists(ranges, min_size=2, max_size=4)),
    st.tuples(st.just("broken"), young, st.integers(0, 6)),
    st.tuples(st.just("cancelled"), young, st.integers(0, 40)),
    st.tuples(st.just("import"), ranges, st.sampled_from("ab")),
    st.tuples(st.just("undo"), st.sampled_from("ab")),
    st.tuples(st.just("forget"), st.lists(st.integers(0, 4), min_size=1, max_size=2)),
    st.tuples(st.just("prune")),
    st.tuples(st.just("rebuild"), st.one_of(st.none(), st.integers(0, 20))),
    st.tuples(st.just("rebuild and write"), ranges),
)
schedules = st.lists(steps, min_size=2, max_size=12)


@attrs.define
class Trial:
    """One table, workers that write to it, and what was pruned."""

    database: Any
    proxy: FaultProxy | None
    batches: Any
    events: Sequence[Any]
    from_the_start: bool
    table: str = attrs.field(factory=lambda: f"law_{next(_tables)}")
    pruned: Counter[Any] = attrs.field(factory=Counter)
    stores: list[DatabaseStore] = attrs.field(factory=list)

    async def begin(self) -> None:
        self.stores = [self.database.store(table=self.table, rollups=self.from_the_start, **PATIENT) for _ in range(4)]
        if self.proxy is not None:
            through = self.database.at(*self.proxy.address)
            self.stores[3] = DatabaseStore(
                self.database.options(connection_string=through, table=self.table, **PATIENT)
            )
        await self.stores[0].open()
        if not self.from_the_start:
            await self.write((0, EVENTS // 2, False))
            await self.stores[0].rebuild_counts()
            for store in self.stores:
                store._setup.follow_at = 0.0

    async def end(self) -> None:
        for store in self.stores:
            await store.close()

    def batch(self, chosen: tuple[int, int, bool]) -> Any:
        start, length, backwards = chosen
        some = self.events[start : start + length]
        return self.batches(*(reversed(some) if backwards else some))

    async def do(self, kind: str, *how: Any) -> None:
        await getattr(self, kind.replace(" ", "_"))(*how)

    async def write(self, chosen: Any, worker: int = 0) -> None:
        await self.stores[worker].write(self.batch(chosen))

    async def together(self, several: Any) -> None:
        await asyncio.gather(*(self.write(chosen, worker) for worker, chosen in enumerate(several[:3])))

    async def broken(self, chosen: Any, answer: int) -> None:
        """Cut the connection in place of one of the answers that a write waits for."""
        if self.proxy is not None:
            self.proxy.cut_answer(answer)
        with contextlib.suppress(DeliveryError):
            await self.write(chosen, 3)
        if self.proxy is not None:
            self.proxy._cut_after.clear()
            self.proxy.heal()

    async def cancelled(self, chosen: Any, ticks: int) -> None:
        """Give a write up anywhere."""
        writing = asyncio.ensure_future(self.write(chosen, 2))
        for _ in range(ticks):
            await asyncio.sleep(0)
        writing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writing

    async def import_(self, chosen: Any, name: str) -> None:
        store = self.stores[1]
        await store.start_import(name)
        await store.write(self.batch(chosen))
        store._import_id = None

    async def undo(self, name: str) -> None:
        await self.stores[0].undo_import(name)

    async def forget(self, users: list[int]) -> None:
        await self.stores[0].forget([f"user-{user}" for user in users])

    async def prune(self) -> None:
        store = self.stores[0]
        before = store.tables.events.c.timestamp < int(PRUNED_BEFORE.timestamp()) * 1_000_000
        old = await store._ask(cells_query(store.tables, store.family, before))
        self.pruned.update(figures(with_day_totals(map(cell_from, old))))
        await store.prune(PRUNED_BEFORE)

    async def rebuild(self, hours: int | None) -> None:
        await self.stores[1].rebuild_counts(None if hours is None else NOW - timedelta(hours=hours))

    async def rebuild_and_write(self, chosen: Any) -> None:
        await asyncio.gather(self.rebuild(None), self.write(chosen), self.write(chosen, 2))

    async def surplus(self) -> Counter[Any]:
        """Return what the counts hold beyond what the events say, seen at one moment."""
        store = self.stores[0]

        async def look(connection: Any) -> Any:
            await _look(connection, store.family)
            return await _difference(connection, store.tables, store.family, EVER, DAY_TOTALS // 2)

        lacking, totals = await store._questions.run(look, settle=True)
        return Counter({key: -count for key, count in figures(lacking + totals).items()})


def figures(cells: Any) -> dict[Any, int]:
    """Return each figure of each cell by its name."""
    found = {(*cell[:5], name): cell[5 + name] for cell in cells for name in range(4)}
    return {key: figure for key, figure in found.items() if figure}


def all_sorts(make_event: Any) -> list[Any]:
    def one(number: int) -> Any:
        hours = 40 + number % 3 if number < OLD else number % 4
        return make_event(
            number,
            timestamp=NOW - timedelta(hours=hours, minutes=number),
            flag_key=f"flag-{number % 2}",
            variant=(None, "", "a", "b")[number % 4],
            reason=(EvaluationReason.SPLIT, EvaluationReason.ERROR)[number % 5 == 0],
            error_type=(None, "GENERAL")[number % 7 == 0],
            targeting_key=f"user-{number % 5}",
            sample_rate=(1.0, 0.3)[number % 3 == 0],
            kind=("evaluation", "exposure", "evaluation", "outcome")[number % 11 % 4],
            context_attributes=({}, {"environment": "e"}, {"environment": 1})[number % 3],
        )

    return [one(number) for number in range(EVENTS)]


@pytest.fixture
def proxy_or_none(database: Any) -> Iterator[FaultProxy | None]:
    if database.family == "sqlite":
        yield None
        return
    with FaultProxy((database.url.host, database.url.port)) as proxy:
        yield proxy


SHORT = {"sqlite": 15, "postgresql": 5, "mysql": 5}
LONG = {"sqlite": 150, "postgresql": 60, "mysql": 60}


async def _hold(database: Any, proxy: Any, make_event: Any, batch_of: Any, schedule: Any, from_start: bool) -> None:
    trial = Trial(database, proxy, batch_of, all_sorts(make_event), from_start)
    try:
        await trial.begin()
        for kind, *how in schedule:
            await trial.do("import_" if kind == "import" else kind, *how)
        assert await trial.surplus() == trial.pruned
        assert await trial.stores[0].rebuild_counts() == 0
    finally:
        await trial.end()


@pytest.mark.parametrize(
    "examples", [pytest.param(SHORT, id="short"), pytest.param(LONG, id="long", marks=pytest.mark.chaos)]
)
async def test_the_counts_are_what_the_events_say_after_any_faults(
    database: Any, proxy_or_none: Any, make_event: Any, batch_of: Any, monkeypatch: pytest.MonkeyPatch, examples: Any
) -> None:
    monkeypatch.setattr(rebuilding, "PAGE_ROWS", 6)
    monkeypatch.setattr(postgresql, "_FEW", 8)  # both of its ways
    loop = asyncio.get_running_loop()

    @given(schedule=schedules, from_start=st.booleans())
    @settings(
        max_examples=examples[database.family],
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
    )
    def hold(schedule: Any, from_start: bool) -> None:
        held = _hold(database, proxy_or_none, make_event, batch_of, schedule, from_start)
        asyncio.run_coroutine_threadsafe(held, loop).result(300)

    await asyncio.to_thread(hold)
