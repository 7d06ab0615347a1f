"""What is missing from a window: the losses of the ledger since the window began."""

from __future__ import annotations

import math
import time
from collections.abc import Sized
from datetime import UTC, datetime
from typing import Any

import attrs
from flag_analytics.errors import SourceError
from flag_analytics.pipeline import Pipeline
from flag_analytics.reports import DeliveryStats
from flag_analytics.sources import EventFilter, EventSource, Window

from .answers import Loss

__all__ = ["Losses", "sink_of"]

_MOST_LOOKS = 512
_KNOWN_SECONDS = 1.0
_ALL_KINDS = EventFilter(kinds=("evaluation", "exposure", "outcome"))


@attrs.define
class _Look:
    """The losses were these from ``first`` to ``last``."""

    first: datetime
    last: datetime
    lost: dict[str, int]


class Losses:
    """Remembers when the ledger's losses changed, to tell those of a window.

    The ledger only counts. It is looked at with every question, so that what was lost between two looks is told of
    each window that reaches back to the earlier one: rather too much than too little.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._looks: list[_Look] = []
        self._glimpse: Any = None
        self._looked_at = -math.inf
        self._first_held: tuple[float, datetime | None] = (-math.inf, None)

    def look(self) -> None:
        """Remember the present losses."""
        now = datetime.now(UTC)
        # The whole ledger takes longer; it is asked for when a total has changed, and once a second.
        sinks = self._pipeline.health()["sinks"].values()
        glimpse = [(sink["dropped"], sink["dead"]) for sink in sinks]
        if self._looks and glimpse == self._glimpse and time.monotonic() < self._looked_at + _KNOWN_SECONDS:
            self._looks[-1].last = now
            return
        self._glimpse, self._looked_at = glimpse, time.monotonic()
        lost = _lost(self._pipeline.stats(), sink_of(self._pipeline))
        if self._looks and self._looks[-1].lost == lost:
            self._looks[-1].last = now
            return
        self._looks.append(_Look(now, now, lost))
        if len(self._looks) > _MOST_LOOKS:
            del self._looks[1]

    async def within(self, start: datetime | None, source: EventSource) -> Loss:
        """Return what is missing from a window that starts then and ends now."""
        self.look()
        known = [look for look in self._looks if start is not None and look.first <= start]
        before = known[-1].lost if known else {}
        since = min(start, known[-1].last) if known and start is not None else None
        reasons = {
            reason: count - before.get(reason, 0)
            for reason, count in self._looks[-1].lost.items()
            if count > before.get(reason, 0)
        }
        return Loss(sum(reasons.values()), reasons, since, await self._complete_from(start, source))

    async def _complete_from(self, start: datetime | None, source: EventSource) -> datetime | None:
        """Return the time of the first event that is still held, where earlier ones of the window were forgotten."""
        collector = self._pipeline.collectors.get(sink_of(self._pipeline) or "")
        most = getattr(collector, "max_size", None)
        if not isinstance(collector, Sized) or not isinstance(most, int) or len(collector) < most:
            return None
        known_until, first = self._first_held
        if time.monotonic() > known_until:
            flags = await source.list_flags(Window(None, datetime.now(UTC)), where=_ALL_KINDS)
            first = min((flag.first_seen for flag in flags), default=None)
            self._first_held = (time.monotonic() + _KNOWN_SECONDS, first)
        return first if first is not None and (start is None or start < first) else None


def sink_of(pipeline: Pipeline) -> str | None:
    """Return the name of the collector that questions are answered from; None if there is none."""
    try:
        name = pipeline.aggregator.source_name
    except SourceError:
        return None
    return name if name in pipeline.collectors else None


def _lost(stats: DeliveryStats, sink: str | None) -> dict[str, int]:
    ledger = None if sink is None else stats.sinks.get(sink)
    lost = {} if ledger is None else {name: count for name, count in ledger.dropped.items() if name != "filtered"}
    if ledger is not None and ledger.dead:
        lost["refused"] = ledger.dead
    for reason in ("error", "closed"):
        # What no sink was offered; an overflow is in the sink's own account.
        if stats.refused.get(reason):
            lost[reason] = max(lost.get(reason, 0), stats.refused[reason])
    return {reason: count for reason, count in lost.items() if count}
