"""``Bookmark``: how far a copy has come, in a file, so that an interrupted one goes on from there."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs

from .file_errors import FileError

__all__ = ["Bookmark"]


@attrs.frozen
class Bookmark:
    """A place in a copy: every event before it is stored.

    Attributes:
        path: The file that it is in.
        origin: The name of the collector that is read.
        target: The name of the collector that is written.
        time: The time of the last event that is stored, UTC; None before the first.
        events: Events read so far, over all runs; those of the time of the bookmark count in each run.
        refused: Events that the target refused for good, over all runs.
    """

    path: Path
    origin: str
    target: str
    time: datetime | None = None
    events: int = 0
    refused: int = 0

    @classmethod
    def read(cls, path: Path, origin: str, target: str) -> Bookmark:
        """Return the bookmark in a file, or a new one where there is none.

        Raises:
            FileError: the file is no bookmark, or one of another copy.
        """
        try:
            fields = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return cls(path, origin, target)
        except ValueError:
            raise _no_bookmark(path) from None
        found = cls._from(path, fields)
        if (found.origin, found.target) != (origin, target):
            raise FileError(
                f"{path}: the bookmark of a copy from {found.origin} to {found.target}: expected one from {origin} to "
                f"{target}; name another file"
            )
        return found

    @classmethod
    def _from(cls, path: Path, fields: Any) -> Bookmark:
        try:
            names = str(fields["from"]), str(fields["to"])
            time = datetime.fromisoformat(fields["time"])
            counts = int(fields["events"]), int(fields["refused"])
        except (KeyError, TypeError, ValueError):
            raise _no_bookmark(path) from None
        if time.tzinfo is None:
            raise _no_bookmark(path)
        return cls(path, *names, time, *counts)

    def moved(self, time: datetime, events: int, refused: int) -> Bookmark:
        """Return the bookmark after further events, the last of this time, and write it to its file in one step."""
        moved = attrs.evolve(self, time=time, events=self.events + events, refused=self.refused + refused)
        fields = {
            "from": self.origin,
            "to": self.target,
            "time": time.isoformat(),
            "events": moved.events,
            "refused": moved.refused,
        }
        unfinished = self.path.with_name(f".{self.path.name}.unfinished")
        unfinished.write_text(json.dumps(fields), "utf-8")
        unfinished.replace(self.path)
        return moved


def _no_bookmark(path: Path) -> FileError:
    return FileError(f"{path}: not the bookmark of a copy: name a new file, or the one of the copy to go on with")
