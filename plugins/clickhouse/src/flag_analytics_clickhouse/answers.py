"""The rows that ClickHouse answers with, put together to summaries and exposures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flag_analytics.metrics import MILLION, as_count, weighted_percentile
from flag_analytics.outcomes import Outcomes, VariantOutcomes
from flag_analytics.sources import Exposures, FlagSummary

from .queries import GROUPS, USERS
from .rows import from_micros

__all__ = ["Draft", "exposures_of", "outcomes_of"]


class Draft:
    """One flag's summary, or one group's, while its rows of ``summary_query`` come in, in any order."""

    def __init__(self, percentiles: Sequence[float], parts: frozenset[str]) -> None:
        self._wanted = percentiles
        self._parts = parts
        self.total = 0
        self._events = 0
        self._errors = 0
        self._users = 0
        self._crossovers = 0
        self._first: int | None = None
        self._variants: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._variant_users: dict[str, int] = {}
        self._measured = 0
        self._by_rank: dict[int, float] = {}
        self._reached: list[tuple[int, int, float]] = []

    @property
    def sampled(self) -> bool:
        """Whether there are sampled events among them."""
        return self.total != self._events * MILLION

    def add(
        self,
        kind: int,
        variant: str,
        reason: str,
        count: int,
        first: int,
        weight: int,
        further: int,
        names: Sequence[str],
        weights: Sequence[int],
        durations: Sequence[tuple[int, float, int]],
    ) -> None:
        """Take one row, without its flag and its group."""
        if kind == GROUPS:
            self.total += weight
            self._events += count
            self._errors += further
            self._first = first if self._first is None else min(self._first, first)
            self._variants[variant] += weight
            self._reasons[reason] += weight
        elif kind == USERS:
            self._users, self._crossovers = weight, further
            self._variant_users = dict(zip(names, weights, strict=True))
        elif weight:
            self._measured = weight
            self._reached = sorted((place, reach, duration) for reach, duration, place in durations)
        else:
            self._measured = count
            self._by_rank = {rank: duration for rank, duration, _ in durations}

    def summary(self) -> FlagSummary:
        """Return the summary."""
        parts = self._parts
        return FlagSummary(
            total=as_count(self.total),
            errors=as_count(self._errors) if "errors" in parts else 0,
            unique_users=as_count(self._users),
            variants=_counts(self._variants) if "variants" in parts else {},
            reasons=_counts(self._reasons) if "reasons" in parts else {},
            percentiles=self._percentiles(),
            first_seen=None if self._first is None else from_micros(self._first),
            variant_users=_counts(self._variant_users),
            crossover_users=as_count(self._crossovers),
            estimated=self.sampled,
        )

    def _percentiles(self) -> dict[float, float]:
        """Return the percentiles by linear interpolation between order statistics, as ``metrics`` does."""
        if self._reached:
            reach = [up_to for _, up_to, _ in self._reached]
            durations = [duration for *_, duration in self._reached]
            return {percent: weighted_percentile(durations, reach, self._measured, percent) for percent in self._wanted}
        return {percent: self._at(percent) for percent in self._wanted} if self._by_rank else {}

    def _at(self, percent: float) -> float:
        position = percent / 100 * (self._measured - 1)
        below = int(position)
        fraction = position - below
        low = self._by_rank[below]
        return low + fraction * (self._by_rank[below + 1] - low) if fraction else low


def exposures_of(rows: Iterable[Sequence[Any]]) -> Exposures:
    """Return exposures from rows of (variant seen first, users, their weight, crossovers, switches back)."""
    first: dict[str, int] = {}
    people = crossed = switched = 0
    for variant, count, weight, second, again in rows:
        first[variant] = weight
        people += count
        crossed += second
        switched += again
    return Exposures(
        users=round(sum(first.values()) / MILLION),
        first_variant_users={variant: round(weight / MILLION) for variant, weight in first.items()},
        crossover_users=round(crossed / MILLION),
        switch_back_users=round(switched / MILLION),
        estimated=sum(first.values()) != people * MILLION,
    )


def outcomes_of(flag_key: str, metric: str, rows: Iterable[Sequence[Any]]) -> Outcomes:
    """Return outcomes from rows of ``outcomes_query``."""
    variants: dict[str, VariantOutcomes] = {}
    crossed = 0
    sampled = False
    for variant, users, crossovers, converted, values, value_sum, any_sampled in rows:
        variants[variant] = VariantOutcomes(users, converted, values, value_sum)
        crossed += crossovers
        sampled |= bool(any_sampled)
    return Outcomes(flag_key, metric, variants, crossed, sampled)


def _counts(millionths: Mapping[str, int]) -> dict[str, float]:
    return {name: as_count(count) for name, count in millionths.items() if count}
