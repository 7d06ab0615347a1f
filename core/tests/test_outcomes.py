"""Outcomes are counted by the variant that a user saw first, and compared only where nothing speaks against it."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from flag_analytics import AnalyticsAggregator, FlagEvaluationEvent, SourceError, open_pipeline
from flag_analytics.metrics import EventsSource
from flag_analytics.outcomes import Outcomes, VariantOutcomes
from flag_analytics.sources import EventFilter
from flag_analytics.statistics import newcombe_interval, wilson_interval
from flag_analytics.testing import ManualClock
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
BASE = NOW - timedelta(minutes=30)


def seen(user: str | None, variant: str, minute: float = 0, **fields: Any) -> FlagEvaluationEvent:
    moment = BASE + timedelta(minutes=minute)
    return FlagEvaluationEvent(moment, "checkout", True, "SPLIT", variant, user, **{"kind": "exposure", **fields})


def did(user: str | None, minute: float, value: Any = None, metric: str = "purchase", **fields: Any) -> Any:
    moment = BASE + timedelta(minutes=minute)
    return FlagEvaluationEvent(moment, metric, value, "UNKNOWN", None, user, kind="outcome", **fields)


async def outcomes_of(*events: FlagEvaluationEvent, **asked: Any) -> Outcomes:
    aggregator = AnalyticsAggregator(EventsSource(lambda: events), clock=ManualClock(NOW).now)
    return await aggregator.get_outcomes("checkout", "purchase", **asked)


async def test_users_count_once_by_the_variant_that_they_saw_first():
    found = await outcomes_of(
        seen("a", "control", 5),
        seen("a", "treatment", 1),
        seen("b", "control"),
        seen("b", "control", 3),
        seen("c", "control"),
        seen(None, "control"),
        did("a", 6, 2.5),
        did("a", 7, 1),
        did("b", 4),
        did("d", 4, 9),
        did(None, 4, 9),
        did("c", 4, 9, metric="signup"),
    )
    assert found.variants == {"treatment": VariantOutcomes(1, 1, 2, 3.5), "control": VariantOutcomes(2, 1, 0, 0.0)}
    assert found.crossover_users == 1
    assert found.variants["treatment"].value_mean == 1.75
    assert found.variants["control"].value_mean is None
    assert found.variants["control"].rate == 0.5
    assert found.variants["control"].rate_interval == wilson_interval(1, 2)


async def test_only_what_happened_after_the_first_exposure_counts():
    found = await outcomes_of(
        *(seen(user, "on", 5) for user in "abc"), did("a", 4.9), did("b", 5), did("c", 6), did("c", 4)
    )
    assert found.variants == {"on": VariantOutcomes(3, 2)}


async def test_the_window_and_the_filter_choose_exposures_and_the_window_outcomes():
    events = [
        seen("early", "on", 0),
        seen("late", "on", 20, context_attributes={"plan": "pro"}),
        did("late", 21),
        did("early", 21),
        did("late", 40),
    ]
    found = await outcomes_of(*events, window_seconds=15 * 60)
    assert found.variants == {"on": VariantOutcomes(1, 1)}
    assert (found.window_start, found.window_end) == (NOW - timedelta(minutes=15), NOW)
    assert (await outcomes_of(*events, where=EventFilter(context={"plan": "pro"}))).variants["on"].users == 1
    assert (await outcomes_of(*events, until=BASE + timedelta(minutes=20))).variants == {"on": VariantOutcomes(2, 0)}


async def test_only_numbers_are_summed():
    values = [1, 2.5, True, "3", None, [4]]
    found = await outcomes_of(seen("a", "on"), *(did("a", 1, value) for value in values))
    assert found.variants["on"] == VariantOutcomes(1, 1, 2, 3.5)


async def test_a_flag_named_like_its_outcome_is_kept_apart_from_it():
    aggregator = AnalyticsAggregator(
        EventsSource(lambda: [seen("a", "on").replace(flag_key="purchase"), did("a", 1, 5)]), clock=ManualClock(NOW).now
    )
    everything = EventFilter(kinds=("evaluation", "exposure", "outcome"))
    found = await aggregator.get_outcomes("purchase", "purchase", where=everything)
    assert found.variants == {"on": VariantOutcomes(1, 1, 1, 5.0)}


async def test_a_pipeline_records_outcomes_that_are_no_evaluations():
    async with open_pipeline({"collectors": {"memory": {}}}) as pipeline:
        await pipeline.record(FlagEvaluationEvent.now("checkout", True, "SPLIT", variant="on", targeting_key="ada"))
        assert pipeline.record_outcome("purchase", user="ada", value=9.5, attributes={"currency": "EUR"})
        aggregator = pipeline.aggregator
        found = await aggregator.get_outcomes("checkout", "purchase")
        assert [flag.flag_key for flag in await aggregator.list_flags(None)] == ["checkout"]
        assert (await aggregator.get_flag_metrics("purchase")).total_evaluations == 0
        assert (await aggregator.get_flag_metrics("checkout")).total_evaluations == 1
        event = (await pipeline.collectors["memory"].get_events("purchase"))[0]
    assert found.variants == {"on": VariantOutcomes(1, 1, 1, 9.5)}
    assert (event.kind, event.value, event.context_attributes) == ("outcome", 9.5, {"currency": "EUR"})


async def test_a_source_that_knows_no_outcomes_says_so():
    whole = EventsSource(list)

    class Half:
        summarise, get_exposures, list_flags = whole.summarise, whole.get_exposures, whole.list_flags
        count_steps, count_future = whole.count_steps, whole.count_future

    with pytest.raises(SourceError, match=r"Half cannot be asked about outcomes: expected a source with get_outcomes"):
        await AnalyticsAggregator(Half()).get_outcomes("checkout", "purchase")


# --- the comparison


def experiment(control: tuple[int, int] = (48, 80), treatment: tuple[int, int] = (56, 70), **fields: Any) -> Outcomes:
    arms = {
        "control": VariantOutcomes(control[1], control[0]),
        "treatment": VariantOutcomes(treatment[1], treatment[0]),
    }
    return Outcomes("checkout", "purchase", arms, **fields)


def test_a_difference_has_newcombe_s_interval():
    (difference,) = experiment().differences("control").values()
    assert difference.difference == pytest.approx(0.2)
    # Newcombe (1998), table II, case (a), method 10.
    assert (round(difference.low, 4), round(difference.high, 4)) == (0.0524, 0.3339)
    assert difference.is_significant
    assert not experiment((48, 80), (42, 70)).differences("control")["treatment"].is_significant


@given(st.integers(0, 50), st.integers(1, 50), st.integers(0, 50), st.integers(1, 50))
def test_an_interval_of_a_difference_holds_it_and_is_turned_round_with_it(one, of_one, other, of_other):
    one, other = min(one, of_one), min(other, of_other)
    low, high = newcombe_interval(one, of_one, other, of_other)
    assert -1 <= low <= one / of_one - other / of_other + 1e-12
    assert one / of_one - other / of_other - 1e-12 <= high <= 1
    turned = newcombe_interval(other, of_other, one, of_one)
    assert math.isclose(turned[0], -high, abs_tol=1e-12)
    assert math.isclose(turned[1], -low, abs_tol=1e-12)


def test_of_nothing_nothing_is_known():
    assert newcombe_interval(0, 0, 1, 2) == (-1.0, 1.0)


def test_a_control_that_nobody_saw_is_refused_with_those_that_were_seen():
    with pytest.raises(ValueError, match=r"no user saw 'off' first: expected a control of control, treatment"):
        experiment().differences("off")


def test_nothing_speaks_against_a_sound_experiment():
    assert experiment().doubts() == []
    assert experiment((1, 900), (1, 100)).doubts(expect={"control": 0.9, "treatment": 0.1}) == []


async def test_every_reason_against_a_verdict_is_said():
    assert (
        experiment((1, 900), (1, 100)).doubts()[0].startswith("the sizes of the arms do not match equal shares (p = ")
    )
    assert "match the plan" in experiment((1, 900), (1, 100)).doubts(expect={"control": 0.5, "treatment": 0.5})[0]
    assert experiment(crossover_users=1_234).doubts() == ["1,234 users saw more than one variant"]
    assert experiment(sampled=True).doubts()[0].startswith("events are sampled")
    assert "fewer than two variants" in Outcomes("f", "m", {"on": VariantOutcomes(1)}).doubts()[0]
    with open_pipeline({"collectors": {"memory": {}}}) as pipeline:
        stats = pipeline.stats()
    assert experiment().doubts(stats=stats) == []
    lossy = attrs.evolve(stats, refused={"overflow": 3, "filtered": 9, "error": 2})
    assert experiment().doubts(stats=lossy) == ["events are missing: the ledger shows 5 lost"]


async def test_sampled_exposures_and_outcomes_are_noticed():
    assert not (await outcomes_of(seen("a", "on"), did("a", 1))).sampled
    assert (await outcomes_of(seen("a", "on", sample_rate=0.5), did("a", 1))).sampled
    assert (await outcomes_of(seen("a", "on"), did("a", 1, sample_rate=0.5))).sampled
    assert not (await outcomes_of(seen("a", "on"), did("b", 1, sample_rate=0.5))).sampled
