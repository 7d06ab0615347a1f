"""The directory that worker processes share: which of them live, and the replacement of files of dead ones.

Each process that counts holds the lock of a file of its own (``….alive``) and names its files after it. A scrape holds
``flag_analytics.lock`` while it reads. Under the same lock the files of dead processes are replaced by one: the journal
is the moment from which the new file counts, so that a process that is killed meanwhile loses and doubles nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import attrs
import msgspec
from flag_analytics.locks import FileLock
from flag_analytics.processes import renew_after_fork
from prometheus_client import values

from .library_files import read_regular

__all__ = ["Owner", "SharedDirectory", "shared_directory"]

_LOCK_SECONDS = 0.5
_LOCK_POLL_SECONDS = 0.005
_KEY_BYTES = 32
_MAX_JOURNAL_BYTES = 2**20
_DRAFT = ".folding"
_ALIVE = re.compile(r"flag_analytics_(\d+)-([0-9a-f]+)\.alive")


@attrs.frozen
class Owner:
    """A process that has files in the directory. Process ids come again; the token does not."""

    pid: int
    token: str

    def __str__(self) -> str:
        return f"{self.pid}-{self.token}"


@attrs.frozen
class _Replacement:
    new: list[str]
    gone: list[str]


class SharedDirectory:
    """The files in ``PROMETHEUS_MULTIPROC_DIR``, seen from one process.

    Attributes:
        skipped: How many times a file was skipped that is foreign, broken, a link, or not readable.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._prefix = f"{path}{os.sep}"
        self._drafts: set[str] = set()
        self._lock_path = path / "flag_analytics.lock"
        self._journal = path / "flag_analytics_journal.json"
        self._alive: FileLock | None = None
        self._begin()
        renew_after_fork(self._begin)

    def _begin(self) -> None:
        """Be another process than the parent."""
        self.owner = Owner(os.getpid(), secrets.token_hex(4))
        self.skipped = 0
        inherited, self._alive = self._alive, None
        if inherited is not None:
            inherited.release()  # closes the descriptor; the lock is the parent's, and stays

    def join(self) -> Owner:
        """Show to others that this process lives, and return its name."""
        if self._alive is None:
            alive = FileLock(self.path / f"flag_analytics_{self.owner}.alive")
            if alive.acquire():
                self._alive = alive
        return self.owner

    def names(self) -> list[str]:
        """Return the names of all files that count, in order; none if the directory was removed."""
        try:
            with os.scandir(self.path) as entries:
                names = {entry.name for entry in entries}
        except OSError:
            return []
        replacement = self._read_journal()
        self._drafts = set() if replacement is None else set(replacement.new)
        if replacement is not None:
            names -= set(replacement.gone)
        return sorted(names | self._drafts)

    def path_of(self, name: str) -> str:
        """Return the path of a file that counts."""
        path = f"{self._prefix}{name}"
        draft = f"{path}{_DRAFT}"
        return draft if name in self._drafts and not os.path.exists(path) else path  # noqa: PTH110 - asked often

    def secret(self) -> bytes:
        """Return the key of the hash function that all processes share, making it if this one is the first.

        Where the file is broken, or cannot be made, it is this process's own.
        """
        path = self.path / "flag_analytics.key"
        key = secrets.token_bytes(_KEY_BYTES)
        mine = self.path / f"flag_analytics.key.{secrets.token_hex(8)}"
        try:
            if not path.exists():
                mine.touch(mode=0o600)
                mine.write_bytes(key)
                with contextlib.suppress(FileExistsError):
                    os.link(mine, path)  # linked when it is complete: each process finds a whole key
                mine.unlink()
            found = read_regular(path, _KEY_BYTES)
        except OSError:
            found = b""
        if len(found) == _KEY_BYTES:
            return found
        self.skipped += 1
        return key

    # Dead processes

    def dead(self, names: Collection[str]) -> list[Owner]:
        """Return the processes that have ended, as far as that is certain."""
        owners = [Owner(int(found[1]), found[2]) for name in names if (found := _ALIVE.fullmatch(name))]
        return [owner for owner in owners if owner != self.owner and self._has_ended(owner)]

    def _has_ended(self, owner: Owner) -> bool:
        if pid_lives(owner.pid):
            return False
        lock = FileLock(self.path / f"flag_analytics_{owner}.alive")  # of a process in another container, too
        if not lock.acquire():
            return False
        lock.release()
        return True

    def claim(self, name: str, kind: str, owner: Owner) -> str | None:
        """Rename a file that the library named after the process id of a dead process.

        Another process may get the same id at any moment and go on in the file. One that had opened it before it was
        renamed lives now, and gets it back.
        """
        claimed = f"{kind}_{claimed_by(owner)}.db"
        source, target = self.path / name, self.path / claimed
        try:
            source.rename(target)
            if pid_lives(owner.pid):
                os.link(target, source)
                target.unlink()
                return None
        except OSError:
            return None
        return claimed

    @contextlib.contextmanager
    def locked(self, seconds: float = _LOCK_SECONDS) -> Iterator[bool]:
        """Hold the directory's lock; the value is whether it was to be had within so many seconds."""
        deadline = time.monotonic() + seconds
        lock = FileLock(self._lock_path)  # another one each time: of one object's threads, each would get it
        held = lock.acquire()
        while not held and time.monotonic() < deadline and os.access(self._lock_path, os.W_OK):
            time.sleep(_LOCK_POLL_SECONDS)
            held = lock.acquire()
        try:
            yield held
        finally:
            lock.release()

    def draft(self, name: str) -> Path:
        """Return where to write a file that is to take part in ``replace``."""
        return self.path / f"{name}{_DRAFT}"

    def replace(self, new: Collection[str], gone: Collection[str]) -> None:
        """Have the drafts ``new`` stand in place of the files ``gone``, as one step. The caller holds the lock.

        Raises:
            OSError: nothing is replaced; or it is, and a later ``finish`` tidies up.
        """
        written = self._journal.with_suffix(_DRAFT)
        written.write_bytes(msgspec.json.encode(_Replacement(list(new), list(gone))))
        written.replace(self._journal)
        self.finish()

    def finish(self) -> None:
        """Complete a replacement that was begun, by this process or one that was killed. The caller holds the lock.

        Raises:
            OSError: a file cannot be renamed or deleted; the journal keeps the rest for later.
        """
        replacement = self._read_journal()
        if replacement is None:
            return
        for name in replacement.new:
            with contextlib.suppress(FileNotFoundError):
                self.draft(name).replace(self.path / name)
        for name in replacement.gone:
            (self.path / name).unlink(missing_ok=True)
        self._journal.unlink()

    def discard_drafts(self) -> None:
        """Delete drafts that a killed process left behind; the caller holds the lock, and has finished the rest."""
        with contextlib.suppress(OSError):
            for path in list(self.path.glob(f"*{_DRAFT}")):
                path.unlink()

    def _read_journal(self) -> _Replacement | None:
        try:
            replacement = msgspec.json.decode(read_regular(self._journal, _MAX_JOURNAL_BYTES), type=_Replacement)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError):
            self.skipped += 1
            return None
        plain = all(name == Path(name).name for name in (*replacement.new, *replacement.gone))
        return replacement if plain else None


