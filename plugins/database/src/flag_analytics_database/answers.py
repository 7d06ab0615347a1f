"""The rows that the database answers with, put together to summaries and exposures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
from flag_analytics.metrics import DEFAULT_VARIANT, MILLION, as_count, weighted_percentile
from flag_analytics.outcomes import Outcomes, VariantOutcomes
from flag_analytics.sources import Exposures, FlagSummary

from .queries import GROUPS, MASKS, MOST_MASKS, MOST_VARIANTS, USERS, VARIANT_USERS
from .rows import from_micros

__all__ = ["Draft", "as_text", "exposures_of", "exposures_of_one_version"]


def as_text(text: str | bytes | None) -> str | None:
    """Return the name of a group, which MySQL and MariaDB give as bytes."""
    return text.decode() if isinstance(text, bytes) else text


def exposures_of_one_version(rows: Iterable[Sequence[Any]]) -> Exposures | None:
    """Return exposures from rows of ``exposures_query``; None if the events have sample rates or several versions."""
    first: dict[str, int] = {}
    crossed = switched = 0
    names: set[str] = set()
    for variant, users, crossovers, switches, least_rate, *versions in rows:
        if least_rate is not None and least_rate < 1:
            return None
        names.update(version for version in versions if version is not None)
        crossed += crossovers
        switched += switches
        if variant is not None:
            first[variant] = users
    if len(names) > 1:
        return None
    found = Exposures(sum(first.values()), first, crossed, switched)
    return attrs.evolve(found, by_version=dict.fromkeys(names, found))


def outcomes_of(flag_key: str, metric: str, rows: Iterable[Sequence[Any]]) -> Outcomes:
    """Return outcomes from rows of ``outcomes_query``."""
    variants: dict[str, VariantOutcomes] = {}
    crossed = 0
    sampled = False
    for variant, users, crossovers, converted, values, value_sum, least_rate, least_of_outcomes in rows:
        variants[variant] = VariantOutcomes(int(users), int(converted), int(values or 0), float(value_sum or 0.0))
        crossed += int(crossovers)
        sampled |= least_rate < 1 or (least_of_outcomes is not None and least_of_outcomes < 1)
    return Outcomes(flag_key, metric, variants, crossed, sampled)


def exposures_of(rows: Iterable[Sequence[Any]]) -> Exposures:
    """Return exposures from rows of ``exposures_query`` without their version."""
    first: Counter[str] = Counter()
    people = crossed = switched = 0
    for variant, count, weight, second, again in rows:
        first[variant] += int(weight)
        people += count
        crossed += int(second or 0)
        switched += int(again or 0)
    return Exposures(
        users=round(first.total() / MILLION),
        first_variant_users={variant: round(weight / MILLION) for variant, weight in first.items()},
        crossover_users=round(crossed / MILLION),
        switch_back_users=round(switched / MILLION),
        estimated=first.total() != people * MILLION,
    )


class Draft:
    """One flag's summary, or one group's, while its rows of ``summary_query`` come in, in any order.

    Counts are in millionths of an event.
    """

    def __init__(self, percentiles: Sequence[float], weighted: bool) -> None:
        self._wanted = percentiles
        self._weighted = weighted
        self._scale = 1 if weighted else MILLION
        self.sampled = False
        self.total = 0
        self._events = 0
        self._errors = 0
        self._users = 0
        self._crossovers = 0
        self._first: int | None = None
        self._variants: Counter[str] = Counter()
        self._reasons: Counter[str | None] = Counter()
        self._variant_users: Counter[str] = Counter()
        self._masks: dict[int, int] = {}
        self._percentiles: dict[float, float] = {}
        self._by_rank: dict[int, float] = {}
        self._measured = 0
        self._reached: list[tuple[int, float]] = []

    def add(
        self,
        kind: int,
        variant: str | None,
        reason: str | None,
        count: int | None,
        number: int | None,
        weight: float | None,
        further: float | None,
        duration: float | None,
        percentiles: Sequence[float] | None,
    ) -> None:
        """Take one row, without its flag and its group."""
        if kind == GROUPS:
            if count and number is not None and weight is not None:
                self._add_events(variant, reason, count, number, weight, further or 0)
        elif kind == USERS:
            self._users = int(weight or 0) * self._scale
            self._crossovers = int(further or 0) * self._scale
        elif kind == MASKS:
            self._masks[int(count or 0)] = int(number or 0)
        elif kind == VARIANT_USERS:
            self._variant_users[variant or DEFAULT_VARIANT] += int(weight or 0) * self._scale
        elif percentiles is not None:
            self._percentiles = dict(zip(self._wanted, percentiles, strict=True))
        elif duration is not None and weight is not None:
            self._reached.append((int(weight), duration))
            self._measured = int(further or 0)
        elif duration is not None and count is not None and number is not None:
            self._by_rank[int(count)] = duration
            self._measured = int(number)

    def _add_events(
        self, variant: str | None, reason: str | None, count: int, first: int, weight: float, typed: float
    ) -> None:
        self.sampled |= not self._weighted and weight < 1
        total = int(weight) if self._weighted else count * MILLION
        self._events += count
        self.total += total
        self._errors += total if reason == "ERROR" else int(typed) * self._scale
        self._first = first if self._first is None else min(self._first, first)
        self._variants[variant or DEFAULT_VARIANT] += total
        self._reasons[reason] += total

    def too_many_masks(self) -> bool:
        """Return whether users by variant must be counted in another way."""
        return bool(self._masks) and (len(self._variants) > MOST_VARIANTS or len(self._masks) > MOST_MASKS)

    def _count_masks(self) -> None:
        names = sorted(self._variants)
        for mask, people in self._masks.items():
            self._users += people * MILLION
            if mask.bit_count() > 1:
                self._crossovers += people * MILLION
            for place, name in enumerate(names):
                if mask >> place & 1:
                    self._variant_users[name] += people * MILLION
        self._masks = {}

    def summary(self, parts: frozenset[str]) -> FlagSummary:
        """Return the summary."""
        self._count_masks()
        return FlagSummary(
            total=as_count(self.total),
            errors=as_count(self._errors) if "errors" in parts else 0,
            unique_users=as_count(self._users),
            variants=_counts(self._variants) if "variants" in parts else {},
            reasons=_counts({reason: count for reason, count in self._reasons.items() if reason is not None})
            if "reasons" in parts
            else {},
            percentiles=self._percentiles or self._interpolated(),
            first_seen=None if self._first is None else from_micros(self._first),
            variant_users=_counts(self._variant_users),
            crossover_users=as_count(self._crossovers),
            estimated=self.total != self._events * MILLION,
        )

    def _interpolated(self) -> dict[float, float]:
        """Return the percentiles by linear interpolation between order statistics, as ``metrics`` does."""
        if self._reached:
            ordered = sorted(self._reached)
            reach, durations = [weight for weight, _ in ordered], [duration for _, duration in ordered]
            return {percent: weighted_percentile(durations, reach, self._measured, percent) for percent in self._wanted}
        if not self._by_rank:
            return {}
        return {percent: self._at(percent) for percent in self._wanted}

    def _at(self, percent: float) -> float:
        position = percent / 100 * (self._measured - 1)
        below = int(position)
        fraction = position - below
        low = self._by_rank[below]
        return low + fraction * (self._by_rank[below + 1] - low) if fraction else low


def _counts(millionths: Mapping[str, int]) -> dict[str, float]:
    return {name: as_count(count) for name, count in millionths.items() if count}
