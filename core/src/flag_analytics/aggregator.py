"""``AnalyticsAggregator``: metrics of flags over a window of time, from whatever keeps their events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from .canonical import canonical_key
from .errors import SourceError
from .metrics import canonical_filter, check_percentiles, step_bounds, step_count, step_length
from .sources import PARTS, EventFilter, EventSource, FlagActivity, FlagSummary, TimeStep, Window

__all__ = ["MAX_STEPS", "AnalyticsAggregator", "FlagMetrics"]

MAX_STEPS = 100_000
"""The most steps of one time series. A day has fewer seconds."""

_PERCENTILES = (50.0, 90.0, 99.0)
_BEGINNING = datetime.min.replace(tzinfo=UTC)
_NOTHING = FlagSummary()


@dataclass(slots=True)
class FlagMetrics:
    """What happened to one flag in one window: a dataclass, as in the reference.

    Attributes:
        evaluation_rate: Evaluations per second.
        unique_users: Distinct targeting keys.
        variant_distribution: Evaluations by variant; those without a variant count as ``default``.
        reason_distribution: Evaluations by reason.
        error_rate: Evaluations whose reason is ``ERROR``, in percent (0–100).
        latency_p50: Median duration of an evaluation, in milliseconds; 0.0 where none was measured.
        latency_p90: 90th percentile, likewise.
        latency_p99: 99th percentile, likewise.
        total_evaluations: Number of evaluations.
        window_start: Where the window begins, UTC. Without a window: the time of the flag's first event.
        window_end: Where it ends, UTC.
    """

    evaluation_rate: float = 0.0
    unique_users: int = 0
    variant_distribution: dict[str, int] = field(default_factory=dict[str, int])
    reason_distribution: dict[str, int] = field(default_factory=dict[str, int])
    error_rate: float = 0.0
    latency_p50: float = 0.0
    latency_p90: float = 0.0
    latency_p99: float = 0.0
    total_evaluations: int = 0
    window_start: datetime | None = None
    window_end: datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return every field by name; times in ISO 8601, or None."""
        fields = asdict(self)
        for name in ("window_start", "window_end"):
            moment: datetime | None = fields[name]
            fields[name] = None if moment is None else moment.isoformat()
        return fields


def utc_now() -> datetime:
    """Return the time of the system's clock."""
    return datetime.now(UTC)


