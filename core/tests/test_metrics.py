"""The arithmetic of metrics: what is counted in parts amounts to what is counted at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flag_analytics.events import EvaluationReason, FlagEvaluationEvent
from flag_analytics.freezer import Freezer
from flag_analytics.metrics import (
    Digest,
    Tally,
    canonical_filter,
    count_steps,
    percentile,
    select,
    step_bounds,
    step_count,
    step_length,
)
from flag_analytics.sources import EventFilter, Window
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
PERCENTILES = (0.0, 12.5, 50.0, 99.9, 100.0)

events = st.builds(
    lambda seconds, *fields, **named: FlagEvaluationEvent(
        NOW + timedelta(seconds=seconds), "flag", None, *fields, **named
    ),
    st.integers(-5, 5),
    st.sampled_from([EvaluationReason.ERROR, "SPLIT", "MINE"]),
    st.sampled_from([None, "", "default", "on"]),
    st.sampled_from([None, "", "u", "v", "w"]),
    st.just({}),
    st.sampled_from([0.0, -1.0, float("inf")]) | st.floats(1e-3, 1e3),
    kind=st.sampled_from(["evaluation", "exposure", "outcome"]),
)


@given(st.lists(st.lists(events, max_size=8), max_size=5), st.randoms(use_true_random=False))
def test_digests_merged_in_any_order_amount_to_all_events_at_once(parts: list[list[Any]], random: Any) -> None:
    whole, merged, added = Tally(), Tally(), Tally()
    whole.add([event for part in parts for event in part])
    for part in random.sample(parts, len(parts)):
        added.add(part)
        if part:
            merged.merge(Digest.of(part))
    assert merged.summary(PERCENTILES) == added.summary(PERCENTILES) == whole.summary(PERCENTILES)


@given(st.lists(events))
def test_frozen_events_count_as_what_they_were_made_of(some: list[Any]) -> None:
    plain, frozen = Tally(), Tally()
    plain.add([event for event in some if event.evaluation_duration_ms != float("inf")])
    frozen.add([Freezer().freeze(event) for event in some if event.evaluation_duration_ms != float("inf")])
    assert plain.summary(PERCENTILES) == frozen.summary(PERCENTILES)


def test_a_summary_is_of_plain_text_and_plain_dicts() -> None:
    tally = Tally()
    tally.add([FlagEvaluationEvent(NOW, "flag", 1, EvaluationReason.SPLIT)])
    summary = tally.summary()
    assert type(summary.reasons) is type(summary.variants) is dict
    assert [type(reason) for reason in summary.reasons] == [str]
    assert summary.percentiles == {}


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 10.0), (25, 17.5), (50, 25.0), (100, 40.0), (99, 39.7), (1e-9, 10.0)]
)
def test_percentiles_lie_on_the_line_between_neighbours(percent: float, expected: float) -> None:
    assert percentile([10.0, 20.0, 30.0, 40.0], percent) == pytest.approx(expected)
    assert percentile([7.0], percent) == 7.0


@given(st.lists(st.floats(1e-6, 1e6), min_size=1), st.lists(st.floats(0, 100), min_size=2, max_size=2))
def test_a_higher_percentile_is_never_a_lower_value(values: list[float], percents: list[float]) -> None:
    ordered = sorted(values)
    low, high = sorted(percents)
    assert percentile(ordered, low) <= percentile(ordered, high) * (1 + 1e-12)


def test_a_window_includes_both_of_its_ends() -> None:
    moments = [NOW + timedelta(microseconds=n) for n in range(5)]
    recorded = [FlagEvaluationEvent(moment, "flag", 1, "STATIC") for moment in moments]
    assert [event.timestamp for event in select(recorded, Window(moments[1], moments[3]))] == moments[1:4]
    assert len(select(recorded, Window(None, moments[2]))) == 3
    assert select(recorded, Window(moments[3], moments[1])) == []


def test_a_filter_in_canonical_form_stays_the_same() -> None:
    where = EventFilter("prod\0", "p" * 300, "v\0", {"a\0": float("nan"), "n": 2**70})
    once = canonical_filter(where)
    assert once == canonical_filter(once)
    assert once.required_context() == {"environment": "prod\ufffd", "a\ufffd": None, "n": str(2**70)}
    assert (len(once.provider_name or ""), once.variant) == (190, "v\ufffd")
    assert canonical_filter(None) == canonical_filter(EventFilter()) == EventFilter()


def _freeze(**context: Any) -> Any:
    return Freezer().freeze(FlagEvaluationEvent(NOW, "flag", None, "STATIC", context_attributes=context))


def test_a_filter_too_large_for_an_event_keeps_all_that_it_asks_for() -> None:
    context = {f"a{number}": "x" * 100 for number in range(2_000)}
    where = canonical_filter(EventFilter("prod", context=context))
    assert where.environment == "prod"
    assert where.required_context() == context | {"environment": "prod"}
    assert where == canonical_filter(where)


def test_an_event_passes_a_filter_only_with_all_that_it_asks_for() -> None:
    asked = {f"{number:x}": 1 for number in range(1_300)}
    whole, without_the_last = _freeze(**asked), _freeze(**dict(list(asked.items())[:-1]))
    window = Window(None, NOW)
    where = EventFilter(context=asked)
    assert select([whole, without_the_last], window, canonical_filter(where)) == [whole]
    # As many as no event can have: the first 900 alone do not do.
    first = {f"a{number}": "x" * 20 for number in range(900)}
    more = first | {f"b{number}": "x" * 20 for number in range(2_000)}
    assert select([_freeze(**first)], window, canonical_filter(EventFilter(context=first)))
    assert select([_freeze(**first)], window, canonical_filter(EventFilter(context=more))) == []


def test_what_was_cut_when_it_was_recorded_is_found_by_the_whole_of_it() -> None:
    context = {"body": "x" * 70_000, "plan": "pro"}
    event = _freeze(**context)
    assert select([event], Window(None, NOW), canonical_filter(EventFilter(context=context))) == [event]


@pytest.mark.parametrize("context", [{"n" * 70_000: 1}, {"n" * 70_000: 1, "plan": "pro"}])
def test_what_no_event_can_have_is_found_in_none(context: dict[str, Any]) -> None:
    recorded = [_freeze(), _freeze(plan="pro"), _freeze(**context)]
    environment = context.get("environment")
    for where in (EventFilter(context=context), EventFilter(environment, context=context)):
        once = canonical_filter(where)
        assert select(recorded, Window(None, NOW), once) == []
        assert once == canonical_filter(once)


@given(st.integers(0, 10**7), st.integers(1, 10**7))
def test_steps_are_counted_in_whole_microseconds(window_us: int, step_us: int) -> None:
    window = Window(NOW, NOW + timedelta(microseconds=window_us))
    step = step_length(step_us / 1e6)
    count = step_count(window, step)
    assert count == -(-window_us // step_us)
    if count:
        start, end = step_bounds(window, step, count - 1)
        assert start < window.end == end


@pytest.mark.parametrize("offset", [0, 1, 999_999, 1_000_000, 1_000_001, 2_499_999, 2_500_000])
def test_an_event_belongs_to_the_step_it_happened_in(offset: int) -> None:
    window = Window(NOW, NOW + timedelta(seconds=2.5))
    event = FlagEvaluationEvent(NOW + timedelta(microseconds=offset), "flag", 1, "ERROR", None, "u")
    ((number, step),) = count_steps([event], window, 1).items()
    assert number == offset // 1_000_000
    assert (step.count, step.errors, step.unique_users) == (1, 1, 1)
    assert step.start <= event.timestamp <= step.end


@pytest.mark.parametrize("step", ["1", None, True])
def test_a_step_that_is_no_number_is_refused(step: Any) -> None:
    with pytest.raises(TypeError, match=r"step_seconds is .*: expected a number of seconds"):
        step_length(step)
