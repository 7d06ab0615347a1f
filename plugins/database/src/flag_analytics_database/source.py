"""``DatabaseSource``: answers the aggregator's questions by asking the database, over any connection there is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import datetime
from operator import add
from typing import Any, ClassVar

import attrs
from flag_analytics.metrics import (
    MILLION,
    canonical_filter,
    check_percentiles,
    group_steps,
    step_count,
    step_length,
    time_step,
)
from flag_analytics.outcomes import Outcomes
from flag_analytics.sources import (
    PARTS,
    EventFilter,
    Exposures,
    FlagActivity,
    FlagSummary,
    Grouping,
    TimeStep,
    Window,
)
from flag_analytics.waiting import in_thread
from sqlalchemy import Connection, Engine, Executable, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from .answers import Draft, as_text, exposures_of, exposures_of_one_version, outcomes_of
from .errors import unavailable
from .queries import (
    activity_query,
    exposures_by_version_query,
    exposures_query,
    future_query,
    outcomes_query,
    steps_query,
    summary_query,
)
from .rows import from_micros
from .schema import Tables, tables_named
from .setup import incomplete
from .stale_plans import once_more
from .urls import family_of

__all__ = ["Ask", "DatabaseSource", "source_of"]

Ask = Callable[[Executable], Awaitable[Sequence[Any]]]
"""Runs one statement and returns its rows."""

_MICROSECOND_SECONDS = 1_000_000
_FLAGS_PER_STATEMENT = 1_000
"""Databases limit the number of parameters; each flag takes up to three."""


@attrs.frozen(eq=False)
class DatabaseSource:
    """An ``EventSource`` over one table. Every answer is one statement: the database computes, a few rows come back."""

    any_loop: ClassVar[bool] = True

    ask: Ask = attrs.field(repr=False)
    family: str
    tables: Tables = attrs.field(factory=tables_named, repr=False)

    async def summarise(
        self,
        flag_keys: Sequence[str],
        window: Window,
        *,
        parts: frozenset[str] = PARTS,
        percentiles: Sequence[float] = (),
        where: EventFilter | None = None,
        group_by: Grouping | None = None,
    ) -> Mapping[str, FlagSummary]:
        """Return a summary for each flag that has events in the window."""
        asked = (window, parts, check_percentiles(percentiles), canonical_filter(where), group_by)
        drafts: dict[tuple[str, str | None], Draft] = {}
        for keys in _chunks(sorted(set(flag_keys)), _FLAGS_PER_STATEMENT):
            found = await self._drafts(keys, *asked, weighted=False)
            if any(draft.sampled or draft.too_many_masks() for draft in found.values()):
                found = await self._drafts(keys, *asked, weighted=True)
            drafts |= found
        # Of one flag without events, an aggregate still says 0.
        summaries = {key: draft.summary(parts) for key, draft in drafts.items() if draft.total}
        if group_by is None:
            return {flag_key: summary for (flag_key, _), summary in summaries.items()}
        groups: defaultdict[str, dict[str, FlagSummary]] = defaultdict(dict)
        for (flag_key, group), summary in summaries.items():
            groups[flag_key][group or ""] = summary
        return {flag_key: FlagSummary(groups=named) for flag_key, named in groups.items()}

    async def _drafts(
        self,
        keys: Sequence[str],
        window: Window,
        parts: frozenset[str],
        percentiles: Sequence[float],
        where: EventFilter,
        group_by: Grouping | None,
        *,
        weighted: bool,
    ) -> dict[tuple[str, str | None], Draft]:
        query = summary_query(
            self.tables, self.family, keys, window, parts, percentiles, where, group_by, weighted=weighted
        )
        drafts: dict[tuple[str, str | None], Draft] = {}
        for kind, flag_key, group, *row in await self.ask(query):
            key = (flag_key, as_text(group))
            if key not in drafts:
                drafts[key] = Draft(percentiles, weighted)
            drafts[key].add(kind, *row)
        return drafts

    async def get_exposures(self, flag_key: str, window: Window, *, where: EventFilter | None = None) -> Exposures:
        """Return users by the variant that they saw first; see ``EventSource.get_exposures``."""
        asked = (self.tables, self.family, flag_key, window)
        where = canonical_filter(where)
        rows = await self.ask(exposures_query(*asked, where))
        found = exposures_of_one_version(rows)
        if found is not None:
            return found
        versions: defaultdict[str | None, list[Sequence[Any]]] = defaultdict(list)
        for version, *row in await self.ask(exposures_by_version_query(*asked, Grouping("flag_version").most, where)):
            versions[version].append(row)
        whole = exposures_of(versions.pop(None, ()))
        return attrs.evolve(whole, by_version={name or "": exposures_of(some) for name, some in versions.items()})

    async def get_outcomes(
        self, flag_key: str, metric: str, window: Window, *, where: EventFilter | None = None
    ) -> Outcomes:
        """Return what the flag's users did, by the variant that they saw first; see ``OutcomeSource.get_outcomes``."""
        asked = (self.tables, self.family, flag_key, metric, window, canonical_filter(where))
        return outcomes_of(flag_key, metric, await self.ask(outcomes_query(*asked)))

    async def list_flags(self, window: Window, *, where: EventFilter | None = None) -> Sequence[FlagActivity]:
        """Return every flag with events in the window, by key."""
        asked = (self.tables, self.family, window, canonical_filter(where))
        rows = await self.ask(activity_query(*asked))
        weighted = any(least_rate < 1 for *_, least_rate in rows)
        if weighted:
            rows = await self.ask(activity_query(*asked, weighted=True))
        found = []
        for key, count, first, last, weight in rows:
            total = int(weight) if weighted else count * MILLION
            estimated = total != count * MILLION
            found.append(FlagActivity(key, round(total / MILLION), from_micros(first), from_micros(last), estimated))
        return sorted(found, key=lambda flag: flag.flag_key)

    async def count_steps(
        self,
        flag_key: str,
        window: Window,
        step_seconds: float,
        *,
        where: EventFilter | None = None,
        group_by: Grouping | None = None,
    ) -> Mapping[int, TimeStep]:
        """Return, by number, the steps of the window that have events; see ``EventSource.count_steps``."""
        step = step_length(step_seconds)
        last = max(0, step_count(window, step) - 1)
        micros = (step.days * 86_400 + step.seconds) * _MICROSECOND_SECONDS + step.microseconds
        asked = (self.tables, self.family, flag_key, window, micros, last, canonical_filter(where), group_by)
        rows = await self.ask(steps_query(*asked))
        weighted = any(least_rate < 1 for *_, least_rate in rows)
        if weighted:
            rows = await self.ask(steps_query(*asked, weighted=True))
        sums: defaultdict[str | None, defaultdict[int, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0] * 4))
        for number, group, count, *figures in rows:
            whole = [int(count) * MILLION, *(int(figure) for figure in figures)]
            if not weighted:
                whole[1:] = [whole[1] * MILLION, whole[2] * MILLION, whole[0]]
            of_step = sums[as_text(group)][int(number)]
            of_step[:] = map(add, of_step, whole)
        steps = {
            group: {
                number: time_step(
                    window,
                    step,
                    number,
                    count=round(total / MILLION),
                    errors=round(errors / MILLION),
                    unique_users=round(users / MILLION),
                    estimated=total != rows_counted,
                )
                for number, (rows_counted, errors, users, total) in sorted(by_number.items())
            }
            for group, by_number in sums.items()
        }
        if group_by is None:
            return steps.get(None, {})
        return group_steps(window, step_seconds, {group or "": by_number for group, by_number in steps.items()})

    async def count_future(self, now: datetime) -> int:
        """Return how many stored events are dated after ``now``."""
        ((count,),) = await self.ask(future_query(self.tables, now))
        return int(count)


