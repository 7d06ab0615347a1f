"""``AnalyticsAggregator``: metrics of flags over a window of time, from any source of events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypedDict, Unpack, overload

import attrs

from .canonical import canonical_key
from .errors import SourceError
from .metrics import canonical_filter, check_percentiles, step_count, step_length, time_step
from .outcomes import Outcomes, OutcomeSource, exposure_filter
from .sources import (
    EXACT,
    PARTS,
    Accuracy,
    EventFilter,
    EventSource,
    Exposures,
    FlagActivity,
    FlagSummary,
    Grouping,
    TimeStep,
    Window,
)

__all__ = ["MAX_STEPS", "AnalyticsAggregator", "FlagMetrics", "Scope"]

MAX_STEPS = 100_000
"""The most steps of one time series. A day has fewer seconds."""

_PERCENTILES = (50.0, 90.0, 99.0)
_BEGINNING = datetime.min.replace(tzinfo=UTC)
_NOTHING = FlagSummary()
_FIELDS = {
    "users": ("unique_users",),
    "variant_users": ("variant_users",),
    "crossover_users": ("crossover_users",),
    "latency": ("latency_p50", "latency_p90", "latency_p99"),
}
"""The fields of the parts that an answer may leave out."""


@dataclass(slots=True)
class FlagMetrics:
    """The metrics of one flag in one window: a dataclass, as in the reference.

    A sampled event counts as 1 ÷ ``sample_rate`` events in every number (see ``flag_analytics.metrics``).

    Attributes:
        evaluation_rate: Evaluations per second.
        unique_users: Distinct targeting keys.
        variant_distribution: Evaluations by variant; those without a variant count as ``default``.
        reason_distribution: Evaluations by reason.
        error_rate: Evaluations with the reason ``ERROR`` or an ``error_type``, in percent (0–100).
        latency_p50: Median duration of an evaluation, in milliseconds; 0.0 where none was measured.
        latency_p90: 90th percentile, likewise.
        latency_p99: 99th percentile, likewise.
        total_evaluations: Number of evaluations.
        window_start: Where the window begins, UTC. Without a window: the time of the flag's first event.
        window_end: Where it ends, UTC.
        variant_users: Distinct targeting keys by variant.
        crossover_users: Distinct targeting keys with more than one variant.
        estimated: Whether there are sampled events among them, so that numbers are estimates.
        accuracy: How exact the figures are, and which of them are missing.
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
    variant_users: dict[str, int] = field(default_factory=dict[str, int])
    crossover_users: int = 0
    estimated: bool = False
    accuracy: Accuracy = EXACT

    def to_dict(self) -> dict[str, Any]:
        """Return every field by name; times in ISO 8601, or None; None for a figure that is missing."""
        fields = {**asdict(self), "accuracy": self.accuracy.to_dict()}
        for part in self.accuracy.missing:
            fields |= dict.fromkeys(_FIELDS.get(part, ()))
        for name in ("window_start", "window_end"):
            moment: datetime | None = fields[name]
            fields[name] = None if moment is None else moment.isoformat()
        return fields


class Scope(TypedDict, total=False):
    """Arguments that every question of ``AnalyticsAggregator`` takes by name.

    Attributes:
        where: The events to look at; by default evaluations and exposures.
        until: Where the window ends, by default now. Events dated in the future are in no window yet, so a later time
            than now stands for now. A naive time is taken as UTC.
        accuracy: ``exact`` by default. ``fast`` allows a source that keeps rollups to answer from them: the figures'
            own ``accuracy`` says how exact they are. Every other source answers exactly, as do exposures and outcomes.
    """

    where: EventFilter | None
    until: datetime | None
    accuracy: Literal["exact", "fast"]


def utc_now() -> datetime:
    """Return the time of the system's clock."""
    return datetime.now(UTC)


