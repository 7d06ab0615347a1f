"""``Delivery``: events in from any thread, batches out to every sink, each on its own worker."""

from __future__ import annotations

import time
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, cast

import attrs
from flag_analytics.freezer import Freezer
from flag_analytics.processes import close_at_exit, keep_inherited, renew_after_fork
from flag_analytics.protocols import RecordResult
from flag_analytics.reports import DeadLetter, DeliveryOptions, DeliveryReport, DeliveryStats

from .engine import GRACE_SECONDS, Engine, Settings, as_timeout

if TYPE_CHECKING:
    from flag_analytics.protocols import BatchSink, InlineSink

__all__ = ["Delivery"]


class Delivery:
    """Delivers events to a set of sinks, loses none without counting it, and never blocks or breaks its caller.

    A sink with ``write`` gets batches on a worker of its own; one with ``record_nowait`` gets each event at once, in
    the caller's thread. No thread is started before there is something to deliver. In a forked child a delivery is as
    new: it has no events, threads or connections of the parent's.

    Args:
        sinks: The sinks by name.
        options: Settings for all sinks. If None, each sink's own ``delivery`` attribute holds, or else the defaults.
        sink_options: Settings of single sinks, in place of all these.
        freezer: Brings events into canonical form; by default one of this delivery's own.
        name: Tells this delivery's spools from others' in the same directory for state.
        on_dead_letters: Called with a sink's name, an error's class and the events that were given up. A bound method
            is held weakly.
    """

    def __init__(
        self,
        sinks: Mapping[str, BatchSink | InlineSink],
        options: DeliveryOptions | None = None,
        *,
        sink_options: Mapping[str, DeliveryOptions] | None = None,
        freezer: Freezer | None = None,
        name: str = "delivery",
        on_dead_letters: Callable[[str, str, Sequence[DeadLetter]], None] | None = None,
    ) -> None:
        wishes: dict[str, DeliveryOptions] = {}
        if options is None:
            own = {sink_name: getattr(sink, "delivery", None) for sink_name, sink in sinks.items()}
            wishes = {sink_name: wish for sink_name, wish in own.items() if isinstance(wish, DeliveryOptions)}
            # What belongs to the whole delivery (durability, the spool) can be the wish of a single sink.
            options = next(iter(wishes.values())) if len(sinks) == 1 and wishes else DeliveryOptions()
        settings = Settings(
            name=name,
            sinks=dict(sinks),
            options=options,
            sink_options={**wishes, **(sink_options or {})},
            freezer=freezer or Freezer(traceparent=_traceparent_of(sinks)),
            on_dead_letters=_weakly(on_dead_letters),
        )
        self._freeze = settings.freezer.freeze
        self._engine = Engine(settings)
        self._holder = [self._engine]
        self._finalizer = weakref.finalize(self, _dropped_without_close, self._holder)
        self._finalizer.atexit = False
        close_at_exit(self)
        renew_after_fork(self.after_fork_in_child)
        if self._engine.spool is not None:
            self._engine.spool.start()

    # --- events in

    def record_nowait(self, event: Any) -> RecordResult:
        """Take one event; never raises, never waits for a backend, does no I/O.

        Returns:
            ``RecordResult.ACCEPTED``, or why no sink will get the event; either way it is counted.
        """
        engine = self._engine
        try:
            if not engine.machines:
                return engine.offer_inline(event)
            frozen = self._freeze(event)
        except (KeyboardInterrupt, SystemExit):
            raise  # most likely out of a signal handler that ends the process
        except BaseException as error:
            return self._refuse_broken(error)
        try:
            return engine.offer(frozen)  # what this raises comes out of the application's own signal handlers
        except (RecursionError, MemoryError) as error:
            return self._refuse_broken(error)

    def _refuse_broken(self, error: BaseException) -> RecordResult:
        try:
            self._engine.refuse("error")
        except RecursionError:
            self._engine.intake.exhausted += 1  # there is not even room for that call
            return RecordResult.ERROR
        try:
            name = type(error).__name__
            self._engine.log(f"record:{name}", "an event was not recorded: %s", name)
        except RecursionError:
            pass  # it is counted
        return RecordResult.ERROR

    def refuse(self, reason: RecordResult) -> RecordResult:
        """Count an event that was filtered, or broke a processor, before it came here."""
        self._engine.refuse(reason.value)
        return reason

    # --- flush and close

    async def flush(self, timeout: float = 30.0) -> DeliveryReport:
        """Wait until everything accepted before is stored; the report is true if it is.

        It waits at most ``timeout`` seconds; cancelling it changes nothing but the waiting. What was lost since the
        last flush (an event that ``drop_oldest`` gave up, a dead letter) makes the report false.

        Raises:
            ValueError: the timeout is not a number.
        """
        import asyncio

        engine = self._engine
        ends = time.monotonic() + as_timeout(timeout)
        waiter = engine.begin_flush()
        try:
            await asyncio.wait_for(_as_awaitable(waiter.future), ends - time.monotonic())
        except TimeoutError:
            pass  # the report says so
        finally:
            report = engine.end_flush(waiter)
        flushed = await engine.finish_lanes(list(engine.inline), "flush", ends)
        return report if flushed else attrs.evolve(report, complete=False)

    def flush_sync(self, timeout: float = 30.0) -> DeliveryReport:
        """``flush`` for callers without an event loop."""
        engine = self._engine
        waited = as_timeout(timeout)
        waiter = engine.begin_flush()
        try:
            waiter.future.result(waited)
        except TimeoutError:
            pass  # the report says so
        finally:
            report = engine.end_flush(waiter)
        flushed = engine.finish_lanes_sync(list(engine.inline), "flush")
        return report if flushed else attrs.evolve(report, complete=False)

    def persist(self) -> bool:
        """Make everything recorded so far durable, in this thread; return whether it is.

        Without a spool nothing is ever durable before it is delivered: then it returns false.
        """
        spool = self._engine.spool
        return spool is not None and spool.drain() and spool.holds_everything()

    async def close(self, timeout: float | None = None) -> DeliveryReport:
        """Refuse further events, drain for at most ``timeout`` seconds, close the sinks, report what was achieved.

        Every caller gets the same report, however often and from wherever it is called; what could not be delivered
        is in the report as ``spooled`` or as ``dropped``: ``closed``.
        """
        import asyncio

        engine = self._engine
        done = engine.begin_close(self._timeout(timeout))
        try:
            await asyncio.wait_for(_as_awaitable(done), self._left())
        except TimeoutError:
            pass  # finish() accounts for what the workers left
        report = engine.finish()
        self._finalizer.detach()
        await engine.finish_lanes(engine.inline_open, "close", time.monotonic() + self._left())
        return report

    def close_sync(self, timeout: float | None = None) -> DeliveryReport:
        """``close`` for callers without an event loop."""
        engine = self._engine
        done = engine.begin_close(self._timeout(timeout))
        try:
            done.result(self._left())
        except TimeoutError:
            pass  # finish() accounts for what the workers left
        report = engine.finish()
        self._finalizer.detach()
        engine.finish_lanes_sync(engine.inline_open, "close")
        return report

    def _timeout(self, timeout: float | None) -> float:
        return as_timeout(self._engine.settings.options.close_timeout_seconds if timeout is None else timeout)

    def _left(self) -> float:
        deadline = self._engine.close_deadline
        return GRACE_SECONDS if deadline is None else max(0.0, deadline - time.monotonic()) + GRACE_SECONDS

    @property
    def exit_timeout(self) -> float:
        """How long a process that exits may be held to drain, in seconds."""
        return as_timeout(self._engine.settings.options.exit_timeout_seconds)

    def begin_exit(self) -> None:
        """Begin to close, at the end of the process."""
        self._engine.begin_close(self.exit_timeout, start_workers=False)

    def end_exit(self, deadline: float) -> None:
        """Wait for what ``begin_exit`` began."""
        engine = self._engine
        try:
            engine.all_done.result(max(0.0, deadline - time.monotonic()) + 0.1)
        except TimeoutError:
            pass  # finish() accounts for what the workers left
        engine.finish()

    # --- accounts

    @property
    def reported(self) -> bool:
        """Whether a close has come to its end."""
        return self._engine.reported

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._engine.intake.closed

    def stats(self) -> DeliveryStats:
        """Return the ledger. It balances at any moment: see ``DeliveryStats`` and ``SinkStats``."""
        return self._engine.stats()

    def dead_letters(self) -> tuple[DeadLetter, ...]:
        """Return the latest events that sinks refused for good, at most 1,000."""
        return tuple(self._engine.dead_letters)

    def health(self) -> dict[str, Any]:
        """Return ``status`` (``ok``, ``degraded``, ``closed``) and the state of each sink; does no I/O."""
        stats = self.stats()
        sinks = {
            name: {
                "status": "ok" if sink.breaker == "closed" else "degraded",
                "breaker": sink.breaker,
                "pending": sink.pending,
                "backlog_bytes": sink.backlog_bytes,
                "backlog_age_seconds": sink.backlog_age_seconds,
                "last_success": sink.last_success,
                "last_error": sink.last_error,
                "dropped": sum(sink.dropped.values()),
                "dead": sink.dead,
            }
            for name, sink in stats.sinks.items()
        }
        degraded = any(sink["status"] != "ok" for sink in sinks.values())
        status = "closed" if self.closed else "degraded" if degraded else "ok"
        return {"status": status, "sinks": sinks}

    # --- fork

    def after_fork_in_child(self) -> None:
        """Start over with nothing of the parent's; a delivery that was closed stays closed."""
        parent = self._engine
        parent.leave_in_child()
        parent.settings.freezer.after_fork_in_child()
        closed = parent.intake.closed
        self._engine = Engine(parent.settings)
        self._holder[0] = self._engine
        keep_inherited(parent)
        if closed:
            self._engine.begin_close(0.0, start_workers=False)


