"""Questions about stored events as values: windows, filters, groups, and the answers of a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

import attrs

__all__ = [
    "EXACT",
    "NO_VALUE",
    "OTHER_GROUP",
    "PARTS",
    "Accuracy",
    "EventFilter",
    "EventSource",
    "Exposures",
    "FlagActivity",
    "FlagSummary",
    "Grouping",
    "OneOf",
    "TimeStep",
    "Window",
]

NO_VALUE = "__none__"
"""The group of events without the attribute, or with null in its place."""
OTHER_GROUP = "__other__"
"""The group of all events beyond the largest groups."""

MAX_GROUPS = 1_000

Wanted = str | AbstractSet[str] | None
"""A text, a set of texts of which an event must have one, or None for any."""


@attrs.frozen
class Window:
    """A range of time, both ends included, UTC; ``start`` None means from the first event on."""

    start: datetime | None
    end: datetime


@attrs.frozen
class OneOf:
    """The canonical form of a set of values in ``EventFilter.context``: the attribute must have one of them."""

    values: tuple[Any, ...]


def _as_kinds(kinds: Any) -> tuple[str, ...]:
    return (kinds,) if isinstance(kinds, str) else tuple(kinds)


@attrs.frozen
class EventFilter:
    """The events to look at.

    A field is None (any event passes), a value (the event must have it), or a ``set`` or ``frozenset`` of values (the
    event must have one of them). Texts are compared by their characters, without regard to locale or normalisation.

    ``context`` maps names of context attributes to values, which are compared as JSON, the same on every source:

    - null, true and false equal themselves only; a text equals the same text.
    - Numbers equal by their exact value, however they are written: 1 is 1.0, but ``2**53 + 1`` is not ``2.0**53``.
    - Arrays equal with the same length and equal members in the same order: ``[1]`` is ``[1.0]``, but not ``[True]``.
    - Objects equal with the same names and equal values, in any order.

    A value goes through the canonical form of events first, so that an event is found by the value it was recorded
    with. A set of values in ``context`` means one of them; a recorded set is an array, and is found by the list.

    Attributes:
        environment: The context attribute ``environment``.
        provider_name: The OpenFeature provider, or SDK, that evaluated.
        variant: The variant; ``default`` includes events without one.
        context: Attributes that the context must have, with their values.
        kinds: The kinds of events; without outcomes by default.
        reasons: The reason.
        flag_version: The version of the flag's definition.
        flag_set_id: The set (project, namespace) of the flag.
        targeting_key: The user or entity that was evaluated for.
    """

    environment: Wanted = None
    provider_name: Wanted = None
    variant: Wanted = None
    context: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    kinds: tuple[str, ...] = attrs.field(default=("evaluation", "exposure"), converter=_as_kinds)
    reasons: Wanted = None
    flag_version: Wanted = None
    flag_set_id: Wanted = None
    targeting_key: Wanted = None

    def required_texts(self) -> dict[str, frozenset[str]]:
        """Return the texts of which an event must have one, by the event's field."""
        fields = {
            "provider_name": self.provider_name,
            "variant": self.variant,
            "reason": self.reasons,
            "flag_version": self.flag_version,
            "flag_set_id": self.flag_set_id,
            "targeting_key": self.targeting_key,
        }
        return {
            field: frozenset({wanted}) if isinstance(wanted, str) else frozenset(wanted)
            for field, wanted in fields.items()
            if wanted is not None
        }

    def required_context(self) -> dict[str, Any]:
        """Return the context attributes an event must have, the environment among them."""
        wanted = dict(self.context)
        if self.environment is not None:
            wanted["environment"] = self.environment
        return wanted


def _check_by(_: Any, __: Any, by: Any) -> None:
    if not isinstance(by, str) or (by not in _DIMENSIONS and not by.startswith(_CONTEXT)):
        raise ValueError(f"group_by is {by!r}: expected {', '.join(_DIMENSIONS)} or context.NAME")


def _check_most(_: Any, __: Any, most: Any) -> None:
    if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= MAX_GROUPS:
        raise ValueError(f"max_groups is {most!r}: expected an integer from 1 to {MAX_GROUPS:,}")


