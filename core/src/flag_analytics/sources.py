"""Questions about stored events: windows, filters, and what a source answers, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

import attrs

__all__ = ["PARTS", "EventFilter", "EventSource", "FlagActivity", "FlagSummary", "TimeStep", "Window"]


@attrs.frozen
class Window:
    """A range of time, both ends included, UTC; ``start`` None means from the first event on."""

    start: datetime | None
    end: datetime


@attrs.frozen
class EventFilter:
    """Which events to look at; None means any.

    ``environment`` is the context attribute of that name. ``context`` maps attribute names to the exact values wanted
    (text, number, boolean or None, compared as JSON). ``kinds`` defaults to what a user saw: outcomes are not counted.
    """

    environment: str | None = None
    provider_name: str | None = None
    variant: str | None = None
    context: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    kinds: tuple[str, ...] = ("evaluation", "exposure")

    def required_context(self) -> dict[str, Any]:
        """Return the context attributes an event must have, the environment among them."""
        wanted = dict(self.context)
        if self.environment is not None:
            wanted["environment"] = self.environment
        return wanted


@attrs.frozen
class FlagSummary:
    """What a source found for one flag in one window; empty parts were not asked for, or nothing matched.

    ``variants`` counts an event without a variant as ``default``; ``unique_users`` counts distinct non-empty targeting
    keys; ``percentiles`` maps the percentiles asked for (0–100) to milliseconds, over durations above 0 only, by linear
    interpolation between order statistics (Hyndman and Fan 1996, definition 7), and is empty without any.
    """

    total: int = 0
    errors: int = 0
    unique_users: int = 0
    variants: Mapping[str, int] = attrs.field(factory=dict[str, int])
    reasons: Mapping[str, int] = attrs.field(factory=dict[str, int])
    percentiles: Mapping[float, float] = attrs.field(factory=dict[float, float])
    first_seen: datetime | None = None


@attrs.frozen
class FlagActivity:
    """One flag that was evaluated in a window."""

    flag_key: str
    count: int
    first_seen: datetime
    last_seen: datetime


@attrs.frozen
class TimeStep:
    """One step of a time series: ``start`` included, ``end`` excluded but for the last step."""

    start: datetime
    end: datetime
    count: int = 0
    errors: int = 0
    unique_users: int = 0


PARTS = frozenset({"count", "users", "variants", "reasons", "errors", "latency"})
"""The parts of a ``FlagSummary`` a caller can ask for; a source may skip the others or compute them all."""


@runtime_checkable
class EventSource(Protocol):
    """Answers questions about stored events; ``AnalyticsAggregator`` turns the answers into metrics.

    Flag keys come in canonical form. Every method answers for all the flags at once.
    """

    async def summarise(
        self,
        flag_keys: Sequence[str],
        window: Window,
        *,
        parts: frozenset[str] = PARTS,
        percentiles: Sequence[float] = (),
        where: EventFilter | None = None,
    ) -> Mapping[str, FlagSummary]:
        """Return a summary for each flag that has events in the window; others may be missing."""
        ...

    async def list_flags(self, window: Window, *, where: EventFilter | None = None) -> Sequence[FlagActivity]:
        """Return every flag with events in the window, by key."""
        ...

    async def count_steps(
        self, flag_key: str, window: Window, step_seconds: float, *, where: EventFilter | None = None
    ) -> Mapping[int, TimeStep]:
        """Return, by number of step from ``window.start`` (which is set) on, the steps that have events.

        An event belongs to step ``floor((timestamp - start) / step_seconds)``, computed in whole microseconds; one at
        the very end of the window belongs to the last step.
        """
        ...

    async def count_future(self, now: datetime) -> int:
        """Return how many stored events are dated after ``now``, and so are in no window yet."""
        ...
