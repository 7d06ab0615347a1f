"""``Durations``: how long evaluations took, in buckets whose width grows with the value, so that they merge exactly.

After DDSketch (Masson, Rim and Lee, "DDSketch: A Fast and Fully-Mergeable Quantile Sketch with Relative-Error
Guarantees", VLDB 2019), without a limit on the number of buckets. Bucket ``i`` holds the values above ``GROWTH**(i-1)``
up to ``GROWTH**i``, and stands for the value in its middle that is off by at most ``DURATION_ERROR`` from any of them.
Weights are whole millionths of an event, so that sums are the same in any order. The rank of a percentile is exact, and
an interpolation between two values that are each off by a ratio is off by no more.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

import attrs
import msgspec
from flag_analytics.metrics import weighted_percentile

__all__ = ["DURATION_ERROR", "Durations"]

DURATION_ERROR = 0.01
"""The most that a percentile is off, as a ratio of its value."""

_GROWTH = (1 + DURATION_ERROR) / (1 - DURATION_ERROR)
_LOG_GROWTH = math.log(_GROWTH)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[list[int], list[int]]).decode


@attrs.frozen
class Durations:
    """Sums of weights, in millionths of an event, by bucket."""

    buckets: Mapping[int, int] = attrs.field(factory=dict[int, int])

    @classmethod
    def of(cls, weighted: Iterable[tuple[float, int]]) -> Durations:
        """Return the durations above 0, each with its weight in millionths."""
        buckets: Counter[int] = Counter()
        log, ceil, scale = math.log, math.ceil, 1 / _LOG_GROWTH
        for duration, weight in weighted:
            if 0.0 < duration < math.inf:
                buckets[ceil(log(duration) * scale)] += weight
        return cls(buckets)

    @classmethod
    def merged(cls, some: Iterable[Durations]) -> Durations:
        """Return all of them together."""
        buckets: Counter[int] = Counter()
        for one in some:
            buckets.update(one.buckets)
        return cls(buckets)

    def percentiles(self, wanted: Sequence[float]) -> dict[float, float]:
        """Return milliseconds by percentile (0–100), each within ``DURATION_ERROR``; empty without any duration."""
        if not self.buckets:
            return {}
        numbers = sorted(self.buckets)
        # The value that is off by the same ratio from both ends of the bucket.
        values = [2 * math.exp(number * _LOG_GROWTH) / (1 + _GROWTH) for number in numbers]
        reach = list(accumulate(self.buckets[number] for number in numbers))
        return {percent: weighted_percentile(values, reach, reach[-1], percent) for percent in wanted}

    def pack(self) -> bytes:
        """Return it as bytes."""
        return _encode((list(self.buckets), list(self.buckets.values())))

    @classmethod
    def unpack(cls, packed: bytes) -> Durations:
        """Return what ``pack`` gave."""
        return cls(dict(zip(*_decode(packed), strict=True)))
