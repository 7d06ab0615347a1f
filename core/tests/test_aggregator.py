"""Metrics are exact, over any event source, in any window."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from flag_analytics.aggregator import MAX_STEPS, AnalyticsAggregator, FlagMetrics
from flag_analytics.errors import SourceError
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.freezer import Freezer
from flag_analytics.frozen import FrozenEvent
from flag_analytics.marshalled import MarshalledSource
from flag_analytics.metrics import EventsSource
from flag_analytics.sources import (
    EXACT,
    NO_VALUE,
    OTHER_GROUP,
    PARTS,
    Accuracy,
    EventFilter,
    EventSource,
    FlagActivity,
    FlagSummary,
    TimeStep,
    Window,
)
from flag_analytics.testing import ManualClock
from flag_analytics.testing.samples import plain_event
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


class ListSource(EventsSource):
    """A list of events that remembers the parts it was asked for."""

    def __init__(self, events: Iterable[FlagEvaluationEvent]) -> None:
        frozen: list[FrozenEvent] = [Freezer().freeze(event) for event in events]
        super().__init__(lambda: frozen)
        self.calls: list[tuple[Any, ...]] = []

    async def summarise(self, flag_keys: Sequence[str], window: Window, **asked: Any) -> Mapping[str, FlagSummary]:
        self.calls.append((tuple(flag_keys), window, asked["parts"]))
        return await super().summarise(flag_keys, window, **asked)


def event(seconds_ago: float = 1.0, **fields: Any) -> FlagEvaluationEvent:
    defaults = {"flag_key": "flag", "variant": None, "targeting_key": None, "evaluation_duration_ms": 0.0}
    return plain_event(timestamp=NOW - timedelta(seconds=seconds_ago), **(defaults | fields))


def aggregator(*events: FlagEvaluationEvent) -> AnalyticsAggregator:
    return AnalyticsAggregator(ListSource(events), clock=ManualClock(NOW).now)


# --- one flag


async def test_the_rate_is_events_per_second_of_the_window() -> None:
    metrics = aggregator(*(event(second) for second in range(30)))
    assert await metrics.get_evaluation_rate("flag") == 30 / 60
    assert await metrics.get_evaluation_rate("flag", 10) == 11 / 10  # both ends belong to the window
    assert await metrics.get_evaluation_rate("other") == 0.0


async def test_a_window_of_no_length_has_no_rate() -> None:
    metrics = aggregator(event(0))
    assert await metrics.get_evaluation_rate("flag", 0) == 0.0
    assert (await metrics.get_flag_metrics("flag", 0)).evaluation_rate == 0.0


async def test_without_a_window_the_rate_is_over_the_time_since_the_first_event() -> None:
    metrics = aggregator(event(20), event(10), event(5))
    assert await metrics.get_evaluation_rate("flag", None) == 3 / 20
    all_time = await metrics.get_flag_metrics("flag", None)
    assert (all_time.evaluation_rate, all_time.window_start) == (3 / 20, NOW - timedelta(seconds=20))
    assert await aggregator(event(0)).get_evaluation_rate("flag", None) == 0.0
    assert await aggregator().get_evaluation_rate("flag", None) == 0.0


async def test_users_are_distinct_targeting_keys_that_are_not_empty() -> None:
    metrics = aggregator(*(event(targeting_key=key) for key in ("a", "b", "a", "A", "", None)))
    assert await metrics.get_unique_users("flag") == 3


async def test_no_variant_and_an_empty_one_count_as_default() -> None:
    metrics = aggregator(*(event(variant=variant) for variant in (None, "", "default", "on", "on")))
    assert await metrics.get_variant_distribution("flag") == {"default": 3, "on": 2}


async def test_any_reason_is_counted_under_its_name_as_plain_text() -> None:
    metrics = aggregator(*(event(reason=reason) for reason in ("SPLIT", "SPLIT", "MINE", "ERROR")))
    reasons = await metrics.get_reason_distribution("flag")
    assert reasons == {"SPLIT": 2, "MINE": 1, "ERROR": 1}
    assert {type(reason) for reason in reasons} == {str}


async def test_the_error_rate_is_in_percent() -> None:
    metrics = aggregator(event(reason="ERROR"), event(), event(), event(reason="error"))
    assert await metrics.get_error_rate("flag") == 25.0
    assert await metrics.get_error_rate("other") == 0.0


async def test_percentiles_leave_out_durations_that_were_not_measured() -> None:
    metrics = aggregator(*(event(evaluation_duration_ms=d) for d in (0.0, -1.0, 4.0, 1.0, 3.0, 2.0, float("nan"))))
    assert await metrics.get_latency_percentiles("flag") == pytest.approx({50.0: 2.5, 90.0: 3.7, 99.0: 3.97})
    assert await metrics.get_latency_percentiles("flag", [0, 100]) == {0.0: 1.0, 100.0: 4.0}
    assert await metrics.get_latency_percentiles("flag", []) == {}
    assert await metrics.get_latency_percentiles("other") == {50.0: 0.0, 90.0: 0.0, 99.0: 0.0}


async def test_percentiles_obey_the_window_asked_for() -> None:
    metrics = aggregator(event(5_000, evaluation_duration_ms=9.0), event(1, evaluation_duration_ms=1.0))
    assert await metrics.get_latency_percentiles("flag", [50.0]) == {50.0: 1.0}
    assert await metrics.get_latency_percentiles("flag", [50.0], 7_200) == {50.0: 5.0}


@pytest.mark.parametrize("percent", [-0.1, 100.1, float("nan"), float("inf"), "50", None, True])
async def test_a_percentile_outside_0_to_100_is_refused(percent: Any) -> None:
    with pytest.raises(ValueError, match=r"percentile .* is out of range: expected numbers from 0 to 100"):
        await aggregator(event()).get_latency_percentiles("flag", [50.0, percent])


@given(st.lists(st.floats(1e-6, 1e6), min_size=2), st.floats(0, 100))
async def test_percentiles_are_those_of_definition_seven(durations: list[float], percent: float) -> None:
    metrics = aggregator(*(event(evaluation_duration_ms=duration) for duration in durations))
    found = await metrics.get_latency_percentiles("flag", [0, percent, 50, 100])
    assert found[0] == min(durations)
    assert found[100] == max(durations)
    assert found[50] == pytest.approx(statistics.median(durations))
    assert min(durations) <= found[percent] * (1 + 1e-12)
    assert found[percent] <= max(durations) * (1 + 1e-12)
    quartiles = statistics.quantiles(durations, n=4, method="inclusive")
    assert list((await metrics.get_latency_percentiles("flag", [25, 50, 75])).values()) == pytest.approx(quartiles)


async def test_all_metrics_of_a_flag_agree_with_each_other() -> None:
    events = [
        event(n, reason="ERROR" if n % 4 == 0 else "SPLIT", variant=f"v{n % 3}", targeting_key=f"u{n % 5}")
        for n in range(40)
    ]
    metrics = aggregator(*events, event(flag_key="other"))
    found = await metrics.get_flag_metrics("flag", 100)
    assert found == FlagMetrics(
        evaluation_rate=await metrics.get_evaluation_rate("flag", 100),
        unique_users=await metrics.get_unique_users("flag", 100),
        variant_distribution=await metrics.get_variant_distribution("flag", 100),
        reason_distribution=await metrics.get_reason_distribution("flag", 100),
        error_rate=await metrics.get_error_rate("flag", 100),
        total_evaluations=40,
        window_start=NOW - timedelta(seconds=100),
        window_end=NOW,
        variant_users={"v0": 5, "v1": 5, "v2": 5},
        crossover_users=5,
    )
    assert found.error_rate == 25.0


async def test_a_flag_without_events_has_a_window_all_the_same() -> None:
    empty = FlagMetrics(window_start=NOW - timedelta(hours=1), window_end=NOW)
    assert await aggregator(event()).get_flag_metrics("other") == empty
    assert await aggregator(event()).get_flag_metrics("other", None) == FlagMetrics(window_start=NOW, window_end=NOW)


def test_metrics_have_the_references_fields_in_its_order() -> None:
    fields = FlagMetrics(1.0, 2, {"a": 3}, {"b": 4}, 5.0, 6.0, 7.0, 8.0, 9, NOW, None).to_dict()
    assert fields == {
        "evaluation_rate": 1.0,
        "unique_users": 2,
        "variant_distribution": {"a": 3},
        "reason_distribution": {"b": 4},
        "error_rate": 5.0,
        "latency_p50": 6.0,
        "latency_p90": 7.0,
        "latency_p99": 8.0,
        "total_evaluations": 9,
        "window_start": "2026-01-31T12:00:00+00:00",
        "window_end": None,
        "variant_users": {},
        "crossover_users": 0,
        "estimated": False,
        "accuracy": {"bounds": {}, "missing": [], "complete_since": None},
    }
    assert list(fields) == list(FlagMetrics().to_dict())


# --- fast answers


class RolledUpSource(ListSource):
    """A source that says within which bounds it answered a fast question."""

    rolls_up = True

    def __init__(self, events: Iterable[FlagEvaluationEvent], accuracy: Accuracy = EXACT) -> None:
        super().__init__(events)
        self.accuracy = accuracy
        self.asked: list[str | None] = []

    async def summarise(
        self, flag_keys: Sequence[str], window: Window, *, accuracy: str | None = None, **asked: Any
    ) -> Mapping[str, FlagSummary]:
        self.asked.append(accuracy)
        found = await super().summarise(flag_keys, window, **asked)
        return {key: attrs.evolve(summary, accuracy=self.accuracy) for key, summary in found.items()}

    async def list_flags(self, window: Window, *, accuracy: str | None = None, **asked: Any) -> Sequence[FlagActivity]:
        self.asked.append(accuracy)
        return await super().list_flags(window, **asked)

    async def count_steps(
        self, flag_key: str, window: Window, step_seconds: float, *, accuracy: str | None = None, **asked: Any
    ) -> Mapping[int, TimeStep]:
        self.asked.append(accuracy)
        return await super().count_steps(flag_key, window, step_seconds, **asked)


async def test_a_fast_question_reaches_a_source_with_rollups_and_only_when_it_is_asked_for() -> None:
    source = RolledUpSource([event()])
    asking = AnalyticsAggregator(source, clock=ManualClock(NOW).now)
    for scope in ({}, {"accuracy": "exact"}, {"accuracy": "fast"}):
        await asking.get_flag_metrics("flag", **scope)
        await asking.get_metrics(["flag"], group_by="variant", **scope)
        await asking.list_flags(**scope)
        await asking.get_time_series("flag", **scope)
    assert source.asked == [None] * 8 + ["fast"] * 4


async def test_a_source_without_rollups_answers_a_fast_question_exactly() -> None:
    asking = aggregator(event(), event())
    assert (await asking.get_flag_metrics("flag", accuracy="fast")).accuracy == EXACT
    assert [flag.count for flag in await asking.list_flags(accuracy="fast")] == [2]
    assert (await asking.get_exposures("flag", accuracy="fast")).users == 0


async def test_a_source_whose_questions_go_to_its_own_loop_is_asked_for_fast_answers_too() -> None:
    source = RolledUpSource([event()])
    wrapped = MarshalledSource(source, lambda _: None)
    await AnalyticsAggregator(wrapped, clock=ManualClock(NOW).now).get_flag_metrics("flag", accuracy="fast")
    assert source.asked == ["fast"]
    assert not MarshalledSource(ListSource([]), lambda _: None).rolls_up


async def test_metrics_carry_the_bounds_of_their_answer_and_leave_out_what_is_missing() -> None:
    bounds = Accuracy({"users": 0.01}, frozenset({"latency", "variant_users"}), NOW)
    asking = AnalyticsAggregator(RolledUpSource([event()], bounds), clock=ManualClock(NOW).now)
    metrics = await asking.get_flag_metrics("flag", accuracy="fast")
    assert metrics.accuracy == bounds
    fields = metrics.to_dict()
    assert fields["accuracy"] == {
        "bounds": {"users": 0.01},
        "missing": ["latency", "variant_users"],
        "complete_since": "2026-01-31T12:00:00+00:00",
    }
    assert [fields[name] for name in ("latency_p50", "latency_p90", "latency_p99", "variant_users")] == [None] * 4
    assert fields["unique_users"] == 0


async def test_an_unknown_accuracy_is_refused() -> None:
    with pytest.raises(ValueError, match="accuracy is 'roughly': expected exact or fast"):
        await aggregator(event()).list_flags(accuracy="roughly")  # type: ignore[arg-type]


# --- users by variant


async def test_users_are_counted_by_variant_however_often_they_were_evaluated() -> None:
    events = [event(variant="a", targeting_key=f"u{n % 4}") for n in range(24)]
    events += [event(variant="b", targeting_key=f"v{n}") for n in range(6)]
    events += [event(variant="b", targeting_key="u0"), event(targeting_key="u1"), event(variant="b", targeting_key="")]
    found = await aggregator(*events).get_flag_metrics("flag")
    assert found.variant_users == {"a": 4, "b": 7, "default": 1}
    assert found.unique_users == 10
    assert found.crossover_users == 2


def seen(*variants: str | None, user: str = "u", version: str | None = None) -> list[FlagEvaluationEvent]:
    """Return one user's events, one second after another."""
    return [
        event(100 - second, variant=variant, targeting_key=user, flag_version=version)
        for second, variant in enumerate(variants)
    ]


