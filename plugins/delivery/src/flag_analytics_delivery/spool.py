"""The log on disk: one SQLite file for each process and delivery, in the format that the README describes.

The key of a row is the position of its event plus one; the cursor of a sink is the number of events that it is past.
A file is locked by its process (``lockf``: a forked child does not hold it), so a file that can be locked was left by
an earlier process and is adopted.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Literal

import attrs
import msgspec
import platformdirs
from flag_analytics.frozen import FrozenEvent, decode_event, encode_event
from flag_analytics.locks import FileLock
from flag_analytics.processes import ForkBarrier, keep_inherited, new_rlock
from flag_analytics.reports import DeadLetter

from .ranges import Ranges, add
from .spool_directory import SpoolError, is_own_file, make_private, private_in

__all__ = [
    "Loaded",
    "Spool",
    "SpoolCorruptError",
    "SpoolError",
    "SpoolForeignError",
    "SpoolFullError",
    "SpoolGoneError",
    "bytes_of",
    "default_directory",
    "orphans",
    "private_in",
    "set_aside",
]

FREE_SPACE_RESERVE = 4 * 2**20
LEAST_LOG_BYTES = 8 * 2**20
"""The most SQLite's write-ahead log may take, however small the spool is to be: it is taken back every 4 MiB."""
PAGE_BYTES = 4096
SUFFIX = ".spool"
_ROWS_AT_ONCE = 400
"""Rows in one statement. ``sqlite3`` gives the interpreter's lock away at every step of a statement: while another
thread computes, a row took 270 µs with ``executemany``, and takes 7 µs this way. An old SQLite takes 999 values."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (seq INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS cursors (sink TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS gaps (sink TEXT NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS dead (
    id INTEGER PRIMARY KEY, sink TEXT NOT NULL, error TEXT NOT NULL, code TEXT NOT NULL,
    batch_id TEXT NOT NULL, at REAL NOT NULL, body BLOB NOT NULL
);
"""

_barrier = ForkBarrier()


class _Entrance:
    """One thread at a time, and none across a fork: ``with entrance``."""

    def __init__(self) -> None:
        self._lock = new_rlock()

    def __enter__(self) -> None:
        _barrier.__enter__()
        try:
            self._lock.acquire()
        except BaseException:
            _barrier.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        _barrier.__exit__()


class SpoolFullError(SpoolError):
    """The spool's bound, or the disk, is full."""


class SpoolGoneError(SpoolError):
    """The file was deleted, or replaced, under its process: what is written to it would not be found again."""


class SpoolForeignError(SpoolError):
    """The file is a link, another user's, or a database of another kind: it is left as it is."""


class SpoolCorruptError(SpoolError):
    """The file is not a sound spool."""


@attrs.frozen
class Loaded:
    """Events read off the disk.

    Attributes:
        events: In the order of their positions.
        positions: Where they are.
        end: Every position before it was looked at; a position in neither is missing, or cannot be read.
    """

    events: tuple[FrozenEvent, ...]
    positions: Ranges
    end: int


