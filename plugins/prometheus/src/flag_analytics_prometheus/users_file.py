"""Keeps the unique users of one process in a file in memory, where every other process can read them.

The file has a place for each flag: a header of 1,024 bytes, the table of the exact count and the registers of the
estimate (see ``unique_users``). A crash loses nothing, and no lock is needed: a table only grows, and the registers
are complete before the header says that they are what counts.
"""

from __future__ import annotations

import mmap
import os
import struct
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from .unique_users import REGISTERS, IntBuffer, UniqueUsers

__all__ = ["UsersFile", "read_users"]

_HEADER = 1_024
_PLACE = _HEADER + 2 * REGISTERS
_STATE = struct.Struct("<4sH")  # what counts, and how long the flag key is in bytes
_EXACT, _ESTIMATE = b"FAx1", b"FAe1"


class UsersFile:
    """The file of one process, with room for ``places`` flags; only what is used takes space on disk."""

    def __init__(self, path: Path, places: int) -> None:
        self._file: IO[bytes] = path.open("x+b")
        self._file.truncate(places * _PLACE)
        self._map = mmap.mmap(self._file.fileno(), places * _PLACE)
        self._places = places
        self._used = 0

    def add(self, flag_key: str, hash_key: Callable[[str], int]) -> UniqueUsers:
        """Return a count of users that is kept in the file.

        Raises:
            OSError: there is no space.
        """
        name = flag_key.encode()
        start = self._used * _PLACE
        if self._used >= self._places or len(name) > _HEADER - _STATE.size:
            raise OSError("no place left for a flag")
        self._reserve(start, _HEADER + REGISTERS)
        self._used += 1
        self._map[start + _STATE.size : start + _STATE.size + len(name)] = name
        self._map[start : start + _STATE.size] = _STATE.pack(_EXACT, len(name))
        view = memoryview(self._map)

        def place_registers(registers: bytearray) -> IntBuffer:
            begin = start + _HEADER + REGISTERS
            try:
                self._reserve(begin, REGISTERS)
            except OSError:
                return registers  # the others go on with what the table holds; the disk is full
            self._map[begin : begin + REGISTERS] = bytes(registers)
            self._map[start : start + _STATE.size] = _STATE.pack(_ESTIMATE, len(name))
            return view[begin : begin + REGISTERS]

        table = view[start + _HEADER : start + _HEADER + REGISTERS].cast("Q")
        return UniqueUsers(hash_key, table, place_registers)

    def _reserve(self, start: int, size: int) -> None:
        # Without it, writing to a mapped page for which the disk has no room would kill the process (SIGBUS).
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._file.fileno(), start, size)


def read_users(path: Path, hash_key: Callable[[str], int], flags: dict[str, UniqueUsers]) -> None:
    """Add to ``flags`` what a file holds; a file that is gone or damaged adds what can be read of it."""
    try:
        data = path.read_bytes() if os.name == "nt" else _mapped(path)
    except (OSError, ValueError):
        return
    for name, exact, payload in _places(data):
        users = flags.get(name)
        if users is None:
            users = flags[name] = UniqueUsers(hash_key)
        if exact:
            table = array("Q", payload)
            users.merge_hashes(hashed for hashed in table if hashed)
        else:
            users.merge_registers(payload)


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _places(data: bytes | mmap.mmap) -> Iterator[tuple[str, bool, bytes]]:
    for start in range(0, len(data) - _PLACE + 1, _PLACE):
        state, length = _STATE.unpack(data[start : start + _STATE.size])
        if state not in {_EXACT, _ESTIMATE} or length > _HEADER - _STATE.size:
            return
        name = data[start + _STATE.size : start + _STATE.size + length].decode("utf-8", "replace")
        begin = start + _HEADER + (0 if state == _EXACT else REGISTERS)
        yield name, state == _EXACT, data[begin : begin + REGISTERS]