async def test_exposures_count_users_by_the_variant_they_saw_first() -> None:
    events = [*seen("a", "a"), *seen("b", "a", user="v"), *seen(None, user="w"), *seen("a", user="")]
    found = await aggregator(*reversed(events)).get_exposures("flag")
    assert found.users == 3
    assert found.first_variant_users == {"a": 1, "b": 1, "default": 1}
    assert (found.crossover_users, found.switch_back_users) == (1, 0)
    assert (found.window_start, found.window_end) == (NOW - timedelta(hours=1), NOW)


@pytest.mark.parametrize(
    ("variants", "crossed", "switched_back"),
    [("aaa", 0, 0), ("ab", 1, 0), ("aabbcc", 1, 0), ("aba", 1, 1), ("abcb", 1, 1), ("abab", 1, 1), ("abcca", 1, 1)],
)
async def test_a_variant_seen_again_after_another_is_a_switch_back(
    variants: str, crossed: int, switched_back: int
) -> None:
    found = await aggregator(*seen(*variants)).get_exposures("flag", None)
    assert (found.crossover_users, found.switch_back_users) == (crossed, switched_back)
    assert (found.window_start, found.first_variant_users) == (None, {"a": 1})


async def test_variants_of_one_moment_are_in_the_order_of_their_names() -> None:
    one_moment = [event(variant=variant, targeting_key="u") for variant in ("b", "c", "a", "b")]
    found = await aggregator(*one_moment).get_exposures("flag")
    assert (found.first_variant_users, found.switch_back_users) == ({"a": 1}, 0)