class AnalyticsAggregator:
    """Computes metrics over any source of events: a collector that keeps them, a database session, an ``EventSource``.

    The questions have these arguments in common:

    - ``window_seconds``: how far the window reaches back from its end; both ends belong to it. None means from the
      first event on. A window of 0 seconds has a rate of 0.0.
    - ``where``, ``until`` and ``accuracy``, by name: see ``Scope``.

    They raise ``ValueError`` for a negative window or one that is not a number, and for an unknown accuracy.

    Args:
        source: Where the events are: any of these, or the path or URL of files that a plugin declares to read.
        clock: Returns the current time, with its zone.
        name: What ``source_name`` says; by default the type of the source.

    Attributes:
        source_name: What it reads, for people: of a pipeline's, the name in configuration.

    Raises:
        SourceError: nothing that is installed can read events from ``source``.
    """

    def __init__(self, source: Any, *, clock: Callable[[], datetime] = utc_now, name: str = "") -> None:
        self._source = _event_source(source)
        self._clock = clock
        self.source_name = name or type(self._source).__name__

    def __repr__(self) -> str:
        return f"AnalyticsAggregator({self.source_name})"

    async def get_evaluation_rate(
        self, flag_key: str, window_seconds: float | None = 60, **scope: Unpack[Scope]
    ) -> float:
        """Return evaluations per second. Without a window they are spread over the time since the first one."""
        return (await self._metrics_of(flag_key, {"count"}, window_seconds, scope)).evaluation_rate

    async def get_unique_users(self, flag_key: str, window_seconds: float | None = 3600, **scope: Unpack[Scope]) -> int:
        """Return the number of distinct targeting keys; events without one are left out."""
        return (await self._metrics_of(flag_key, {"users"}, window_seconds, scope)).unique_users

    async def get_variant_distribution(
        self, flag_key: str, window_seconds: float | None = 3600, **scope: Unpack[Scope]
    ) -> dict[str, int]:
        """Return evaluations by variant; those without a variant count as ``default``."""
        return (await self._metrics_of(flag_key, {"variants"}, window_seconds, scope)).variant_distribution

    async def get_reason_distribution(
        self, flag_key: str, window_seconds: float | None = 3600, **scope: Unpack[Scope]
    ) -> dict[str, int]:
        """Return evaluations by reason."""
        return (await self._metrics_of(flag_key, {"reasons"}, window_seconds, scope)).reason_distribution

    async def get_error_rate(self, flag_key: str, window_seconds: float | None = 3600, **scope: Unpack[Scope]) -> float:
        """Return the share of evaluations with the reason ``ERROR`` or an ``error_type``, in percent (0–100)."""
        return (await self._metrics_of(flag_key, {"count", "errors"}, window_seconds, scope)).error_rate

    async def get_latency_percentiles(
        self,
        flag_key: str,
        percentiles: Iterable[float] | None = None,
        window_seconds: float | None = 3600,
        **scope: Unpack[Scope],
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
        key = canonical_key(flag_key)
        question = self._question(window_seconds, **scope)
        found = (await self._summaries([key], question, {"latency"}, wanted)).get(key, _NOTHING).percentiles
        return {percent: found.get(percent, 0.0) for percent in wanted}

    async def get_flag_metrics(
        self, flag_key: str, window_seconds: float | None = 3600, **scope: Unpack[Scope]
    ) -> FlagMetrics:
        """Return all metrics of one flag."""
        return await self._metrics_of(flag_key, PARTS, window_seconds, scope)

    @overload
    async def get_metrics(
        self, flag_keys: Iterable[str], window_seconds: float | None = 3600, **scope: Unpack[Scope]
    ) -> dict[str, FlagMetrics]: ...
    @overload
    async def get_metrics(
        self,
        flag_keys: Iterable[str],
        window_seconds: float | None = 3600,
        *,
        group_by: str,
        max_groups: int = 50,
        **scope: Unpack[Scope],
    ) -> dict[str, dict[str, FlagMetrics]]: ...
    async def get_metrics(
        self,
        flag_keys: Iterable[str],
        window_seconds: float | None = 3600,
        *,
        group_by: str | None = None,
        max_groups: int = 50,
        **scope: Unpack[Scope],
    ) -> dict[str, Any]:
        """Return all metrics of many flags, by key, in the order asked for; the source is asked once for all.

        Args:
            group_by: Return the metrics by group in place of the flag's own: ``variant``, ``reason``,
                ``flag_version``, ``environment`` or ``context.NAME``; see ``Grouping``.
            max_groups: The most groups of each flag; the smaller ones are together in ``__other__``.
        """
        if isinstance(flag_keys, str):
            raise TypeError("flag_keys is one string: expected several keys, such as ['checkout', 'dark_mode']")
        names = {key: canonical_key(key) for key in flag_keys}
        question = self._question(window_seconds, **scope)
        grouping = None if group_by is None else Grouping(group_by, max_groups)
        found = await self._summaries(names.values(), question, PARTS, _PERCENTILES, grouping)
        if grouping is None:
            return {key: question.metrics(found.get(name, _NOTHING)) for key, name in names.items()}
        groups = {key: found.get(name, _NOTHING).groups for key, name in names.items()}
        return {
            key: {group: question.metrics(of_group) for group, of_group in some.items()} for key, some in groups.items()
        }

    async def get_exposures(
        self, flag_key: str, window_seconds: float | None = 3600, **scope: Unpack[Scope]
    ) -> Exposures:
        """Return the flag's users by the variant that they saw first, in all and by version of the flag."""
        question = self._question(window_seconds, **scope)
        window = question.window
        found = await self._source.get_exposures(canonical_key(flag_key), window, where=question.where)
        return attrs.evolve(found, window_start=window.start, window_end=window.end)

    async def list_flags(self, window_seconds: float | None = 3600, **scope: Unpack[Scope]) -> list[FlagActivity]:
        """Return the flags with events in the window, sorted by key: how many, the first and the last."""
        question = self._question(window_seconds, **scope)
        return list(await self._source.list_flags(question.window, **question.options))

    @overload
    async def get_time_series(
        self, flag_key: str, window_seconds: float | None = 3600, step_seconds: float = 60, **scope: Unpack[Scope]
    ) -> list[TimeStep]: ...
    @overload
    async def get_time_series(
        self,
        flag_key: str,
        window_seconds: float | None = 3600,
        step_seconds: float = 60,
        *,
        group_by: str,
        max_groups: int = 50,
        **scope: Unpack[Scope],
    ) -> dict[str, list[TimeStep]]: ...
    async def get_time_series(
        self,
        flag_key: str,
        window_seconds: float | None = 3600,
        step_seconds: float = 60,
        *,
        group_by: str | None = None,
        max_groups: int = 50,
        **scope: Unpack[Scope],
    ) -> list[TimeStep] | dict[str, list[TimeStep]]:
        """Return the window step by step, from its start on, the empty steps too.

        The last step ends with the window, and is ``unfinished`` where it is shorter than the others. Without a window
        the first step begins with the flag's first event.

        Args:
            step_seconds: The length of a step, at least a microsecond.
            group_by: Return one series for each group, by its name; see ``Grouping``.
            max_groups: The most groups; the smaller ones are together in ``__other__``.

        Raises:
            ValueError: the step is less than a microsecond, or there would be more than ``MAX_STEPS`` steps.
        """
        step = step_length(step_seconds)
        key = canonical_key(flag_key)
        question = self._question(window_seconds, **scope)
        grouping = None if group_by is None else Grouping(group_by, max_groups)
        window = question.window
        if window.start is None:
            first_seen = (await self._summaries([key], question, {"count"})).get(key, _NOTHING).first_seen
            window = Window(window.end if first_seen is None else first_seen, window.end)
        count = step_count(window, step)
        if count > MAX_STEPS:
            raise ValueError(
                f"a window of {count:,} steps is too long: expected at most {MAX_STEPS:,}; "
                f"ask for a step_seconds of more than {step_seconds}, or for a shorter window"
            )
        if count == 0:
            return [] if grouping is None else {}
        seconds = step.total_seconds()
        found = await self._source.count_steps(key, window, seconds, group_by=grouping, **question.options)
        empty = [time_step(window, step, number) for number in range(count)]
        if grouping is None:
            return [found.get(number) or empty[number] for number in range(count)]
        names = sorted({name for of_step in found.values() for name in of_step.groups})
        groups = [found[number].groups if number in found else {} for number in range(count)]
        return {name: [groups[number].get(name) or empty[number] for number in range(count)] for name in names}

    async def get_outcomes(
        self, flag_key: str, metric: str, window_seconds: float | None = None, **scope: Unpack[Scope]
    ) -> Outcomes:
        """Return what the flag's users did, by the variant that each saw first.

        An outcome counts where it happened in the window, at or after the user's first exposure in it. The filter is
        about exposures alone.

        Args:
            metric: The name of the outcome, as it was recorded.

        Raises:
            SourceError: the source cannot be asked about outcomes.
        """
        if not isinstance(self._source, OutcomeSource):
            raise SourceError(
                f"{self.source_name} cannot be asked about outcomes: expected a source with get_outcomes(), such as "
                "that of the memory or database collector"
            )
        question = self._question(window_seconds, **scope)
        window, where = question.window, exposure_filter(question.where)
        found = await self._source.get_outcomes(canonical_key(flag_key), canonical_key(metric), window, where=where)
        return attrs.evolve(found, window_start=window.start, window_end=window.end)

    async def count_future(self) -> int:
        """Return the number of stored events that are dated in the future, and so are in no window yet."""
        return await self._source.count_future(_utc(self._clock()))

    async def _metrics_of(
        self, flag_key: str, parts: Iterable[str], window_seconds: float | None, scope: Scope
    ) -> FlagMetrics:
        key = canonical_key(flag_key)
        question = self._question(window_seconds, **scope)
        percentiles = _PERCENTILES if "latency" in parts else ()
        found = await self._summaries([key], question, parts, percentiles)
        return question.metrics(found.get(key, _NOTHING))

    async def _summaries(
        self,
        keys: Iterable[str],
        question: _Question,
        parts: Iterable[str],
        percentiles: tuple[float, ...] = (),
        group_by: Grouping | None = None,
    ) -> Mapping[str, FlagSummary]:
        distinct = tuple(dict.fromkeys(keys))
        if not distinct:
            return {}
        return await self._source.summarise(
            distinct,
            question.window,
            parts=frozenset(parts),
            percentiles=percentiles,
            group_by=group_by,
            **question.options,
        )

    def _question(
        self,
        window_seconds: float | None,
        where: EventFilter | None = None,
        until: datetime | None = None,
        accuracy: str = "exact",
    ) -> _Question:
        if accuracy not in {"exact", "fast"}:
            raise ValueError(f"accuracy is {accuracy!r}: expected exact or fast")
        now = _utc(self._clock())
        end = now if until is None else min(_utc(until), now)
        fast = accuracy == "fast" and getattr(self._source, "rolls_up", False)
        return _Question(_window(window_seconds, end), window_seconds, canonical_filter(where), fast)


@attrs.frozen
class _Question:
    """The window of a question, its length as it was asked for, the filter in canonical form, and whether to hurry."""

    window: Window
    window_seconds: float | None
    where: EventFilter
    fast: bool

    @property
    def options(self) -> dict[str, Any]:
        """What a source is asked besides; only one that keeps rollups knows of accuracy."""
        return {"where": self.where, "accuracy": "fast"} if self.fast else {"where": self.where}

    def metrics(self, summary: FlagSummary) -> FlagMetrics:
        """Return the metrics of a summary."""
        return FlagMetrics(
            evaluation_rate=self._rate(summary),
            unique_users=round(summary.unique_users),
            variant_distribution=_rounded(summary.variants),
            reason_distribution=_rounded(summary.reasons),
            error_rate=summary.errors / summary.total * 100 if summary.total else 0.0,
            latency_p50=summary.percentiles.get(50.0, 0.0),
            latency_p90=summary.percentiles.get(90.0, 0.0),
            latency_p99=summary.percentiles.get(99.0, 0.0),
            total_evaluations=round(summary.total),
            # All time, of a flag without events, is no time: it begins where it ends.
            window_start=self.window.start or summary.first_seen or self.window.end,
            window_end=self.window.end,
            variant_users=_rounded(summary.variant_users),
            crossover_users=round(summary.crossover_users),
            estimated=summary.estimated,
            accuracy=summary.accuracy,
        )

    def _rate(self, summary: FlagSummary) -> float:
        seconds = self.window_seconds
        if seconds is None:
            seconds = (self.window.end - summary.first_seen).total_seconds() if summary.first_seen else 0.0
        return summary.total / seconds if seconds > 0 else 0.0


def _rounded(counts: Mapping[str, float]) -> dict[str, int]:
    return {name: round(count) for name, count in counts.items()}


def _window(window_seconds: float | None, end: datetime) -> Window:
    if window_seconds is None:
        return Window(None, end)
    if isinstance(window_seconds, bool) or not isinstance(window_seconds, int | float):
        raise TypeError(
            f"window_seconds is {type(window_seconds).__name__}: expected a number of seconds, or None for all time"
        )
    if not window_seconds >= 0:
        raise ValueError(f"window_seconds is {window_seconds}: expected 0 or more seconds, or None for all time")
    try:
        return Window(end - timedelta(seconds=window_seconds), end)
    except OverflowError:  # it reaches back beyond the calendar
        return Window(_BEGINNING, end)


def _event_source(source: Any) -> EventSource:
    if isinstance(source, type):
        raise SourceError(f"cannot read events from the class {source.__qualname__}: expected one of its objects")
    if isinstance(source, EventSource):
        return source
    from .registry import default_registry

    return default_registry().event_source_for(source)


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