def source_of(session_or_engine: Any) -> DatabaseSource | None:
    """Return a source that asks over an application's own session, connection or engine; None for any other object.

    It reads the table of the default name. What is asynchronous is used in the caller's loop, anything else in a
    thread; a session or connection is used in the transaction it is in.
    """
    asks: list[tuple[type[Any], Callable[[Any], tuple[Any, Ask]]]] = [
        (AsyncSession, lambda session: (session.get_bind(), _ask_open(session))),
        (AsyncConnection, lambda connection: (connection, _ask_open(connection))),
        (AsyncEngine, lambda engine: (engine, _ask_engine(engine))),
        (Session, lambda session: (session.get_bind(), _ask_session(session))),
        (Connection, lambda opened: (opened, _in_thread(lambda query: opened.execute(query).all()))),
        (Engine, lambda engine: (engine, _in_thread(lambda query: _ask_sync_engine(engine, query)))),
        (async_scoped_session, lambda scoped: (scoped.session_factory().get_bind(), _ask_scoped(scoped, _ask_open))),
        (scoped_session, lambda scoped: (scoped.session_factory().get_bind(), _ask_scoped(scoped, _ask_session))),
    ]
    for kind, ask_of in asks:
        if isinstance(session_or_engine, kind):
            bind, ask = ask_of(session_or_engine)
            family = family_of(bind.dialect.name)
            return None if family is None else DatabaseSource(_Foreign(ask, family), family)
    return None


