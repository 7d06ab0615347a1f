"""Erases a person from spools that ended processes left: the events stay, without whom and what they were about.

An event keeps its place, since sinks count positions: it is delivered as one without targeting key and attributes. A
dead letter is removed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

import msgspec
from flag_analytics.frozen import FrozenEvent, decode_event, encode_event
from flag_analytics.locks import FileLock
from flag_analytics_delivery.spool_reader import SpoolReader, UnreadableError, reading

__all__ = ["erase_from_spool"]

_ROWS = 500


def erase_from_spool(path: Path, targeting_keys: Collection[str]) -> int | None:
    """Erase what a spool holds of these targeting keys; return how many rows changed, None if it is in use.

    It can be interrupted and called again.

    Raises:
        UnreadableError: it is no spool, or damaged, or has rows that cannot be read: the others are erased then.
    """
    with SpoolReader(path):
        pass  # it is a spool
    lock = FileLock(path.with_suffix(".lock"))
    if not lock.acquire():
        return None
    try:
        with reading(), closing(sqlite3.connect(path, timeout=5.0)) as connection:
            found = [_erase(connection, *table, targeting_keys) for table in (("events", "seq"), ("dead", "id"))]
            # Nor is anything left of what was overwritten, or was delivered before.
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        lock.release()
    if unreadable := sum(rows for _, rows in found):
        raise UnreadableError(f"has {unreadable} rows that cannot be read")
    return sum(changed for changed, _ in found)


def _erase(connection: sqlite3.Connection, table: str, key: str, targeting_keys: Collection[str]) -> tuple[int, int]:
    """Return how many rows changed, and how many cannot be read."""
    changed, unreadable, after = 0, 0, -1
    while True:
        rows = connection.execute(
            f"SELECT {key}, body FROM {table} WHERE {key} > ? ORDER BY {key} LIMIT {_ROWS}",  # noqa: S608 - our names
            (after,),
        ).fetchall()
        if not rows:
            return changed, unreadable
        after = rows[-1][0]
        events = [(row, _event(body)) for row, body in rows]
        theirs = [(row, event) for row, event in events if event is not None and event.targeting_key in targeting_keys]
        unreadable += sum(event is None for _, event in events)
        with connection:
            for row, event in theirs:
                if table == "dead":
                    connection.execute("DELETE FROM dead WHERE id = ?", (row,))
                else:
                    body = encode_event(_anonymous(event))
                    connection.execute("UPDATE events SET body = ? WHERE seq = ?", (body, row))
        changed += len(theirs)


def _event(body: bytes) -> FrozenEvent | None:
    try:
        return decode_event(body)
    except Exception:
        return None  # its place is kept


def _anonymous(event: FrozenEvent) -> FrozenEvent:
    return msgspec.structs.replace(event, targeting_key=None, context_json=b"{}", error_message=None, traceparent=None)