async def test_exposures_by_version_look_at_each_version_alone() -> None:
    events = [*seen("a", version="1"), *seen(None, "b", "a", version="2"), *seen("b", user="v")]
    found = await aggregator(*events).get_exposures("flag")
    assert (found.users, found.crossover_users) == (2, 1)
    assert {version: each.first_variant_users for version, each in found.by_version.items()} == {
        "1": {"a": 1},
        "2": {"default": 1},
        NO_VALUE: {"b": 1},
    }
    assert [each.crossover_users for each in found.by_version.values()] == [0, 1, 0]


async def test_the_versions_beyond_fifty_are_counted_together() -> None:
    events = [one for n in range(60) for one in seen("a", user=f"u{n}", version=f"{n:02}")]
    found = await aggregator(*events).get_exposures("flag")
    assert len(found.by_version) == 51
    assert found.by_version[OTHER_GROUP].users == 10
    assert found.by_version["49"].users == 1


# --- errors


async def test_an_event_with_an_error_type_is_an_error_whatever_its_reason() -> None:
    events = [
        event(reason="DEFAULT", error_type="FLAG_NOT_FOUND"),
        event(reason="ERROR", error_type="GENERAL"),
        event(reason="ERROR"),
        event(error_type=""),
        event(),
    ]
    metrics = aggregator(*events)
    assert await metrics.get_error_rate("flag") == 60.0
    assert (await metrics.get_flag_metrics("flag")).error_rate == 60.0
    assert sum(step.errors for step in await metrics.get_time_series("flag")) == 3
    assert await metrics.get_reason_distribution("flag") == {"DEFAULT": 1, "ERROR": 2, "SPLIT": 2}


