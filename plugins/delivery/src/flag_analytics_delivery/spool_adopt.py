"""Adopt the spools of earlier processes: each is a further log, in which every sink has a cursor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import attrs

from .accounts import Sink
from .log import Cursor, Log, Place
from .ranges import add, count, cut, gaps_of
from .spool import Spool, SpoolCorruptError, SpoolError, SpoolForeignError, orphans, set_aside
from .spool_directory import sweep

__all__ = ["Adopted", "adopt"]


@attrs.frozen(eq=False)
class Adopted:
    """A spool of an earlier process, and the log that it is.

    Attributes:
        unclaimed: How many sinks have events in it that are not configured.
    """

    spool: Spool
    log: Log
    cursors: tuple[Cursor, ...]
    unclaimed: int


def adopt(
    directory: Path, sinks: Mapping[str, Sink], open_spool: Callable[[Path], Spool], tell: Callable[[str], None]
) -> Iterator[Adopted]:
    """Yield what can be adopted from a directory, oldest first; ``tell`` hears of each file that is not."""
    if directory.is_dir():
        sweep(directory)
    for path in orphans(directory):
        try:
            spool = open_spool(path)
        except SpoolForeignError:
            tell("skipped")
            continue
        except SpoolCorruptError:
            set_aside(path)
            tell("quarantined")
            continue
        except SpoolError:
            continue  # its process lives, or another program has it open: it is for a later start
        try:
            found = _read(spool, sinks)
        except SpoolError:
            spool.quarantine()
            tell("quarantined")
            continue
        if found.unclaimed:
            tell("unclaimed")
        if found.cursors:
            yield found
        else:
            spool.close()


def _read(spool: Spool, sinks: Mapping[str, Sink]) -> Adopted:
    positions = spool.positions()
    if not positions:
        return Adopted(spool, Log(), (), 0)
    log = Log.of_disk(positions)
    unclaimed = 0
    for name, position in spool.cursors.items():
        sink = sinks.get(name)
        settled = gaps_of(positions, position, log.end)
        for first, end in cut(spool.gaps(name), position, log.end):
            settled = add(settled, first, end)
        waiting = log.end - position - count(settled)
        if sink is None:
            unclaimed += waiting > 0
        elif waiting > 0:
            place = Place(position, position, position, 0).settle(settled, 0)
            log.add_cursor(name, sink.machine.options, sink.ledger, place)
    return Adopted(spool, log, tuple(log.cursors), unclaimed)
