"""``Users``: how many people there were, as HyperLogLog sketches that merge.

The sketches are those of Apache DataSketches with ``2**16`` registers; the people of each sample rate have their own,
since a person counts by the highest rate of their events (see ``flag_analytics.metrics``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any

import attrs
import msgspec
from flag_analytics.metrics import weight_of

__all__ = ["USER_ERROR", "Users", "can_sketch"]

_LG_K = 16
USER_ERROR = 2 * 1.04 / 2 ** (_LG_K / 2)
"""Two standard errors of the number of people, as a ratio: 0.81 %."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[float, bytes]]).decode
_decode_each = msgspec.msgpack.Decoder(dict[str, bytes]).decode


@lru_cache(maxsize=1)
def _library() -> Any:
    try:
        import datasketches  # type: ignore[import-untyped]
    except ImportError:
        return None
    return datasketches


def can_sketch() -> bool:
    """Return whether the extra ``sketches`` is installed."""
    return _library() is not None


@attrs.frozen
class Users:
    """Sketches of targeting keys by sample rate; to merge them costs nothing until they are counted or packed."""

    by_rate: Mapping[float, tuple[Any, ...]] = attrs.field(factory=dict[float, Any])

    @classmethod
    def of(cls, people: Iterable[tuple[str | None, float]]) -> Users:
        """Return the people of these pairs of a targeting key, which may be empty or None, and a sample rate."""
        library = _library()
        by_rate: dict[float, Any] = {}
        for user, rate in people:
            if user:
                sketch = by_rate.get(rate)
                if sketch is None:
                    sketch = by_rate[rate] = library.hll_sketch(_LG_K, library.tgt_hll_type.HLL_4)
                sketch.update(user)
        return cls({rate: (sketch,) for rate, sketch in by_rate.items()})

    @classmethod
    def merged(cls, some: Iterable[Users]) -> Users:
        """Return the people of all of them."""
        by_rate: defaultdict[float, tuple[Any, ...]] = defaultdict(tuple)
        for one in some:
            for rate, sketches in one.by_rate.items():
                by_rate[rate] += sketches
        return cls(dict(by_rate))

    def count(self) -> tuple[float, float]:
        """Return the number of people in millionths, weighted as ``flag_analytics.metrics`` does, and its error.

        The error is a ratio: two standard errors, ``USER_ERROR`` or more where few people have most of the weight.
        """
        union = _library().hll_union(_LG_K)
        weights, seen = [], [0.0]
        for rate in sorted(self.by_rate, reverse=True):
            for sketch in self.by_rate[rate]:
                union.update(sketch)
            weights.append(weight_of(rate))
            seen.append(max(union.get_estimate(), seen[-1]))
        people = sum(weight * (now - before) for weight, (before, now) in zip(weights, pairwise(seen), strict=True))
        if not people:
            return 0.0, 0.0
        # Each estimate counts by the step from its weight to the next.
        steps = [after - before for before, after in pairwise(weights)] + weights[-1:]
        off = sum(step * some for step, some in zip(steps, seen[1:], strict=True)) * USER_ERROR
        return people, max(off / people, USER_ERROR)

    def pack(self, *, quick: bool = False) -> bytes:
        """Return it as bytes: for each rate at most 32 KiB, or ``quick`` 64 KiB that merge twice as fast."""
        library = _library()
        kind = library.tgt_hll_type.HLL_8 if quick else library.tgt_hll_type.HLL_4
        packed = []
        for rate, sketches in sorted(self.by_rate.items()):
            union = library.hll_union(_LG_K)
            for sketch in sketches:
                union.update(sketch)
            packed.append((rate, union.get_result(kind).serialize_compact()))
        return _encode(packed)

    @classmethod
    def unpack(cls, packed: bytes) -> Users:
        """Return what ``pack`` gave."""
        deserialize = _library().hll_sketch.deserialize
        return cls({rate: (deserialize(sketch),) for rate, sketch in _decode(packed)})

    @staticmethod
    def pack_each(by_name: Mapping[str, Users]) -> bytes:
        """Return the people of several names as bytes."""
        return _encode({name: users.pack() for name, users in by_name.items()})

    @classmethod
    def unpack_each(cls, packed: bytes) -> dict[str, Users]:
        """Return what ``pack_each`` gave."""
        return {name: cls.unpack(users) for name, users in _decode_each(packed).items()}
