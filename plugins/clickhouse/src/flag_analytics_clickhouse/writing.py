"""``BatchWriter``: each event is stored once, in its table and in the rollups, whatever happens to answers.

ClickHouse has no unique keys. What it has are tokens: a table, and each view's table, remembers those of its latest
``window`` blocks, and skips a block that comes again under one of them. Hence

- a batch is inserted month by month, each in one block that is one part of the table, under the batch's id and month;
- after an error the same blocks come again under the same tokens. The table skips what it has, and a view that failed
  gets what it lacks, as long as the table remembers the token. Later the ids are looked for instead;
- events that come in another batch than before are looked for by their ids: those that the delivery engine cut into
  other batches, and those that were accepted before this process started, which come from the spool of another one.

An insert that another process began in the minutes before this one started, and that the server still works on, is
waited for.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any

import attrs
from clickhouse_connect.driver.exceptions import ClickHouseError
from flag_analytics.errors import SinkUnavailable
from flag_analytics.frozen import FrozenEvent
from flag_analytics.protocols import Batch

from .connecting import Writing
from .rows import as_columns, by_partition, micros
from .schema import COLUMN_TYPES, Tables

__all__ = ["BatchWriter", "insert_settings"]

_ACCESS_DENIED = 497
_CLOCK_SECONDS = 1.0
_IDS_AT_ONCE = 500
_MOST_KEY_CHARACTERS = 16_000
_EVENTS_IN_MIND = 50_000
_SURE_SECONDS = 60.0
"""How long after an insert a cluster's tables remember its token, however many others write."""
_PART = re.compile(r"_(\d+)_\d+_\d+(?:_\d+)?$")
"""The end of a part's name: the first and the last block in it, and how often it was merged and changed."""

_event_id = attrgetter("event_id")
_received_at = attrgetter("received_at")
_TYPES = tuple(COLUMN_TYPES.values())


@attrs.define
class _Block:
    """Events of one month that are inserted together.

    Attributes:
        token: What the table knows the block by.
        tried_at: When it was first sent, in monotonic seconds; None before.
    """

    token: str
    events: tuple[FrozenEvent, ...]
    tried_at: float | None = None


