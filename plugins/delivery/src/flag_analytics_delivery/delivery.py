"""``Delivery``: events in from any thread, batches out to every sink, each on its own worker."""

from __future__ import annotations

import math
import time
import warnings
import weakref
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, cast

from flag_analytics.freezer import Freezer
from flag_analytics.frozen import FrozenEvent
from flag_analytics.processes import chain_sigterm, close_at_exit, closed, keep_inherited, renew_after_fork, wait
from flag_analytics.protocols import RecordResult
from flag_analytics.reports import DeadLetter, DeliveryOptions, DeliveryReport, DeliveryStats
from flag_analytics.waiting import in_thread, is_trio

from .engine import GRACE_SECONDS, Engine, Settings

if TYPE_CHECKING:
    from flag_analytics.protocols import BatchSink

__all__ = ["Delivery"]


class Delivery:
    """Delivers events to a set of sinks, loses none without counting it, and never blocks or breaks its caller.

    Each sink gets batches on a worker of its own. No thread is started before there is something to deliver. In a
    forked child a delivery is as new: it has no events, threads or connections of the parent's.

    Args:
        sinks: The sinks by name.
        options: Settings for all sinks. If None, each sink's own ``delivery`` attribute holds, or else the defaults.
        sink_options: Settings of single sinks, in place of all these.
        freezer: Brings events into canonical form; by default one of this delivery's own.
        name: Tells this delivery's spools from others' in the same directory for state.
        on_dead_letters: Called with a sink's name, an error's class and the events that were given up. A bound method
            is held weakly.

    Raises:
        TypeError: a sink has no ``write``.
    """

    def __init__(
        self,
        sinks: Mapping[str, BatchSink],
        options: DeliveryOptions | None = None,
        *,
        sink_options: Mapping[str, DeliveryOptions] | None = None,
        freezer: Freezer | None = None,
        name: str = "delivery",
        on_dead_letters: Callable[[str, str, Sequence[DeadLetter]], None] | None = None,
    ) -> None:
        sink_defaults: dict[str, DeliveryOptions] = {}
        if options is None:
            own = {sink_name: getattr(sink, "delivery", None) for sink_name, sink in sinks.items()}
            sink_defaults = {sink_name: one for sink_name, one in own.items() if isinstance(one, DeliveryOptions)}
            # Settings of the whole delivery (durability, the spool) can come from a single sink.
            options = next(iter(sink_defaults.values())) if len(sinks) == 1 and sink_defaults else DeliveryOptions()
        for sink_name, sink in sinks.items():
            if not callable(getattr(sink, "write", None)):
                raise TypeError(f"sink {sink_name} is {type(sink).__name__}: expected an object with the method write")
        settings = Settings(
            name=name,
            sinks=dict(sinks),
            options=options,
            sink_options={**sink_defaults, **(sink_options or {})},
            freezer=freezer or Freezer(traceparent=traceparent_of(sinks.values())),
            on_dead_letters=_weakly(on_dead_letters),
        )
        self.freeze = settings.freezer.freeze
        self._engine = Engine(settings)
        self._holder = [self._engine]
        self._finalizer = weakref.finalize(self, _dropped_without_close, self._holder)
        self._finalizer.atexit = False
        close_at_exit(self)
        if options.sigterm == "chain":
            chain_sigterm()
        renew_after_fork(self.after_fork_in_child)
        if self._engine.spool is not None:
            self._engine.spool.start()

    # --- events in

    def record_nowait(self, event: Any) -> RecordResult:
        """Take one event; never raises, never waits for a backend, does no I/O.

        Returns:
            ``RecordResult.ACCEPTED``, or why no sink will get the event; either way it is counted.
        """
        try:
            frozen = self.freeze(event)
        except (KeyboardInterrupt, SystemExit):
            raise  # most likely out of a signal handler that ends the process
        except BaseException as error:
            return self._refuse_broken(error)
        try:
            return self._engine.offer(frozen)  # what this raises comes out of the application's own signal handlers
        except (RecursionError, MemoryError) as error:
            return self._refuse_broken(error)

    def offer(self, event: FrozenEvent) -> RecordResult:
        """Take one event that is frozen already, as ``record_nowait``."""
        try:
            return self._engine.offer(event)
        except (RecursionError, MemoryError) as error:
            return self._refuse_broken(error)

    def _refuse_broken(self, error: BaseException) -> RecordResult:
        try:
            self._engine.refuse("error")
        except RecursionError:
            self._engine.accounts.exhausted += 1  # there is not even room for that call
            return RecordResult.ERROR
        try:
            self._engine.accounts.warn("an event was not recorded: %s", type(error).__name__)
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

        It waits at most ``timeout`` seconds; cancelling it changes nothing but the waiting. Accepted events that were
        lost since the last flush (forgotten by ``drop_oldest``, dead letters) make the report false.

        Raises:
            ValueError: the timeout is not a number.
        """
        import asyncio

        if is_trio():
            return await in_thread(self.flush_sync, timeout)
        engine, seconds = self._engine, as_timeout(timeout)
        waiter = engine.begin_flush()
        try:
            await asyncio.wait_for(_as_awaitable(waiter.future), seconds)
        except TimeoutError:
            pass  # the report says so
        finally:
            report = engine.end_flush(waiter)
        return report

    def flush_sync(self, timeout: float = 30.0) -> DeliveryReport:
        """``flush`` for callers without an event loop."""
        engine, seconds = self._engine, as_timeout(timeout)
        waiter = engine.begin_flush()
        try:
            wait(waiter.future, seconds)
        except TimeoutError:
            pass  # the report says so
        finally:
            report = engine.end_flush(waiter)
        return report

    def persist(self) -> bool:
        """Make everything recorded so far durable, in this thread; return whether it is.

        Without a spool nothing is ever durable before it is delivered: then it returns false.
        """
        spool = self._engine.spool
        return spool is not None and spool.persist()

    def ask(self, sink: str, question: Callable[[], Awaitable[Any]]) -> Future[Any] | None:
        """Have a question awaited in a sink's own loop, beside its writes; None after the close.

        Raises:
            KeyError: there is no such sink.
        """
        return self._engine.ask(sink, question)

    def reopen(self, sink: str) -> None:
        """Try a sink again that raised ``FatalConfiguration``.

        Raises:
            KeyError: there is no such sink.
        """
        self._engine.reopen(sink)

    async def close(self, timeout: float | None = None) -> DeliveryReport:
        """Refuse further events, drain for at most ``timeout`` seconds, close the sinks, report what was achieved.

        Every caller gets the same report, however often and from wherever it is called; what could not be delivered
        is in the report as ``spooled`` or as ``dropped``: ``closed``.
        """
        import asyncio

        if is_trio():
            return await in_thread(self.close_sync, timeout)
        engine = self._engine
        done = engine.begin_close(self._timeout(timeout))
        try:
            await asyncio.wait_for(_as_awaitable(done), self._left())
        except TimeoutError:
            pass  # finish() accounts for what the workers left
        self._finalizer.detach()
        report = engine.finish()
        closed(self)
        return report

    def close_sync(self, timeout: float | None = None) -> DeliveryReport:
        """``close`` for callers without an event loop."""
        engine = self._engine
        done = engine.begin_close(self._timeout(timeout))
        try:
            wait(done, self._left())
        except TimeoutError:
            pass  # finish() accounts for what the workers left
        self._finalizer.detach()
        report = engine.finish()
        closed(self)
        return report

    def _timeout(self, timeout: float | None) -> float:
        return as_timeout(self._engine.settings.options.close_timeout_seconds if timeout is None else timeout)

    def _left(self) -> float:
        deadline = self._engine.accounts.close_deadline
        return GRACE_SECONDS if deadline is None else max(0.0, deadline - time.monotonic()) + GRACE_SECONDS

    @property
    def exit_timeout(self) -> float:
        """How long a process that exits may be held to drain, in seconds."""
        return as_timeout(self._engine.settings.options.exit_timeout_seconds)

    def flush_at_exit(self, deadline: float) -> None:
        """Flush at the end of the process, before anything is closed."""
        self.flush_sync(max(0.0, deadline - time.monotonic()))

    def begin_exit(self) -> None:
        """Begin to close, at the end of the process."""
        if not self.reported:
            self._engine.begin_close(self.exit_timeout, start_workers=False)

    def end_exit(self, deadline: float) -> None:
        """Wait for what ``begin_exit`` began."""
        _end_exit(self._engine, deadline)

    # --- accounts

    @property
    def reported(self) -> bool:
        """Whether a close has come to its end."""
        return self._engine.report is not None

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._engine.accounts.closed

    def stats(self) -> DeliveryStats:
        """Return the ledger. It balances at any moment: see ``DeliveryStats`` and ``SinkStats``."""
        return self._engine.stats()

    def health(self) -> dict[str, Any]:
        """Return ``status`` (``ok``, ``degraded``, ``closed``) and the state of each sink; does no I/O."""
        return self.stats().health(closed=self.closed)

    def dead_letters(self) -> tuple[DeadLetter, ...]:
        """Return the latest events that sinks refused for good, at most 1,000."""
        return tuple(self._engine.accounts.dead_letters)

    def forget_dead_letters(self, targeting_keys: Collection[str]) -> int:
        """Forget the dead letters in memory of these targeting keys; return how many there were."""
        return self._engine.accounts.forget_dead_letters(targeting_keys)

    # --- fork

    def after_fork_in_child(self) -> None:
        """Start over with nothing of the parent's; a delivery that was closed stays closed."""
        parent = self._engine
        parent.leave_in_child()
        parent.settings.freezer.after_fork_in_child()
        self._engine = Engine(parent.settings)
        self._holder[0] = self._engine
        keep_inherited(parent)
        if parent.accounts.closed:
            self._engine.begin_close(0.0, start_workers=False)


