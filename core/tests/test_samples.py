"""Samples are counted back: figures of the events kept are those of all events, within the error that is stated."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.freezer import Freezer
from flag_analytics.metrics import StepTally, Tally, activity, summarise, weight_of, weighted_percentile
from flag_analytics.processors import Sample, sample
from flag_analytics.sources import FlagSummary, Grouping, Window
from flag_analytics.weighting import MILLION
from hypothesis import given, settings
from hypothesis import strategies as st

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
SIX_SIGMA = 6


@attrs.frozen
class Traffic:
    """Evaluations of one flag for some users, and the rates at which the earlier and the later half are sampled."""

    seed: int
    users: int
    rates: tuple[float, float]
    error_every: int

    def events(self) -> list[FlagEvaluationEvent]:
        return [
            FlagEvaluationEvent(
                NOW + timedelta(seconds=turn),
                "flag",
                True,
                "ERROR" if self.error_every and (user + turn) % self.error_every == 0 else "SPLIT",
                "ab"[(user + (turn > 2 and user % 3 == 0)) % 2],
                f"{self.seed}-{user}",
                evaluation_duration_ms=1.0 + user % 10,
            )
            for user in range(self.users)
            for turn in range(1 + user % 5)
        ]

    def kept(self) -> list[Any]:
        processes = [sample(Sample(rate=rate)) for rate in self.rates]
        drawn = [processes[event.timestamp >= NOW + timedelta(seconds=2)](event) for event in self.events()]
        return [Freezer().freeze(event) for event in drawn if event is not None]


rates = st.sampled_from([0.1, 0.25, 0.5, 0.9, 1.0])
traffic = st.builds(
    Traffic, st.integers(0, 2**32), st.integers(200, 600), st.tuples(rates, rates), st.sampled_from([0, 0, 7])
)


def _summary(events: list[Any]) -> FlagSummary:
    tally = Tally()
    tally.add(events)
    return tally.summary((50.0, 90.0))


def _is_near(found: float, truth: float, *, rate: float, units: float) -> bool:
    """Return whether an estimate is within six standard errors; ``units`` is the sum of squares over the users."""
    return abs(found - truth) <= SIX_SIGMA * math.sqrt(units * (1 - rate) / rate) + 1e-3


@given(traffic)
@settings(max_examples=60, deadline=None)
def test_figures_of_the_events_kept_are_those_of_all(given_traffic: Traffic) -> None:
    events = [Freezer().freeze(event) for event in given_traffic.events()]
    truth, found = _summary(events), _summary(given_traffic.kept())
    rate = min(given_traffic.rates)
    by_user = Counter(event.targeting_key for event in events)
    squares = sum(count**2 for count in by_user.values())
    assert _is_near(found.total, truth.total, rate=rate, units=squares)
    assert _is_near(found.unique_users, truth.unique_users, rate=rate, units=len(by_user))
    assert _is_near(found.crossover_users, truth.crossover_users, rate=rate, units=len(by_user))
    assert found.errors == truth.errors
    for variant in "ab":
        assert _is_near(found.variants.get(variant, 0), truth.variants[variant], rate=rate, units=squares)
        of_variant = found.variant_users.get(variant, 0)
        assert _is_near(of_variant, truth.variant_users[variant], rate=rate, units=len(by_user))
    assert found.estimated == any(event.sample_rate != 1.0 for event in given_traffic.kept())


def test_percentiles_of_many_kept_events_are_those_of_all() -> None:
    found = _summary(Traffic(1, 20_000, (0.1, 0.3), 7).kept()).percentiles
    truth = _summary([Freezer().freeze(event) for event in Traffic(1, 20_000, (0.1, 0.3), 7).events()]).percentiles
    assert abs(found[50.0] - truth[50.0]) <= 1.0
    assert abs(found[90.0] - truth[90.0]) <= 1.0


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=1), st.floats(0, 100))
def test_a_weighted_percentile_is_that_of_the_values_repeated(pairs: list[tuple[int, int]], percent: float) -> None:
    pairs.sort()
    repeated = [float(value) for value, weight in pairs for _ in range(weight)]
    reach, total = [], 0
    for _, weight in pairs:
        total += weight * MILLION
        reach.append(total)
    found = weighted_percentile([float(value) for value, _ in pairs], reach, total, percent)
    plain = weighted_percentile(repeated, [MILLION * n for n in range(1, len(repeated) + 1)], total, percent)
    assert math.isclose(found, plain)


@given(st.floats(1e-6, 1.0))
def test_a_weight_is_one_divided_by_the_rate_in_millionths(rate: float) -> None:
    assert abs(weight_of(rate) - MILLION / rate) <= 0.5 + 1e-9 * MILLION / rate


def test_a_rate_below_a_millionth_counts_as_one() -> None:
    assert weight_of(5e-324) == weight_of(1e-6) == MILLION * MILLION


@given(traffic)
@settings(max_examples=20, deadline=None)
def test_steps_and_groups_add_up_to_the_whole(given_traffic: Traffic) -> None:
    events = given_traffic.kept()
    if not events:
        return
    whole = _summary(events)
    steps = StepTally(Window(NOW, NOW + timedelta(seconds=5)), 1.0)
    steps.add(events)
    groups = summarise(events, (), Grouping("variant")).groups
    assert abs(sum(step.count for step in steps.steps().values()) - whole.total) <= 3
    assert math.isclose(sum(group.total for group in groups.values()), whole.total)
    assert activity("flag", events).count == round(whole.total)
