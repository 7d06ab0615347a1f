"""The events of a file as an event source that keeps counts and not events: a file of any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import attrs
from flag_analytics.canonical import MAX_KEY_CHARS
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.freezer import Freezer
from flag_analytics.frozen import FrozenEvent
from flag_analytics.metrics import ActivityTally, Tally, canonical_filter, select
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
_NO_EVENTS = "a file that is counted while it is read keeps no events: import it into a database"


@attrs.define
class _Flag:
    """The counts of one flag so far; events wait in ``chunk``, since a tally is faster with many at once."""

    exposures: ActivityTally
    others: ActivityTally
    tally: Tally = attrs.field(factory=Tally)
    chunk: list[FlagEvaluationEvent | FrozenEvent] = attrs.field(factory=list)

    def activity(self) -> FlagActivity | None:
        """Return the activity of all its events."""
        exposures, others = self.exposures.activity(), self.others.activity()
        if exposures is None or others is None:
            return exposures or others
        return FlagActivity(
            exposures.flag_key,
            exposures.count + others.count,
            min(exposures.first_seen, others.first_seen),
            max(exposures.last_seen, others.last_seen),
            exposures.estimated or others.estimated,
        )


class TallySource:
    """Counts events as they are recorded, for one window and filter that are known beforehand.

    Numbers grow with the durations and texts with the distinct users, which exact percentiles and exact counts of users
    need.

    Args:
        window: The window; of events outside it, only those after now are counted, as being in the future.
        where: The events to count.
    """

    def __init__(self, window: Window, where: EventFilter | None = None) -> None:
        self.window = window
        self._where = canonical_filter(where)
        self._keeps_context = bool(self._where.required_context())
        self._freeze = Freezer().freeze
        self._flags: dict[str, _Flag] = {}
        self._now = datetime.now(UTC)
        self._future = 0

    def record(self, event: FlagEvaluationEvent) -> None:
        """Count one event."""
        text = f"{event.flag_key}{event.reason}{event.variant}{event.targeting_key}"
        # A short and printable event is in canonical form already, as far as a tally looks at it.
        is_plain = len(text) <= MAX_KEY_CHARS and text.isprintable() and not self._keeps_context
        counted = event if is_plain else self._freeze(event)
        if counted.timestamp > self._now:
            self._future += 1
        flag = self._flags.get(counted.flag_key)
        if flag is None:
            key = counted.flag_key
            flag = self._flags[key] = _Flag(ActivityTally(key), ActivityTally(key))
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
        self._check(window, where)
        if group_by is not None:
            raise ValueError(_NO_EVENTS)
        found = {key: self._count(self._flags[key]) for key in flag_keys if key in self._flags}
        return {key: flag.tally.summary(percentiles) for key, flag in found.items() if flag.activity() is not None}

    async def get_exposures(
        self,
        flag_key: str,  # noqa: ARG002 - the protocol's
        window: Window,  # noqa: ARG002
        *,
        where: EventFilter | None = None,  # noqa: ARG002
    ) -> Exposures:
        """Refuse: counts have no order."""
        raise ValueError(_NO_EVENTS)

    async def list_flags(self, window: Window, *, where: EventFilter | None = None) -> Sequence[FlagActivity]:
        """Return every flag of the file, by key; those with exposures where only these are asked for."""
        exposures = where is not None and where.kinds == ("exposure",) and self._where.kinds != ("exposure",)
        self._check(window, attrs.evolve(where, kinds=self._where.kinds) if where is not None and exposures else where)
        flags = [self._count(self._flags[key]) for key in sorted(self._flags)]
        found = (flag.exposures.activity() if exposures else flag.activity() for flag in flags)
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
        raise ValueError(_NO_EVENTS)

    async def count_future(self, now: datetime) -> int:  # noqa: ARG002 - the file was read before
        """Return the number of events dated after the time at which the file was opened."""
        return self._future

    def _check(self, window: Window, where: EventFilter | None) -> None:
        if window != self.window or canonical_filter(where) != self._where:
            raise ValueError("only the window and the filter that the file was read for can be asked about")

    def _count(self, flag: _Flag) -> _Flag:
        """Count the events that wait."""
        events = select(flag.chunk, self.window, self._where)
        flag.chunk.clear()
        if events:
            flag.tally.add(events)
            exposures = [event for event in events if event.kind == "exposure"]
            flag.exposures.add(exposures)
            if len(exposures) < len(events):
                flag.others.add([event for event in events if event.kind != "exposure"])
        return flag
