"""A lock file that belongs to one process and goes with it, on every operating system."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["FileLock"]


_held: dict[str, FileLock] = {}
"""Files this process has locked: POSIX grants a process a lock it already holds, and drops it with any close."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_held.clear)


class FileLock:
    """An exclusive lock on a file. On POSIX ``lockf``, not ``flock``: a forked child does not hold its parent's."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._key = str(path.resolve())
        self._fd: int | None = None

    def acquire(self) -> bool:
        """Take the lock without waiting; return whether it was free."""
        key = self._key
        if _held.setdefault(key, self) is not self:  # a single step: of two threads one gets it
            return False
        self._fd = _open_and_lock(self.path)
        if self._fd is None:
            del _held[key]
        return self._fd is not None

    def release(self, *, unlink: bool = False) -> None:
        """Give the lock back, and delete its file if wanted."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        _held.pop(self._key, None)
        if unlink and sys.platform != "win32":
            self._unlink()
        os.close(fd)
        if unlink and sys.platform == "win32":
            self._unlink()

    def _unlink(self) -> None:
        try:
            self.path.unlink()
        except OSError:
            return  # another process's by now, or a read-only directory


if sys.platform == "win32":
    import msvcrt

    def _lock(fd: int) -> None:
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(fd: int) -> None:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _open_and_lock(path: Path) -> int | None:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except OSError:
        return None
    try:
        _lock(fd)
        if os.path.samestat(os.fstat(fd), path.stat()):  # else its holder deleted it between the two steps
            return fd
    except OSError:
        pass  # held by another process, or deleted
    os.close(fd)
    return None