class AnalyticsAggregator:
    """Computes metrics over any source of events: a collector that keeps them, a database session, an ``EventSource``.

    The methods have these arguments in common:

    - ``window_seconds``: how far the window reaches back from its end; both ends belong to it. None means from the
      first event on. A window of 0 seconds or less has a rate of 0.0.
    - ``where``: which events to look at (``EventFilter``); by default evaluations and exposures.
    - ``until``: where the window ends, by default now. Events dated in the future are in no window yet, so a later
      time than now stands for now. A naive time is taken as UTC.

    Args:
        source: Where the events are.
        clock: Returns the current time, with its zone.

    Raises:
        SourceError: nothing that is installed can read events from ``source``.
    """

    def __init__(self, source: Any, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._source = _event_source(source)
        self._clock = clock

    async def get_evaluation_rate(
        self,
        flag_key: str,
        window_seconds: float | None = 60,
        *,
        where: EventFilter | None = None,
        until: datetime | None = None,
    ) -> float:
        """Return evaluations per second. Without a window they are spread over the time since the first one."""
        window = self._window(window_seconds, until)
        summary = await self._summary(flag_key, window, {"count"}, where)
        return _rate(summary, window, window_seconds)

    async def get_unique_users(
        self,
        flag_key: str,
        window_seconds: float | None = 3600,
        *,
        where: EventFilter | None = None,
        until: datetime | None = None,
    ) -> int:
        """Return the number of distinct targeting keys; events without one are left out."""
        return (await self._summary(flag_key, self._window(window_seconds, until), {"users"}, where)).unique_users

    async def get_variant_distribution(
        self,
        flag_key: str,
        window_seconds: float | None = 3600,
        *,
        where: EventFilter | None = None,
        until: datetime | None = None,
    ) -> dict[str, int]:
        """Return evaluations by variant; those without a variant count as ``default``."""
        return dict((await self._summary(flag_key, self._window(window_seconds, until), {"variants"}, where)).variants)

    async def get_reason_distribution(
        self,
        flag_key: str,
        window_seconds: float | None = 3600,
        *,
        where: EventFilter | None = None,
        until: datetime | None = None,
    ) -> dict[str, int]:
        """Return evaluations by reason."""
        return dict((await self._summary(flag_key, self._window(window_seconds, until), {"reasons"}, where)).reasons)

    async def get_error_rate(
        self,
        flag_key: str,
        window_seconds: float | None = 3600,
        *,
        where: EventFilter | None = None,
        until: datetime | None = None,
    ) -> float:
        """Return the share of evaluations whose reason is ``ERROR``, in percent (0–100)."""
        window = self._window(window_seconds, until)
        return _error_rate(await self._summary(flag_key, window, {"count", "errors"}, where))

    async def get_latency_percentiles(
        self,
        flag_key: str,
        percentiles: Iterable[float] | None = None,
        window_seconds: float | None = 3600,
        *,
        where: EventFilter | None = None,
        until: datetime | None = None,
    ) -> dict[float, float]:
        """Return percentiles of the durations above 0, in milliseconds, by percentile; 0.0 each where there are none.

        Linear interpolation between order statistics; 0 and 100 are the minimum and the maximum.

        Args:
            percentiles: Numbers from 0 to 100, by default 50, 90 and 99.

        Raises:
            ValueError: a percentile is outside 0–100.
        """
        wanted = _PERCENTILES if percentiles is None else check_percentiles(percentiles)
        if not wanted:
            return {}
        summary = await self._summary(flag_key, self._window(window_seconds, until), {"latency"}, where, wanted)
        return {percent: summary.percentiles.get(percent, 0.0) for percent in wanted}

    async def get_flag_metrics(
        self,
        flag_key: str,
        window_seconds: float | None = 3600,
        *,
        where: EventFilter | None = None,
        until: datetime | None = None,
    ) -> FlagMetrics:
        """Return all metrics of one flag."""
        return (await self.get_metrics((flag_key,), window_seconds, where=where, until=until))[flag_key]

    async def get_metrics(
        self,
        flag_keys: Iterable[str],
        window_seconds: float | None = 3600,
        *,
        where: EventFilter | None = None,
        until: datetime | None = None,
    ) -> dict[str, FlagMetrics]:
        """Return all metrics of many flags, by key, in the order asked for; the source is asked once for all."""
        if isinstance(flag_keys, str):
            raise TypeError("flag_keys is one string: expected several keys, such as ['checkout', 'dark_mode']")
        normal = {key: canonical_key(key) for key in flag_keys}
        window = self._window(window_seconds, until)
        summaries = await self._summaries(normal.values(), window, PARTS, where, _PERCENTILES)
        return {key: _metrics(summaries.get(name, _NOTHING), window, window_seconds) for key, name in normal.items()}

    async def list_flags(
        self,
        window_seconds: float | None = 3600,
        *,
        where: EventFilter | None = None,
        until: datetime | None = None,
    ) -> list[FlagActivity]:
        """Return a list of the flags with events in the window, sorted by key: how many, the first and the last."""
        return list(await self._source.list_flags(self._window(window_seconds, until), where=canonical_filter(where)))

    async def get_time_series(
        self,
        flag_key: str,
        window_seconds: float | None = 3600,
        step_seconds: float = 60,
        *,
        where: EventFilter | None = None,
        until: datetime | None = None,
    ) -> list[TimeStep]:
        """Return the window step by step, from its start on, also the steps in which nothing happened.

        The last step ends with the window and may be shorter than the others. Without a window the first step begins
        with the flag's first event.

        Raises:
            ValueError: the step is less than a microsecond, or there would be more than ``MAX_STEPS`` steps.
        """
        step = step_length(step_seconds)
        window = self._window(window_seconds, until)
        if window.start is None:
            first_seen = (await self._summary(flag_key, window, {"count"}, where)).first_seen
            window = Window(window.end if first_seen is None else first_seen, window.end)
        count = step_count(window, step)
        if count > MAX_STEPS:
            raise ValueError(
                f"a window of {count:,} steps is too long: expected at most {MAX_STEPS:,}; "
                f"ask for a step_seconds of more than {step_seconds}, or for a shorter window"
            )
        if count == 0:
            return []
        found = await self._source.count_steps(
            canonical_key(flag_key), window, step.total_seconds(), where=canonical_filter(where)
        )
        return [found.get(number) or TimeStep(*step_bounds(window, step, number)) for number in range(count)]

    async def count_future(self) -> int:
        """Return how many stored events are dated in the future, and so are in no window yet."""
        return await self._source.count_future(self._now())

    async def _summary(
        self,
        flag_key: str,
        window: Window,
        parts: set[str],
        where: EventFilter | None,
        percentiles: tuple[float, ...] = (),
    ) -> FlagSummary:
        key = canonical_key(flag_key)
        return (await self._summaries((key,), window, frozenset(parts), where, percentiles)).get(key, _NOTHING)

    async def _summaries(
        self,
        keys: Iterable[str],
        window: Window,
        parts: frozenset[str],
        where: EventFilter | None,
        percentiles: tuple[float, ...],
    ) -> Mapping[str, FlagSummary]:
        distinct = tuple(dict.fromkeys(keys))
        if not distinct:
            return {}
        return await self._source.summarise(
            distinct, window, parts=parts, percentiles=percentiles, where=canonical_filter(where)
        )

    def _window(self, window_seconds: float | None, until: datetime | None) -> Window:
        now = self._now()
        end = now if until is None else min(_utc(until), now)
        if window_seconds is None:
            return Window(None, end)
        if isinstance(window_seconds, bool) or not isinstance(window_seconds, int | float):
            raise TypeError(
                f"window_seconds is {type(window_seconds).__name__}: expected a number of seconds, or None for all time"
            )
        if window_seconds != window_seconds:  # noqa: PLR0124  only nan differs from itself
            raise ValueError("window_seconds is not a number: expected seconds, or None for all time")
        try:
            return Window(end - timedelta(seconds=window_seconds), end)
        except OverflowError:  # it reaches back beyond the calendar, or forth
            return Window(_BEGINNING if window_seconds > 0 else end, end)

    def _now(self) -> datetime:
        return _utc(self._clock())


def _event_source(source: Any) -> EventSource:
    if isinstance(source, type):
        raise SourceError(f"cannot read events from the class {source.__qualname__}: expected one of its objects")
    if isinstance(source, EventSource):
        return source
    from .registry import default_registry

    return default_registry().event_source_for(source)


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _metrics(summary: FlagSummary, window: Window, window_seconds: float | None) -> FlagMetrics:
    return FlagMetrics(
        evaluation_rate=_rate(summary, window, window_seconds),
        unique_users=summary.unique_users,
        variant_distribution=dict(summary.variants),
        reason_distribution=dict(summary.reasons),
        error_rate=_error_rate(summary),
        latency_p50=summary.percentiles.get(50.0, 0.0),
        latency_p90=summary.percentiles.get(90.0, 0.0),
        latency_p99=summary.percentiles.get(99.0, 0.0),
        total_evaluations=summary.total,
        # All time, of a flag without events, is no time: it begins where it ends.
        window_start=window.start or summary.first_seen or window.end,
        window_end=window.end,
    )


def _rate(summary: FlagSummary, window: Window, window_seconds: float | None) -> float:
    if window_seconds is None:
        window_seconds = (window.end - summary.first_seen).total_seconds() if summary.first_seen else 0.0
    return summary.total / window_seconds if window_seconds > 0 else 0.0


def _error_rate(summary: FlagSummary) -> float:
    return summary.errors / summary.total * 100 if summary.total else 0.0
