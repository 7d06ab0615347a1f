"""The crash-safe disk spool: one SQLite file per process and delivery, with a cursor for each sink.

Events are appended in one transaction per interval; a sink reads on from its cursor and moves it when a batch is
resolved; what every sink is past is deleted. A file is locked by its process (``lockf``: a forked child does not hold
it), so a file that can be locked is an orphan and is adopted.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import attrs
import msgspec
from flag_analytics.events import EventKind
from flag_analytics.frozen import FrozenEvent
from flag_analytics.locks import FileLock
from flag_analytics.reports import DeadLetter

__all__ = [
    "Spool",
    "SpoolCorruptError",
    "SpoolError",
    "SpoolFullError",
    "SpoolGoneError",
    "bytes_of",
    "default_directory",
    "orphans",
]

FREE_SPACE_RESERVE = 4 * 2**20
LEAST_LOG_BYTES = 8 * 2**20
"""What SQLite's write-ahead log may take, however small the spool is to be: it is taken back every 4 MiB."""
FORK_PATIENCE_SECONDS = 1.0
PAGE_BYTES = 4096
_ROWS_AT_ONCE = 500
"""Rows in one statement. ``sqlite3`` gives the interpreter's lock away at every step of a statement: while another
thread computes, a row took 270 µs with ``executemany``, and takes 7 µs this way. SQLite before 3.32 allows 999."""
SUFFIX = ".spool"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (seq INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS cursors (sink TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dead (
    id INTEGER PRIMARY KEY, sink TEXT NOT NULL, error TEXT NOT NULL, code TEXT NOT NULL,
    batch_id TEXT NOT NULL, at REAL NOT NULL, body BLOB NOT NULL
);
"""


class _ForkBarrier:
    """Entered around every use of SQLite: ``with barrier``. A fork waits a moment until nobody is inside.

    SQLite has locks of its own, which a child would inherit in the state another thread had them in.
    """

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._forks = 0
        self._mine = threading.local()

    def __enter__(self) -> None:
        depth = getattr(self._mine, "depth", 0)
        if not depth:
            with self._changed:
                self._changed.wait_for(lambda: not self._forks, FORK_PATIENCE_SECONDS)
                self._inside += 1
        self._mine.depth = depth + 1

    def __exit__(self, *_: object) -> None:
        self._mine.depth -= 1
        if not self._mine.depth:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def before_fork(self) -> None:
        own = 1 if getattr(self._mine, "depth", 0) else 0
        with self._changed:
            self._forks += 1
            self._changed.wait_for(lambda: self._inside <= own, FORK_PATIENCE_SECONDS)

    def after_fork_in_parent(self) -> None:
        with self._changed:
            self._forks -= 1
            self._changed.notify_all()

    def after_fork_in_child(self) -> None:
        self._renew()


_barrier = _ForkBarrier()


class _Entrance:
    """One thread at a time, and none across a fork: ``with entrance``."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

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


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_barrier.before_fork,
        after_in_parent=_barrier.after_fork_in_parent,
        after_in_child=_barrier.after_fork_in_child,
    )

_graveyard: list[sqlite3.Connection] = []
"""Connections inherited through fork. Closing one in the child could checkpoint the parent's file: they stay open."""


class SpoolError(Exception):
    """The spool cannot do what was asked of it, for now or for good; delivery goes on without it."""


class SpoolFullError(SpoolError):
    """The spool's bound, or the disk, is full."""


class SpoolGoneError(SpoolError):
    """The file was deleted, or replaced, under its process: what is written to it would not be found again."""


class SpoolCorruptError(SpoolError):
    """The file is not a sound spool."""


class _Row(msgspec.Struct, array_like=True, frozen=True):
    """A frozen event as one line of JSON; value and context are embedded as they are."""

    timestamp_us: int
    flag_key: str
    value: msgspec.Raw
    reason: str
    variant: str | None
    targeting_key: str | None
    context: msgspec.Raw
    evaluation_duration_ms: float
    event_id: str
    error_type: str | None
    error_message: str | None
    flag_version: str | None
    flag_set_id: str | None
    provider_name: str | None
    kind: EventKind
    sample_rate: float
    received_at: float
    size: int
    traceparent: str | None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Row).decode


def encode_event(event: FrozenEvent) -> bytes:
    """Return an event as UTF-8 JSON, an array in the order of ``FrozenEvent``'s fields."""
    return _encode(
        (
            (event.timestamp - _EPOCH) // _MICROSECOND,
            event.flag_key,
            msgspec.Raw(event.value_json),
            event.reason,
            event.variant,
            event.targeting_key,
            msgspec.Raw(event.context_json),
            event.evaluation_duration_ms,
            event.event_id,
            event.error_type,
            event.error_message,
            event.flag_version,
            event.flag_set_id,
            event.provider_name,
            event.kind,
            event.sample_rate,
            event.received_at,
            event.size,
            event.traceparent,
        )
    )