@attrs.define(eq=False)
class _Foreign:
    """Asks over what is the application's own: never for a part of the rows, and without a driver's words in errors."""

    ask: Ask
    family: str
    _complete: bool = attrs.field(init=False, default=False)

    async def __call__(self, query: Executable) -> Sequence[Any]:
        tables = tables_named()
        try:
            if not self._complete:
                if await self.ask(has_table_query(self.family, tables.adopted_table)):
                    raise incomplete(tables)
                self._complete = True
            return await self.ask(query)
        except SQLAlchemyError as error:
            raise unavailable(error) from None


def has_table_query(family: str, name: str) -> Executable:
    """Return a question with a row for each table of this name that the connection sees."""
    if family == "sqlite":
        return text("SELECT 1 FROM sqlite_master WHERE name = :name").bindparams(name=name)
    if family == "postgresql":
        return text("SELECT 1 WHERE to_regclass(:name) IS NOT NULL").bindparams(name=name)
    visible = "SELECT 1 FROM information_schema.tables WHERE table_schema = database() AND table_name = :name"
    return text(visible).bindparams(name=name)


def _ask_open(opened: AsyncSession | AsyncConnection) -> Ask:
    async def ask(query: Executable) -> Sequence[Any]:
        return (await opened.execute(query)).all()

    return ask


def _ask_session(session: Session) -> Ask:
    return _in_thread(lambda query: session.execute(query).all())


def _ask_scoped(scoped: Callable[[], Any], ask_of: Callable[[Any], Ask]) -> Ask:
    async def ask(query: Executable) -> Sequence[Any]:
        return await ask_of(scoped())(query)  # of the task or thread that asks

    return ask


def _ask_engine(engine: AsyncEngine) -> Ask:
    async def ask(query: Executable) -> Sequence[Any]:
        async with engine.connect() as connection:
            return (await connection.execute(query)).all()

    return lambda query: once_more(lambda: ask(query))


def _ask_sync_engine(engine: Engine, query: Executable) -> Sequence[Any]:
    with engine.connect() as connection:
        return connection.execute(query).all()


def _in_thread(ask: Callable[[Executable], Sequence[Any]]) -> Ask:
    async def asked(query: Executable) -> Sequence[Any]:
        return await in_thread(ask, query)

    return asked


def _chunks(keys: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]
