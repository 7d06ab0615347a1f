"""Digests in little memory, and all in one place: to read one does not touch the events it was made of."""

from __future__ import annotations

from array import array
from collections import Counter
from datetime import datetime

import attrs
from flag_analytics.metrics import Digest

__all__ = ["PackedDigest"]

_EVALUATIONS = frozenset({"evaluation"})
_BETWEEN = "\0"
"""No text in canonical form has it."""


@attrs.define
class PackedDigest:
    """A ``Digest``, in about 8 bytes for each event and the text of each user.

    The events of one flag lie far apart in memory. To fetch thousands of them, or only their targeting keys, takes
    longer than to make the keys anew from one text.
    """

    total: int
    first_seen: datetime
    last_seen: datetime
    kinds: frozenset[str]
    variants: tuple[tuple[str | None, int], ...]
    reasons: tuple[tuple[str, int], ...]
    users: str
    durations: array[float]

    @classmethod
    def of(cls, digest: Digest) -> PackedDigest:
        return cls(
            total=digest.total,
            first_seen=digest.first_seen,
            last_seen=digest.last_seen,
            kinds=_EVALUATIONS if digest.kinds == _EVALUATIONS else digest.kinds,
            variants=tuple(digest.variants.items()),
            reasons=tuple(digest.reasons.items()),
            users=_BETWEEN.join(filter(None, digest.users)),
            durations=array("d", digest.durations),
        )

    def unpack(self) -> Digest:
        """Return the digest; of no user and the empty one, which count as nobody, the empty one may be left."""
        return Digest(
            total=self.total,
            first_seen=self.first_seen,
            last_seen=self.last_seen,
            kinds=self.kinds,
            variants=Counter(dict(self.variants)),
            reasons=Counter(dict(self.reasons)),
            users=self.users.split(_BETWEEN),
            durations=self.durations,
        )