# --- samples


async def test_samples_are_counted_back_with_their_weights() -> None:
    events = [
        *(event(n, targeting_key=f"u{n}", variant="a", sample_rate=0.1, evaluation_duration_ms=1.0) for n in range(9)),
        event(9, targeting_key="u0", variant="b", reason="ERROR", evaluation_duration_ms=3.0),
        event(9, targeting_key="v", variant="b", reason="ERROR", evaluation_duration_ms=2.0),
    ]
    metrics = aggregator(*events)
    found = await metrics.get_flag_metrics("flag", 100)
    assert found.estimated
    assert (found.total_evaluations, found.evaluation_rate) == (92, 0.92)
    assert found.variant_distribution == {"a": 90, "b": 2}
    assert found.reason_distribution == {"SPLIT": 90, "ERROR": 2}
    assert found.error_rate == 2 / 92 * 100
    assert found.unique_users == 82  # an error is always kept: with one, a user is seen for certain
    assert found.variant_users == {"a": 90, "b": 2}
    assert found.crossover_users == 10
    assert (found.latency_p50, found.latency_p99) == (1.0, 2.0 + 0.99 * 91 - 90)
    exposures = await metrics.get_exposures("flag")
    assert (exposures.users, exposures.crossover_users, exposures.estimated) == (82, 10, True)
    (activity,) = await metrics.list_flags()
    assert (activity.count, activity.estimated) == (92, True)
    series = await metrics.get_time_series("flag", 10, 5)
    assert [(step.count, step.errors, step.unique_users) for step in series] == [(32, 2, 32), (60, 0, 60)]
    assert all(step.estimated for step in series)


