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
from flag_analytics_delivery.spool_reader import SpoolReader, reading

__all__ = ["erase_from_spool"]

_ROWS = 500


def erase_from_spool(path: Path, targeting_keys: Collection[str]) -> int | None:
    """Erase what a spool holds of these targeting keys; return how many rows changed, None if it is in use.

    It can be interrupted and called again.

    Raises:
        UnreadableError: it is no spool, or damaged.
    """
    with SpoolReader(path):
        pass  # it is a spool
    lock = FileLock(path.with_suffix(".lock"))
    if not lock.acquire():
        return None
    try:
        with reading(), closing(sqlite3.connect(path, timeout=5.0)) as connection:
            # What was overwritten is not left on the disk.
            connection.execute("PRAGMA secure_delete = ON")
            changed = _erase(connection, "events", "seq", targeting_keys) + _erase(
                connection, "dead", "id", targeting_keys
            )
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return changed
    finally:
        lock.release()


def _erase(connection: sqlite3.Connection, table: str, key: str, targeting_keys: Collection[str]) -> int:
    changed, after = 0, -1
    while True:
        rows = connection.execute(
            f"SELECT {key}, body FROM {table} WHERE {key} > ? ORDER BY {key} LIMIT {_ROWS}",  # noqa: S608 - our names
            (after,),
        ).fetchall()
        if not rows:
            return changed
        after = rows[-1][0]
        theirs = [
            (row, event) for row, body in rows if (event := _event(body)) and event.targeting_key in targeting_keys
        ]
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
        return None  # it names no person that could be read, and its place is kept


def _anonymous(event: FrozenEvent) -> FrozenEvent:
    return msgspec.structs.replace(event, targeting_key=None, context_json=b"{}", error_message=None, traceparent=None)
