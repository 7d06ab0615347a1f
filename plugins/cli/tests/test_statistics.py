"""Intervals and tests of arms equal those of SciPy."""

from __future__ import annotations

import pytest
from flag_analytics.statistics import check_arms, wilson_interval
from flag_analytics_cli.arms import parse_expected
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

COUNTS = st.integers(0, 10**9)


@given(COUNTS, COUNTS)
def test_the_interval_of_a_share_is_wilson_s(count, others):
    total = count + others
    low, high = wilson_interval(count, total)
    if not total:
        assert (low, high) == (0.0, 1.0)
        return
    expected = stats.binomtest(count, total).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0.0 <= low <= count / total <= high <= 1.0


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 100)), min_size=2, max_size=8))
def test_the_test_of_arms_is_pearson_s(arms):
    users = {f"arm{number}": float(count) for number, (count, _) in enumerate(arms)}
    weights = {f"arm{number}": float(weight) for number, (_, weight) in enumerate(arms)}
    expected = parse_expected(",".join(f"{name}={weight}" for name, weight in weights.items()))
    check = check_arms(users, expected)
    total = sum(users.values())
    if min(expected.values()) * total < 5:
        assert check.p_value is None
        return
    oracle = stats.chisquare([*users.values()], [share * total for share in expected.values()])
    assert check.chi_square == pytest.approx(oracle.statistic, rel=1e-9, abs=1e-9)
    assert check.p_value == pytest.approx(oracle.pvalue, rel=1e-6, abs=1e-12)
    assert check.degrees == len(arms) - 1


def test_arms_that_were_planned_otherwise_do_not_match():
    assert check_arms({"control": 500, "treatment": 510}, parse_expected("control=1,treatment=1")).matches
    assert not check_arms({"control": 500, "treatment": 700}, parse_expected("control=1,treatment=1")).matches
    assert not check_arms({"control": 500, "treatment": 500, "c": 1}, parse_expected("control=50,treatment=50")).matches


def test_too_few_users_give_no_verdict():
    check = check_arms({"control": 2, "treatment": 1}, parse_expected("control=50,treatment=50"))
    assert (check.p_value, check.matches) == (None, True)
    assert check_arms({}, parse_expected("a=1,b=2")).p_value is None


@pytest.mark.parametrize(
    "text", ["", "control", "control=50", "control=50,control=50", "a=0,b=1", "a=x,b=1", "=1,b=1", "a=inf,b=1"]
)
def test_a_plan_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="expected"):
        parse_expected(text)


def test_a_plan_may_name_arms_with_an_equals_sign():
    assert parse_expected("a=b=1, c=3") == {"a=b": 0.25, "c": 0.75}
