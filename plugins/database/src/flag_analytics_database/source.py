"""``DatabaseSource``: answers the aggregator's questions by asking the database, over any connection there is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs
from flag_analytics.metrics import (
    DEFAULT_VARIANT,
    canonical_filter,
    check_percentiles,
    step_bounds,
    step_count,
    step_length,
)
from flag_analytics.sources import PARTS, EventFilter, FlagActivity, FlagSummary, TimeStep, Window
from sqlalchemy import Connection, Engine, Executable, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from .errors import unavailable
from .queries import GROUPS, USERS, activity_query, future_query, steps_query, summary_query
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
    ) -> Mapping[str, FlagSummary]:
        """Return a summary for each flag that has events in the window."""
        percentiles = check_percentiles(percentiles)
        where = canonical_filter(where)
        drafts: dict[str, _Draft] = {}
        for keys in _chunks(sorted(set(flag_keys)), _FLAGS_PER_STATEMENT):
            query = summary_query(self.tables, self.family, keys, window, parts, percentiles, where)
            for what, flag_key, *row in await self.ask(query):
                drafts.setdefault(flag_key, _Draft(percentiles)).add(what, *row)
        # Of one flag without events, an aggregate still says 0.
        return {flag_key: draft.summary(parts) for flag_key, draft in drafts.items() if draft.total}

    async def list_flags(self, window: Window, *, where: EventFilter | None = None) -> Sequence[FlagActivity]:
        """Return every flag with events in the window, by key."""
        rows = await self.ask(activity_query(self.tables, self.family, window, canonical_filter(where)))
        found = [FlagActivity(key, count, from_micros(first), from_micros(last)) for key, count, first, last in rows]
        return sorted(found, key=lambda flag: flag.flag_key)

    async def count_steps(
        self, flag_key: str, window: Window, step_seconds: float, *, where: EventFilter | None = None
    ) -> Mapping[int, TimeStep]:
        """Return, by number, the steps of the window that have events; see ``EventSource.count_steps``."""
        step = step_length(step_seconds)
        last = max(0, step_count(window, step) - 1)
        micros = (step.days * 86_400 + step.seconds) * _MICROSECOND_SECONDS + step.microseconds
        query = steps_query(self.tables, self.family, flag_key, window, micros, last, canonical_filter(where))
        rows = sorted(
            (int(number), count, int(errors), users) for number, count, errors, users in await self.ask(query)
        )
        return {
            number: TimeStep(*step_bounds(window, step, number), count, errors, users)
            for number, count, errors, users in rows
        }

    async def count_future(self, now: datetime) -> int:
        """Return how many stored events are dated after ``now``."""
        ((count,),) = await self.ask(future_query(self.tables, now))
        return int(count)


class _Draft:
    """One flag's summary while its rows come in, in any order."""

    def __init__(self, percentiles: Sequence[float]) -> None:
        self._wanted = percentiles
        self.total = 0
        self._users = 0
        self._first: int | None = None
        self._variants: dict[str, int] = {}
        self._reasons: dict[str | None, int] = {}
        self._percentiles: dict[float, float] = {}
        self._by_rank: dict[int, float] = {}
        self._measured = 0

    def add(
        self,
        what: int,
        variant: str | None,
        reason: str | None,
        count: int | None,
        number: int | None,
        duration: float | None,
        percentiles: Sequence[float] | None,
    ) -> None:
        if what == GROUPS:
            if not count or number is None:
                return
            self.total += count
            self._first = number if self._first is None else min(self._first, number)
            self._variants[variant or DEFAULT_VARIANT] = self._variants.get(variant or DEFAULT_VARIANT, 0) + count
            self._reasons[reason] = self._reasons.get(reason, 0) + count
        elif what == USERS:
            self._users = count or 0
        elif percentiles is not None:
            self._percentiles = dict(zip(self._wanted, percentiles, strict=True))
        elif count is not None and number is not None and duration is not None:
            self._by_rank[int(count)] = duration
            self._measured = int(number)

    def summary(self, parts: frozenset[str]) -> FlagSummary:
        reasons = {reason: count for reason, count in self._reasons.items() if reason is not None}
        return FlagSummary(
            total=self.total,
            errors=reasons.get("ERROR", 0),
            unique_users=self._users,
            variants=self._variants if "variants" in parts else {},
            reasons=reasons if "reasons" in parts else {},
            percentiles=self._percentiles or dict(self._interpolated()),
            first_seen=None if self._first is None else from_micros(self._first),
        )

    def _interpolated(self) -> Iterator[tuple[float, float]]:
        """Give the percentiles by linear interpolation between order statistics, as ``metrics.percentile`` does."""
        if not self._measured:
            return
        for percent in self._wanted:
            position = percent / 100 * (self._measured - 1)
            below = int(position)
            fraction = position - below
            low = self._by_rank[below]
            yield percent, low + fraction * (self._by_rank[below + 1] - low) if fraction else low


def source_of(session_or_engine: Any) -> DatabaseSource | None:
    """Return a source that asks over an application's own session, connection or engine; None for any other object.

    It reads the table of the default name. What is asynchronous is used in the caller's loop, anything else in a
    thread; a session or connection is used in the transaction it is in.
    """
    if isinstance(session_or_engine, async_scoped_session | scoped_session):
        session_or_engine = session_or_engine()
    asks: list[tuple[type[Any], Callable[[Any], tuple[Any, Ask]]]] = [
        (AsyncSession, lambda session: (session.get_bind(), _ask_open(session))),
        (AsyncConnection, lambda connection: (connection, _ask_open(connection))),
        (AsyncEngine, lambda engine: (engine, _ask_engine(engine))),
        (Session, lambda session: (session.get_bind(), _in_thread(lambda query: session.execute(query).all()))),
        (Connection, lambda opened: (opened, _in_thread(lambda query: opened.execute(query).all()))),
        (Engine, lambda engine: (engine, _in_thread(lambda query: _ask_sync_engine(engine, query)))),
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
        return await asyncio.to_thread(ask, query)

    return asked


def _chunks(keys: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]