@attrs.frozen
class Grouping:
    """The dimension by which events are grouped, and the number of groups.

    The groups with the most events keep their names, equal ones in the order of their names; all others together are
    ``OTHER_GROUP``.

    Attributes:
        by: ``variant``, ``reason``, ``flag_version``, ``environment`` or ``context.NAME``. An attribute's group is its
            text, or its JSON as it was recorded where it is not a text: 1 and "1" are in the group ``1``, 1.0 is in
            ``1.0``. Without a variant: ``default``; without the version or attribute, or where it is null:
            ``NO_VALUE``.
        most: The most groups that keep their names, 1 to 1,000.

    Raises:
        ValueError: there is no such dimension, or ``most`` is out of range.
    """

    by: str = attrs.field(validator=_check_by)
    most: int = attrs.field(default=50, validator=_check_most)

    @property
    def attribute(self) -> str | None:
        """The context attribute by which events are grouped; None for a field of the event."""
        if self.by == "environment":
            return self.by
        return self.by.removeprefix(_CONTEXT) if self.by.startswith(_CONTEXT) else None


_CONTEXT = "context."
_DIMENSIONS = ("variant", "reason", "flag_version", "environment")


@attrs.frozen
class Accuracy:
    """How far an answer can be trusted: what neither ``bounds`` nor ``missing`` names is exact.

    A part is one of ``PARTS``, or ``crossover_users``.

    Attributes:
        bounds: The relative error by part, as a ratio: 0.01 is ± 1 %. Of users it is two standard errors, of latencies
            the most that a value is off.
        missing: The parts that cannot be answered from what is stored; their figures are 0 or empty.
        complete_since: Events before this time were removed and nothing else counts them: the figures leave them out.
    """

    bounds: Mapping[str, float] = attrs.field(factory=dict[str, float])
    missing: frozenset[str] = frozenset()
    complete_since: datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return every field by name, as JSON has it."""
        since = None if self.complete_since is None else self.complete_since.isoformat()
        return {"bounds": dict(self.bounds), "missing": sorted(self.missing), "complete_since": since}


EXACT = Accuracy()
"""The accuracy of an answer from every event."""


@attrs.frozen
class FlagSummary:
    """The answer of a source about one flag in one window; parts that were not asked for are empty.

    An event with a ``sample_rate`` counts as 1 ÷ ``sample_rate`` events (see ``flag_analytics.metrics``): numbers are
    whole unless ``estimated``.

    Attributes:
        total: Number of events.
        errors: Events whose reason is ``ERROR``, or that have an ``error_type``.
        unique_users: Distinct targeting keys that are not empty.
        variants: Events by variant; those without one count as ``default``.
        reasons: Events by reason.
        percentiles: Milliseconds by the percentiles asked for (0–100), over durations above 0 only, by linear
            interpolation between order statistics; empty without any.
        first_seen: The time of the first event.
        variant_users: Distinct users by variant.
        crossover_users: Distinct users with more than one variant.
        estimated: Whether there are sampled events among them.
        groups: The same by group, where groups were asked for; everything else is empty then.
        accuracy: How exact the figures are.
    """

    total: float = 0
    errors: float = 0
    unique_users: float = 0
    variants: Mapping[str, float] = attrs.field(factory=dict[str, float])
    reasons: Mapping[str, float] = attrs.field(factory=dict[str, float])
    percentiles: Mapping[float, float] = attrs.field(factory=dict[float, float])
    first_seen: datetime | None = None
    variant_users: Mapping[str, float] = attrs.field(factory=dict[str, float])
    crossover_users: float = 0
    estimated: bool = False
    groups: Mapping[str, FlagSummary] = attrs.field(factory=dict[str, Any])
    accuracy: Accuracy = EXACT


@attrs.frozen
class Exposures:
    """Users of one flag by the variant that they saw first.

    A user's variants are ordered by the first time each was seen, equal times by the variant's name. Events without a
    targeting key are left out; events without a variant count as ``default``.

    Attributes:
        users: Distinct targeting keys.
        first_variant_users: Users by the variant that they saw first.
        crossover_users: Users who saw more than one variant.
        switch_back_users: Users who saw a variant again after they had seen another (A→B→A).
        by_version: The same for the events of each ``flag_version``; ``NO_VALUE`` without one. The 50 versions with
            the most events have their names; all others together are ``OTHER_GROUP``.
        estimated: Whether there are sampled events among them. Users are weighted then; where errors, which are always
            kept, came first, the variant seen first may be one of theirs.
        window_start: The start of the window, UTC; None means from the first event on.
        window_end: The end of the window, UTC.
        accuracy: How exact the figures are.
    """

    users: int = 0
    first_variant_users: Mapping[str, int] = attrs.field(factory=dict[str, int])
    crossover_users: int = 0
    switch_back_users: int = 0
    by_version: Mapping[str, Exposures] = attrs.field(factory=dict[str, Any])
    estimated: bool = False
    window_start: datetime | None = None
    window_end: datetime | None = None
    accuracy: Accuracy = EXACT


@attrs.frozen
class FlagActivity:
    """One flag that was evaluated in a window; ``count`` is ``estimated`` where events are sampled."""

    flag_key: str
    count: int
    first_seen: datetime
    last_seen: datetime
    estimated: bool = False
    accuracy: Accuracy = EXACT


@attrs.frozen
class TimeStep:
    """One step of a time series: ``start`` included, ``end`` excluded but for the last step.

    Attributes:
        start: Where the step begins, UTC.
        end: Where it ends, UTC.
        count: Number of events.
        errors: Events whose reason is ``ERROR``, or that have an ``error_type``.
        unique_users: Distinct targeting keys that are not empty.
        estimated: Whether there are sampled events among them.
        unfinished: Whether the window ends before the step does: do not compare it with the others.
        groups: The same by group, where groups were asked for; everything else is empty then.
        accuracy: How exact the figures are.
    """

    start: datetime
    end: datetime
    count: int = 0
    errors: int = 0
    unique_users: int = 0
    estimated: bool = False
    unfinished: bool = False
    groups: Mapping[str, TimeStep] = attrs.field(factory=dict[str, Any])
    accuracy: Accuracy = EXACT


PARTS = frozenset({"count", "users", "variants", "reasons", "errors", "latency", "variant_users"})
"""The parts of a ``FlagSummary`` that can be asked for; a source may leave out the others or compute them all."""


@runtime_checkable
class EventSource(Protocol):
    """Answers questions about stored events; ``AnalyticsAggregator`` turns the answers into metrics.

    Flag keys come in canonical form. Every method answers for all the flags at once. A pipeline asks the source of a
    sink in the sink's own loop, beside its writes, unless the source says ``any_loop = True``.

    A source that says ``rolls_up = True`` takes ``accuracy="fast"`` by name in ``summarise``, ``list_flags`` and
    ``count_steps``: it may then answer from rollups, within bounds that the ``accuracy`` of the answer tells.

    ``flag_analytics.metrics.EventsSource`` implements it over events in memory.
    """

    async def summarise(
        self,
        flag_keys: Sequence[str],
        window: Window,
        *,
        parts: frozenset[str] = PARTS,
        percentiles: Sequence[float] = (),
        where: EventFilter | None = None,
        group_by: Grouping | None = None,
    ) -> Mapping[str, FlagSummary]:
        """Return a summary for each flag that has events in the window; others may be missing."""
        ...

    async def get_exposures(self, flag_key: str, window: Window, *, where: EventFilter | None = None) -> Exposures:
        """Return users by the variant that they saw first."""
        ...

    async def list_flags(self, window: Window, *, where: EventFilter | None = None) -> Sequence[FlagActivity]:
        """Return every flag with events in the window, by key."""
        ...

    async def count_steps(
        self,
        flag_key: str,
        window: Window,
        step_seconds: float,
        *,
        where: EventFilter | None = None,
        group_by: Grouping | None = None,
    ) -> Mapping[int, TimeStep]:
        """Return, by number of step from ``window.start`` (which is set) on, the steps that have events.

        An event belongs to step ``floor((timestamp - start) / step_seconds)``, computed in whole microseconds; one at
        the very end of the window belongs to the last step.
        """
        ...

    async def count_future(self, now: datetime) -> int:
        """Return the number of stored events dated after ``now``, which are in no window yet."""
        ...