def decode_event(body: bytes) -> FrozenEvent:
    """Return the event that ``encode_event`` wrote; raises ``msgspec.MsgspecError`` for anything else."""
    row = _decode(body)
    return FrozenEvent(
        _EPOCH + row.timestamp_us * _MICROSECOND,
        row.flag_key,
        bytes(row.value),
        row.reason,
        row.variant,
        row.targeting_key,
        bytes(row.context),
        row.evaluation_duration_ms,
        row.event_id,
        row.error_type,
        row.error_message,
        row.flag_version,
        row.flag_set_id,
        row.provider_name,
        row.kind,
        row.sample_rate,
        row.received_at,
        row.size,
        row.traceparent,
    )


@attrs.frozen
class Loaded:
    """A stretch of a spool: its readable events, the sequence number it ends at, and how many rows were unreadable."""

    events: tuple[FrozenEvent, ...]
    last_seq: int
    unreadable: int
    spool: Path | None = None


class Spool:
    """One spool file, open and locked. Safe from any thread of the process that opened it.

    Raises:
        SpoolCorruptError: the file is not sound; ``quarantine`` it.
        SpoolError: it cannot be opened, locked or created.
    """

    def __init__(
        self,
        path: Path,
        sinks: Iterable[str],
        *,
        max_bytes: int,
        fsync: Literal["normal", "full"] = "normal",
        patient: bool = True,
    ) -> None:
        self.path = path
        self._pid = os.getpid()
        self._lock = _Entrance()
        self._max_bytes = max_bytes
        self._file_lock = FileLock(path.with_suffix(".lock"))
        if not self._file_lock.acquire():
            raise SpoolError(f"{path.name} belongs to a living process")
        connection: sqlite3.Connection | None = None
        try:
            with self._lock:
                connection = _connect(path, max_bytes=max_bytes, fsync=fsync, patient=patient)
                self._connection = connection
                self._cursors = self._load_cursors(sinks)
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
        cls, directory: Path, sinks: Iterable[str], *, max_bytes: int, fsync: Literal["normal", "full"]
    ) -> Spool:
        """Return a new spool of this process in ``directory``, which is made, private to its user, if missing."""
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SpoolError(f"cannot create {directory}: {error.strerror}") from None
        name = f"{os.getpid()}-{time.time_ns():x}{SUFFIX}"
        return cls(directory / name, sinks, max_bytes=max_bytes, fsync=fsync)

    def _load_cursors(self, sinks: Iterable[str]) -> dict[str, int]:
        with self._connection:
            version = self._connection.execute("SELECT value FROM meta WHERE name = 'version'").fetchone()
            if version is None:
                self._connection.execute("INSERT INTO meta VALUES ('version', '1')")
                self._connection.execute("INSERT INTO meta VALUES ('created', ?)", (str(time.time()),))
                self._connection.executemany("INSERT INTO cursors VALUES (?, 0)", [(sink,) for sink in sinks])
            elif version[0] != "1":
                raise SpoolError(f"{self.path.name} has version {version[0]}: expected 1")
        return dict(self._connection.execute("SELECT sink, seq FROM cursors"))

    def is_gone(self) -> bool:
        """Return whether the file was deleted, or replaced: this process can read it still, and no other."""
        return _identity_of(self.path) != self._identity

    @property
    def sinks(self) -> frozenset[str]:
        """The sinks that events of this spool are for."""
        return frozenset(self._cursors)

    def append(self, events: Sequence[FrozenEvent]) -> None:
        """Make events durable, all or none.

        Raises:
            SpoolFullError: no room; nothing was written.
            SpoolCorruptError, SpoolError: it cannot be written; nothing was.
        """
        if self.is_gone():
            raise SpoolGoneError("its file was deleted")
        if self._log_is_too_large() and not self._take_log_back():
            raise SpoolFullError("its log has grown too large")
        if _free_bytes(self.path.parent) < FREE_SPACE_RESERVE:
            raise SpoolFullError("the disk is nearly full")
        bodies = [encode_event(event) for event in events]
        with self._lock:
            self._check_pid()
            try:
                with self._connection:
                    for at in range(0, len(bodies), _ROWS_AT_ONCE):
                        some = bodies[at : at + _ROWS_AT_ONCE]
                        places = ", ".join(["(?)"] * len(some))
                        self._connection.execute(f"INSERT INTO events (body) VALUES {places}", some)  # noqa: S608
            except sqlite3.Error as error:
                raise _spool_error(error) from None

    def _log_is_too_large(self) -> bool:
        return bytes_of(Path(f"{self.path}-wal")) > max(self._max_bytes, LEAST_LOG_BYTES)

    def _take_log_back(self) -> bool:
        """Empty the log beside the file, and return whether that worked: not while somebody else reads it."""
        with self._lock:
            self._check_pid()
            try:
                self._connection.execute("PRAGMA busy_timeout = 0")
                try:
                    self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                finally:
                    self._connection.execute("PRAGMA busy_timeout = 5000")
            except sqlite3.Error:
                return False
        return not self._log_is_too_large()

    def has_events(self) -> bool:
        """Return whether anything waits in it, for whatever sink."""
        with self._lock:
            self._check_pid()
            try:
                return bool(self._connection.execute("SELECT EXISTS (SELECT 1 FROM events)").fetchone()[0])
            except sqlite3.Error as error:
                raise _spool_error(error) from None

    def pending(self, sink: str) -> int:
        """Return how many events wait for this sink."""
        with self._lock:
            self._check_pid()
            try:
                row = self._connection.execute(
                    "SELECT count(*) FROM events WHERE seq > ?", (self._cursors.get(sink, 0),)
                ).fetchone()
            except sqlite3.Error as error:
                raise _spool_error(error) from None
        return int(row[0]) if sink in self._cursors else 0

    def read(self, sink: str, limit: int, max_bytes: int) -> Loaded:
        """Return the next events for this sink, in the order they came: at most ``limit``, and at least one."""
        with self._lock:
            self._check_pid()
            try:
                rows = self._connection.execute(
                    "SELECT seq, CAST(body AS BLOB) FROM events WHERE seq > ? ORDER BY seq LIMIT ?",
                    (self._cursors[sink], limit),
                ).fetchall()
            except sqlite3.Error as error:
                raise _spool_error(error) from None
        events: list[FrozenEvent] = []
        unreadable = 0
        size = 0
        last_seq = self._cursors[sink]
        for seq, body in rows:
            try:
                event = decode_event(body)
            except (msgspec.MsgspecError, TypeError, ValueError, OverflowError):
                unreadable += 1
                last_seq = seq
                continue
            if events and size + event.size > max_bytes:
                break
            events.append(event)
            size += event.size
            last_seq = seq
        return Loaded(tuple(events), last_seq, unreadable, self.path)

    def acknowledge(self, sink: str, seq: int) -> None:
        """Move a sink's cursor and delete what every sink is past.

        The cursor moves in memory even where the disk refuses: a sink never gets an event twice from one process.
        """
        with self._lock:
            self._check_pid()
            self._cursors[sink] = seq
            try:
                with self._connection:
                    self._connection.execute("UPDATE cursors SET seq = ? WHERE sink = ?", (seq, sink))
                    self._connection.execute("DELETE FROM events WHERE seq <= ?", (min(self._cursors.values()),))
            except sqlite3.Error as error:
                raise _spool_error(error) from None

    def add_dead(self, letters: Sequence[DeadLetter]) -> None:
        """Keep events that a sink refused for good."""
        rows = [
            (letter.sink, letter.error, letter.code, letter.batch_id, letter.at, encode_event(letter.event))
            for letter in letters
        ]
        with self._lock:
            self._check_pid()
            try:
                with self._connection:
                    self._connection.executemany(
                        "INSERT INTO dead (sink, error, code, batch_id, at, body) VALUES (?, ?, ?, ?, ?, ?)", rows
                    )
            except sqlite3.Error as error:
                raise _spool_error(error) from None

    def dead_letters(self) -> Iterator[DeadLetter]:
        """Yield the dead letters in the order they were added."""
        with self._lock:
            self._check_pid()
            rows = self._connection.execute(
                "SELECT sink, body, error, code, batch_id, at FROM dead ORDER BY id"
            ).fetchall()
        for sink, body, error, code, batch_id, at in rows:
            yield DeadLetter(sink, decode_event(body), error, code, batch_id, at)

    def events(self) -> Iterator[FrozenEvent]:
        """Yield every event that waits for at least one sink, oldest first."""
        seq = min(self._cursors.values(), default=0)
        while True:
            with self._lock:
                self._check_pid()
                rows = self._connection.execute(
                    "SELECT seq, CAST(body AS BLOB) FROM events WHERE seq > ? ORDER BY seq LIMIT 500", (seq,)
                ).fetchall()
            if not rows:
                return
            for seq, body in rows:  # noqa: B007 - the last one is where the next query goes on
                yield decode_event(body)

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
            empty = not left and not self.is_gone()  # another file of that name is somebody else's
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
        _graveyard.append(self._connection)

    def _check_pid(self) -> None:
        if os.getpid() != self._pid:
            raise SpoolError("this spool belongs to the parent process")


def orphans(directory: Path) -> list[Path]:
    """Return the spool files in a directory, oldest first; those of living processes cannot be opened."""
    try:
        return sorted(directory.glob(f"*{SUFFIX}"), key=lambda path: path.stem.rpartition("-")[2].zfill(20))
    except OSError:
        return []


def set_aside(path: Path) -> Path:
    """Rename a spool that is not sound, with its log, so that nobody opens it again; return the new path."""
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
    try:
        base = _state_directory()
    except RuntimeError:
        base = Path(tempfile.gettempdir())
    folder = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return base / "flag-analytics" / "spool" / folder


def _state_directory() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")


def _connect(path: Path, *, max_bytes: int, fsync: str, patient: bool) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    connection = sqlite3.connect(path, timeout=5.0 if patient else 0.1, check_same_thread=False)
    try:
        if path.stat().st_size:
            sound = connection.execute("PRAGMA quick_check(1)").fetchone()
            if sound != ("ok",):
                raise sqlite3.DatabaseError("malformed")
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