class Spool:
    """One spool file, open in this process.

    Args:
        path: The file; it is made if missing.
        cursors: The position of each sink, for a new file.
        max_bytes: The most bytes the file may take.
        fsync: ``normal`` survives the end of the process, ``full`` also the loss of power.
        patient: Whether to wait a few seconds for another program that has the file open.

    Raises:
        SpoolError: it belongs to a living process, or cannot be opened or created.
    """

    def __init__(
        self,
        path: Path,
        cursors: Mapping[str, int],
        *,
        max_bytes: int,
        fsync: Literal["normal", "full"] = "normal",
        patient: bool = True,
    ) -> None:
        self.path = path
        self._pid = os.getpid()
        self._lock = _Entrance()
        self._max_bytes = max_bytes
        if os.path.lexists(path) and not is_own_file(path):
            raise SpoolForeignError(f"{path.name} is a link, no file, or another user's")
        self._file_lock = FileLock(path.with_suffix(".lock"))
        if not self._file_lock.acquire():
            raise SpoolError(f"{path.name} belongs to a living process")
        connection: sqlite3.Connection | None = None
        try:
            with self._lock:
                connection = _connect(path, max_bytes=max_bytes, fsync=fsync, patient=patient)
                self._connection = connection
                self._cursors = self._load_cursors(cursors)
            self._identity = _identity_of(path)
        except (sqlite3.Error, OSError, SpoolError) as error:
            if connection is not None:
                connection.close()
            self._file_lock.release()
            if isinstance(error, sqlite3.Error):
                raise _spool_error(error) from None
            if isinstance(error, OSError):
                raise SpoolError(f"cannot open a spool in {path.parent}: {error.strerror}") from None
            raise

    @classmethod
    def create(
        cls, directory: Path, cursors: Mapping[str, int], *, max_bytes: int, fsync: Literal["normal", "full"]
    ) -> Spool:
        """Return a new spool of this process in the private part of ``directory``, which is made if missing."""
        try:
            directory = make_private(directory)
        except OSError as error:
            raise SpoolError(f"cannot create {directory}: {error.strerror}") from None
        name = f"{os.getpid()}-{time.time_ns():x}{SUFFIX}"
        return cls(directory / name, cursors, max_bytes=max_bytes, fsync=fsync)

    def _load_cursors(self, cursors: Mapping[str, int]) -> dict[str, int]:
        with self._connection:
            version = self._connection.execute("SELECT value FROM meta WHERE name = 'version'").fetchone()
            if version is None:
                self._connection.execute("INSERT INTO meta VALUES ('version', '1')")
                self._connection.execute("INSERT INTO meta VALUES ('created', ?)", (str(time.time()),))
                self._connection.executemany("INSERT INTO cursors VALUES (?, ?)", cursors.items())
            elif version[0] != "1":
                raise SpoolError(f"{self.path.name} has version {version[0]}: expected 1")
        return dict(self._connection.execute("SELECT sink, seq FROM cursors"))

    def is_gone(self) -> bool:
        """Return whether the file was deleted, or replaced: this process can read it still, and no other."""
        return _identity_of(self.path) != self._identity

    @property
    def cursors(self) -> Mapping[str, int]:
        """How many events each sink is past."""
        return self._cursors

    def gaps(self, sink: str) -> Ranges:
        """Return the later positions that a sink has settled."""
        found: Ranges = ()
        with self._using() as connection:
            select = "SELECT CAST(start AS INTEGER), CAST(stop AS INTEGER) FROM gaps WHERE sink = ?"
            for start, stop in connection.execute(select, (sink,)):
                found = add(found, start, stop)
        return found

    def append(self, first: int, events: Sequence[FrozenEvent]) -> None:
        """Make events durable, all or none; the first one has position ``first``.

        Raises:
            SpoolFullError: no room; nothing was written.
            SpoolCorruptError, SpoolGoneError, SpoolError: it cannot be written; nothing was.
        """
        if self.is_gone():
            raise SpoolGoneError("its file was deleted")
        if self._log_is_too_large() and not self._take_log_back():
            raise SpoolFullError("its log has grown too large")
        if _free_bytes(self.path.parent) < FREE_SPACE_RESERVE:
            raise SpoolFullError("the disk is nearly full")
        values = [value for key, event in enumerate(events, start=first + 1) for value in (key, encode_event(event))]
        with self._using() as connection:
            for at in range(0, len(values), 2 * _ROWS_AT_ONCE):
                some = values[at : at + 2 * _ROWS_AT_ONCE]
                places = ", ".join(["(?, ?)"] * (len(some) // 2))
                connection.execute(f"INSERT INTO events (seq, body) VALUES {places}", some)  # noqa: S608

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        """Enter a transaction of this file; SQLite's errors become ours, without their words."""
        with self._lock:
            if os.getpid() != self._pid:
                raise SpoolError("this spool belongs to the parent process")
            try:
                with self._connection:
                    yield self._connection
            except sqlite3.Error as error:
                raise _spool_error(error) from None

    def _log_is_too_large(self) -> bool:
        return bytes_of(Path(f"{self.path}-wal")) > max(self._max_bytes, LEAST_LOG_BYTES)

    def _take_log_back(self) -> bool:
        """Empty the log beside the file, and return whether that worked: not while another program reads it."""
        with self._lock:
            try:
                self._connection.execute("PRAGMA busy_timeout = 0")
                try:
                    self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                finally:
                    self._connection.execute("PRAGMA busy_timeout = 5000")
            except sqlite3.Error:
                return False
        return not self._log_is_too_large()

    def positions(self) -> Ranges:
        """Return the positions that it has."""
        with self._using() as connection:
            keys = connection.execute("SELECT seq FROM events ORDER BY seq").fetchall()
        found: list[tuple[int, int]] = []
        for (key,) in keys:
            if found and found[-1][1] == key - 1:
                found[-1] = (found[-1][0], key)
            else:
                found.append((key - 1, key))
        return tuple(found)

    def read(self, first: int, end: int, limit: int, max_bytes: int) -> Loaded:
        """Return the events from position ``first`` on and before ``end``: at most ``limit``, and at least one."""
        with self._using() as connection:
            rows = connection.execute(
                "SELECT seq - 1, CAST(body AS BLOB) FROM events WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
                (first, end, limit),
            ).fetchall()
        events: list[FrozenEvent] = []
        positions: Ranges = ()
        size = 0
        for position, body in rows:
            try:
                event = decode_event(body)
            except (msgspec.MsgspecError, TypeError, ValueError, OverflowError):
                continue
            if events and size + event.size > max_bytes:
                return Loaded(tuple(events), positions, position)
            events.append(event)
            positions = add(positions, position, position + 1)
            size += event.size
        return Loaded(tuple(events), positions, rows[-1][0] + 1 if len(rows) == limit else end)

    def acknowledge(
        self, cursors: Mapping[str, int], gaps: Mapping[str, Ranges] | None = None, everywhere: Ranges = ()
    ) -> int:
        """Move sinks' cursors, note their gaps, and delete the events that every sink is past, or has settled.

        The cursors move in memory even where the disk refuses: a sink never gets an event twice from one process.

        Returns:
            The position before which no event is left.
        """
        self._cursors.update(cursors)
        past = min(self._cursors.values(), default=0)
        with self._using() as connection:
            moves = [(position, sink) for sink, position in cursors.items()]
            connection.executemany("UPDATE cursors SET seq = ? WHERE sink = ?", moves)
            connection.execute("DELETE FROM events WHERE seq <= ?", (past,))
            if self._cursors.keys() == cursors.keys():
                connection.executemany("DELETE FROM events WHERE seq > ? AND seq <= ?", everywhere)
            if gaps is not None:
                connection.executemany("DELETE FROM gaps WHERE sink = ?", [(sink,) for sink in gaps])
                rows = [(sink, start, stop) for sink, ranges in gaps.items() for start, stop in ranges]
                connection.executemany("INSERT INTO gaps VALUES (?, ?, ?)", rows)
        return past

    def add_dead(self, letters: Sequence[DeadLetter]) -> None:
        """Keep events that a sink refused for good."""
        rows = [
            (letter.sink, letter.error, letter.code, letter.batch_id, letter.at, encode_event(letter.event))
            for letter in letters
        ]
        with self._using() as connection:
            connection.executemany(
                "INSERT INTO dead (sink, error, code, batch_id, at, body) VALUES (?, ?, ?, ?, ?, ?)", rows
            )

    def dead_letters(self) -> Iterator[DeadLetter]:
        """Yield the dead letters in the order they were added."""
        with self._using() as connection:
            rows = connection.execute("SELECT sink, body, error, code, batch_id, at FROM dead ORDER BY id").fetchall()
        for sink, body, error, code, batch_id, at in rows:
            yield DeadLetter(sink, decode_event(body), error, code, batch_id, at)

    def copy_to(self, other: Spool) -> None:
        """Append all events to another spool, at their positions."""
        for first, end in self.positions():
            at = first
            while at < end:
                loaded = self.read(at, end, 500, 2**62)
                events = iter(loaded.events)
                for start, stop in loaded.positions:
                    other.append(start, list(islice(events, stop - start)))
                at = loaded.end

    def close(self) -> None:
        """Close the file, and delete it where nothing is left in it."""
        with self._lock:
            if os.getpid() != self._pid:
                return
            try:
                left = self._connection.execute(
                    "SELECT EXISTS (SELECT 1 FROM events) OR EXISTS (SELECT 1 FROM dead)"
                ).fetchone()[0]
            except sqlite3.Error:
                left = 1
            self._connection.close()
            empty = not left and not self.is_gone()  # another file of that name belongs to another process
            if empty:
                _unlink_all(self.path)
            self._file_lock.release(unlink=empty)

    def quarantine(self) -> Path:
        """Close the file and set it aside as ``*.corrupt-<time>``; return its new path."""
        with self._lock:
            self._connection.close()
            aside = set_aside(self.path)
            self._file_lock.release(unlink=True)
        return aside

    def abandon_in_child(self) -> None:
        """Forget the parent's file, after a fork, without closing it."""
        keep_inherited(self._connection)


def orphans(directory: Path) -> list[Path]:
    """Return the spool files in a directory, oldest first; those of living processes cannot be opened."""
    try:
        return sorted(directory.glob(f"*{SUFFIX}"), key=lambda path: path.stem.rpartition("-")[2].zfill(20))
    except OSError:
        return []


def set_aside(path: Path) -> Path:
    """Rename a spool that is not sound, with its log, so that it is not opened again; return the new path."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    aside = path.with_name(f"{path.name}.corrupt-{stamp}-{time.time_ns() % 1_000_000:06d}")
    for suffix in ("", "-wal", "-shm"):
        try:
            Path(f"{path}{suffix}").replace(f"{aside}{suffix}")
        except OSError:
            continue  # there is no such part, or the directory is read-only: then it cannot be adopted either
    return aside


def default_directory(identity: str) -> Path:
    """Return where the spools of one application are kept: a folder of its own in the user's directory for state.

    Where there is no such user (a container with an arbitrary one), it is in the system's directory for temporary
    files.
    """
    base = platformdirs.user_state_path("flag-analytics", appauthor=False)
    if not base.is_absolute():
        base = Path(tempfile.gettempdir(), "flag-analytics")
    return base / "spool" / sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _connect(path: Path, *, max_bytes: int, fsync: str, patient: bool) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600))
    connection = sqlite3.connect(path, timeout=5.0 if patient else 0.1, check_same_thread=False)
    try:
        if path.stat().st_size:
            sound = connection.execute("PRAGMA quick_check(1)").fetchone()
            if sound != ("ok",):
                raise sqlite3.DatabaseError("malformed")
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if tables and not tables & {"meta", "events", "cursors", "dead"}:
                raise SpoolForeignError(f"{path.name} is a database of another kind")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if fsync == 'full' else 'NORMAL'}")
        connection.execute(f"PRAGMA max_page_count = {max(16, max_bytes // PAGE_BYTES)}")
        connection.execute("PRAGMA journal_size_limit = 1048576")
        connection.executescript(_SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection


def _spool_error(error: sqlite3.Error) -> SpoolError:
    """Return what an SQLite error means here, without its words."""
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    if primary in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return SpoolFullError(name)
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or type(error) is sqlite3.DatabaseError:
        return SpoolCorruptError(name)
    return SpoolError(name)


def _identity_of(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def bytes_of(path: Path) -> int:
    """Return a file's size, 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _free_bytes(directory: Path) -> int:
    try:
        if hasattr(os, "statvfs"):
            space = os.statvfs(directory)
            return space.f_bavail * space.f_frsize
        import shutil

        return shutil.disk_usage(directory).free
    except OSError:
        return FREE_SPACE_RESERVE  # unknown: let the write itself find out


def _unlink_all(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        try:
            Path(f"{path}{suffix}").unlink()
        except OSError:
            continue  # already gone with the last connection
