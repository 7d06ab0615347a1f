"""Statistics of an experiment: intervals of shares and differences, and whether the arms are as large as planned."""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs

__all__ = ["ArmCheck", "check_arms", "newcombe_interval", "wilson_interval"]

_Z_95 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""
MISMATCH_BELOW = 0.001
"""A p-value below it is taken for a mismatch; 0.05 would cry wolf once in twenty looks."""
_SMALLEST_EXPECTED = 5.0
"""Users expected in an arm below which the chi-square distribution is no good approximation."""


def wilson_interval(count: float, total: float, z: float = _Z_95) -> tuple[float, float]:
    """Return the bounds of the 95 % interval of a share, as ratios 0–1.

    Wilson (1927), "Probable inference, the law of succession, and statistical inference", without continuity
    correction: it never leaves 0–1, and has a width where nothing or everything was counted.
    """
    if total <= 0:
        return 0.0, 1.0
    share = min(max(count / total, 0.0), 1.0)
    scale = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def newcombe_interval(one: float, of_one: float, other: float, of_other: float) -> tuple[float, float]:
    """Return the bounds of the 95 % interval of the difference of two shares, the second subtracted from the first.

    Newcombe (1998), "Interval estimation for the difference between independent proportions", method 10: the Wilson
    intervals of both shares, combined. -1 to 1 where one of them is of nothing.
    """
    if of_one <= 0 or of_other <= 0:
        return -1.0, 1.0
    share, other_share = one / of_one, other / of_other
    low, high = wilson_interval(one, of_one)
    other_low, other_high = wilson_interval(other, of_other)
    difference = share - other_share
    below = math.hypot(share - low, other_high - other_share)
    above = math.hypot(high - share, other_share - other_low)
    return max(-1.0, difference - below), min(1.0, difference + above)


@attrs.frozen
class ArmCheck:
    """Whether users are spread over the arms as planned: Pearson's chi-square test of goodness of fit.

    Attributes:
        expected: The planned share of each arm, as a ratio 0–1.
        observed: Users of each arm, by the variant they saw first.
        unplanned: Users of variants that were not planned; they are left out of the test.
        chi_square: The statistic.
        degrees: Its degrees of freedom.
        p_value: The probability of a statistic as large where the plan holds; None where there are too few users.
    """

    expected: Mapping[str, float]
    observed: Mapping[str, float]
    unplanned: float
    chi_square: float
    degrees: int
    p_value: float | None

    @property
    def matches(self) -> bool:
        """Whether the arms may be compared, as far as their sizes tell."""
        return not self.unplanned and (self.p_value is None or self.p_value >= MISMATCH_BELOW)


def check_arms(users: Mapping[str, float], expected: Mapping[str, float]) -> ArmCheck:
    """Return the test of users by arm against the planned shares."""
    observed = {name: users.get(name, 0.0) for name in expected}
    total = sum(observed.values())
    unplanned = sum(users.values()) - total
    degrees = len(expected) - 1
    if not total:
        return ArmCheck(expected, observed, unplanned, 0.0, degrees, None)
    chi_square = sum((observed[name] - share * total) ** 2 / (share * total) for name, share in expected.items())
    enough = min(expected.values()) * total >= _SMALLEST_EXPECTED
    p_value = _upper_gamma(degrees / 2, chi_square / 2) if enough else None
    return ArmCheck(expected, observed, unplanned, chi_square, degrees, p_value)


def _upper_gamma(a: float, x: float) -> float:
    """Return the regularized upper incomplete gamma function Q(a, x): the tail of the chi-square distribution.

    By its series below a + 1 and its continued fraction (Lentz) above: Abramowitz and Stegun, 6.5.29 and 6.5.31.
    """
    if x <= 0:
        return 1.0
    front = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        n = a
        while term > total * 1e-16:
            n += 1
            term *= x / n
            total += term
        return max(0.0, 1 - front * total)
    b = x + 1 - a
    c, d = 1e300, 1 / b
    fraction = d
    for i in range(1, 10_000):
        numerator = -i * (i - a)
        b += 2
        d = 1 / (numerator * d + b)
        c = b + numerator / c
        step = c * d
        fraction *= step
        if abs(step - 1) < 1e-15:
            break
    return front * fraction