async def test_without_samples_nothing_is_estimated() -> None:
    metrics = aggregator(event(targeting_key="u"))
    assert not (await metrics.get_flag_metrics("flag")).estimated
    assert not (await metrics.get_exposures("flag")).estimated
    assert not (await metrics.list_flags())[0].estimated
    assert not any(step.estimated for step in await metrics.get_time_series("flag"))


# --- groups


async def test_metrics_by_group_are_those_of_the_groups_events() -> None:
    plans = ["pro", "pro", "free", None, 1, "1", 1.0, True, "true", [1, "é"], {"a": None}]
    events = [event(context_attributes={"plan": plan}, targeting_key=f"u{n}") for n, plan in enumerate(plans)]
    found = await aggregator(*events, event(context_attributes={})).get_metrics(
        ["flag", "none"], group_by="context.plan"
    )
    assert {name: metrics.total_evaluations for name, metrics in found["flag"].items()} == {
        "pro": 2,
        "free": 1,
        NO_VALUE: 2,
        "1": 2,
        "1.0": 1,
        "true": 2,
        '[1,"é"]': 1,
        '{"a":null}': 1,
    }
    assert found["flag"]["pro"].unique_users == 2
    assert found["none"] == {}


@pytest.mark.parametrize(
    ("group_by", "names"),
    [
        ("variant", {"default", "b"}),
        ("reason", {"SPLIT", "ERROR"}),
        ("flag_version", {NO_VALUE, "2"}),
        ("environment", {NO_VALUE, "prod"}),
    ],
)
async def test_events_are_grouped_by_a_field_or_an_attribute(group_by: str, names: set[str]) -> None:
    other = event(variant="b", reason="ERROR", flag_version="2", context_attributes={"environment": "prod"})
    metrics = aggregator(event(), other)
    assert (await metrics.get_metrics(["flag"], group_by=group_by))["flag"].keys() == names
    assert (await metrics.get_time_series("flag", group_by=group_by)).keys() == names


async def test_the_smallest_groups_are_one() -> None:
    events = [event(variant=variant) for variant in "aaabbccd"]
    found = (await aggregator(*events).get_metrics(["flag"], group_by="variant", max_groups=2))["flag"]
    assert {name: metrics.total_evaluations for name, metrics in found.items()} == {"a": 3, "b": 2, OTHER_GROUP: 3}
    assert found[OTHER_GROUP].variant_distribution == {"c": 2, "d": 1}


async def test_a_series_by_group_has_every_step_for_every_group() -> None:
    metrics = aggregator(event(25, variant="a"), event(5, variant="b", targeting_key="u"))
    found = await metrics.get_time_series("flag", 30, 10, group_by="variant")
    assert {name: [step.count for step in steps] for name, steps in found.items()} == {"a": [1, 0, 0], "b": [0, 0, 1]}
    assert await metrics.get_time_series("none", 30, 10, group_by="variant") == {}
    assert await metrics.get_time_series("flag", 0, 10, group_by="variant") == {}


@pytest.mark.parametrize("group_by", ["", "plan", "context", "variants", 5])
async def test_an_unknown_dimension_is_refused(group_by: Any) -> None:
    with pytest.raises(ValueError, match=r"group_by is .*: expected variant, reason, flag_version, environment or con"):
        await aggregator().get_metrics(["flag"], group_by=group_by)
    with pytest.raises(ValueError, match="group_by is"):
        await aggregator().get_time_series("flag", group_by=group_by)


@pytest.mark.parametrize("most", [0, -1, 1_001, True, "2", 1.0])
async def test_a_number_of_groups_out_of_range_is_refused(most: Any) -> None:
    with pytest.raises(ValueError, match=r"max_groups is .*: expected an integer from 1 to 1,000"):
        await aggregator().get_metrics(["flag"], group_by="variant", max_groups=most)


# --- windows and filters


async def test_a_window_ends_now_and_counts_nothing_of_the_future() -> None:
    metrics = aggregator(event(0), event(-0.000001), event(-3600))
    assert (await metrics.get_flag_metrics("flag")).total_evaluations == 1
    assert (await metrics.get_flag_metrics("flag", None)).total_evaluations == 1
    assert await metrics.count_future() == 2