_draining: set[_Dropped] = set()


class _Dropped:
    """The engine of a delivery that was dropped without ``close``: it holds the end of the process as well."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.exit_timeout = as_timeout(engine.settings.options.exit_timeout_seconds)
        _draining.add(self)
        close_at_exit(self)
        engine.begin_close(as_timeout(engine.settings.options.close_timeout_seconds)).add_done_callback(
            lambda _: _draining.discard(self)
        )

    def begin_exit(self) -> None:
        pass  # it drains already

    def end_exit(self, deadline: float) -> None:
        try:
            self._engine.all_done.result(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            pass  # finish() accounts for the rest
        self._engine.finish()


renew_after_fork(_draining.clear)


def _dropped_without_close(holder: list[Engine]) -> None:
    """Drain, as far as it goes, the engine of a delivery that nobody holds any more; its workers end by themselves."""
    engine = holder[0]
    stats = engine.stats()
    closing = engine.intake.closed
    busy = any(sink.pending for sink in stats.sinks.values())
    _Dropped(engine)
    if not closing and (busy or stats.accepted):
        warnings.warn(
            f"{engine.settings.name} was dropped without close(): use `async with`, `with` or close()",
            ResourceWarning,
            stacklevel=2,
        )


def _traceparent_of(sinks: Mapping[str, Any]) -> Callable[[], str | None] | None:
    """Return how the first sink that wants to know finds the caller's trace context."""
    for sink in sinks.values():
        traceparent = getattr(sink, "traceparent", None)
        if callable(traceparent):
            return cast("Callable[[], str | None]", traceparent)
    return None


def _weakly(
    callback: Callable[[str, str, Sequence[DeadLetter]], None] | None,
) -> Callable[[str, str, Sequence[DeadLetter]], None] | None:
    """Return a callback that does not keep its object alive: a worker thread holds it as long as it runs."""
    if callback is None or not hasattr(callback, "__self__"):
        return callback
    reference = weakref.WeakMethod(callback)

    def call(sink: str, error: str, letters: Sequence[DeadLetter]) -> None:
        method = reference()
        if method is not None:
            method(sink, error, letters)

    return call


async def _as_awaitable(future: Future[Any]) -> None:
    """Wait for a future that another thread sets; the waiting loop may be cancelled, stopped or closed meanwhile."""
    import asyncio

    loop = asyncio.get_running_loop()
    reached = asyncio.Event()

    def tell(_: Future[Any]) -> None:
        try:
            loop.call_soon_threadsafe(reached.set)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    future.add_done_callback(tell)
    await reached.wait()
