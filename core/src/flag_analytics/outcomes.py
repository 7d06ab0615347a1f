"""Outcomes: what users did after they had met a variant, and whether the variants may be compared by it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

import attrs

from .filters import DEFAULT_VARIANT
from .reports import DeliveryStats
from .sources import EXACT, Accuracy, EventFilter, Window
from .statistics import check_arms, newcombe_interval, wilson_interval

__all__ = ["OUTCOMES", "Difference", "OutcomeSource", "OutcomeTally", "Outcomes", "VariantOutcomes", "exposure_filter"]

OUTCOMES = EventFilter(kinds=("outcome",))
"""The events that are outcomes."""
_CONTROLS = ("control", "off", "default")
_LOSSES = ("overflow", "error")


@attrs.frozen
class VariantOutcomes:
    """What the users did who saw a variant first.

    Attributes:
        users: Distinct users who saw this variant first.
        converted_users: Those of them with the outcome, at or after the time of their first exposure.
        values: Number of their outcomes that have a number as their value.
        value_sum: The sum of these numbers.
    """

    users: int = 0
    converted_users: int = 0
    values: int = 0
    value_sum: float = 0.0

    @property
    def rate(self) -> float:
        """The share of users with the outcome, as a ratio 0–1."""
        return self.converted_users / self.users if self.users else 0.0

    @property
    def rate_interval(self) -> tuple[float, float]:
        """The 95 % interval of the rate after Wilson."""
        return wilson_interval(self.converted_users, self.users)

    @property
    def value_mean(self) -> float | None:
        """The mean of the values; None without any."""
        return self.value_sum / self.values if self.values else None


@attrs.frozen
class Difference:
    """The rate of a variant less that of the control, as ratios, with its 95 % interval after Newcombe."""

    difference: float
    low: float
    high: float

    @property
    def is_significant(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


@attrs.frozen
class Outcomes:
    """One outcome of one flag's users, by the variant that each saw first.

    Attributes:
        flag_key: The flag.
        metric: The name of the outcome.
        variants: The figures of each variant.
        crossover_users: Users who saw more than one variant.
        sampled: Whether there are sampled events among them: figures are then those of the sample.
        window_start: The start of the window, UTC; None means from the first event on.
        window_end: The end of the window, UTC.
        accuracy: How exact the figures are.
    """

    flag_key: str
    metric: str
    variants: Mapping[str, VariantOutcomes] = attrs.field(factory=dict[str, VariantOutcomes])
    crossover_users: int = 0
    sampled: bool = False
    window_start: datetime | None = None
    window_end: datetime | None = None
    accuracy: Accuracy = EXACT

    def usual_control(self) -> str | None:
        """Return ``control``, ``off`` or ``default``, if users saw it, else the first by name; None without users."""
        usual = [name for name in _CONTROLS if name in self.variants]
        return next(iter(usual or sorted(self.variants)), None)

    def differences(self, control: str) -> dict[str, Difference]:
        """Return the difference of each other variant to the control.

        Raises:
            ValueError: no user saw the control first.
        """
        if control not in self.variants:
            raise ValueError(f"no user saw {control!r} first: expected a control of {', '.join(sorted(self.variants))}")
        base = self.variants[control]
        return {
            name: Difference(
                one.rate - base.rate,
                *newcombe_interval(one.converted_users, one.users, base.converted_users, base.users),
            )
            for name, one in self.variants.items()
            if name != control
        }

    def doubts(self, *, expect: Mapping[str, float] | None = None, stats: DeliveryStats | None = None) -> list[str]:
        """Return why the variants must not be compared; empty where nothing speaks against a verdict.

        Args:
            expect: The planned share of each variant, as ratios that sum to 1; by default equal shares.
            stats: The ledger of the pipeline that recorded the events.
        """
        found = []
        if len(self.variants) < 2:
            found.append("there are fewer than two variants: nothing can be compared")
        else:
            plan = expect or dict.fromkeys(self.variants, 1 / len(self.variants))
            arms = check_arms({name: one.users for name, one in self.variants.items()}, plan)
            if not arms.matches:
                p = "" if arms.p_value is None else f" (p = {arms.p_value:.2g})"
                shares = "the plan" if expect else "equal shares"
                found.append(f"the sizes of the arms do not match {shares}{p}: say which were planned, or find out why")
        if self.crossover_users:
            users = "user" if self.crossover_users == 1 else "users"
            found.append(f"{self.crossover_users:,} {users} saw more than one variant")
        if self.sampled:
            found.append("events are sampled: a user's exposure may be there and the outcome not, or the reverse")
        since = self.accuracy.complete_since
        if since is not None:
            found.append(f"events before {since:%Y-%m-%d %H:%M} UTC were removed: another variant may have come first")
        lost = _lost(stats)
        if lost:
            found.append(f"events are missing: the ledger shows {lost:,} lost")
        return found


@runtime_checkable
class OutcomeSource(Protocol):
    """An ``EventSource`` that can be asked about outcomes, too."""

    async def get_outcomes(
        self, flag_key: str, metric: str, window: Window, *, where: EventFilter | None = None
    ) -> Outcomes:
        """Return an outcome by the variant seen first; the filter is about exposures alone."""
        ...


def exposure_filter(where: EventFilter) -> EventFilter:
    """Return the filter without outcomes, which are no exposures."""
    return attrs.evolve(where, kinds=tuple(kind for kind in where.kinds if kind != "outcome"))


class OutcomeTally:
    """Counts outcomes of one flag's users: first all exposures, then all outcomes, each in any order."""

    def __init__(self, flag_key: str, metric: str) -> None:
        self._names = (flag_key, metric)
        self._first: dict[str, tuple[datetime, str]] = {}
        self._crossed: set[str] = set()
        self._converted: set[str] = set()
        self._numbers: dict[str, list[float]] = {}
        self._sampled = False

    def add_exposures(self, events: Iterable[Any]) -> None:
        """Count events of the flag."""
        for event in events:
            if event.targeting_key:
                seen = (event.timestamp, event.variant or DEFAULT_VARIANT)
                first = self._first.setdefault(event.targeting_key, seen)
                if first[1] != seen[1]:
                    self._crossed.add(event.targeting_key)
                if seen < first:
                    self._first[event.targeting_key] = seen
                self._sampled |= event.sample_rate < 1

    def add_outcomes(self, events: Iterable[Any]) -> None:
        """Count events of the outcome."""
        for event in events:
            first = self._first.get(event.targeting_key or "")
            if first is not None and event.timestamp >= first[0]:
                self._converted.add(event.targeting_key)
                self._sampled |= event.sample_rate < 1
                value = event.value
                if isinstance(value, int | float) and not isinstance(value, bool):
                    self._numbers.setdefault(first[1], []).append(float(value))

    def outcomes(self) -> Outcomes:
        """Return the figures so far."""
        users: dict[str, list[int]] = {}
        for user, (_, variant) in self._first.items():
            counts = users.setdefault(variant, [0, 0])
            counts[0] += 1
            counts[1] += user in self._converted
        numbers = {variant: self._numbers.get(variant, []) for variant in users}
        variants = {
            variant: VariantOutcomes(count, converted, len(numbers[variant]), math.fsum(numbers[variant]))
            for variant, (count, converted) in users.items()
        }
        return Outcomes(*self._names, variants, len(self._crossed), self._sampled)


def _lost(stats: DeliveryStats | None) -> int:
    if stats is None:
        return 0
    refused = sum(stats.refused.get(reason, 0) for reason in _LOSSES)
    return refused + max((sink.lost for sink in stats.sinks.values()), default=0)
