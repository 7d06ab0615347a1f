"""The contents of spools: how many events wait in each, and which dead letters it keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import attrs
from flag_analytics.frozen import FrozenEvent
from flag_analytics.reports import DeadLetter
from flag_analytics_delivery.spool import default_directory, orphans
from flag_analytics_delivery.spool_reader import SPOOL_PARTS, SpoolReader, UnreadableError, is_in_use, moment_of

from .wording import counted

__all__ = ["SpoolFile", "dead_letters", "known_directories", "look", "spools_in", "waiting_events"]


@attrs.frozen
class SpoolFile:
    """The contents of one spool.

    Attributes:
        state: ``in use`` by a living process; ``orphan``, which the next process, or ``replay``, takes over;
            ``corrupt``: set aside, or not readable as a spool.
        size_bytes: The size of its files.
        waiting: Events that wait, by sink.
        dead: Dead letters.
        oldest: When the oldest waiting event was accepted.
        unreadable: Events and dead letters, among those that are counted, that cannot be read.
        problem: Why it is ``corrupt``, to be put after its name.
    """

    path: Path
    state: Literal["in use", "orphan", "corrupt"]
    size_bytes: int
    waiting: Mapping[str, int] = attrs.field(factory=dict[str, int])
    dead: int = 0
    oldest: datetime | None = None
    unreadable: int = 0
    problem: str | None = None

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
    aside = [path for path in sorted(directory.glob("*.corrupt-*")) if not path.name.endswith(SPOOL_PARTS[1:])]
    return [*orphans(directory), *aside]


def look(path: Path) -> SpoolFile:
    """Return the contents of a spool."""
    size = _size(path)
    try:
        with SpoolReader(path) as spool:
            waiting = {sink: spool.count_waiting(sink) for sink in spool.cursors}
            oldest, unreadable = None, 0
            for stretch in spool.waiting():
                unreadable += len(stretch.unreadable)
                if oldest is None and stretch.events:
                    oldest = moment_of(stretch.events[0].received_at)
            letters = Counter(letter is None for letter in spool.dead_letters())
    except UnreadableError as error:
        # One that a process is just making is not a spool yet either.
        if is_in_use(path):
            return SpoolFile(path, "in use", size)
        return SpoolFile(path, "corrupt", size, problem=str(error))
    state: Literal["in use", "orphan"] = "in use" if is_in_use(path) else "orphan"
    return SpoolFile(path, state, size, waiting, letters.total(), oldest, unreadable + letters[True])


def waiting_events(path: Path, left: list[str]) -> Iterator[FrozenEvent]:
    """Yield the events of a spool that wait for at least one sink, the oldest first.

    Args:
        left: Gets a line about each unreadable part.
    """
    unreadable = 0
    try:
        with SpoolReader(path) as spool:
            for stretch in spool.waiting():
                unreadable += len(stretch.unreadable)
                yield from stretch.events
    except UnreadableError as error:
        _leave(path, error, left)
    if unreadable:
        left.append(f"{counted(unreadable, 'event')} in {path} that cannot be read")


def dead_letters(path: Path, left: list[str]) -> Iterator[DeadLetter]:
    """Yield the dead letters of a spool in the order they were given up.

    Args:
        left: Gets a line about each unreadable part.
    """
    unreadable = 0
    try:
        with SpoolReader(path) as spool:
            for letter in spool.dead_letters():
                if letter is None:
                    unreadable += 1
                else:
                    yield letter
    except UnreadableError as error:
        _leave(path, error, left)
    if unreadable:
        left.append(f"{counted(unreadable, 'dead letter')} in {path} that cannot be read")


def _leave(path: Path, error: UnreadableError, left: list[str]) -> None:
    if not is_in_use(path):  # else its process is just making it
        left.append(f"{path} {error}")


def _size(path: Path) -> int:
    try:
        return sum(part.stat().st_size for part in (path, Path(f"{path}-wal")) if part.is_file())
    except OSError:
        return 0