async def test_until_ends_the_window_earlier_but_never_later_than_now() -> None:
    metrics = aggregator(event(50), event(30), event(10), event(-10))
    earlier = await metrics.get_flag_metrics("flag", 30, until=NOW - timedelta(seconds=20))
    assert earlier.total_evaluations == 2
    assert (earlier.window_start, earlier.window_end) == (NOW - timedelta(seconds=50), NOW - timedelta(seconds=20))
    later = await metrics.get_flag_metrics("flag", 30, until=NOW + timedelta(days=1))
    assert (later.total_evaluations, later.window_end) == (2, NOW)


async def test_until_may_be_in_any_zone_and_is_utc_without_one() -> None:
    metrics = aggregator()
    moment = datetime(2026, 1, 31, 10, tzinfo=UTC)
    for until in (moment, moment.replace(tzinfo=None), moment.astimezone(timezone(timedelta(hours=9)))):
        assert (await metrics.get_flag_metrics("flag", until=until)).window_end == moment


@pytest.mark.parametrize("window", [1e12, 1e300, 10**400])
async def test_a_window_beyond_the_calendar_is_all_time(window: float) -> None:
    metrics = await aggregator(event(1e9)).get_flag_metrics("flag", window)
    assert metrics.total_evaluations == 1
    assert metrics.evaluation_rate == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("window", "error"),
    [(float("nan"), ValueError), (-1, ValueError), (-1e-9, ValueError), ("1h", TypeError), (True, TypeError)],
)
async def test_a_window_that_is_negative_or_not_a_number_is_refused(window: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"window_seconds is .*: expected .*seconds, or None for all time"):
        await aggregator().get_flag_metrics("flag", window)


async def test_outcomes_are_counted_only_where_they_are_asked_for() -> None:
    metrics = aggregator(event(), event(kind="exposure"), event(kind="outcome"))
    assert (await metrics.get_flag_metrics("flag")).total_evaluations == 2
    outcomes = await metrics.get_flag_metrics("flag", where=EventFilter(kinds=("outcome",)))
    assert outcomes.total_evaluations == 1


@pytest.mark.parametrize(
    ("where", "users"),
    [
        (EventFilter(environment="prod"), {"a"}),
        (EventFilter(provider_name="flagd"), {"b"}),
        (EventFilter(variant="on"), {"c"}),
        (EventFilter(variant="default"), {"a", "b", "d", "e", "f", "g"}),
        (EventFilter(variant=""), {"a", "b", "d", "e", "f", "g"}),
        (EventFilter(context={"n": 1}), {"d"}),
        (EventFilter(context={"n": 1.0}), {"d"}),
        (EventFilter(context={"n": True}), {"e"}),
        (EventFilter(context={"n": None}), {"f"}),
        (EventFilter(context={"n": "a\ufffd"}), {"g"}),
        (EventFilter(context={"n": "a\0"}), {"g"}),
        (EventFilter(environment="prod", context={"n": 1}), set()),
        (EventFilter(environment={"prod", "test"}), {"a"}),
        (EventFilter(variant={"on", "off"}), {"c"}),
        (EventFilter(variant=frozenset({"default", "on"})), {"a", "b", "c", "d", "e", "f", "g"}),
        (EventFilter(targeting_key={"a", "g", "z"}), {"a", "g"}),
        (EventFilter(targeting_key="a"), {"a"}),
        (EventFilter(reasons="ERROR"), {"b"}),
        (EventFilter(reasons={"ERROR", "DEFAULT"}, provider_name="flagd"), {"b"}),
        (EventFilter(flag_version="2"), {"c"}),
        (EventFilter(flag_set_id={"web"}), {"d"}),
        (EventFilter(context={"n": {1, None, "x"}}), {"d", "f"}),
        (EventFilter(context={"n": set()}), set()),
        (EventFilter(reasons=set()), set()),
        (EventFilter(targeting_key=set(), variant="on"), set()),
    ],
)
async def test_every_method_looks_only_at_events_that_pass_the_filter(where: EventFilter, users: set[str]) -> None:
    metrics = aggregator(
        event(targeting_key="a", context_attributes={"environment": "prod"}),
        event(targeting_key="b", provider_name="flagd", reason="ERROR"),
        event(targeting_key="c", variant="on", flag_version="2"),
        event(targeting_key="d", context_attributes={"n": 1}, flag_set_id="web"),
        event(targeting_key="e", context_attributes={"n": True}),
        event(targeting_key="f", context_attributes={"n": None}),
        event(targeting_key="g", context_attributes={"n": "a\0"}),
    )
    count = len(users)
    assert await metrics.get_evaluation_rate("flag", 10, where=where) == count / 10
    assert await metrics.get_unique_users("flag", where=where) == count
    assert sum((await metrics.get_variant_distribution("flag", where=where)).values()) == count
    assert sum((await metrics.get_reason_distribution("flag", where=where)).values()) == count
    assert (await metrics.get_flag_metrics("flag", where=where)).total_evaluations == count
    assert sum(flag.count for flag in await metrics.list_flags(where=where)) == count
    assert sum(step.count for step in await metrics.get_time_series("flag", where=where)) == count
    assert (await metrics.get_exposures("flag", where=where)).users == count


