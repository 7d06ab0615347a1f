"""Imports: events that came with a file, under a name by which they can be listed and removed again."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import attrs
import msgspec
from flag_analytics.canonical import canonical_key
from flag_analytics.errors import BadBatch, SinkUnavailable
from flag_analytics.frozen import FrozenEvent
from sqlalchemy import ColumnElement, Executable, and_, case, delete, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from .count_statements import take_out
from .counting import count
from .once import begin, store_new
from .queries import events_query
from .rollup_state import is_counted
from .rows import ALL_COLUMNS, as_rows, from_micros, micros
from .schema import Tables
from .writers import BatchWriter

__all__ = [
    "OTHER_CONTENT",
    "Import",
    "Page",
    "Place",
    "begin_import",
    "imports_query",
    "remove_page",
    "store_import",
    "take_off",
]

OTHER_CONTENT = "other_content"
"""The reason why an event is refused whose id is stored with other content."""
PAGE_ROWS = 2_000
"""The most rows that are removed in one transaction."""
Place = tuple[int, str]
"""Time and id of an event."""
Page = tuple[int, Place | None]
"""The number of removed events, and the place after which there may be more."""
_ATTEMPTS = 3
_RECEIVED_AT = ALL_COLUMNS.index("received_at")
_JSON = {ALL_COLUMNS.index(name) for name in ("value", "context_attributes")}
_decode = msgspec.json.Decoder().decode
_sorted = msgspec.json.Encoder(order="sorted").encode


@attrs.frozen
class Import:
    """One import.

    Attributes:
        name: Its name.
        started_at: The time of its first start.
        events: The number of events that it brought, and not those that were stored before or were erased for a person.
        first_event: The time of the oldest of them; None without any.
        last_event: The time of the newest.
    """

    name: str
    started_at: datetime
    events: int
    first_event: datetime | None
    last_event: datetime | None

    @classmethod
    def of(cls, row: Any) -> Import:
        first, last = (None if time is None else from_micros(time) for time in (row.first_event, row.last_event))
        return cls(row.name, from_micros(row.started_at), int(row.events), first, last)


def imports_query(tables: Tables) -> Executable:
    """Return the statement for all imports, the oldest first."""
    return select(tables.imports).order_by(tables.imports.c.started_at, tables.imports.c.id)


async def begin_import(connection: AsyncConnection, tables: Tables, family: str, name: str) -> int:
    """Return the number of the import of this name, which is made if there is none yet."""
    name, imports = canonical_key(name), tables.imports
    row = {"name": name, "started_at": int(time.time() * 1_000_000), "events": 0}
    found = select(imports.c.id).where(imports.c.name == name)
    for _ in range(_ATTEMPTS):
        number = (await connection.execute(found)).scalar()
        if number is not None:
            return int(number)
        try:
            await connection.execute(imports.insert(), [row])
            await connection.commit()
        except IntegrityError:  # another process was quicker
            await connection.rollback()
    raise SinkUnavailable("the import cannot be begun", code=family)


async def store_import(
    connection: AsyncConnection,
    tables: Tables,
    family: str,
    writer: BatchWriter,
    import_id: int,
    events: Sequence[FrozenEvent],
    *,
    counted: bool = False,
) -> None:
    """Store those events of an import whose ids are new, in one transaction; ``counted`` with their counts.

    Raises:
        BadBatch: the ids of some are stored with other content; the others are stored.
    """
    rows = _rows(events)
    refused: dict[str, str] = {}

    async def look_up() -> tuple[FrozenEvent, ...]:
        nonlocal refused
        new, refused = _sort_out(events, rows, await _stored(connection, tables, family, rows))
        return tuple(new)

    async def store(new: tuple[FrozenEvent, ...]) -> None:
        await writer.insert(connection, new, import_id)
        if counted:
            await writer.add(connection, count(new))
        await connection.execute(_count(tables, import_id, new))

    await store_new(connection, family, look_up, store)
    if refused:
        stored = [event.event_id for event in events if event.event_id not in refused]
        raise BadBatch("an event is stored with other content", refused=refused, stored=stored)


def _rows(events: Sequence[FrozenEvent]) -> list[tuple[Any, ...]]:
    _, rows = as_rows(events, str, 0)
    return [row[:-1] for row in rows]


async def _stored(
    connection: AsyncConnection, tables: Tables, family: str, rows: Sequence[tuple[Any, ...]]
) -> dict[str, tuple[Any, ...]]:
    """Return the stored rows of these ids, by id."""
    query = events_query(tables, family).where(tables.events.c.event_id.in_([row[0] for row in rows]))
    return {row[0]: tuple(row) for row in await connection.execute(query)}


def _sort_out(
    events: Sequence[FrozenEvent], rows: Sequence[tuple[Any, ...]], known: dict[str, tuple[Any, ...]]
) -> tuple[list[FrozenEvent], dict[str, str]]:
    """Return the events that are new, and the refused ones with their reasons; ``known`` is used up."""
    new, refused = [], {}
    for event, row in zip(events, rows, strict=True):
        before = known.setdefault(str(uuid.UUID(row[0])), row)
        if before is row:
            new.append(event)
        elif _content(before) != _content(row):
            refused[event.event_id] = OTHER_CONTENT
    return new, refused


def _content(row: tuple[Any, ...]) -> list[Any]:
    """Return a row without the time it was received at; members of JSON objects have no order."""
    return [
        _sorted(_decode(value)) if index in _JSON else value for index, value in enumerate(row) if index != _RECEIVED_AT
    ]


def _count(tables: Tables, import_id: int, new: Sequence[FrozenEvent]) -> Executable:
    columns, times = tables.imports.c, [micros(event.timestamp) for event in new]
    first, last = min(times), max(times)
    return (
        update(tables.imports)
        .where(columns.id == import_id)
        .values(
            events=columns.events + len(new),
            first_event=case((columns.first_event < first, columns.first_event), else_=first),
            last_event=case((columns.last_event > last, columns.last_event), else_=last),
        )
    )


async def remove_page(
    connection: AsyncConnection, tables: Tables, family: str, name: str, after: Place | None
) -> Page | None:
    """Remove the next events of an import, and the import itself once there are none.

    Args:
        connection: One in a transaction of its own.
        tables: The store's tables.
        family: The kind of database.
        name: The import's name.
        after: The place that the last call returned.

    Returns:
        A page whose place is None at the end; None if there is no such import.
    """
    imports, columns = tables.imports, tables.events.c
    await begin(connection, family)
    # Rows are locked before anything else is read: what is counted is then what is removed.
    found = select(imports).where(imports.c.name == canonical_key(name)).with_for_update()
    row = (await connection.execute(found)).one_or_none()
    if row is None:
        await connection.rollback()
        return None
    page: list[Any] = []
    if row.first_event is not None:
        query = (
            select(columns.event_id, columns.timestamp)
            .where(columns.import_id == row.id, columns.timestamp.between(row.first_event, row.last_event))
            .order_by(columns.timestamp, columns.event_id)
            .limit(PAGE_ROWS)
            .with_for_update()
        )
        if after is not None:
            follows = and_(columns.timestamp == after[0], columns.event_id > after[1])
            query = query.where(columns.timestamp >= after[0], or_(columns.timestamp > after[0], follows))
        page = list(await connection.execute(query))
    if page:
        theirs = columns.event_id.in_([event.event_id for event in page])
        if await is_counted(connection, tables):
            await take_out(connection, tables, family, theirs)
        await connection.execute(delete(tables.events).where(theirs))
        left = {"events": imports.c.events - len(page)}
        await connection.execute(update(imports).where(imports.c.id == row.id).values(left))
    if len(page) < PAGE_ROWS:
        await connection.execute(delete(imports).where(imports.c.id == row.id))
    await connection.commit()
    return len(page), (page[-1].timestamp, page[-1].event_id) if len(page) == PAGE_ROWS else None


async def take_off(connection: AsyncConnection, tables: Tables, events: ColumnElement[bool]) -> None:
    """Take events that are about to be removed off the numbers of their imports, in the caller's transaction."""
    import_id, imports = tables.events.c.import_id, tables.imports
    counts = select(import_id, func.count().label("events")).where(events, import_id.is_not(None)).group_by(import_id)
    for row in (await connection.execute(counts)).all():
        left = {"events": imports.c.events - row.events}
        await connection.execute(update(imports).where(imports.c.id == row.import_id).values(left))
