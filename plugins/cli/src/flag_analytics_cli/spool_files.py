"""Looks into spools without changing them, in use by a process or left by one that has ended.

A spool's directory may be writable for others, so each cell is checked before it is used. Unreadable rows of a sound
spool are counted; any other fault of a file is an ``UnreadableError``.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import attrs
from flag_analytics.frozen import FrozenEvent, decode_event
from flag_analytics.locks import FileLock
from flag_analytics.reports import DeadLetter
from flag_analytics_delivery.spool import default_directory, orphans
from msgspec import MsgspecError

from .wording import counted

__all__ = [
    "SpoolFile",
    "SpoolReader",
    "Stretch",
    "UnreadableError",
    "dead_letters",
    "is_in_use",
    "is_sound",
    "known_directories",
    "look",
    "reading",
    "spools_in",
    "waiting_events",
]

_STRETCH_EVENTS = 500
_STRETCH_BYTES = 4 * 2**20
_PARTS = ("", "-wal", "-shm", "-journal")
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
class SpoolFile:
    """The contents of one spool.

    Attributes:
        state: ``in use`` by a living process; ``orphan``, which the next process, or ``replay``, takes over;
            ``corrupt``: set aside, or not readable as a spool.
        size_bytes: The size of its files.
        waiting: Events that wait, by sink.
        dead: Dead letters.
        oldest: When the oldest waiting event was accepted.
        unreadable: Events and dead letters, among those that are counted, that cannot be read.
        problem: Why it is ``corrupt``, to be put after its name.
    """

    path: Path
    state: Literal["in use", "orphan", "corrupt"]
    size_bytes: int
    waiting: Mapping[str, int] = attrs.field(factory=dict[str, int])
    dead: int = 0
    oldest: datetime | None = None
    unreadable: int = 0
    problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything by name, the path as text and the time in ISO 8601."""
        oldest = None if self.oldest is None else self.oldest.isoformat()
        return {**attrs.asdict(self), "path": str(self.path), "waiting": dict(self.waiting), "oldest": oldest}


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
            select = "SELECT count(*) FROM events WHERE seq > ?"
            return int(self._connection.execute(select, (self.cursors[sink],)).fetchone()[0])

    def waiting(self, sink: str | None = None) -> Iterator[Stretch]:
        """Yield the events that wait for a sink, by default for any of them, the oldest first."""
        seq = min(self.cursors.values(), default=0) if sink is None else self.cursors[sink]
        while stretch := self._stretch(seq):
            yield stretch
            seq = stretch.last_seq

    def _stretch(self, after: int) -> Stretch | None:
        events: list[FrozenEvent] = []
        unreadable: list[tuple[int, Any]] = []
        size = 0
        last_seq = after
        # In stretches: a long read would keep the process that writes here from tidying up.
        for seq, body in self._rows("SELECT seq, body FROM events WHERE seq > ? ORDER BY seq LIMIT ?", after):
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

    def _rows(self, select: str, after: int) -> list[tuple[Any, ...]]:
        with reading():
            rows = self._connection.execute(select, (after, _STRETCH_EVENTS)).fetchall()
            if not all(isinstance(row[0], int) for row in rows):
                raise TypeError
            return rows


def known_directories() -> list[Path]:
    """Return the directories in this user's place for state that hold spools, one for each application."""
    try:
        folders = sorted(folder for folder in default_directory("").parent.iterdir() if folder.is_dir())
    except OSError:
        return []
    return [folder for folder in folders if spools_in(folder)]


def spools_in(directory: Path) -> list[Path]:
    """Return the spools in a directory, the oldest first, then those that were set aside as corrupt."""
    aside = [path for path in sorted(directory.glob("*.corrupt-*")) if not path.name.endswith(_PARTS[1:])]
    return [*orphans(directory), *aside]


def look(path: Path) -> SpoolFile:
    """Return the contents of a spool."""
    size = _size(path)
    try:
        with SpoolReader(path) as spool:
            waiting = {sink: spool.count_waiting(sink) for sink in spool.cursors}
            oldest, unreadable = None, 0
            for stretch in spool.waiting():
                unreadable += len(stretch.unreadable)
                if oldest is None and stretch.events:
                    oldest = _moment(stretch.events[0].received_at)
            letters = Counter(letter is None for letter in spool.dead_letters())
    except UnreadableError as error:
        # One that a process is just making is not a spool yet either.
        if is_in_use(path):
            return SpoolFile(path, "in use", size)
        return SpoolFile(path, "corrupt", size, problem=str(error))
    state: Literal["in use", "orphan"] = "in use" if is_in_use(path) else "orphan"
    return SpoolFile(path, state, size, waiting, letters.total(), oldest, unreadable + letters[True])


def waiting_events(path: Path, left: list[str]) -> Iterator[FrozenEvent]:
    """Yield the events of a spool that wait for at least one sink, the oldest first.

    Args:
        left: Gets a line about each unreadable part.
    """
    unreadable = 0
    try:
        with SpoolReader(path) as spool:
            for stretch in spool.waiting():
                unreadable += len(stretch.unreadable)
                yield from stretch.events
    except UnreadableError as error:
        _leave(path, error, left)
    if unreadable:
        left.append(f"{counted(unreadable, 'event')} in {path} that cannot be read")


def dead_letters(path: Path, left: list[str]) -> Iterator[DeadLetter]:
    """Yield the dead letters of a spool in the order they were given up.

    Args:
        left: Gets a line about each unreadable part.
    """
    unreadable = 0
    try:
        with SpoolReader(path) as spool:
            for letter in spool.dead_letters():
                if letter is None:
                    unreadable += 1
                else:
                    yield letter
    except UnreadableError as error:
        _leave(path, error, left)
    if unreadable:
        left.append(f"{counted(unreadable, 'dead letter')} in {path} that cannot be read")


def _leave(path: Path, error: UnreadableError, left: list[str]) -> None:
    if not is_in_use(path):  # else its process is just making it
        left.append(f"{path} {error}")


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
    there = [part for part in (f"{path}{suffix}" for suffix in _PARTS) if os.path.lexists(part)]
    return bool(there) and all(map(os.path.isfile, there))


def _size(path: Path) -> int:
    try:
        return sum(part.stat().st_size for part in (path, Path(f"{path}-wal")) if part.is_file())
    except OSError:
        return 0


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


def _event(body: Any) -> FrozenEvent | None:
    """Return the event of a row, None where a part of it is unreadable."""
    try:
        event = decode_event(body)
        is_whole = isinstance(event.thaw().context_attributes, dict) and _moment(event.received_at) is not None
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
    return all(isinstance(text, str) for text in texts) and _moment(letter.at) is not None


def _moment(seconds: Any) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except _FAULTS:
        return None
