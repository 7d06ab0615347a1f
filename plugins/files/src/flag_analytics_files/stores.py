"""Where files are: a directory of this machine, or an object store. Both store a name once."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from flag_analytics.errors import SinkUnavailable

from .options import FilesOptions

__all__ = ["Directory", "Store", "open_store"]

_LEFT_BEHIND_SECONDS = 300.0
_UNFINISHED = ".part"

T = TypeVar("T")


class Store(Protocol):
    """Files by their paths, with / between parts. Every method raises ``SinkUnavailable`` where the store fails."""

    async def put(self, path: str, body: bytes) -> bool:
        """Store a whole file if there is none of this path; return whether there was none."""
        ...

    async def get(self, path: str) -> bytes | None:
        """Return the bytes of a file; None if there is none."""
        ...

    async def replace(self, path: str, before: bytes, body: bytes) -> bool:
        """Put other bytes in the place of ``before``; return False, with nothing changed, if it holds others by now."""
        ...

    async def paths(self, prefix: str) -> list[str]:
        """Return the paths that begin with a prefix, which ends with / or is empty, in order."""
        ...

    async def delete(self, path: str) -> None:
        """Remove a file, if it is there."""
        ...


def open_store(options: FilesOptions) -> Store:
    """Return the store of these options; nothing is connected to.

    Raises:
        PluginError: its library is not installed, or does not know the location or a setting.
    """
    if not options.in_object_store:
        return Directory(Path(options.location), fsync=options.fsync)
    from .objects import ObjectStore  # nothing of it is loaded for a directory

    return ObjectStore(options.location, options.storage)


class Directory:
    """A directory. A file appears under its name whole, or not at all."""

    def __init__(self, root: Path, *, fsync: bool = True) -> None:
        self.root = root
        self._fsync = fsync

    async def put(self, path: str, body: bytes) -> bool:
        return await _in_thread(lambda: self._put(self.root / path, body))

    async def get(self, path: str) -> bytes | None:
        return await _in_thread(lambda: _read(self.root / path))

    async def replace(self, path: str, before: bytes, body: bytes) -> bool:
        return await _in_thread(lambda: self._replace(self.root / path, before, body))

    async def paths(self, prefix: str) -> list[str]:
        return await _in_thread(lambda: self._paths(prefix))

    async def delete(self, path: str) -> None:
        await _in_thread(lambda: (self.root / path).unlink(missing_ok=True))

    def _put(self, path: Path, body: bytes) -> bool:
        if path.exists():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._unfinished(path, body) as unfinished:
            try:
                if sys.platform == "win32":  # it refuses a name that is taken; elsewhere a rename would replace it
                    unfinished.rename(path)
                else:
                    os.link(unfinished, path)
            except FileExistsError:
                return False
            self._sync_directory(path)
            return True

    def _replace(self, path: Path, before: bytes, body: bytes) -> bool:
        with self._unfinished(path, body) as unfinished:
            if _read(path) != before:
                return False
            unfinished.replace(path)
            self._sync_directory(path)
            return True

    @contextlib.contextmanager
    def _unfinished(self, path: Path, body: bytes) -> Iterator[Path]:
        """Write a file beside another, to be given its name."""
        unfinished = path.with_name(f".{uuid.uuid4().hex}{_UNFINISHED}")
        try:
            with unfinished.open("xb") as file:
                file.write(body)
                file.flush()
                if self._fsync:
                    os.fsync(file.fileno())
            yield unfinished
        finally:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)

    def _sync_directory(self, path: Path) -> None:
        if self._fsync and sys.platform != "win32":
            descriptor = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _paths(self, prefix: str) -> list[str]:
        start = self.root / prefix
        if not start.is_dir():
            return []
        found = []
        for directory, _, names in os.walk(start):
            for name in names:
                path = Path(directory, name)
                if name.startswith(".") and name.endswith(_UNFINISHED):
                    _remove_if_left_behind(path)
                else:
                    found.append(path.relative_to(self.root).as_posix())
        return sorted(found)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _remove_if_left_behind(path: Path) -> None:
    """Remove what a process left that ended while it wrote."""
    with contextlib.suppress(OSError):
        if time.time() - path.stat().st_mtime > _LEFT_BEHIND_SECONDS:
            path.unlink()


async def _in_thread(action: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(action)
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0, type(error).__name__)
    raise SinkUnavailable("the directory cannot be used", code=code)
