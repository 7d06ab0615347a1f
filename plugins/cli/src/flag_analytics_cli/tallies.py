"""The events of a file as an event source that keeps counts and not events: any file, whatever its size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import attrs
from flag_analytics.canonical import MAX_KEY_CHARS
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.freezer import Freezer
from flag_analytics.frozen import FrozenEvent
from flag_analytics.metrics import ActivityTally, ExposureTally, Tally, select
from flag_analytics.sources import (
    PARTS,
    EventFilter,
    Exposures,
    FlagActivity,
    FlagSummary,
    Grouping,
    TimeStep,
    Window,
)

__all__ = ["TallySource"]

_CHUNK = 512


@attrs.define
class _Flag:
    """What is known of one flag so far; events wait in ``chunk``, since a tally is faster with many at once."""

    activity: ActivityTally
    tally: Tally = attrs.field(factory=Tally)
    exposures: ExposureTally = attrs.field(factory=ExposureTally)
    chunk: list[FlagEvaluationEvent | FrozenEvent] = attrs.field(factory=list)


class TallySource:
    """Counts events as they are recorded, for one window that is known beforehand; answers questions about that one.

    What grows with the events is one number for each duration and one text for each distinct user, which exact
    percentiles and exact counts of users need.

    Args:
        window: The window; of events outside it, only those after it are counted, as being in the future.
    """

    def __init__(self, window: Window) -> None:
        self.window = window
        self._freeze = Freezer().freeze
        self._flags: dict[str, _Flag] = {}
        self._future = 0

    def record(self, event: FlagEvaluationEvent) -> None:
        """Count one event."""
        text = f"{event.flag_key}{event.reason}{event.variant}{event.targeting_key}"
        # What is short and plain is in canonical form already, as far as a tally looks at it.
        counted = event if len(text) <= MAX_KEY_CHARS and text.isprintable() else self._freeze(event)
        if counted.timestamp > self.window.end:
            self._future += 1
        flag = self._flags.get(counted.flag_key)
        if flag is None:
            flag = self._flags[counted.flag_key] = _Flag(ActivityTally(counted.flag_key))
        flag.chunk.append(counted)
        if len(flag.chunk) >= _CHUNK:
            self._count(flag)

    async def summarise(
        self,
        flag_keys: Sequence[str],
        window: Window,
        *,
        parts: frozenset[str] = PARTS,  # noqa: ARG002 - all of them are there
        percentiles: Sequence[float] = (),
        where: EventFilter | None = None,
        group_by: Grouping | None = None,
    ) -> Mapping[str, FlagSummary]:
        """Return the summaries of these flags."""
        self._check(window, where, group_by)
        found = {key: self._count(self._flags[key]) for key in flag_keys if key in self._flags}
        summaries = {key: flag.tally.summary(percentiles) for key, flag in found.items()}
        return {key: summary for key, summary in summaries.items() if summary.total}

    async def get_exposures(self, flag_key: str, window: Window, *, where: EventFilter | None = None) -> Exposures:
        """Return the flag's users by the variant that they saw first."""
        self._check(window, where)
        flag = self._flags.get(flag_key)
        return Exposures() if flag is None else self._count(flag).exposures.exposures()

    async def list_flags(self, window: Window, *, where: EventFilter | None = None) -> Sequence[FlagActivity]:
        """Return every flag of the file, by key."""
        self._check(window, where)
        found = (self._count(self._flags[key]).activity.activity() for key in sorted(self._flags))
        return [activity for activity in found if activity is not None]

    async def count_steps(
        self,
        flag_key: str,  # noqa: ARG002 - the protocol's
        window: Window,  # noqa: ARG002
        step_seconds: float,  # noqa: ARG002
        *,
        where: EventFilter | None = None,  # noqa: ARG002
        group_by: Grouping | None = None,  # noqa: ARG002
    ) -> Mapping[int, TimeStep]:
        """Refuse: counts have no times."""
        raise ValueError("a file that is counted while it is read has no time series: import it into a database")

    async def count_future(self, now: datetime) -> int:  # noqa: ARG002 - the window's end is now
        """Return how many events are dated after the window's end."""
        return self._future

    def _check(self, window: Window, where: EventFilter | None, group_by: Grouping | None = None) -> None:
        if window != self.window or where not in (None, EventFilter()) or group_by is not None:
            raise ValueError("only the window the file was read for can be asked about, without a filter or groups")

    def _count(self, flag: _Flag) -> _Flag:
        """Count what waits."""
        events = select(flag.chunk, self.window)
        flag.chunk.clear()
        flag.tally.add(events)
        flag.exposures.add(events)
        flag.activity.add(events)
        return flag
