"""The directory of spools: private to its user, so that no other user can put a file or a link into it.

SQLite follows links and opens any database. In a directory that others can write to (``/tmp``, a shared volume) a link
``1-a.spool`` would have us change the database that it leads to.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from flag_analytics.locks import FileLock

__all__ = ["SpoolError", "is_own_file", "make_private", "private_in", "sweep"]

_LEFT = (".spool", ".lock", ".spool-wal", ".spool-shm")


class SpoolError(Exception):
    """The spool cannot do what was asked of it, for now or for good; delivery goes on without it."""


def private_in(directory: Path) -> Path:
    """Return where spools lie: in ``directory`` if only this user may write to it, else in a folder of its own there.

    Raises:
        SpoolError: it belongs to another user, who could replace everything in it.
    """
    if sys.platform == "win32":
        return directory  # its access lists are its administrator's
    try:
        status = directory.stat()
    except OSError:
        return directory  # it will be made, or said why not
    user = os.geteuid()
    if status.st_uid not in {user, 0}:
        raise SpoolError(f"{directory} belongs to another user: set spool_directory to one of this user's own")
    if status.st_uid == user and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return directory
    return directory / f"flag-analytics-{user}"


def make_private(directory: Path) -> Path:
    """Return ``private_in(directory)``, made if it is missing.

    Raises:
        SpoolError: what is there is a link, or another user's, or open to others.
        OSError: it cannot be made.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    private = private_in(directory)
    if private != directory:
        private.mkdir(mode=0o700, exist_ok=True)
        status = private.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise SpoolError(f"{private} is not private to this user: remove it, or set spool_directory")
    return private


def is_own_file(path: Path) -> bool:
    """Return whether a file is a regular one, no link, and this user's; to root, every user's are."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and (sys.platform == "win32" or os.geteuid() in {status.st_uid, 0})


def sweep(directory: Path) -> None:
    """Delete what a process left that was killed while it made, or deleted, a spool: parts without their spool."""
    names = {entry.name for entry in os.scandir(directory)}
    stems = {name.removesuffix(part) for part in _LEFT[1:] for name in names if name.endswith(part)}
    for stem in sorted(stem for stem in stems if f"{stem}{_LEFT[0]}" not in names):
        lock = FileLock(directory / f"{stem}.lock")
        if not lock.acquire():  # a process is just making it
            continue
        if not (directory / f"{stem}{_LEFT[0]}").exists():
            for part in _LEFT[2:]:
                (directory / f"{stem}{part}").unlink(missing_ok=True)
        lock.release(unlink=True)
