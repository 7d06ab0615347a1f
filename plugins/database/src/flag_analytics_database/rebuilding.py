"""Making the counts complete, backwards in time and in pages, while events are written.

One look at the database, in which nothing changes, shows what the events of some hours say and what the counts of these
hours say. Everything that is written or removed afterwards changes both alike. So the difference may be added to the
counts at any later time, and no writer has to wait. The place that was reached is moved in the same transaction, from
where it was during the look: of two rebuilds, one adds.
"""

from __future__ import annotations

import attrs
from sqlalchemy import delete, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from .count_statements import add_cells, cell_from, cells_query, drop_empty
from .counting import CELL_COLUMNS, DAY, DAY_TOTALS, HOUR, KEY_COLUMNS, Cell, with_day_totals
from .once import begin, unless_crossed
from .rollup_state import (
    COUNTED_SINCE,
    EVER,
    NEVER,
    REBUILT_AT,
    ROLLUPS_PRUNED_BEFORE,
    SETTLING,
    SWITCHED_ON_AT,
    change_state,
    drop_state,
    is_complete,
    least_hour,
    read_state,
)
from .schema import Tables
from .writers.any_driver import insert_once

__all__ = ["PAGE_ROWS", "Rebuilt", "complete_counts", "drop_rollups", "rebuild_page"]

PAGE_ROWS = 20_000
"""The events of a page, which holds whole hours: at least one, and no more than it takes for so many events."""
_KEY = len(KEY_COLUMNS)
_FIGURES = slice(_KEY, len(CELL_COLUMNS) - 2)


@attrs.frozen
class Rebuilt:
    """How far a rebuild has come.

    Attributes:
        since: The counts of the hours from here on are right, in microseconds; ``EVER`` for all of them.
        corrected: How many cells of this page were not.
        done: Whether the rebuild is at its end.
    """

    since: int
    corrected: int
    done: bool


async def rebuild_page(
    connection: AsyncConnection,
    tables: Tables,
    family: str,
    since: int = EVER,
    *,
    settles: bool = False,
    most_rows: int | None = None,
) -> Rebuilt:
    """Correct the counts of the next hours, backwards from where the last page ended; the first one starts anew.

    Args:
        connection: One without a transaction.
        tables: The store's tables.
        family: The kind of database.
        since: The first hour that is wanted, in microseconds.
        settles: Whether every writer keeps counts by now, so that the first rebuild of all time is the last one.
        most_rows: The events of a page.
    """
    await _look(connection, family)
    state = await read_state(connection, tables)
    if COUNTED_SINCE not in state or (settles and SWITCHED_ON_AT not in state):  # another process has done it
        await connection.rollback()
        return Rebuilt(state.get(COUNTED_SINCE, NEVER), 0, done=True)
    known, floor = state.get(REBUILT_AT, NEVER), max(since, least_hour(state))
    # What was rebuilt before lacks what writers stored that did not keep counts yet.
    begins_to_settle = settles and SETTLING not in state
    place = NEVER if begins_to_settle else known
    start = await _start_of_page(connection, tables, floor, place, most_rows or PAGE_ROWS)
    end = min(place, DAY_TOTALS // 2)
    wrong, totals = await _difference(connection, tables, family, start, end) if start < end else ([], [])
    await connection.rollback()
    done, complete = start <= floor, state[COUNTED_SINCE]

    async def correct() -> Rebuilt:
        await begin(connection, family)
        if REBUILT_AT not in state:
            await connection.execute(insert_once(tables.rollup_state, family).values(name=REBUILT_AT, value=NEVER))
        if begins_to_settle:
            await connection.execute(insert_once(tables.rollup_state, family).values(name=SETTLING, value=1))
        moved = await change_state(connection, tables, REBUILT_AT, known, start)
        if not (moved and await change_state(connection, tables, COUNTED_SINCE, complete, min(complete, start))):
            await connection.rollback()
            return Rebuilt(place, 0, done=False)  # another process was faster
        await add_cells(connection, tables, family, sorted(wrong + totals))
        await drop_empty(connection, tables, {cell[0] for cell in wrong + totals})
        if done:
            settled = [SWITCHED_ON_AT, SETTLING] if settles and since == EVER else []
            await drop_state(connection, tables, REBUILT_AT, *settled)
        await connection.commit()
        return Rebuilt(start, len(wrong), done)

    return await unless_crossed(connection, correct)


async def complete_counts(connection: AsyncConnection, tables: Tables, family: str) -> None:
    """Let the counts, if any are kept, know every event that is stored."""
    state = await read_state(connection, tables)
    await connection.rollback()
    if COUNTED_SINCE in state and not is_complete(state):
        while not (await rebuild_page(connection, tables, family)).done:
            pass


async def drop_rollups(connection: AsyncConnection, tables: Tables, family: str) -> None:
    """Let no rollups be kept, and remove them; when events were pruned stays known."""
    await begin(connection, family)
    await drop_state(connection, tables, COUNTED_SINCE, SWITCHED_ON_AT, SETTLING, REBUILT_AT, ROLLUPS_PRUNED_BEFORE)
    for table in (tables.counts, tables.sketches):
        await connection.execute(delete(table))
    await connection.commit()


async def _look(connection: AsyncConnection, family: str) -> None:
    """Begin a transaction in which everything that is read is of the same moment."""
    await connection.rollback()
    if family == "sqlite":
        # A reader of a database in memory would see what others have not committed yet.
        await begin(connection, family)
    else:
        await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))


