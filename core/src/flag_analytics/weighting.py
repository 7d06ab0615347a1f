"""Weights of sampled events, and percentiles with and without them.

An event that was sampled at ``sample_rate`` stands for 1 ÷ ``sample_rate`` events: the estimator of Horvitz and
Thompson, "A Generalization of Sampling Without Replacement from a Finite Universe" (1952), which is right on average
whatever the rates are, also where they change or where errors are always kept. Weights are whole millionths, so that a
sum is the same in any order and in any database; the rounding is at most half a millionth of an event each.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

__all__ = ["MILLION", "as_count", "check_percentiles", "percentile", "weight_of", "weighted_percentile"]

MILLION = 1_000_000
_LEAST_RATE = 1e-6


def weight_of(sample_rate: float) -> int:
    """Return the weight of an event in millionths of an event: 1 ÷ ``sample_rate``, at most a million events."""
    return int(MILLION / max(sample_rate, _LEAST_RATE) + 0.5)


def as_count(millionths: float) -> float:
    """Return a sum of weights as a number of events, an integer where it is whole."""
    whole, rest = divmod(int(millionths), MILLION)
    return int(millionths) / MILLION if rest else whole


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the value below which ``percent`` (0–100) of the ordered, non-empty values lie.

    Linear interpolation between order statistics: definition 7 of Hyndman and Fan, "Sample Quantiles in Statistical
    Packages" (1996), which is also ``percentile_cont`` of SQL. 0 and 100 give the minimum and the maximum.
    """
    position = percent / 100 * (len(ordered) - 1)
    below = int(position)
    fraction = position - below
    low = ordered[below]
    return low + fraction * (ordered[below + 1] - low) if fraction else low


def weighted_percentile(ordered: Sequence[float], reach: Sequence[int], total: int, percent: float) -> float:
    """Return the percentile of the ordered values, each repeated as often as its weight says.

    With weights ``w`` that sum to ``W``, the percentile is at position ``percent / 100 * (W - 1)``. The i-th value
    holds the positions from ``w[0] + … + w[i-1]`` to ``w[0] + … + w[i] - 1``; between these, linear interpolation.
    For whole weights this is ``percentile`` of the values repeated, and with all weights 1 it is ``percentile``.

    Args:
        ordered: The values, or only those next to the position.
        reach: The sum of weights up to each value, it included, in millionths.
        total: ``W``, in millionths.
        percent: From 0 to 100.
    """
    position = percent / 100 * (total / MILLION - 1)
    at = min(bisect_right(reach, position * MILLION), len(reach) - 1)
    value = ordered[at]
    beyond = position - (reach[at] / MILLION - 1)
    return value + beyond * (ordered[at + 1] - value) if beyond > 0 and reach[at] < total else value


def check_percentiles(percentiles: Iterable[float]) -> tuple[float, ...]:
    """Return the percentiles as floats, in their order.

    Raises:
        ValueError: one of them is not a number from 0 to 100.
    """
    checked = []
    for percent in percentiles:
        if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 <= percent <= 100:
            raise ValueError(f"percentile {percent!r} is out of range: expected numbers from 0 to 100, such as 99.9")
        checked.append(float(percent))
    return tuple(checked)