def claimed_by(owner: Owner | str) -> str:
    """Return the owner in the names of files that were taken from a dead process."""
    return f"flag-analytics-dead-{owner}"


def pid_lives(pid: int) -> bool:
    """Return whether a process has this id; False where that cannot be asked."""
    if os.name == "nt":
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def named_by_pid() -> bool:
    """Return whether the library names its files after process ids; applications can give it other names."""
    check: Any = getattr(values.ValueClass, "_MmapedValue__check_for_pid_change", None)
    try:
        position = check.__code__.co_freevars.index("process_identifier")
        return check.__closure__[position].cell_contents is os.getpid
    except (AttributeError, TypeError, ValueError):
        return False


_directories: dict[str, SharedDirectory] = {}


def shared_directory() -> SharedDirectory | None:
    """Return the directory that processes share; None where prometheus_client keeps values in memory.

    Like the library, this goes by whether ``PROMETHEUS_MULTIPROC_DIR`` was set when the library was imported.

    Raises:
        ValueError: it names no directory.
    """
    path = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if path is None or not getattr(values.ValueClass, "_multiprocess", False):
        return None
    if not Path(path).is_dir():
        raise ValueError("PROMETHEUS_MULTIPROC_DIR is not a directory: make it, empty, before the application starts")
    if path not in _directories:
        _directories[path] = SharedDirectory(Path(path))
    return _directories[path]