async def _start_of_page(connection: AsyncConnection, tables: Tables, floor: int, place: int, most_rows: int) -> int:
    at = tables.events.c.timestamp
    page = select(at).where(at >= floor, at < place).order_by(at.desc()).offset(most_rows).limit(1)
    beyond = await connection.scalar(page)
    if beyond is None:
        return floor
    hour = int(beyond) // HOUR * HOUR
    return hour + HOUR if hour + HOUR < place else hour


async def _difference(
    connection: AsyncConnection, tables: Tables, family: str, start: int, end: int
) -> tuple[list[Cell], list[Cell]]:
    """Return what has to be added to the counts of these hours, and to the totals of their days."""
    at, counts = tables.events.c.timestamp, tables.counts.c
    stored = await connection.execute(cells_query(tables, family, at >= start, at < end))
    first, last = max(start, -DAY_TOTALS // 4) // DAY * DAY, -(-end // DAY) * DAY
    days = or_(*(counts.hour.between(offset + first, offset + last - 1) for offset in (0, DAY_TOTALS)))
    counted = await connection.execute(select(*(counts[name] for name in CELL_COLUMNS)).where(days))
    right = {cell[:_KEY]: cell for cell in map(cell_from, stored)}
    known = list(map(cell_from, counted))
    kept = {cell[:_KEY]: cell for cell in known if start <= cell[0] < end}
    wrong = _differing(right, kept)
    hours = [cell for cell in known if cell[0] < DAY_TOTALS // 2]
    totals = {cell[:_KEY]: cell for cell in with_day_totals(hours + wrong) if cell[0] >= DAY_TOTALS // 2}
    return wrong, _differing(totals, {cell[:_KEY]: cell for cell in known if cell[0] >= DAY_TOTALS // 2})


def _differing(right: dict[Cell, Cell], kept: dict[Cell, Cell]) -> list[Cell]:
    """Return what has to be added to the cells that are kept, by their key, so that they are right."""
    wrong = []
    for key in right.keys() | kept.keys():
        should, does = right.get(key), kept.get(key)
        times = (should or does or ())[_FIGURES.stop :]
        difference = [one - other for one, other in zip(_figures(should), _figures(does), strict=True)]
        if any(difference):
            wrong.append((*key, *difference, *times))
    return wrong


def _figures(cell: Cell | None) -> Cell:
    return (0, 0, 0, 0) if cell is None else cell[_FIGURES]
