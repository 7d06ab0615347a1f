"""Removing stored events: those of a person, with their part in the rollups, and old ones, without it.

A mutation of ClickHouse rewrites the parts that hold the rows. Its text stays in ``system.mutations`` for a while, so
rows are named by the ids of their events and never by a person's key.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from .connecting import Asking, as_coroutines
from .rows import micros
from .schema import DAY_MICROS, Tables
from .setup import DDL_SETTINGS, PRUNED_BEFORE, kept_since, note, read_state
from .writing import insert_settings

__all__ = ["count_older", "forget_letters", "forget_some", "prune"]

PAGE_ROWS = 2_000
"""The events of a person that are removed at once."""


def forget_some(asking: Asking, tables: Tables, keys: Sequence[str]) -> int:
    """Remove at most ``PAGE_ROWS`` events of these targeting keys, and their part in the rollups; return how many went.

    It may be interrupted and called again. Counts are taken out exactly; the first and the last time of an hour stay.
    Sketches of days whose events are all there are made anew. Others lose the events and durations, but not what cannot
    be taken out of a sketch: that there was one more user.
    """
    page = asking.rows(
        f"SELECT toString(event_id) AS id, timestamp FROM {tables.events} "
        f"WHERE targeting_key IN {{keys:Array(String)}} ORDER BY timestamp, id LIMIT {PAGE_ROWS}",
        {"keys": [*keys]},
    )
    if not page:
        return 0
    ids = [event_id for event_id, _ in page]
    since = kept_since(asyncio.run(read_state(as_coroutines(asking).rows, tables)))
    theirs = {
        "ids": ids,
        "first": page[0][1],
        "last": page[-1][1],
        "kept_since": page[0][1] - DAY_MICROS if since is None else since,
    }
    token = hashlib.sha256("\n".join(ids).encode()).hexdigest()
    for statement in (_take_out_of_counts(tables), _take_out_of_sketches(tables)):
        asking.run(statement, theirs, insert_settings(f"forget/{token}"))
    _rebuild_sketches(asking, tables, theirs)
    asking.run(f"ALTER TABLE {tables.local('')}{tables.on_cluster} DELETE WHERE {_PAGE}", theirs, DDL_SETTINGS)
    return len(page)


def forget_letters(asking: Asking, tables: Tables, keys: Sequence[str]) -> int:
    """Remove the dead letters of these targeting keys; return how many went."""
    found = asking.rows(
        f"SELECT DISTINCT toString(event_id) FROM {tables.dead_letters} WHERE targeting_key IN {{keys:Array(String)}}",
        {"keys": [*keys]},
    )
    ids = {"ids": [event_id for (event_id,) in found]}
    if found:
        table = f"{tables.local('_dead_letters')}{tables.on_cluster}"
        asking.run(f"ALTER TABLE {table} DELETE WHERE event_id IN {{ids:Array(UUID)}}", ids, DDL_SETTINGS)
    return len(found)


def count_older(asking: Asking, tables: Tables, before: datetime) -> int:
    """Return the number of events and dead letters dated before ``before``."""
    asked = {"before": micros(before)}
    ((events,),) = asking.rows(f"SELECT count() FROM {tables.events} WHERE {_OLD_EVENTS}", asked)
    ((letters,),) = asking.rows(f"SELECT count() FROM {tables.dead_letters} WHERE {_OLD_LETTERS}", asked)
    return int(events + letters)


def prune(asking: Asking, tables: Tables, before: datetime) -> int:
    """Remove every event and dead letter dated before ``before``, not their part in the rollups; return how many."""
    gone = count_older(asking, tables, before)
    asked = {"before": micros(before)}
    if gone:
        noted = int(asyncio.run(read_state(as_coroutines(asking).rows, tables)).get(PRUNED_BEFORE, asked["before"]))
        asyncio.run(note(as_coroutines(asking), tables, PRUNED_BEFORE, str(max(noted, asked["before"]))))
        for suffix, where in (("", _OLD_EVENTS), ("_dead_letters", _OLD_LETTERS)):
            table = f"{tables.local(suffix)}{tables.on_cluster}"
            asking.run(f"ALTER TABLE {table} DELETE WHERE {where}", asked, DDL_SETTINGS)
    return gone


def _take_out_of_counts(tables: Tables) -> str:
    return (
        f"INSERT INTO {tables.counts} (flag_key, hour, variant, reason, environment, events, weight, errors, "
        "error_weight, first_event, last_event) SELECT flag_key, hour, variant, reason, environment, -events, -weight, "
        f"-errors, -error_weight, first_event, last_event FROM ({tables.select_counts(tables.events, _THEIRS)}) "
        "ORDER BY ALL"
    )


def _take_out_of_sketches(tables: Tables) -> str:
    """Return the statement that takes events and durations out of sketches that cannot be made anew."""
    none = "initializeAggregation('uniqCombined64StateIf(16)', '', toUInt8(0))"
    lost = f"{_THEIRS}e.timestamp < {{kept_since:Int64}} AND "
    return (
        f"INSERT INTO {tables.sketches} (flag_key, day, events, users, durations) "
        f"SELECT flag_key, day, -events, {none}, mapApply((bucket, weight) -> (bucket, -weight), durations) "
        f"FROM ({tables.select_sketches(tables.events, lost)}) ORDER BY flag_key, day"
    )


def _rebuild_sketches(asking: Asking, tables: Tables, theirs: Mapping[str, Any]) -> None:
    day = f"timestamp - positiveModulo(timestamp, {DAY_MICROS})"
    cells = asking.rows(
        f"SELECT DISTINCT toString(flag_key), {day} AS day FROM {tables.events} "
        f"WHERE {_PAGE} AND timestamp >= {{kept_since:Int64}}",
        theirs,
    )
    if not cells:
        return
    asked = {**theirs, "flags": sorted({flag for flag, _ in cells}), "days": sorted({day for _, day in cells})}
    asking.run(
        f"ALTER TABLE {tables.local('_sketches')}{tables.on_cluster} "
        "DELETE WHERE flag_key IN {flags:Array(String)} AND day IN {days:Array(Int64)}",
        asked,
        DDL_SETTINGS,
    )
    others = (
        "e.flag_key IN {flags:Array(String)} AND "
        f"e.timestamp - positiveModulo(e.timestamp, {DAY_MICROS}) IN {{days:Array(Int64)}} AND "
        "e.timestamp >= {kept_since:Int64} AND e.event_id NOT IN {ids:Array(UUID)} AND "
    )
    asking.run(
        f"INSERT INTO {tables.sketches} (flag_key, day, events, users, durations) "
        f"SELECT flag_key, day, events, users, durations FROM ({tables.select_sketches(tables.events, others)})",
        asked,
    )


_PAGE = "timestamp >= {first:Int64} AND timestamp <= {last:Int64} AND event_id IN {ids:Array(UUID)}"
_THEIRS = "e.timestamp >= {first:Int64} AND e.timestamp <= {last:Int64} AND e.event_id IN {ids:Array(UUID)} AND "
_OLD_EVENTS = "timestamp < {before:Int64}"
_OLD_LETTERS = "at < {before:Int64}"
