"""Hands events to inline sinks, to the delivery engine, or to both, and keeps one account of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from .frozen import FrozenEvent
from .inline import InlineSinks
from .marshalled import marshalled
from .processes import new_rlock, renew_after_fork
from .protocols import RecordResult
from .reports import DeadLetter, DeliveryReport, DeliveryStats, SinkStats
from .sources import EventSource
from .waiting import in_thread, is_trio

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Future

__all__ = ["Engine", "Fanout", "Record"]


class Filtering(Protocol):
    """A sink whose own processors may drop events, and count those."""

    filtered: int


class Record(Protocol):
    """Takes one event; says whether it was accepted, or why not."""

    def __call__(self, event: Any) -> RecordResult: ...


class Engine(Protocol):
    """The delivery engine, as the core sees it: ``flag_analytics_delivery.Delivery``."""

    freeze: Callable[[Any], FrozenEvent]

    def record_nowait(self, event: Any) -> RecordResult: ...
    def offer(self, event: FrozenEvent) -> RecordResult: ...
    def refuse(self, reason: RecordResult) -> RecordResult: ...
    async def flush(self, timeout: float = 30.0) -> DeliveryReport: ...
    def flush_sync(self, timeout: float = 30.0) -> DeliveryReport: ...
    async def close(self, timeout: float | None = None) -> DeliveryReport: ...
    def close_sync(self, timeout: float | None = None) -> DeliveryReport: ...
    def ask(self, sink: str, question: Callable[[], Awaitable[Any]]) -> Future[Any] | None: ...
    def reopen(self, sink: str) -> None: ...
    def stats(self) -> DeliveryStats: ...
    def dead_letters(self) -> tuple[DeadLetter, ...]: ...
    def forget_dead_letters(self, targeting_keys: Collection[str]) -> int: ...
    @property
    def closed(self) -> bool: ...


class Fanout:
    """The destinations of a pipeline.

    Args:
        names: The names of all sinks, in the order of their stats.
        inline: Those that take each event at once.
        engine: The delivery engine with all others; None if there are none.
        close_timeout_seconds: How long a close takes unless told otherwise.
        filtering: Those of the engine's sinks that may drop events themselves.

    Attributes:
        record_nowait: Takes one event for every sink.
    """

    record_nowait: Record

    def __init__(
        self,
        names: Sequence[str],
        inline: InlineSinks,
        engine: Engine | None,
        *,
        close_timeout_seconds: float,
        filtering: Mapping[str, Filtering] | None = None,
    ) -> None:
        self._names = tuple(names)
        self._inline = inline
        self._engine = engine
        self._close_timeout_seconds = close_timeout_seconds
        self._filtering = dict(filtering or {})
        self._renew()
        renew_after_fork(self._renew)
        # Bound here, once: an event costs what its destinations cost, and nothing more.
        if engine is None:
            self.record_nowait = inline.record
        else:
            self.record_nowait = self._record_both if inline else engine.record_nowait

    def _renew(self) -> None:
        self._lock = new_rlock()
        self._rescued = 0
        """Events that no queue had room for, and an inline sink took."""
        self._inline.after_fork_in_child()

    def _record_both(self, event: Any) -> RecordResult:
        engine = self._engine
        assert engine is not None
        try:
            frozen = engine.freeze(event)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            return engine.record_nowait(event)  # it refuses and counts the event
        result = engine.offer(frozen)
        if result is not RecordResult.ACCEPTED and result is not RecordResult.OVERFLOW:
            return result
        taken = self._inline.record(frozen)
        if result is RecordResult.OVERFLOW and taken:
            with self._lock:
                self._rescued += 1
            return taken
        return result

    def refuse(self, reason: RecordResult) -> RecordResult:
        """Count an event that no sink will see."""
        return self._inline.refuse(reason) if self._engine is None else self._engine.refuse(reason)

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._inline.closed if self._engine is None else self._engine.closed

    async def flush(self, timeout: float = 30.0) -> DeliveryReport:
        """Wait, at most ``timeout`` seconds, until what was recorded before is stored."""
        if is_trio():
            return await in_thread(self.flush_sync, timeout)
        ends = time.monotonic() + timeout
        report = None if self._engine is None else await self._engine.flush(timeout)
        return self._report(report, done=await self._inline.flush(ends))

    def flush_sync(self, timeout: float = 30.0) -> DeliveryReport:
        """``flush`` for callers without an event loop."""
        report = None if self._engine is None else self._engine.flush_sync(timeout)
        return self._report(report, done=self._inline.flush_sync())

    async def close(self, timeout: float | None = None) -> DeliveryReport:
        """Refuse further events, deliver what waits, close every sink."""
        if is_trio():
            return await in_thread(self.close_sync, timeout)
        ends = time.monotonic() + (self._close_timeout_seconds if timeout is None else timeout)
        report = None if self._engine is None else await self._engine.close(timeout)
        self._inline.closed = True
        await self._inline.close(ends)
        return self._report(report)

    def close_sync(self, timeout: float | None = None) -> DeliveryReport:
        """``close`` for callers without an event loop."""
        report = None if self._engine is None else self._engine.close_sync(timeout)
        self._inline.closed = True
        self._inline.close_sync()
        return self._report(report)

    def _report(self, report: DeliveryReport | None, *, done: bool = True) -> DeliveryReport:
        sinks = {**({} if report is None else report.sinks), **self._inline.stats()}
        complete = done and (report is None or report.complete)
        return DeliveryReport.of(self._in_order(sinks), complete=complete)

    def _in_order(self, sinks: Mapping[str, SinkStats]) -> dict[str, SinkStats]:
        return {name: self._without_filtered(name, sinks[name]) for name in self._names}

    def _without_filtered(self, name: str, stats: SinkStats) -> SinkStats:
        """Return the ledger with events that the sink's own processors dropped as such: the engine delivered them."""
        sink = self._filtering.get(name)
        filtered = 0 if sink is None else min(sink.filtered, stats.delivered)
        if not filtered:
            return stats
        dropped = {**stats.dropped, "filtered": filtered}
        return attrs.evolve(stats, delivered=stats.delivered - filtered, dropped=dropped)

    def stats(self) -> DeliveryStats:
        """Return the ledger of every sink, and what became of every call of ``record``."""
        sinks = self._inline.stats()
        if self._engine is None:
            accepted, refused = self._inline.accepted, +self._inline.refused
            return DeliveryStats(accepted + refused.total(), accepted, dict(refused), {}, self._in_order(sinks))
        stats = self._engine.stats()
        refused = Counter(stats.refused)
        refused["overflow"] -= self._rescued
        return attrs.evolve(
            stats,
            accepted=stats.accepted + self._rescued,
            refused=dict(+refused),
            sinks=self._in_order({**stats.sinks, **sinks}),
        )

    def dead_letters(self) -> tuple[DeadLetter, ...]:
        """Return the latest events that sinks refused for good."""
        return () if self._engine is None else self._engine.dead_letters()

    def in_loop_of(self, sink: str, source: EventSource) -> EventSource:
        """Return the source of a sink, to be asked from any loop."""
        engine = self._engine
        if engine is None or sink not in engine.stats().sinks:
            return source
        return marshalled(source, partial(engine.ask, sink))

    def forget_dead_letters(self, targeting_keys: Collection[str]) -> int:
        """Forget the dead letters of these targeting keys; return how many there were."""
        return 0 if self._engine is None else self._engine.forget_dead_letters(targeting_keys)

    def reopen(self, sink: str) -> None:
        """Try a sink again that raised ``FatalConfiguration``.

        Raises:
            ValueError: there is no such sink.
        """
        if sink not in self._names:
            raise ValueError(f"no sink {sink!r}: expected one of {', '.join(self._names)}")
        if self._engine is not None and sink in self._engine.stats().sinks:
            self._engine.reopen(sink)
