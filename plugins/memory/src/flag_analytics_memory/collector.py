"""``InMemoryAnalyticsCollector``: the newest events, kept in this process and ready to be aggregated."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

import attrs
from flag_analytics.canonical import MAX_KEY_CHARS, canonical_key
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.freezer import Freezer
from flag_analytics.metrics import (
    ActivityTally,
    Digest,
    ExposureTally,
    Groups,
    StepTally,
    Tally,
    canonical_filter,
    group_steps,
    select,
)
from flag_analytics.outcomes import OUTCOMES, Outcomes, OutcomeTally
from flag_analytics.processes import new_lock, renew_after_fork
from flag_analytics.protocols import RecordResult
from flag_analytics.reports import DeliveryReport, SinkStats
from flag_analytics.sources import (
    PARTS,
    EventFilter,
    Exposures,
    FlagActivity,
    FlagSummary,
    Grouping,
    TimeStep,
    Window,
)
from flag_analytics.waiting import pause

from .admission import (
    MAX_SNAPSHOT_ATTRIBUTES,
    MAX_SNAPSHOT_CHARS,
    Snapshot,
    admit,
    as_recorded,
    encode_context,
    has_context,
    is_small,
)
from .log import EventLog, Piece

__all__ = ["InMemoryAnalyticsCollector", "MemoryStats"]

_MAX_FRESH = 512
_SLICE = 10_000
"""How many events are looked at before other tasks of the event loop have their turn: a few milliseconds' worth."""

_ALL = ""
"""The name of the one group where no groups are asked for."""

_ACCEPTED = RecordResult.ACCEPTED
_ALL_TIME = Window(None, datetime.max.replace(tzinfo=UTC))
_time_and_id = attrgetter("timestamp", "event_id")
_CHARS = MAX_SNAPSHOT_CHARS


@attrs.frozen
class MemoryStats:
    """What became of every event, in counts. Always: accepted = stored + evicted + cleared.

    Attributes:
        accepted: Events taken since the start.
        stored: Events held now.
        evicted: Events forgotten to make room for newer ones.
        cleared: Events forgotten by ``clear()`` and ``close()``.
        refused: Events not taken, by reason: ``closed``, ``error``.
        sanitised: Changes that bringing events into canonical form took, by kind (see ``flag_analytics.canonical``);
            ``clock_skew``, which changes nothing, is not among them.
    """

    accepted: int
    stored: int
    evicted: int
    cleared: int
    refused: Mapping[str, int]
    sanitised: Mapping[str, int]


class _Count:
    """Counts from any thread, signal handler or finaliser without a lock: an iterator of C advances in one step."""

    def __init__(self) -> None:
        self._ticks = itertools.count()
        self._asked = 0

    def add(self) -> None:
        next(self._ticks)

    def value(self) -> int:
        """Return the count; the caller holds a lock. Asking advances the iterator, too, and is subtracted again."""
        value = next(self._ticks) - self._asked
        self._asked += 1
        return value


