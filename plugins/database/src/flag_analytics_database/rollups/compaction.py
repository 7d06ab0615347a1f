"""Making summaries of finished days out of the events, a day and some flags at a time, and longer spans out of those.

They are written in small transactions, beside the writing of events. That a summary is right does not hang on
what happens in between: it says how many events it was made of, and is used only while its days have just as many.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import attrs
from sqlalchemy import Executable, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ..counting import DAY, HOUR
from ..once import begin
from ..rollup_state import COUNTED_SINCE, EVER, PRUNED_BEFORE, read_state
from ..schema import KIND_CODES, Tables
from .measured import cells_of_rows, measure
from .spans import DAYS_OF_SPANS, Span, floor
from .stored import DURATIONS, USERS, VARIANT_USERS, hourly_query, keeping, spans_query, stale_query, summary_of
from .summary import WindowSummary, pack_cells
from .users import Users, can_sketch

__all__ = ["GRACE", "compact_all", "compact_some", "finished_before"]

GRACE = 15 * 60 * 1_000_000
"""Microseconds after its end when a day is taken for finished; events that come later make it be done again."""
_PARTS = (USERS, DURATIONS, VARIANT_USERS)
_ROWS_AT_ONCE = 50_000
_MOST = 200
_QUICK_DAYS = 4
"""From so many days on a summary has users in a larger form: there are few of these, and each is used often."""


def finished_before(now: int) -> int:
    """Return the start of the first day that is not finished."""
    return floor(now - GRACE, DAY)


@attrs.frozen
class Compaction:
    """Makes summaries over one connection."""

    connection: AsyncConnection
    tables: Tables
    family: str
    experiments: Collection[str] = ()

    async def some(self, now: int, most: int) -> int:
        """Make at most ``most`` summaries that are missing or stale, those of days first; return how many were made.

        One that cannot be made, since the events of its days are not those that were counted, is passed over.
        """
        made = 0
        for days in DAYS_OF_SPANS:
            passed_over = 0
            while made < most:
                query = stale_query(self.tables, days, EVER // 8, finished_before(now), most - made, passed_over)
                stale: defaultdict[Span, dict[str, int]] = defaultdict(dict)
                for start, flag_key, events in await self._ask(query):
                    stale[Span(int(start), days)][flag_key] = int(events)
                if not stale:
                    break
                some = sum([await self._make(span, flags) for span, flags in stale.items()])
                made += some
                passed_over += sum(map(len, stale.values())) - some
        return made

    async def _make(self, span: Span, flags: Mapping[str, int]) -> int:
        """Make the summaries of these flags, which have so many events; return how many were made."""
        if span.days > 1:
            return await self._make_longer(span, flags)
        pruned_before = (await read_state(self.connection, self.tables)).get(PRUNED_BEFORE, EVER)
        await self.connection.rollback()
        if span.end <= pruned_before:
            return sum([await self._add_late(span, flag_key) for flag_key in flags])
        return sum([await self._make_days(span, some) for some in _together(flags)])

    async def _ask(self, query: Executable) -> Sequence[Any]:
        rows = (await self.connection.execute(query)).all()
        await self.connection.rollback()  # no transaction stays open while the rows are worked on
        return rows

    async def _make_days(self, span: Span, flags: Mapping[str, int]) -> int:
        hours = range(span.start, span.end, HOUR)
        cells = cells_of_rows(await self._ask(hourly_query(self.tables, self.family, hours, flags)))
        seen: Counter[str] = Counter()
        parts = {
            key: [WindowSummary(cells[key], variant_users={} if key in self.experiments else None)] for key in flags
        }
        for start, end in _pages(span, sum(flags.values())):
            found = await measure(self._ask, self.tables, self.family, start, end, flags, self.experiments)
            for key, (count, summary) in found.items():
                seen[key] += count
                parts[key].append(summary)
        made = {key: WindowSummary.merged(some) for key, some in parts.items()}
        # Where the numbers differ, events came or went meanwhile: the summary is stale still.
        return await self._keep(span, {key: one for key, one in made.items() if one.events == seen[key] == flags[key]})

    async def _make_longer(self, span: Span, flags: Mapping[str, int]) -> int:
        rows = await self._ask(spans_query(self.tables, self.family, span.halves, flags, _PARTS, 0))
        parts: defaultdict[str, list[WindowSummary]] = defaultdict(list)
        for _, key, _, of_half, *packed in rows:
            if of_half is not None:
                parts[key].append(summary_of(*packed))
        made = {key: WindowSummary.merged(some) for key, some in parts.items()}
        return await self._keep(span, {key: one for key, one in made.items() if one.events == flags[key]})

    async def _add_late(self, span: Span, flag_key: str) -> bool:
        """Add events of a day whose own events were removed to its summary, and remove them, in one transaction."""
        columns = self.tables.events.c
        theirs = [
            columns.flag_key == flag_key,
            columns.timestamp >= span.start,
            columns.timestamp < span.end,
            columns.kind != KIND_CODES["outcome"],
        ]
        await begin(self.connection, self.family)

        async def ask(query: Executable) -> Sequence[Any]:
            return (await self.connection.execute(query)).all()

        # Counts first: what is stored after them leaves the summary stale, and is added the next time.
        hours = range(span.start, span.end, HOUR)
        cells = cells_of_rows(await ask(hourly_query(self.tables, self.family, hours, [flag_key])))[flag_key]
        ids = [row.event_id for row in await ask(select(columns.event_id).where(*theirs).with_for_update())]
        late = await measure(ask, self.tables, self.family, span.start, span.end, [flag_key], self.experiments)
        ((_, _, events, of_summary, *packed),) = await ask(
            spans_query(self.tables, self.family, [span], [flag_key], _PARTS, span.end)
        ) or [(None, None, 0, None)]
        counted = sum(figures.events for figures in cells.values())
        if sum(count for count, _ in late.values()) != len(ids) or int(events) != counted:
            await self.connection.rollback()  # events came or went meanwhile
            return False
        # Without a summary, nothing tells of the users and durations of those that were removed.
        parts = [WindowSummary({}, None, None, None)]
        if of_summary is not None:
            parts = [attrs.evolve(summary_of(*packed), cells={})]
        parts += [summary for _, summary in late.values()]
        whole = attrs.evolve(WindowSummary.merged(parts), cells=cells)
        if of_summary is not None:
            whole = whole.with_late(counted - int(of_summary), len(ids))
        await self._write(span, {flag_key: whole})
        for first in range(0, len(ids), 1_000):
            some = ids[first : first + 1_000]
            await self.connection.execute(delete(self.tables.events).where(columns.event_id.in_(some)))
        await self.connection.commit()
        return True

    async def _keep(self, span: Span, made: Mapping[str, WindowSummary]) -> int:
        if made:
            await begin(self.connection, self.family)
            await self._write(span, made)
            await self.connection.commit()
        return len(made)

    async def _write(self, span: Span, made: Mapping[str, WindowSummary]) -> None:
        rows = [
            {
                "start": span.start,
                "days": span.days,
                "flag_key": flag_key,
                "events": whole.events,
                "cells": pack_cells(whole.cells),
                "users": None if whole.users is None else whole.users.pack(quick=span.days >= _QUICK_DAYS),
                "durations": None if whole.durations is None else whole.durations.pack(),
                "variant_users": None if whole.variant_users is None else Users.pack_each(whole.variant_users),
            }
            for flag_key, whole in sorted(made.items())
        ]
        await self.connection.execute(keeping(self.tables, self.family), rows)


def _together(flags: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Return the flags in groups of about ``_ROWS_AT_ONCE`` events, the largest alone."""
    group: dict[str, int] = {}
    for flag_key, events in flags.items():
        if group and sum(group.values()) + events > _ROWS_AT_ONCE:
            yield group
            group = {}
        group[flag_key] = events
    if group:
        yield group


def _pages(span: Span, events: int) -> list[tuple[int, int]]:
    """Return a day in as many equal parts as have about ``_ROWS_AT_ONCE`` events each, at most one for each minute."""
    parts = min(max(1, events // _ROWS_AT_ONCE), 1_440)
    edges = [span.start + DAY * part // parts for part in range(parts + 1)]
    return list(pairwise(edges))


async def compact_some(
    connection: AsyncConnection,
    tables: Tables,
    family: str,
    now: int,
    most: int = _MOST,
    experiments: Collection[str] = (),
) -> int:
    """Make at most ``most`` summaries of finished days; return how many were made, none at the end.

    Without the extra ``sketches`` there is nothing to make.
    """
    if not can_sketch():
        return 0
    return await Compaction(connection, tables, family, experiments).some(now, most)


async def compact_all(connection: AsyncConnection, tables: Tables, family: str) -> None:
    """Make all summaries of finished days that are missing or stale, where rollups are kept."""
    if COUNTED_SINCE not in await read_state(connection, tables):
        return
    now = int(time.time() * 1_000_000)
    while await compact_some(connection, tables, family, now):
        pass
