"""Digests in little memory, and all in one place: to read one does not touch the events it was made of."""

from __future__ import annotations

from array import array
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
    errors: int
    first_seen: datetime
    last_seen: datetime
    kinds: frozenset[str]
    variants: tuple[tuple[str | None, int], ...]
    reasons: tuple[tuple[str, int], ...]
    users: tuple[tuple[str | None, str], ...]
    durations: array[float]
    sample_rate: float

    @classmethod
    def of(cls, digest: Digest) -> PackedDigest:
        return cls(
            total=digest.total,
            errors=digest.errors,
            first_seen=digest.first_seen,
            last_seen=digest.last_seen,
            kinds=_EVALUATIONS if digest.kinds == _EVALUATIONS else digest.kinds,
            variants=tuple(digest.variants.items()),
            reasons=tuple(digest.reasons.items()),
            users=tuple((variant, _BETWEEN.join(filter(None, users))) for variant, users in digest.users.items()),
            durations=array("d", digest.durations),
            sample_rate=digest.sample_rate,
        )

    def unpack(self) -> Digest:
        """Return the digest, without events that have no user among its users."""
        return Digest(
            total=self.total,
            errors=self.errors,
            first_seen=self.first_seen,
            last_seen=self.last_seen,
            kinds=self.kinds,
            variants=dict(self.variants),
            reasons=dict(self.reasons),
            users={variant: users.split(_BETWEEN) for variant, users in self.users if users},
            durations=self.durations,
            sample_rate=self.sample_rate,
        )
