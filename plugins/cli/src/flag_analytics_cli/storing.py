"""Hands events to backends without loss: waits for slow ones and says so, and gives up on those that are down."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from flag_analytics.config.plan import Plan
from flag_analytics.errors import FlagAnalyticsError, SourceError
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.frozen import FrozenEvent
from flag_analytics.pipeline import Pipeline, open_pipeline
from flag_analytics.protocols import RecordResult
from flag_analytics.registry import default_registry
from flag_analytics.reports import DeliveryReport
from flag_analytics.sources import EventFilter, EventSource, Window

from .batches import OTHER_CONTENT
from .settings import IMPORT_BLOCK_SECONDS, is_lasting, missing_file, patient
from .terminal import note
from .visible import visible
from .wording import counted, explained

__all__ = [
    "IMPORT_AGAIN",
    "REPLAY_AGAIN",
    "STORED_ONCE",
    "NotStoredError",
    "count_stored",
    "flush_all",
    "open_patiently",
    "patient_recorder",
]

STORED_ONCE = "a backend that stores each id once, as database does, has none of them twice"
"""True of any backend: some only append, and nothing tells them apart."""
IMPORT_AGAIN = f"import the file again when the backend is well: {STORED_ONCE}"
REPLAY_AGAIN = "replay the spool again when the backend is well: events that are not stored yet are still in it"

_OTHER_CONTENT_CURE = (
    "they are stored under the same ids with other content, for example with another --map: remove these with "
    "`flag-analytics imports undo NAME`, or import with --replace"
)

FIRST_SUCCESS_SECONDS = 15.0
"""How long a backend may take for the very first event: one that is down should be known of soon."""
_FLUSH_STEP_SECONDS = 5.0
_GIVE_UP_SECONDS = 1.0
_COUNT_SECONDS = 5.0
_QUIET_SECONDS = 3.0
_AGAIN_SECONDS = 15.0
_EVERY_KIND = EventFilter(kinds=("evaluation", "exposure", "outcome"))


class NotStoredError(FlagAnalyticsError):
    """Events could not be stored; the message says how many, and the cure."""


@contextmanager
def open_patiently(plan: Plan) -> Iterator[Pipeline]:
    """Open a pipeline that waits for slow backends, and say on standard error when one takes nothing.

    After a failure or Ctrl-C it is closed without another long wait for a backend that does not answer.
    """
    pipeline = open_pipeline(patient(plan))
    done = threading.Event()
    watch = threading.Thread(target=_tell_of_delays, args=(pipeline, done), name="flag-analytics-watch", daemon=True)
    watch.start()
    patience: float | None = _GIVE_UP_SECONDS
    try:
        yield pipeline
        patience = None
    finally:
        done.set()
        watch.join()
        pipeline.close_sync(patience)


def _tell_of_delays(pipeline: Pipeline, done: threading.Event) -> None:
    """Say which backends have taken nothing for a while although events wait for them, and why."""
    seen: dict[str, tuple[int, float]] = {}
    told = -_AGAIN_SECONDS
    while not done.wait(_QUIET_SECONDS / 3):
        now = time.monotonic()
        stuck = []
        for name, sink in pipeline.stats().sinks.items():
            settled = sink.delivered + sink.dead
            before, since = seen.get(name, (-1, now))
            if not sink.pending or settled != before:
                seen[name] = (settled, now)
            elif now - since >= _QUIET_SECONDS:
                stuck.append(visible(name) + (f" ({visible(explained(sink.last_error))})" if sink.last_error else ""))
        if stuck and now - told >= _AGAIN_SECONDS:
            note(f"waiting for {', '.join(stuck)}", "yellow")
            told = now


def patient_recorder(
    pipeline: Pipeline, again: str = IMPORT_AGAIN
) -> Callable[[FlagEvaluationEvent | FrozenEvent], None]:
    """Return a function that records one event and waits where a queue is full (the plan must be ``patient``).

    It raises ``NotStoredError`` when a backend does not take the first event within ``FIRST_SUCCESS_SECONDS``, or has
    taken nothing for ``IMPORT_BLOCK_SECONDS`` later on: to go on would lose events. Events that processors
    filter out are not lost.

    Args:
        again: The advice for the message.
    """
    record_nowait = pipeline.record_nowait
    monotonic = time.monotonic
    reached = False

    def record(event: FlagEvaluationEvent | FrozenEvent) -> None:
        nonlocal reached
        started = monotonic()
        outcome = record_nowait(event)
        if outcome is RecordResult.FILTERED:
            return
        if outcome is RecordResult.ACCEPTED and not reached:
            flush_all(pipeline, again, patience=FIRST_SUCCESS_SECONDS, refuse_dead=False)
            reached = True
            return
        # With several backends one may refuse what another takes: only after the full wait can that be.
        if outcome is RecordResult.ACCEPTED and (
            monotonic() - started < IMPORT_BLOCK_SECONDS / 2 or not any(_lost(pipeline).values())
        ):
            return
        raise NotStoredError(
            f"the backends take no more events ({outcome.value if not outcome else 'overflow'}); {again}"
        )

    return record


def flush_all(
    pipeline: Pipeline, again: str = IMPORT_AGAIN, *, patience: float | None = None, refuse_dead: bool = True
) -> DeliveryReport:
    """Return when everything recorded is stored.

    Args:
        again: The advice for the message.
        patience: After how many seconds without any progress to give up; by default ``IMPORT_BLOCK_SECONDS``.
        refuse_dead: Count events that a backend refused for good as not stored.

    Raises:
        NotStoredError: events were lost or refused, or the patience is at its end.
    """
    patience = IMPORT_BLOCK_SECONDS if patience is None else patience
    left = patience
    report = pipeline.flush_sync(min(_FLUSH_STEP_SECONDS, patience))
    while not report.complete and report.pending and left > _FLUSH_STEP_SECONDS:
        stored = report.stored
        left -= _FLUSH_STEP_SECONDS
        report = pipeline.flush_sync(min(_FLUSH_STEP_SECONDS, left))
        left = patience if report.stored > stored else left
    problems = [
        f"{counted(count, 'event')} {what if count == 1 else whats}"
        for count, what, whats in (
            (report.pending, "still waits", "still wait"),
            (sum(_lost(pipeline).values()), "was dropped", "were dropped"),
            (report.dead if refuse_dead else 0, "was refused", "were refused"),
        )
        if count
    ]
    if problems:
        causes = {f"{name}: {explained(sink.last_error)}" for name, sink in report.sinks.items() if sink.last_error}
        cause = f" ({', '.join(sorted(causes))})" if causes else ""
        if any(letter.code == OTHER_CONTENT for letter in pipeline.dead_letters()):
            again = _OTHER_CONTENT_CURE
        raise NotStoredError(f"{', '.join(problems)}{cause}; {again}")
    return report


def _lost(pipeline: Pipeline) -> dict[str, int]:
    return {name: sink.lost for name, sink in pipeline.stats().sinks.items()}


def count_stored(pipeline: Pipeline, plan: Plan) -> Mapping[str, int]:
    """Return how many events each collector that outlives the process and can be asked in time has stored."""
    counts = {}
    for sink in plan.sinks:
        if sink.role != "collector" or not is_lasting(sink):
            continue
        if missing_file(sink) is not None:
            counts[sink.name] = 0
            continue
        try:
            source = default_registry().event_source_for(pipeline.collectors[sink.name])
        except SourceError:
            continue
        # An unknown count is no reason not to import: a real fault shows there.
        with suppress(Exception):
            counts[sink.name] = asyncio.run(_count(source))
    return counts


async def _count(source: EventSource) -> int:
    now = datetime.now(UTC)
    async with asyncio.timeout(_COUNT_SECONDS):
        flags = await source.list_flags(Window(None, now), where=_EVERY_KIND)
        return sum(flag.count for flag in flags) + await source.count_future(now)