async def test_a_list_of_texts_is_refused_in_a_filter() -> None:
    with pytest.raises(TypeError, match=r"EventFilter.variant is a list: expected a text or a set of texts"):
        await aggregator().get_flag_metrics("flag", where=EventFilter(variant=["on"]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ([1], {"[1]", "[1.0]"}),
        ([True], {"[true]"}),
        ((1.0,), {"[1]", "[1.0]"}),
        ([1, "é"], {'[1,"é"]'}),
        ({"b": [2], "a": 1}, {'{"a":1.0,"b":[2]}'}),
        ({"a": 1}, set()),
        ([], {"[]"}),
        ({}, {"{}"}),
        ([2.0**60], {"[1152921504606846976]", "[1.152921504606847e18]"}),
    ],
)
async def test_nested_values_are_compared_as_json(wanted: Any, found: set[str]) -> None:
    values = [[1], [1.0], [True], [1, "é"], {"a": 1.0, "b": [2]}, [], {}, [2**60], [2.0**60], [[1]], 1, None]
    metrics = aggregator(*(event(context_attributes={"n": value}) for value in values))
    where = EventFilter(context={"n": wanted})
    assert (await metrics.get_metrics(["flag"], where=where, group_by="context.n"))["flag"].keys() == found


async def test_a_flag_is_found_by_the_key_it_was_recorded_with() -> None:
    odd = ["a\0b", "x" * 500, "\ud800", "naïve 🚩", ""]
    metrics = aggregator(*(event(flag_key=key) for key in odd))
    assert {key: m.total_evaluations for key, m in (await metrics.get_metrics(odd)).items()} == dict.fromkeys(odd, 1)


# --- many flags


async def test_many_flags_are_asked_about_at_once_and_answered_in_order() -> None:
    source = ListSource([event(flag_key=f"f{n % 3}") for n in range(7)])
    metrics = AnalyticsAggregator(source, clock=ManualClock(NOW).now)
    found = await metrics.get_metrics(["f2", "none", "f0", "f2"])
    assert {key: m.total_evaluations for key, m in found.items()} == {"f2": 2, "none": 0, "f0": 3}
    assert list(found) == ["f2", "none", "f0"]
    assert [keys for keys, _, _ in source.calls] == [("f2", "none", "f0")]
    assert await metrics.get_metrics([]) == {}


async def test_one_text_in_place_of_many_keys_is_refused() -> None:
    with pytest.raises(TypeError, match="flag_keys is one string: expected several keys"):
        await aggregator().get_metrics("flag")


async def test_flags_are_listed_with_their_first_and_last_event() -> None:
    metrics = aggregator(event(9, flag_key="b"), event(3, flag_key="b"), event(5, flag_key="a"), event(-5))
    assert await metrics.list_flags(60) == [
        FlagActivity("a", 1, NOW - timedelta(seconds=5), NOW - timedelta(seconds=5)),
        FlagActivity("b", 2, NOW - timedelta(seconds=9), NOW - timedelta(seconds=3)),
    ]
    assert [flag.flag_key for flag in await metrics.list_flags(4)] == ["b"]
    assert len(await metrics.list_flags(None)) == 2


# --- time series


async def test_a_time_series_has_every_step_also_the_empty_ones() -> None:
    metrics = aggregator(event(100, reason="ERROR", targeting_key="u"), event(100), event(10, targeting_key="u"))
    series = await metrics.get_time_series("flag", 120, 30)
    assert [step.count for step in series] == [2, 0, 0, 1]
    assert [step.errors for step in series] == [1, 0, 0, 0]
    assert [step.unique_users for step in series] == [1, 0, 0, 1]
    assert [(step.start - NOW).total_seconds() for step in series] == [-120, -90, -60, -30]
    assert series[-1].end == NOW


