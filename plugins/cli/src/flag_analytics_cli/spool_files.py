"""Looks into spools without changing them, while their processes live or after they are gone."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import attrs
from flag_analytics.delivery.ledger import DeadLetter
from flag_analytics.delivery.locks import FileLock
from flag_analytics.delivery.spool import decode_event, default_directory, orphans
from flag_analytics.normal_form import FrozenEvent
from msgspec import MsgspecError

__all__ = ["SpoolFile", "dead_letters", "known_directories", "look", "spools_in", "waiting_events"]

_STRETCH = 500


@attrs.frozen
class SpoolFile:
    """What is in one spool.

    Attributes:
        state: ``in use`` by a living process; ``orphan``, which the next process, or ``replay``, takes over;
            ``corrupt``: set aside, or not readable as a spool.
        size_bytes: The size of its files.
        waiting: Events that wait, by sink.
        dead: Dead letters.
        oldest: When the oldest waiting event was accepted.
    """

    path: Path
    state: Literal["in use", "orphan", "corrupt"]
    size_bytes: int
    waiting: Mapping[str, int] = attrs.field(factory=dict[str, int])
    dead: int = 0
    oldest: datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything by name, the path as text and the time in ISO 8601."""
        oldest = None if self.oldest is None else self.oldest.isoformat()
        return {**attrs.asdict(self), "path": str(self.path), "waiting": dict(self.waiting), "oldest": oldest}


def known_directories() -> list[Path]:
    """Return the directories in this user's place for state that hold spools, one for each application."""
    try:
        folders = sorted(folder for folder in default_directory("").parent.iterdir() if folder.is_dir())
    except OSError:
        return []
    return [folder for folder in folders if spools_in(folder)]


def spools_in(directory: Path) -> list[Path]:
    """Return the spools in a directory, the oldest first, then those that were set aside as corrupt."""
    aside = [path for path in sorted(directory.glob("*.corrupt-*")) if not path.name.endswith(("-wal", "-shm"))]
    return [*orphans(directory), *aside]


def look(path: Path) -> SpoolFile:
    """Return what is in a spool."""
    size = sum(part.stat().st_size for part in (path, Path(f"{path}-wal")) if part.is_file())
    if ".corrupt-" in path.name:
        return SpoolFile(path, "corrupt", size)
    try:
        with closing(_read_only(path)) as connection:
            cursors = dict(connection.execute("SELECT sink, seq FROM cursors ORDER BY sink"))
            count = "SELECT count(*) FROM events WHERE seq > ?"
            waiting = {sink: connection.execute(count, (seq,)).fetchone()[0] for sink, seq in cursors.items()}
            dead = connection.execute("SELECT count(*) FROM dead").fetchone()[0]
            first = connection.execute(
                "SELECT body FROM events WHERE seq > ? ORDER BY seq LIMIT 1", (min(cursors.values(), default=0),)
            ).fetchone()
            oldest = None if first is None else datetime.fromtimestamp(decode_event(first[0]).received_at, UTC)
    except (sqlite3.Error, MsgspecError, ValueError, OverflowError):
        # One that a process is just making is not a spool yet either.
        return SpoolFile(path, "in use" if _is_in_use(path) else "corrupt", size)
    return SpoolFile(path, "in use" if _is_in_use(path) else "orphan", size, waiting, dead, oldest)


def waiting_events(path: Path) -> Iterator[FrozenEvent]:
    """Yield the events of a spool that wait for at least one sink, the oldest first; what is unreadable is left out."""
    with closing(_read_only(path)) as connection:
        seq = connection.execute("SELECT coalesce(min(seq), 0) FROM cursors").fetchone()[0]
        select = "SELECT seq, body FROM events WHERE seq > ? ORDER BY seq LIMIT ?"
        # In stretches: a long read would keep the process that writes here from tidying up.
        while rows := connection.execute(select, (seq, _STRETCH)).fetchall():
            for _, body in rows:
                try:
                    yield decode_event(body)
                except (MsgspecError, ValueError):
                    continue
            seq = rows[-1][0]


def dead_letters(path: Path) -> Iterator[DeadLetter]:
    """Yield the dead letters of a spool in the order they were given up."""
    with closing(_read_only(path)) as connection:
        rows = connection.execute("SELECT sink, body, error, code, batch_id, at FROM dead ORDER BY id")
        for sink, body, error, code, batch_id, at in rows:
            try:
                yield DeadLetter(sink, decode_event(body), error, code, batch_id, at)
            except (MsgspecError, ValueError):
                continue


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5.0)


def _is_in_use(path: Path) -> bool:
    lock_path = path.with_suffix(".lock")
    if not lock_path.exists():
        return False
    lock = FileLock(lock_path)
    if not lock.acquire():
        return True
    lock.release()
    return False
