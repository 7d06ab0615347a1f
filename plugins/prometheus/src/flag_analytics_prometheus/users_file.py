"""Keeps the unique users of one process in a file in memory, where every other process can read them.

The file has a place for each flag: a header of 1,024 bytes, the table of the exact count and the registers of the
estimate (see ``unique_users``). A crash loses nothing, and no lock is needed: a table only grows, and the registers
are complete before the header names them.
"""

from __future__ import annotations

import mmap
import os
import struct
from array import array
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from .library_files import open_regular
from .unique_users import REGISTERS, IntBuffer, UniqueUsers

__all__ = ["UsersFile", "read_users", "write_users"]

_HEADER = 1_024
_PLACE = _HEADER + 2 * REGISTERS
_STATE = struct.Struct("<4sH")  # table or registers, and the length of the flag key in bytes
_EXACT, _ESTIMATE, _UNUSED = b"FAx1", b"FAe1", bytes(4)


class UsersFile:
    """The file of one process, with room for ``places`` flags; only used places take space on disk."""

    def __init__(self, path: Path, places: int) -> None:
        self.path = path
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
                return registers  # the disk is full: other processes see the table alone
            self._map[begin : begin + REGISTERS] = bytes(registers)
            self._map[start : start + _STATE.size] = _STATE.pack(_ESTIMATE, len(name))
            return view[begin : begin + REGISTERS]

        table = view[start + _HEADER : start + _HEADER + REGISTERS].cast("Q")
        return UniqueUsers(hash_key, table, place_registers)

    def _reserve(self, start: int, size: int) -> None:
        # Without it, writing to a mapped page for which the disk has no room would kill the process (SIGBUS).
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._file.fileno(), start, size)


def write_users(path: Path, flags: Mapping[str, UniqueUsers]) -> None:
    """Write a file of these counts.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("wb") as file:
        for index, (flag_key, users) in enumerate(flags.items()):
            exact, payload = users.state()
            name = flag_key.encode()
            file.seek(index * _PLACE)
            file.write(_STATE.pack(_EXACT if exact else _ESTIMATE, len(name)) + name)
            file.seek(index * _PLACE + _HEADER + (0 if exact else REGISTERS))
            file.write(payload)
        file.truncate(len(flags) * _PLACE)


def read_users(path: str | Path, hash_key: Callable[[str], int], flags: dict[str, UniqueUsers]) -> None:
    """Add the counts in a file to ``flags``.

    Raises:
        OSError: it cannot be read.
        ValueError: it is broken; the counts before the broken place are added.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if not size or size % _PLACE:
            raise ValueError("the file is cut off")
        for start in range(0, size, _PLACE):
            file.seek(start)
            header = file.read(_HEADER)
            if header.startswith(_UNUSED):
                return
            flag_key, exact = _read_header(header)
            users = flags.get(flag_key)
            if users is None:
                users = flags[flag_key] = UniqueUsers(hash_key)
            file.seek(start + _HEADER + (0 if exact else REGISTERS))
            payload = file.read(REGISTERS)
            if exact:
                users.merge_hashes(hashed for hashed in array("Q", payload) if hashed)
            else:
                users.merge_registers(payload)


def _read_header(header: bytes) -> tuple[str, bool]:
    """Return the flag key, and whether its count is exact."""
    state, length = _STATE.unpack_from(header)
    if state not in {_EXACT, _ESTIMATE} or length > _HEADER - _STATE.size:
        raise ValueError("the file is broken")
    return header[_STATE.size : _STATE.size + length].decode("utf-8", "replace"), state == _EXACT
