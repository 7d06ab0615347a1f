"""Reads a spool without changing it, in use by a process or left by one that has ended, sound or damaged.

A spool's directory may be writable for others, so each cell is checked before it is used. Unreadable rows of a sound
spool are handed out as they are; any other fault of a file is an ``UnreadableError``.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import attrs
from flag_analytics.frozen import FrozenEvent, decode_event
from flag_analytics.locks import FileLock
from flag_analytics.reports import DeadLetter
from msgspec import MsgspecError

from .log import NEVER
from .ranges import Ranges, add, gaps_of

__all__ = ["SPOOL_PARTS", "SpoolReader", "Stretch", "UnreadableError", "is_in_use", "is_sound", "moment_of", "reading"]

_STRETCH_EVENTS = 500
_MOST_GAPS = 100_000
_STRETCH_BYTES = 4 * 2**20
SPOOL_PARTS = ("", "-wal", "-shm", "-journal")
_FAULTS = (sqlite3.Error, OSError, MsgspecError, TypeError, ValueError, OverflowError, AttributeError, RuntimeError)
"""The errors that a foreign file can raise. Bad UTF-8 is a ValueError; JSON that is too deep is a RuntimeError."""
_DAMAGE = frozenset({"SQLITE_ERROR", "SQLITE_CORRUPT", "SQLITE_NOTADB"})
"""SQLite's codes for files of another kind or with other tables; after any other code a retry may succeed."""


class UnreadableError(Exception):
    """A file cannot be read as a spool. The message says why, to be put after its name."""


@contextmanager
def reading() -> Iterator[None]:
    """Turn the errors that a damaged or foreign file causes into an ``UnreadableError``."""
    try:
        yield
    except _FAULTS as error:
        code = getattr(error, "sqlite_errorname", None) or getattr(error, "strerror", None)
        # SQLite's own code may have more detail after the primary one: SQLITE_CORRUPT_INDEX.
        damaged = code is None or "_".join(str(code).split("_")[:2]) in _DAMAGE
        raise UnreadableError("is corrupt" if damaged else f"cannot be read ({code})") from None


@attrs.frozen
class Stretch:
    """Some of a spool's events that follow one another.

    Attributes:
        events: Those that can be read.
        unreadable: The sequence number and the content of each row that cannot.
        last_seq: The sequence number of the last of them all.
    """

    events: tuple[FrozenEvent, ...]
    unreadable: tuple[tuple[int, Any], ...]
    last_seq: int


class SpoolReader:
    """Reads one spool. It neither locks nor changes it, and is a context manager that closes it.

    Attributes:
        cursors: By sink, the sequence number of the last event that it is done with.

    Raises:
        UnreadableError: it is no regular file, no spool, or set aside as corrupt; its methods, once damage is met.
    """

    def __init__(self, path: Path) -> None:
        if _is_set_aside(path):
            raise UnreadableError("is corrupt")
        if not _is_regular(path):
            raise UnreadableError("is no regular file")
        with reading():
            self._connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5.0)
            try:
                self._connection.text_factory = _text
                self.cursors = _cursors(self._connection)
                self._gaps = _gaps(self._connection)
            except BaseException:
                self._connection.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def count_waiting(self, sink: str) -> int:
        """Return how many events wait for a sink, readable or not."""
        with reading():
            select = "SELECT count(*) FROM events WHERE seq > ? AND seq <= ?"
            counts = [self._connection.execute(select, stretch).fetchone()[0] for stretch in self._unsettled(sink)]
            return sum(counts)

    def waiting(self, sink: str | None = None) -> Iterator[Stretch]:
        """Yield the events that wait for a sink, by default for any of them, the oldest first."""
        if sink is None:
            stretches: Ranges = ((min(self.cursors.values(), default=0), NEVER),)
        else:
            stretches = self._unsettled(sink)
        for start, stop in stretches:
            seq = start
            while stretch := self._stretch(seq, stop):
                yield stretch
                seq = stretch.last_seq

    def _unsettled(self, sink: str) -> Ranges:
        return gaps_of(self._gaps.get(sink, ()), self.cursors[sink], NEVER)

    def _stretch(self, after: int, until: int) -> Stretch | None:
        events: list[FrozenEvent] = []
        unreadable: list[tuple[int, Any]] = []
        size = 0
        last_seq = after
        # In stretches: a long read would keep the process that writes here from tidying up.
        # A sequence number that is no integer is found as well, and is a fault of the file.
        within = "seq > ? AND (seq <= ? OR typeof(seq) != 'integer')"
        select = f"SELECT seq, body FROM events WHERE {within} ORDER BY seq LIMIT ?"  # noqa: S608 - a constant
        for seq, body in self._rows(select, after, until):
            event = _event(body)
            if event is not None and events and size + event.size > _STRETCH_BYTES:
                break
            if event is None:
                unreadable.append((seq, body))
            else:
                events.append(event)
                size += event.size
            last_seq = seq
        return Stretch(tuple(events), tuple(unreadable), last_seq) if events or unreadable else None

    def dead_letters(self) -> Iterator[DeadLetter | None]:
        """Yield the dead letters in the order they were given up, None for one that cannot be read."""
        select = "SELECT id, sink, body, error, code, batch_id, at FROM dead WHERE id > ? ORDER BY id LIMIT ?"
        last = -(2**63)
        while rows := self._rows(select, last):
            for _, *cells in rows:
                yield _letter(*cells)
            last = rows[-1][0]

    def _rows(self, select: str, *bounds: int) -> list[tuple[Any, ...]]:
        with reading():
            rows = self._connection.execute(select, (*bounds, _STRETCH_EVENTS)).fetchall()
            if not all(isinstance(row[0], int) for row in rows):
                raise TypeError
            return rows


