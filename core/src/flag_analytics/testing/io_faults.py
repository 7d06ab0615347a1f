"""Failures of input and output that need no help from the backend: the kit makes the system refuse.

Each is a context manager, and ends with it: nothing can be opened (files, databases, connections), nothing can be
written to a file, or every connection that the backend has made is cut.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import sqlite3
import stat
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from .resources import open_descriptors

__all__ = ["IO_FAULTS", "cut_connections", "nothing_can_be_opened", "nothing_can_be_written"]

_EVENTS: Mapping[str, Callable[[], Exception]] = {
    "open": lambda: OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
    "os.mkdir": lambda: OSError(errno.EACCES, os.strerror(errno.EACCES)),
    "os.rename": lambda: OSError(errno.EIO, os.strerror(errno.EIO)),
    "socket.connect": lambda: ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)),
    "socket.sendto": lambda: OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH)),
    "socket.getaddrinfo": lambda: socket.gaierror(socket.EAI_AGAIN, "temporary failure in name resolution"),
    "sqlite3.connect": lambda: sqlite3.OperationalError("unable to open database file"),
}
_PROGRAM_FILES = tuple(
    {os.path.realpath(path) + os.sep for name, path in sysconfig.get_paths().items() if name != "scripts"}
    | {"/proc/", "/etc/", "/usr/share/zoneinfo/", "/dev/"}
)
_active = threading.Event()
_allowed = itertools.count(0)
_installed: list[bool] = []


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if not _active.is_set() or event not in _EVENTS or (event == "open" and _is_program_file(arguments[0])):
        return
    if next(_allowed) >= 0:
        error = _EVENTS[event]
        raise error()


def _is_program_file(path: Any) -> bool:
    # A module that is imported during a write, time zones, name resolution: no file of the backend's.
    if isinstance(path, int):
        return True
    try:
        text = os.fsdecode(path)
    except TypeError:
        return True
    return text.endswith((".py", ".pyc", ".so", ".pyd")) or os.path.realpath(text).startswith(_PROGRAM_FILES)


@contextmanager
def nothing_can_be_opened(*, after: int = 0) -> Iterator[None]:
    """Let no file, database or connection be opened but the first few; what is open already works on."""
    global _allowed  # noqa: PLW0603 - the hook is one for the whole process
    _allowed = itertools.count(-after)
    if not _installed:
        _installed.append(True)
        sys.addaudithook(_refuse)  # stays for the life of the process, and costs next to nothing while not active
    _active.set()
    try:
        yield
    finally:
        _active.clear()


@contextmanager
def nothing_can_be_written() -> Iterator[None]:
    """Let no file grow, as on a full disk; where the system has no such limit, do nothing."""
    if sys.platform == "win32":
        yield
        return
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def cut_connections(before: frozenset[int]) -> int:
    """Shut down every network connection that was made since ``before`` was measured; return how many."""
    count = 0
    for descriptor in open_descriptors() - before:
        try:
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                with socket.socket(fileno=os.dup(descriptor)) as connection:
                    if connection.getpeername():  # a listening socket has none, nor has a pair within a process a name
                        connection.shutdown(socket.SHUT_RDWR)
                        count += 1
        except OSError:
            pass  # it is not connected, or was closed meanwhile
    return count


@contextmanager
def _connections_cut(before: frozenset[int]) -> Iterator[None]:
    cut_connections(before)
    with nothing_can_be_opened():
        yield


IO_FAULTS: Mapping[str, Callable[[frozenset[int]], AbstractContextManager[None]]] = {
    "nothing can be opened": lambda _: nothing_can_be_opened(),
    "only one thing can be opened": lambda _: nothing_can_be_opened(after=1),
    "only two things can be opened": lambda _: nothing_can_be_opened(after=2),
    "the disk is full": lambda _: nothing_can_be_written(),
    "connections are cut": _connections_cut,
}
"""Each fault by what happens, as a function of the descriptors that were open before the backend was made."""
