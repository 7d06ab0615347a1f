"""``flag-analytics copy``: the events of one collector, source or file into another collector, under the same ids."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import attrs
from flag_analytics.config.plan import Plan
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.pipeline import Pipeline
from flag_analytics.sources import EventFilter, Window

from .bookmarks import Bookmark
from .file_errors import FileError
from .progress import Advance, drawn_progress
from .selection import Range
from .stored import Place, each_event
from .storing import STORED_ONCE, flush_all, open_patiently, patient_recorder
from .terminal import note, results, say
from .visible import visible
from .wording import counted

__all__ = ["Copied", "copy_into", "print_copy", "target_plan"]

_EVERY_KIND = EventFilter(kinds=("evaluation", "exposure", "outcome"))
_BOOKMARK_EVERY = 100_000
"""To move a bookmark, everything has to be stored: often would cost the target its full batches."""
_PROGRESS_EVERY = 1_000
COPY_AGAIN = f"copy again when the backend is well: {STORED_ONCE}"


@attrs.define
class Copied:
    """The outcome of a copy.

    Attributes:
        origin: The name of the collector or source that was read, or of the file.
        target: The name of the collector that was written.
        read: Events read.
        stored: Those of them that the target has now, also if it had them before.
        refused: Those that it refused for good.
        filtered: Those that processors left out.
        bad_lines: How many lines of a file are no events.
        causes: The refused events by class and code, of the first thousand.
        bookmark: How far the copy has come, over all runs; None without one.
    """

    origin: str
    target: str
    read: int = 0
    stored: int = 0
    refused: int = 0
    filtered: int = 0
    bad_lines: int = 0
    causes: dict[str, int] = attrs.field(factory=dict[str, int])
    bookmark: Bookmark | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything by name."""
        mark = self.bookmark
        return {
            "from": self.origin,
            "to": self.target,
            "read": self.read,
            "stored": self.stored,
            "refused": self.refused,
            "filtered": self.filtered,
            "bad_lines": self.bad_lines,
            "causes": self.causes,
            "bookmark": None
            if mark is None
            else {
                "file": str(mark.path),
                "time": None if mark.time is None else mark.time.isoformat(),
                "events": mark.events,
                "refused": mark.refused,
            },
        }


def target_plan(plan: Plan, target: str, *, processed: bool) -> Plan:
    """Return the plan of the target alone.

    Args:
        plan: The configuration.
        target: The collector's name.
        processed: Whether the events went through the processors of the pipeline when they were recorded. Those of
            the target alone they have still to go through.
    """
    return attrs.evolve(
        plan,
        sinks=tuple(sink for sink in plan.sinks if sink.name == target),
        sources=(),
        processors=() if processed else plan.processors,
        # What waits in spools is no part of a copy.
        delivery={**plan.delivery, "durability": "memory"},
    )


def copy_into(plan: Plan, place: Place, window: Window, copied: Copied) -> None:
    """Copy the events of a window, and fill in the outcome as it goes; a bookmark in it is where to begin.

    Raises:
        NotStoredError: the target does not take the events.
        SourceError: there is no such collector, or it does not give its events back.
        FileError: the file cannot be read, or a bookmark needs events by time and they do not come so.
    """
    if copied.bookmark is not None and copied.bookmark.time is not None:
        # Again with the events of that very time: not all of them may have been read.
        start = copied.bookmark.time if window.start is None else max(window.start, copied.bookmark.time)
        window = attrs.evolve(window, start=start)
    with open_patiently(plan) as pipeline:
        copy = _Copy(pipeline, copied, min(window.end, datetime.now(UTC)))
        try:
            if place.file is not None:
                copied.bad_lines = each_event(place, (), Range(window, _EVERY_KIND), copy.take)
            else:
                with drawn_progress(f"{copied.origin} to {copied.target}", 1.0) as copy.advance:
                    each_event(place, (), Range(window, _EVERY_KIND), copy.take)
            copy.settle()
        except KeyboardInterrupt:
            if pipeline.flush_sync(1.0).complete:
                copy.settle()
            copy.count()
            note(_interrupted(copied))
            raise


class _Copy:
    """Hands events on, and moves the bookmark each time all of them are stored."""

    def __init__(self, pipeline: Pipeline, copied: Copied, end: datetime) -> None:
        self.advance: Advance | None = None
        self._pipeline = pipeline
        self._record = patient_recorder(pipeline, COPY_AGAIN)
        self._copied = copied
        self._first: datetime | None = None
        self._last: datetime | None = None
        self._end = end
        self._marked = (0, 0)

    def take(self, event: FlagEvaluationEvent) -> None:
        copied = self._copied
        if copied.bookmark is not None and self._last is not None and event.timestamp < self._last:
            raise FileError(f"{copied.origin} does not give its events by time: leave --bookmark out")
        self._record(event)
        self._first = self._first or event.timestamp
        self._last = event.timestamp
        copied.read += 1
        if self.advance is not None and copied.read % _PROGRESS_EVERY == 0:
            self.advance(self._share(event.timestamp), copied.read)
        if copied.bookmark is not None and copied.read % _BOOKMARK_EVERY == 0:
            self.settle()

    def _share(self, time: datetime) -> float:
        """Return the share of the time copied, as a ratio 0-1: without counting, nothing tells that of the events."""
        first = self._first or time
        return min(1.0, (time - first) / (self._end - first)) if first < self._end else 1.0

    def settle(self) -> None:
        """Return when every event so far is stored or refused for good, and then move the bookmark."""
        flush_all(self._pipeline, COPY_AGAIN, refuse_dead=False)
        self.count()
        copied = self._copied
        if copied.bookmark is not None and self._last is not None:
            events, refused = self._marked
            copied.bookmark = copied.bookmark.moved(self._last, copied.read - events, copied.refused - refused)
            self._marked = (copied.read, copied.refused)

    def count(self) -> None:
        """Take the figures from the ledger."""
        copied, stats = self._copied, self._pipeline.stats()
        sink = stats.sinks[copied.target]
        copied.stored, copied.refused = sink.delivered, sink.dead
        copied.filtered = stats.refused.get("filtered", 0)
        causes: dict[str, int] = {}
        for letter in self._pipeline.dead_letters():
            cause = f"{letter.error} {letter.code}".strip()
            causes[cause] = causes.get(cause, 0) + 1
        copied.causes = causes


def print_copy(copied: Copied) -> None:
    """Say in one sentence how many events were copied, and in further ones what was not."""
    say(
        results(),
        f"{counted(copied.stored, 'event')} copied from {visible(copied.origin)} to {visible(copied.target)}"
        + (f", {copied.filtered:,} left out by processors" if copied.filtered else "")
        + (f", {copied.refused:,} refused" if copied.refused else ""),
    )
    for cause, count in copied.causes.items():
        note(f"  refused: {counted(count, 'event')} ({visible(cause)})", "yellow")


def _interrupted(copied: Copied) -> str:
    again = "copy again to go on"
    if copied.bookmark is not None and copied.bookmark.time is not None:
        again = f"with --bookmark {visible(str(copied.bookmark.path))} it goes on at {copied.bookmark.time.isoformat()}"
    return f"{copied.stored:,} of the {counted(copied.read, 'event')} read are stored; {again}: {STORED_ONCE}"