async def test_the_last_step_ends_with_the_window_and_has_its_last_moment() -> None:
    series = await aggregator(event(0), event(60), event(30)).get_time_series("flag", 60, 25)
    assert [step.count for step in series] == [1, 1, 1]
    assert [(step.end - step.start).total_seconds() for step in series] == [25, 25, 10]
    assert [step.unfinished for step in series] == [False, False, True]
    assert [step.count for step in await aggregator(event(0)).get_time_series("flag", 60, 30)] == [0, 1]


async def test_a_time_series_of_all_time_begins_with_the_first_event() -> None:
    series = await aggregator(event(50), event(20)).get_time_series("flag", None, 25)
    assert [step.count for step in series] == [1, 1]
    assert series[0].start == NOW - timedelta(seconds=50)
    assert await aggregator().get_time_series("flag", None) == []


async def test_a_time_series_of_no_length_has_no_steps() -> None:
    assert await aggregator(event(0)).get_time_series("flag", 0) == []


async def test_too_many_steps_are_refused_before_the_source_is_asked() -> None:
    source = ListSource([])
    metrics = AnalyticsAggregator(source, clock=ManualClock(NOW).now)
    assert len(await metrics.get_time_series("flag", MAX_STEPS / 1000, 0.001)) == MAX_STEPS
    with pytest.raises(ValueError, match=r"a window of 100,001 steps is too long: expected at most 100,000"):
        await metrics.get_time_series("flag", (MAX_STEPS + 1) / 1000, 0.001)
    assert source.calls == []


@pytest.mark.parametrize("step", [0, -1, 1e-9, float("nan"), float("inf")])
async def test_a_step_of_no_length_is_refused(step: float) -> None:
    with pytest.raises(ValueError, match=r"step_seconds is .*: expected a number of seconds, at least 0.000001"):
        await aggregator().get_time_series("flag", 60, step)


@given(
    offsets=st.lists(st.integers(0, 10_000_000), max_size=30),
    window_us=st.integers(1, 10_000_000),
    step_us=st.integers(1, 10_000_000),
)
async def test_the_steps_cover_the_window_without_gap_and_count_every_event_once(
    offsets: list[int], window_us: int, step_us: int
) -> None:
    step_us = max(step_us, math.ceil(window_us / 200))
    metrics = aggregator(*(event(offset / 1e6) for offset in offsets))
    series = await metrics.get_time_series("flag", window_us / 1e6, step_us / 1e6)
    assert series[0].start == NOW - timedelta(microseconds=window_us)
    assert series[-1].end == NOW
    assert all(one.end == other.start for one, other in itertools.pairwise(series))
    total = (await metrics.get_flag_metrics("flag", window_us / 1e6)).total_evaluations
    assert sum(step.count for step in series) == total


# --- sources


async def test_a_source_is_asked_only_for_the_parts_that_are_needed() -> None:
    source = ListSource([event()])
    metrics = AnalyticsAggregator(source, clock=ManualClock(NOW).now)
    await metrics.get_unique_users("flag")
    await metrics.get_error_rate("flag")
    await metrics.get_flag_metrics("flag")
    assert [parts for _, _, parts in source.calls] == [{"users"}, {"count", "errors"}, PARTS]


async def test_an_object_may_have_its_event_source_in_an_attribute() -> None:
    source = ListSource([event()])
    assert isinstance(source, EventSource)
    metrics = AnalyticsAggregator(SimpleNamespace(event_source=source), clock=ManualClock(NOW).now)
    assert (await metrics.get_flag_metrics("flag")).total_evaluations == 1


@pytest.mark.parametrize("source", [None, 5, object(), SimpleNamespace(event_source=None), []])
def test_what_nobody_can_read_events_from_is_refused(source: Any) -> None:
    with pytest.raises(SourceError, match=r"cannot read events from .*: expected"):
        AnalyticsAggregator(source)


def test_a_class_in_place_of_its_object_is_refused() -> None:
    with pytest.raises(SourceError, match="cannot read events from the class ListSource: expected one of its objects"):
        AnalyticsAggregator(ListSource)


async def test_the_time_is_that_of_the_systems_clock_by_default() -> None:
    now = datetime.now(UTC)
    source = ListSource([FlagEvaluationEvent(now, "flag", 1, "STATIC")])
    metrics = await AnalyticsAggregator(source).get_flag_metrics("flag", 60)
    assert metrics.total_evaluations == 1
    assert metrics.window_end is not None
    assert now <= metrics.window_end <= datetime.now(UTC)


def test_metrics_are_a_dataclass():
    metrics = FlagMetrics(unique_users=2, variant_distribution={"a": 3})
    assert dataclasses.replace(metrics, unique_users=3).unique_users == 3
    assert dataclasses.asdict(metrics)["variant_distribution"] == {"a": 3}
