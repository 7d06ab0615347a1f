"""Summaries of windows are values that merge, and what they tell of users and durations keeps its bound."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from flag_analytics.metrics import MILLION, Tally, percentile, weight_of
from flag_analytics.sources import NO_VALUE, OTHER_GROUP, Grouping
from flag_analytics.testing.samples import plain_event
from flag_analytics_database.rollups.durations import DURATION_ERROR, Durations
from flag_analytics_database.rollups.summary import Figures, WindowSummary, pack_cells, unpack_cells
from flag_analytics_database.rollups.users import USER_ERROR, Users
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("datasketches", reason="it has no wheel for this Python")

PERCENTILES = (0.0, 1.0, 25.0, 50.0, 90.0, 99.0, 99.9, 100.0)

counts = st.integers(0, 10**9)
figures = st.builds(Figures, st.integers(1, 10**9), counts, counts, counts, counts, counts)
texts = st.sampled_from(["", "a", "b", "ü"])
cells = st.dictionaries(st.tuples(texts, texts, texts), figures, max_size=6)
users = st.builds(Users.of, st.lists(st.tuples(texts | st.none(), st.sampled_from([1.0, 0.5, 0.1])), max_size=20))
durations = st.builds(
    Durations.of, st.lists(st.tuples(st.floats(allow_nan=False), st.integers(MILLION, 10 * MILLION)), max_size=20)
)
summaries = st.builds(
    WindowSummary,
    cells,
    st.none() | users,
    st.none() | durations,
    st.none() | st.dictionaries(texts, users, max_size=3),
)


def told(summary: WindowSummary) -> tuple[object, ...]:
    """Return what a summary tells, the same for equal sketches however they were merged."""
    return (
        summary.cells,
        None if summary.users is None else summary.users.count(),
        summary.durations,
        None if summary.variant_users is None else {name: u.count() for name, u in summary.variant_users.items()},
    )


@given(summaries, summaries, summaries)
def test_merging_is_associative_and_commutative_and_the_empty_summary_changes_nothing(a, b, c):
    merged = WindowSummary.merged
    assert told(merged([merged([a, b]), c])) == told(merged([a, merged([b, c])])) == told(merged([c, a, b]))
    assert told(merged([a, WindowSummary()])) == told(a) == told(merged([WindowSummary(), a]))
    assert told(merged([])) == told(WindowSummary())


@given(cells, users, durations)
def test_what_is_packed_is_unpacked(of_cells, of_users, of_durations):
    assert unpack_cells(pack_cells(of_cells)) == of_cells
    assert Users.unpack(of_users.pack()).count() == of_users.count()
    assert Users.unpack(of_users.pack(quick=True)).count() == of_users.count()
    assert Durations.unpack(of_durations.pack()) == of_durations


def test_sketches_of_many_merge_to_the_same_in_any_order():
    parts = [Users.of((f"user {n}", 1.0) for n in range(first, first + 30_000)) for first in (0, 20_000, 90_000)]
    packed = [Users.unpack(part.pack(quick=number == 1)) for number, part in enumerate(parts)]
    found = {Users.merged(order).count() for order in (packed, packed[::-1], [Users.merged(packed[:2]), packed[2]])}
    assert len(found) == 1


DISTRIBUTIONS = {
    "exponential": lambda rng, n: rng.exponential(3.0, n),
    "log-normal": lambda rng, n: rng.lognormal(0.0, 2.5, n),
    "pareto": lambda rng, n: rng.pareto(0.8, n) + 1e-6,
    "uniform": lambda rng, n: rng.uniform(0.001, 1_000.0, n),
    "two humps": lambda rng, n: np.where(rng.random(n) < 0.5, rng.normal(1, 0.01, n), rng.normal(500, 5, n)),
    "constant": lambda rng, n: np.full(n, 7.25),
    "tiny and huge": lambda rng, n: 10 ** rng.uniform(-300, 300, n),
    "whole milliseconds": lambda rng, n: rng.integers(1, 20, n).astype(float),
}


@pytest.mark.parametrize(("name", "size"), list(product(DISTRIBUTIONS, [1, 2, 3, 10, 1_000, 20_000])))
def test_a_percentile_is_off_by_no_more_than_its_bound(name, size):
    values = [float(value) for value in DISTRIBUTIONS[name](np.random.default_rng(size), size) if value > 0]
    parts = [Durations.of((value, MILLION) for value in values[start::3]) for start in range(3)]
    found = Durations.merged(parts).percentiles(PERCENTILES)
    ordered = sorted(values)
    for percent in PERCENTILES:
        truth = percentile(ordered, percent)
        assert abs(found[percent] - truth) <= truth * DURATION_ERROR * (1 + 1e-9)


@given(
    st.lists(
        st.tuples(st.floats(1e-9, 1e9, exclude_min=True), st.sampled_from([1.0, 0.5, 0.3, 0.01])),
        min_size=1,
        max_size=30,
    ),
    st.lists(st.floats(0, 100), min_size=1, max_size=5),
)
def test_a_percentile_of_sampled_events_keeps_the_bound(measured, wanted):
    tally = Tally()
    tally.add([plain_event(evaluation_duration_ms=value, sample_rate=rate) for value, rate in measured])
    truth = tally.summary(wanted).percentiles
    found = Durations.of((value, weight_of(rate)) for value, rate in measured).percentiles(wanted)
    for percent in wanted:
        assert math.isclose(found[percent], truth[percent], rel_tol=DURATION_ERROR * 1.03)


def test_durations_that_were_not_measured_are_left_out():
    assert Durations.of([(0.0, MILLION), (-1.0, MILLION), (math.inf, MILLION), (math.nan, MILLION)]) == Durations()
    assert Durations().percentiles(PERCENTILES) == {}


@pytest.mark.parametrize("size", [1, 10, 1_000, 8_000, 20_000, 100_000])
def test_the_number_of_users_keeps_its_bound_as_often_as_two_standard_errors_promise(size):
    tries = 40 if size < 20_000 else 12
    kept = 0
    for attempt in range(tries):
        days = [
            Users.of((f"{attempt}.{n}", 1.0) for n in range(day * size // 8, size // 2 + day * size // 8))
            for day in range(5)
        ]
        people, error = Users.merged(Users.unpack(day.pack()) for day in days).count()
        truth = size // 2 + 4 * size // 8
        assert error == (USER_ERROR if truth else 0.0)
        kept += abs(people / MILLION - truth) <= max(truth * USER_ERROR, 0.5)
        assert abs(people / MILLION - truth) <= max(truth * USER_ERROR * 2, 0.5)
    assert kept >= tries * 0.85


def test_a_user_counts_by_the_highest_rate_of_their_events():
    people = [(f"user {n}", 0.1) for n in range(1_000)] + [(f"user {n}", 1.0) for n in range(500, 600)]
    tally = Tally()
    tally.add([plain_event(targeting_key=user, sample_rate=rate) for user, rate in people])
    counted, error = Users.of(people).count()
    assert counted / MILLION == pytest.approx(tally.summary().unique_users, rel=error)
    assert counted / MILLION == pytest.approx(900 * 10 + 100, rel=error)
    assert USER_ERROR <= error <= 0.01


def test_a_few_people_of_much_weight_widen_the_bound():
    many = Users.of([*((f"user {n}", 1.0) for n in range(10_000)), *((f"rare {n}", 0.001) for n in range(10))])
    people, error = many.count()
    assert error > 5 * USER_ERROR
    assert people / MILLION == pytest.approx(10_000 + 10_000, rel=error)


def test_counts_are_grouped_as_sources_group_them():
    summary = WindowSummary(
        {
            ("", "STATIC", NO_VALUE): Figures(5, 5, 0, 0, 1, 1),
            ("default", "STATIC", "prod"): Figures(4, 4, 0, 0, 1, 1),
            ("b", "SPLIT", "prod"): Figures(8, 8, 0, 0, 1, 1),
            ("c", "SPLIT", "prod"): Figures(3, 3, 0, 0, 1, 1),
        }
    )
    sizes = {
        by: {name: group.events for name, group in summary.grouped(Grouping(by, 2)).items()}
        for by in ("variant", "reason", "environment")
    }
    assert sizes == {
        "variant": {"default": 9, "b": 8, OTHER_GROUP: 3},
        "reason": {"STATIC": 9, "SPLIT": 11},
        "environment": {NO_VALUE: 5, "prod": 15},
    }


def test_a_part_that_one_of_the_merged_lacks_is_missing_from_the_whole():
    one = {("a", "STATIC", ""): Figures(1, MILLION, 0, 0, 1, 1), ("b", "STATIC", ""): Figures(1, MILLION, 0, 0, 1, 1)}
    whole = WindowSummary(one, Users.of([("u", 1.0)]), Durations.of([(1.0, MILLION)]), None)
    answer = WindowSummary.merged([whole, WindowSummary(one, None, None, None)]).summary({"users", "latency"}, [50.0])
    assert answer.total == 4
    assert answer.accuracy.missing == {"users", "latency"}
    answer = whole.summary({"users", "variant_users", "latency"}, [50.0])
    assert answer.accuracy.missing == {"variant_users", "crossover_users"}
    assert answer.accuracy.bounds == {"users": USER_ERROR, "latency": DURATION_ERROR}