class InMemoryAnalyticsCollector:
    """Keeps the newest events in memory, first in, first out, and answers ``AnalyticsAggregator`` about them.

    It may be used from any thread and any number of event loops at once. ``record`` never waits: not for a lock, not
    for a reader. What the caller changes after ``record`` does not change what is stored. An event that is recorded
    twice is stored twice. After a fork the child starts empty, so that no event is reported by two processes.

    Args:
        max_size: The most events kept; the oldest are forgotten first, and counted.

    Raises:
        TypeError: ``max_size`` is not an integer.
        ValueError: ``max_size`` is less than 1.
    """

    def __init__(self, max_size: int = 10_000) -> None:
        self._max_size = check_max_size(max_size)
        self._max_fresh = min(_MAX_FRESH, self._max_size)
        self._freezer = Freezer()
        self._closed = False
        self._start()
        renew_after_fork(self._after_fork_in_child)

    def _start(self) -> None:
        self._lock = new_lock()
        # Events are appended here, which takes no lock, and go into the log in runs of up to _max_fresh.
        self._fresh: list[Any] = []
        self._log = EventLog(self._max_size, self._freezer.freeze)
        self._variants: set[str | None] = {None}
        self._names: set[str] = set()
        self._cleared = 0
        self._refused = {RecordResult.CLOSED: _Count(), RecordResult.ERROR: _Count()}

    def _after_fork_in_child(self) -> None:
        self._freezer.after_fork_in_child()
        self._start()

    @property
    def max_size(self) -> int:
        """The most events kept."""
        return self._max_size

    async def record(self, event: Any) -> None:
        """Take one event: ours, a frozen one, or any object with the same attributes. Never raises, never waits."""
        # Line for line what record_nowait does: to call it would make this a tenth slower.
        fresh = self._fresh
        try:
            if (
                type(event) is FlagEvaluationEvent
                and type(flag_key := event.flag_key) is str
                and ((value := event.value) is True or value is False or value is None or is_small(value))
                and ((key := event.targeting_key) is None or (type(key) is str and len(key) <= MAX_KEY_CHARS))
                and ((variant := event.variant) is None or (type(variant) is str and variant in self._variants))
                and event.error_message is None
                and not self._closed
                and type(context := event.context_attributes) is dict
            ):
                if context:
                    names = self._names
                    if len(context) > MAX_SNAPSHOT_ATTRIBUTES:
                        self._record_with_care(event)
                        return
                    for name, item in context.items():
                        if name in names and type(item) is str and len(item) <= _CHARS:
                            continue
                        if name not in names or type(item) is str or not is_small(item):
                            self._record_with_care(event)
                            return
                    event = Snapshot(flag_key, event, encode_context(context))
                fresh.append(event)
                if len(fresh) < self._max_fresh:
                    return
            else:
                self._record_with_care(event)
                return
        except Exception:
            self._record_with_care(event)
            return
        self._index_if_free()

    def record_nowait(self, event: Any) -> RecordResult:
        """Take one event as ``record`` does, and say what became of it."""
        fresh = self._fresh
        try:
            if (
                type(event) is FlagEvaluationEvent
                and type(flag_key := event.flag_key) is str
                and ((value := event.value) is True or value is False or value is None or is_small(value))
                and ((key := event.targeting_key) is None or (type(key) is str and len(key) <= MAX_KEY_CHARS))
                and ((variant := event.variant) is None or (type(variant) is str and variant in self._variants))
                and event.error_message is None
                and not self._closed
                and type(context := event.context_attributes) is dict
            ):
                if context:
                    names = self._names
                    if len(context) > MAX_SNAPSHOT_ATTRIBUTES:
                        return self._record_with_care(event)
                    for name, item in context.items():
                        if name in names and type(item) is str and len(item) <= _CHARS:
                            continue
                        if name not in names or type(item) is str or not is_small(item):
                            return self._record_with_care(event)
                    event = Snapshot(flag_key, event, encode_context(context))
                fresh.append(event)
                if len(fresh) < self._max_fresh:
                    return _ACCEPTED
            else:
                return self._record_with_care(event)
        except Exception:
            return self._record_with_care(event)
        self._index_if_free()
        return _ACCEPTED

    def _record_with_care(self, event: Any) -> RecordResult:
        if self._closed:
            return self._refuse(RecordResult.CLOSED)
        try:
            admitted = admit(event, self._variants, self._names)
        except Exception:
            admitted = None  # a hostile attribute: the freezer takes such an event apart
        try:
            event = self._freezer.freeze(event) if admitted is None else admitted
        except Exception:
            return self._refuse(RecordResult.ERROR)
        self._fresh.append(event)
        if len(self._fresh) >= self._max_fresh:
            self._index_if_free()
        return _ACCEPTED

    def _refuse(self, outcome: RecordResult) -> RecordResult:
        self._refused[outcome].add()
        return outcome

    def _index_if_free(self) -> None:
        # The thread that holds the lock will index, or the next event's: a signal handler may have interrupted it.
        if self._lock.acquire(blocking=False):
            try:
                self._index()
            finally:
                self._lock.release()

    def _index(self) -> None:
        """Move what is fresh into the log; the caller holds the lock."""
        fresh = self._fresh
        count = len(fresh)
        if count:
            events = fresh[:count]
            del fresh[:count]
            if self._closed:
                self._cleared += count
            else:
                self._log.extend(events)

    def __len__(self) -> int:
        with self._lock:
            self._index()
            return len(self._log)

    def __repr__(self) -> str:
        return f"<InMemoryAnalyticsCollector: {len(self)} of at most {self._max_size} events>"

    async def get_events(
        self,
        flag_key: str | None = None,
        limit: int | None = None,
        *,
        window: Window | None = None,
        where: EventFilter | None = None,
    ) -> list[FlagEvaluationEvent]:
        """Return stored events, the oldest first: as they came, or by time where a window or filter is given.

        Args:
            flag_key: Only the events of this flag.
            limit: Only the most recent ones, at most this many.
            window: Only the events of this window.
            where: Only the events that pass this filter; by default evaluations and exposures, with a window.

        Raises:
            ValueError: ``limit`` is negative.
        """
        if limit is not None and limit < 0:
            raise ValueError(f"limit is {limit}: expected at least 0, the most events to return")
        if window is None and where is None:
            found = self._newest(flag_key, limit)
        else:
            wanted = canonical_filter(where)
            found = await self._selected(flag_key, window or _ALL_TIME, wanted)
            found = found if limit is None else found[max(0, len(found) - limit) :]
            if wanted.required_context():
                return found  # these are as they were recorded already
        events: list[FlagEvaluationEvent] = []
        async for some in _slices(found):
            events += map(as_recorded, some)
        return events

    async def _selected(self, flag_key: str | None, window: Window, where: EventFilter) -> list[Any]:
        """Return the events of a window that pass a filter, by time and then by id."""
        found: list[Any] = []
        for pieces in self._pieces(None if flag_key is None else [canonical_key(flag_key)]).values():
            async for _, events in self._matching(pieces, window, where, digests=False):
                found += events
        return sorted(found, key=_time_and_id)

    async def get_event_count(self, flag_key: str | None = None) -> int:
        """Return how many events are stored, of one flag or of all."""
        with self._lock:
            self._index()
            return len(self._log) if flag_key is None else self._log.count(canonical_key(flag_key))

    async def clear(self) -> None:
        """Forget all events; they count as cleared."""
        with self._lock:
            self._index()
            self._cleared += self._log.clear()

    async def forget(self, targeting_keys: Sequence[str]) -> int:
        """Forget the events of these targeting keys, which count as cleared; return how many there were."""
        keys = frozenset(map(canonical_key, targeting_keys)) - {""}
        with self._lock:
            self._index()
            runs = [list(run) for run in self._log.everything()]
            held = len(self._log)
            self._log.clear()
            for run in reversed(runs):
                self._log.extend([event for event in run if event.targeting_key not in keys])
            gone = held - len(self._log)
            self._cleared += gone
            return gone

    async def flush(self) -> DeliveryReport:
        """Return at once: an event is stored when it is recorded."""
        return self.flush_sync()

    def flush_sync(self) -> DeliveryReport:
        """``flush`` for callers without an event loop."""
        with self._lock:
            self._index()
            return self._report()

    async def close(self) -> DeliveryReport:
        """Forget all events and refuse those that come from now on; they count as refused."""
        return self.close_sync()

    def close_sync(self) -> DeliveryReport:
        """``close`` for callers without an event loop."""
        with self._lock:
            self._index()
            self._closed = True
            self._cleared += self._log.clear()
            return self._report()

    def _report(self) -> DeliveryReport:
        taken = len(self._log) + self._log.evicted + self._cleared
        dropped = self._refusals()
        accepted = taken + sum(dropped.values())
        stats = SinkStats(accepted=accepted, delivered=taken, dropped=dropped, position=accepted)
        return DeliveryReport.of({"memory": stats}, complete=True)

    def _refusals(self) -> dict[str, int]:
        return {reason.value: n for reason, count in self._refused.items() if (n := count.value())}

    def stats(self) -> MemoryStats:
        """Return what became of every event so far."""
        with self._lock:
            self._index()
            for _ in self._log.everything():
                pass  # what is read is in canonical form, and counted under ``sanitised`` where that took a change
            stored = len(self._log)
            evicted = self._log.evicted
            return MemoryStats(
                accepted=stored + evicted + self._cleared,
                stored=stored,
                evicted=evicted,
                cleared=self._cleared,
                refused=self._refusals(),
                sanitised={kind: n for kind, n in self._freezer.changes().items() if kind != "clock_skew"},
            )

    async def summarise(
        self,
        flag_keys: Sequence[str],
        window: Window,
        *,
        parts: frozenset[str] = PARTS,  # noqa: ARG002  all parts take less than telling them apart
        percentiles: Sequence[float] = (),
        where: EventFilter | None = None,
        group_by: Grouping | None = None,
    ) -> Mapping[str, FlagSummary]:
        """See ``EventSource.summarise``."""
        summaries = {}
        for key, pieces in self._pieces(flag_keys).items():
            tallies: dict[str, Tally] = defaultdict(Tally)
            async for name, digest, events in self._grouped(pieces, window, canonical_filter(where), group_by):
                if digest is not None:
                    tallies[name].merge(digest)
                tallies[name].add(events)
            if tallies:
                found = {name: tally.summary(percentiles) for name, tally in tallies.items()}
                summaries[key] = found[_ALL] if group_by is None else FlagSummary(groups=found)
        return summaries

    async def get_exposures(self, flag_key: str, window: Window, *, where: EventFilter | None = None) -> Exposures:
        """See ``EventSource.get_exposures``."""
        tally = ExposureTally()
        pieces = self._pieces([flag_key])[flag_key]
        async for _, events in self._matching(pieces, window, canonical_filter(where), digests=False):
            tally.add(events)
        return tally.exposures()

    async def get_outcomes(
        self, flag_key: str, metric: str, window: Window, *, where: EventFilter | None = None
    ) -> Outcomes:
        """See ``OutcomeSource.get_outcomes``."""
        tally = OutcomeTally(flag_key, metric)
        pieces = self._pieces([flag_key, metric])
        async for _, events in self._matching(pieces[flag_key], window, canonical_filter(where), digests=False):
            tally.add_exposures(events)
        async for _, events in self._matching(pieces[metric], window, OUTCOMES, digests=False):
            tally.add_outcomes(events)
        return tally.outcomes()

    async def list_flags(self, window: Window, *, where: EventFilter | None = None) -> Sequence[FlagActivity]:
        """See ``EventSource.list_flags``."""
        flags = []
        for key, pieces in sorted(self._pieces(None).items()):
            tally = ActivityTally(key)
            async for digest, events in self._matching(pieces, window, canonical_filter(where)):
                if digest is not None:
                    tally.merge(digest)
                tally.add(events)
            flags.append(tally.activity())
        return [flag for flag in flags if flag is not None]

    async def count_steps(
        self,
        flag_key: str,
        window: Window,
        step_seconds: float,
        *,
        where: EventFilter | None = None,
        group_by: Grouping | None = None,
    ) -> Mapping[int, TimeStep]:
        """See ``EventSource.count_steps``."""
        tallies: dict[str, StepTally] = defaultdict(lambda: StepTally(window, step_seconds))
        pieces = self._pieces([flag_key])[flag_key]
        async for name, _, events in self._grouped(pieces, window, canonical_filter(where), group_by, digests=False):
            tallies[name].add(events)
        found = {name: tally.steps() for name, tally in tallies.items()}
        return found.get(_ALL, {}) if group_by is None else group_steps(window, step_seconds, found)

    async def count_future(self, now: datetime) -> int:
        """See ``EventSource.count_future``; it never suspends, so that a caller without an event loop can ask, too."""
        future = 0
        for piece in itertools.chain.from_iterable(self._pieces(None).values()):
            with self._lock:
                last_seen = self._log.last_seen(piece)
                if last_seen is None or last_seen > now:
                    future += sum(event.timestamp > now for event in self._log.events(piece))
        return future

    def _newest(self, flag_key: str | None, limit: int | None) -> list[Any]:
        """Return the newest events in canonical form, the oldest of them first."""
        runs: list[list[Any]] = []
        wanted = self._max_size if limit is None else limit
        with self._lock:
            self._index()
            for run in self._log.everything() if flag_key is None else self._log.of_flag(canonical_key(flag_key)):
                if wanted <= 0:
                    break
                runs.append(run[-wanted:])
                wanted -= len(run)
        return list(itertools.chain.from_iterable(reversed(runs)))

    def _pieces(self, flag_keys: Iterable[str] | None) -> dict[str, list[Piece]]:
        """Return where the events of these flags, or of all, are at this moment."""
        with self._lock:
            self._index()
            keys = self._log.flag_keys() if flag_keys is None else flag_keys
            return {key: self._log.pieces(key) for key in keys}

    async def _grouped(
        self,
        pieces: list[Piece],
        window: Window,
        where: EventFilter,
        group_by: Grouping | None,
        *,
        digests: bool = True,
    ) -> AsyncIterator[tuple[str, Digest | None, list[Any]]]:
        """Yield what ``_matching`` does with the name of its group, which is ``_ALL`` unless groups are asked for."""
        if group_by is None:
            async for digest, events in self._matching(pieces, window, where, digests=digests):
                if digest is not None or events:
                    yield _ALL, digest, events
            return
        groups = Groups(group_by)
        contexts = group_by.attribute is not None
        async for _, events in self._matching(pieces, window, where, digests=False, contexts=contexts):
            groups.add(events)
        for name, events in groups.named().items():
            async for some in _slices(events):
                yield name, None, some
            await pause()

    async def _matching(
        self,
        pieces: list[Piece],
        window: Window,
        where: EventFilter,
        *,
        digests: bool = True,
        contexts: bool = False,
    ) -> AsyncIterator[tuple[Digest | None, list[Any]]]:
        """Yield the events in the window that pass the filter: as a digest where a whole piece does, else themselves.

        The lock is taken for one piece at a time, and after some of them other tasks have their turn.
        """
        digests = digests and _asks_for_kinds_only(where)
        looked_at = 0
        some: list[Any] = []
        for piece in pieces:
            with self._lock:
                digest = self._log.digest(piece) if digests else None
                covered = digest is not None and _covers(window, where, digest)
                events = [] if covered else self._log.events(piece)
            if covered:
                yield digest, []
            some += events
            looked_at += digest.total if digest is not None else len(events)
            if looked_at >= _SLICE:
                yield None, _select(some, window, where, contexts)
                some = []
                looked_at = 0
                await pause()
        yield None, _select(some, window, where, contexts)


def _asks_for_kinds_only(where: EventFilter) -> bool:
    return not where.required_texts() and not where.required_context()


def _covers(window: Window, where: EventFilter, digest: Digest) -> bool:
    begun = window.start is None or window.start <= digest.first_seen
    return begun and digest.last_seen <= window.end and digest.kinds.issubset(where.kinds)


def _select(events: list[Any], window: Window, where: EventFilter, contexts: bool) -> list[Any]:
    if where.required_context():
        events = [as_recorded(event) for event in events if has_context(event)]
    elif contexts:
        events = list(map(as_recorded, events))
    return select(events, window, where)


async def _slices(events: list[Any]) -> AsyncIterator[list[Any]]:
    for start in range(0, len(events), _SLICE):
        if start:
            await pause()
        yield events[start : start + _SLICE]


def check_max_size(max_size: Any) -> int:
    """Return ``max_size`` if it is an integer of at least 1."""
    if isinstance(max_size, bool) or not isinstance(max_size, int):
        raise TypeError(f"max_size is {type(max_size).__name__}: expected an integer, the most events to keep")
    if max_size < 1:
        raise ValueError(f"max_size is {max_size}: expected at least 1, the most events to keep")
    return max_size