def is_in_use(path: Path) -> bool:
    """Return whether a living process holds a spool's lock."""
    lock_path = path.with_suffix(".lock")
    try:
        if not lock_path.exists():
            return False
        lock = FileLock(lock_path)
        if not lock.acquire():
            return True
    except (OSError, RuntimeError):
        return False
    lock.release()
    return False


def _is_set_aside(path: Path) -> bool:
    return ".corrupt-" in path.name


def _is_regular(path: Path) -> bool:
    """Return whether a spool and SQLite's files beside it are regular: to open a pipe is to wait for its writer."""
    # os.path and not Path, which raises where it may not look.
    there = [part for part in (f"{path}{suffix}" for suffix in SPOOL_PARTS) if os.path.lexists(part)]
    return bool(there) and all(map(os.path.isfile, there))


def _text(raw: bytes) -> str | bytes:
    """Return text, or bytes that are no UTF-8, which later checks refuse: SQLite checks nothing."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _cursors(connection: sqlite3.Connection) -> dict[str, int]:
    # A view only answers like a table: it takes no changes, and may have no end.
    tables = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('meta', 'events', 'cursors', 'dead')"
    if connection.execute(tables).fetchone()[0] != 4:
        raise TypeError
    cursors = dict(connection.execute("SELECT sink, seq FROM cursors ORDER BY sink").fetchall())
    if not all(isinstance(sink, str) and isinstance(seq, int) for sink, seq in cursors.items()):
        raise TypeError
    return cursors


def _gaps(connection: sqlite3.Connection) -> dict[str, Ranges]:
    """Return the settled positions beyond each sink's cursor; a spool of the first format has no table for them."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'gaps'").fetchone():
        return {}
    gaps: dict[str, Ranges] = {}
    for sink, start, stop in connection.execute("SELECT sink, start, stop FROM gaps LIMIT ?", (_MOST_GAPS,)):
        if not (isinstance(sink, str) and isinstance(start, int) and isinstance(stop, int)):
            raise TypeError
        gaps[sink] = add(gaps.get(sink, ()), start, stop)
    return gaps


def _event(body: Any) -> FrozenEvent | None:
    """Return the event of a row, None where a part of it is unreadable."""
    try:
        event = decode_event(body)
        is_whole = isinstance(event.thaw().context_attributes, dict) and moment_of(event.received_at) is not None
    except _FAULTS:
        return None
    return event if is_whole else None


def _letter(sink: Any, body: Any, error: Any, code: Any, batch_id: Any, at: Any) -> DeadLetter | None:
    """Return the dead letter of a row, None where a part of it is unreadable."""
    event = _event(body)
    if event is None:
        return None
    letter = DeadLetter(sink, event, error, code, batch_id, at)
    return letter if is_sound(letter) else None


def is_sound(letter: DeadLetter) -> bool:
    """Return whether a dead letter that was read from a file can be shown: SQLite keeps anything in any column."""
    texts = (letter.sink, letter.error, letter.code, letter.batch_id)
    return all(isinstance(text, str) for text in texts) and moment_of(letter.at) is not None


def moment_of(seconds: Any) -> datetime | None:
    """Return the UTC time of seconds since 1970, None where they are none."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except _FAULTS:
        return None