class BatchWriter:
    """Writes batches, and knows which events may be stored already. It belongs to one process."""

    def __init__(self, tables: Tables, *, look_up_ids: bool = False) -> None:
        self._tables = tables
        self._look_up_ids = look_up_ids
        self._started = time.time()
        self._waited = False
        self._doubtful: set[str] = set()
        """Events that an attempt may have stored, without an answer that says so."""
        self._blocks: OrderedDict[str, list[_Block]] = OrderedDict()
        """What is left of batches that were begun, by their ids."""

    async def write(self, connection: Writing, batch: Batch) -> None:
        """Store the batch; raise what the client raises.

        Raises:
            BadBatch: no row can be made of an event.
            SinkUnavailable: the server still works on an insert of an earlier process.
        """
        events = dict(zip(map(_event_id, batch.events), batch.events, strict=True))
        blocks = self._blocks.get(batch.id)
        if blocks is None:
            blocks = [*await self._divide(connection, batch.id, [*events.values()])]
            self._keep_in_mind(batch.id, blocks)
        try:
            while blocks:
                await self._insert(connection, blocks[0], batch.id)
                del blocks[0]
        except BaseException:
            self._doubtful.update(events)
            raise
        self._blocks.pop(batch.id, None)
        if self._doubtful:
            self._doubtful.difference_update(events)

    def _keep_in_mind(self, batch_id: str, blocks: list[_Block]) -> None:
        """Remember what is left of a batch; those that were cut into others, and do not come again, go in time."""
        self._blocks[batch_id] = blocks
        kept = sum(len(block.events) for left in self._blocks.values() for block in left)
        while kept > _EVENTS_IN_MIND and len(self._blocks) > 1:
            _, left = self._blocks.popitem(last=False)
            kept -= sum(len(block.events) for block in left)

    def given_up(self, event_ids: Iterable[str]) -> None:
        """Forget events that will not come again."""
        self._doubtful.difference_update(event_ids)

    async def _divide(self, connection: Writing, batch_id: str, events: Sequence[FrozenEvent]) -> Iterator[_Block]:
        """Return the blocks of a new batch, without the events that are stored already."""
        maybe = self._maybe_stored(events)
        if maybe:
            await self._wait_for_others(connection)
            stored = await self._find(connection, maybe)
            events = [event for event in events if event.event_id not in stored]
        return (_Block(f"{batch_id}/{month}", some) for month, some in by_partition(events).items())

    def _maybe_stored(self, events: Sequence[FrozenEvent]) -> Sequence[FrozenEvent]:
        """Return the events that may be stored already."""
        if self._look_up_ids:
            return events
        since, doubtful = self._started + _CLOCK_SECONDS, self._doubtful
        if not doubtful and min(map(_received_at, events), default=since) >= since:  # as nearly always
            return ()
        return [event for event in events if event.received_at < since or event.event_id in doubtful]

    async def _insert(self, connection: Writing, block: _Block, batch_id: str) -> None:
        if block.tried_at is None:
            block.tried_at = time.monotonic()
        else:
            parts = await self._find(connection, block.events)
            if parts and not await self._remembers(connection, block.tried_at, parts.values()):
                missing = tuple(event for event in block.events if event.event_id not in parts)
                if not missing:
                    return
                block.token, block.events = _token_of(missing), missing
        columns = as_columns(block.events, batch_id)
        await connection.insert(self._tables.events, columns, _TYPES, insert_settings(block.token))

    async def _find(self, connection: Writing, events: Sequence[FrozenEvent]) -> dict[str, str]:
        """Return the parts in which events are stored, by their ids."""
        ordered = sorted(events, key=lambda event: event.flag_key)
        found: dict[str, str] = {}
        for start in range(0, len(ordered), _IDS_AT_ONCE):
            some = ordered[start : start + _IDS_AT_ONCE]
            times = [micros(event.timestamp) for event in some]
            keys = sorted({event.flag_key for event in some})
            asked: dict[str, Any] = {
                "ids": [event.event_id for event in some],
                "first": min(times),
                "last": max(times),
                # Values that take too much of a request are left out: the time and the ids are enough to be right.
                "keys": keys if sum(map(len, keys)) <= _MOST_KEY_CHARACTERS else [],
            }
            found |= dict(await connection.rows(_FIND.format(events=self._tables.events), asked))
        return found

    async def _remembers(self, connection: Writing, tried_at: float, parts: Collection[str]) -> bool:
        """Return whether the table, and those of the views, are sure to know the token of a block in these parts."""
        if self._tables.cluster is not None:
            return time.monotonic() - tried_at < _SURE_SECONDS
        numbers = [int(match.group(1)) for part in parts if (match := _PART.search(part))]
        asked = {"database": self._tables.database, "table": self._tables.name}
        latest = await _number(connection, _LATEST_BLOCK, asked)
        return bool(latest) and len(numbers) == len(parts) and latest - min(numbers) <= self._tables.window // 2

    async def _wait_for_others(self, connection: Writing) -> None:
        if self._waited:
            return
        asked = {"table": self._tables.events, "age": time.time() - self._started}
        if await _number(connection, _UNDER_WAY, asked):
            raise SinkUnavailable("the server still works on inserts of an earlier process", code="under_way")
        self._waited = True


async def _number(connection: Writing, sql: str, asked: dict[str, Any]) -> int:
    """Return the number that a query of a system table gives; 0 where the user may not ask it."""
    try:
        ((found,),) = await connection.rows(sql, asked)
    except ClickHouseError as error:
        if getattr(error, "code", None) == _ACCESS_DENIED:
            return 0
        raise
    return int(found)


def insert_settings(token: str) -> dict[str, str]:
    """Return the settings under which rows that are inserted again with their token are there once, in views too."""
    return {
        "insert_deduplicate": "1",
        "insert_deduplication_token": token,
        "deduplicate_blocks_in_dependent_materialized_views": "1",
        "async_insert": "0",
        "distributed_foreground_insert": "1",
    }


def _token_of(events: Iterable[FrozenEvent]) -> str:
    return hashlib.sha256("\n".join(event.event_id for event in events).encode()).hexdigest()


_FIND = (
    "SELECT toString(event_id), _part FROM {events} "
    "WHERE (empty({{keys:Array(String)}}) OR flag_key IN {{keys:Array(String)}}) "
    "AND timestamp >= {{first:Int64}} AND timestamp <= {{last:Int64}} AND event_id IN {{ids:Array(UUID)}}"
)
_LATEST_BLOCK = (
    "SELECT max(max_block_number) FROM system.parts WHERE database = {database:String} AND table = {table:String}"
)
_UNDER_WAY = (
    "SELECT count() FROM system.processes WHERE query_kind = 'Insert' AND position(query, {table:String}) > 0 "
    "AND elapsed > {age:Float64} AND elapsed < {age:Float64} + 600"
)