def as_timeout(seconds: float) -> float:
    """Return a number of seconds that every clock can add; infinity is as good as three years.

    Raises:
        ValueError: it is not a number.
    """
    if math.isnan(seconds):
        raise ValueError("a timeout is NaN: expected a number of seconds")
    return min(float(seconds), 1e8)


def _end_exit(engine: Engine, deadline: float) -> None:
    try:
        engine.all_done.result(max(0.0, deadline - time.monotonic()) + 0.1)
    except TimeoutError:
        pass  # finish() accounts for what the workers left
    engine.finish()


_draining: set[_Dropped] = set()


class _Dropped:
    """The engine of a delivery that was dropped without ``close``: it holds the end of the process as well."""

    def __init__(self, engine: Engine) -> None:
        options = engine.settings.options
        self._engine = engine
        self.exit_timeout = as_timeout(options.exit_timeout_seconds)
        _draining.add(self)
        close_at_exit(self)
        engine.begin_close(as_timeout(options.close_timeout_seconds)).add_done_callback(
            lambda _: _draining.discard(self)
        )

    def flush_at_exit(self, deadline: float) -> None:
        try:
            self._engine.all_done.result(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            pass  # end_exit() waits for the rest

    def begin_exit(self) -> None:
        """Do nothing: it drains already."""

    def end_exit(self, deadline: float) -> None:
        _end_exit(self._engine, deadline)


renew_after_fork(_draining.clear)


def _dropped_without_close(holder: list[Engine]) -> None:
    """Drain, as far as it goes, the engine of a delivery that was dropped; its workers end by themselves."""
    engine = holder[0]
    used, closing = engine.stats().accepted > 0, engine.accounts.closed
    _Dropped(engine)
    if used and not closing:
        warnings.warn(
            f"{engine.settings.name} was dropped without close(): use `async with`, `with` or close()",
            ResourceWarning,
            stacklevel=2,
        )


def traceparent_of(sinks: Iterable[Any]) -> Callable[[], str | None] | None:
    """Return how the first sink that asks for it finds the caller's trace context."""
    for sink in sinks:
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
            return  # the loop is closed: no caller waits any more

    future.add_done_callback(tell)
    await reached.wait()
