"""Names of files: each says when its events were accepted, and is the same whenever the same batch is written.

``date=2026-01-31/0001769860800123457-0001769860805000000-500-9f86d081884c7d65.jsonl``: the times at which the first and
the last of its events were accepted, in microseconds since the Unix epoch, their number, and a digest of the batch's
id. The date is that of the first one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import attrs
from flag_analytics.frozen import FrozenEvent

__all__ = ["MERGES", "FileName", "days_between", "is_events", "micros"]

MERGES = "_merges/"
"""Where the intents of merges are."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAME = re.compile(r"date=\d{4}-\d\d-\d\d/(\d{19})-(\d{19})-(\d+)-[0-9a-f]{16}(\.jsonl|\.jsonl\.gz|\.parquet)")


def micros(seconds: float) -> int:
    """Return seconds since the Unix epoch in whole microseconds; times before it count as it."""
    return max(0, round(seconds * 1_000_000))


@attrs.frozen
class FileName:
    """A file of events, as its name describes it; times in microseconds since the Unix epoch."""

    path: str
    first: int
    last: int
    count: int
    suffix: str

    @classmethod
    def of_batch(cls, batch_id: str, events: Sequence[FrozenEvent], suffix: str) -> FileName:
        """Return the name under which a batch is stored."""
        times = [micros(event.received_at) for event in events]
        return cls.of(batch_id, min(times), max(times), len(events), suffix)

    @classmethod
    def of(cls, identity: str, first: int, last: int, count: int, suffix: str) -> FileName:
        """Return the name of a file with this range and number of events."""
        digest = sha256(identity.encode()).hexdigest()[:16]
        path = f"date={_day(first)}/{first:019}-{last:019}-{count}-{digest}{suffix}"
        return cls(path, first, last, count, suffix)

    @classmethod
    def read(cls, path: str) -> FileName | None:
        """Return what a path says, or None if it is the name of no such file."""
        match = _NAME.fullmatch(path)
        if match is None:
            return None
        return cls(path, int(match[1]), int(match[2]), int(match[3]), match[4])

    def overlaps(self, first: int, last: int) -> bool:
        return self.first <= last and first <= self.last


def is_events(path: str) -> bool:
    """Return whether a file can hold events: any that ends like one, wherever it comes from, but for hidden ones."""
    hidden = any(part.startswith((".", "_")) for part in path.split("/"))
    return not hidden and path.endswith((".jsonl", ".jsonl.gz", ".parquet"))


def days_between(first: int, last: int) -> Iterable[str]:
    """Return the prefix of each day from the one before the first time to that of the last one.

    A file is under the day of its first event, and may go on into the next.
    """
    day, end = (_EPOCH + timedelta(microseconds=first) - timedelta(days=1)).date(), _day(last)
    while f"{day:%Y-%m-%d}" <= end:
        yield f"date={day:%Y-%m-%d}/"
        day += timedelta(days=1)


def _day(at: int) -> str:
    return f"{_EPOCH + timedelta(microseconds=at):%Y-%m-%d}"
