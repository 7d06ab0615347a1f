"""Removing the summaries of days from which events are taken out."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import and_, delete, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ..conditions import one_of
from ..counting import Cell
from ..schema import PRUNED_BEFORE, Tables
from .spans import DAY, DAYS_OF_SPANS, floor

__all__ = ["remove_summaries"]


async def remove_summaries(connection: AsyncConnection, tables: Tables, family: str, cells: Iterable[Cell]) -> None:
    """Remove the summaries of the days and flags of these cells, in the caller's transaction; they are made anew.

    That of a day whose events were removed by their age stays: nothing else tells of them, and what is taken out came
    too late to be in it.
    """
    touched = [(cell[0], cell[1]) for cell in cells]
    if not touched:
        return
    state = tables.rollup_state.c
    pruned_before = await connection.scalar(select(state.value).where(state.name == PRUNED_BEFORE))
    kept = tables.sketches.c
    spans = []
    for days in DAYS_OF_SPANS:
        starts = {
            floor(hour, days * DAY) for hour, _ in touched if days > 1 or pruned_before is None or hour >= pruned_before
        }
        spans.append(and_(kept.days == days, kept.start.in_(sorted(starts))))
    mine = one_of(kept.flag_key, family, {flag_key for _, flag_key in touched})
    await connection.execute(delete(tables.sketches).where(or_(*spans), mine))
