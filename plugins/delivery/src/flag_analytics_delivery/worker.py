"""The worker of one sink: a daemon thread with its own event loop that does what the sink's machine says.

One thread for each sink, so that a sink that blocks (a synchronous driver, a name look-up, a busy encoder) holds up
nobody else: an event loop cannot be taken away from a coroutine that does not give it back.
"""

from __future__ import annotations

import asyncio
import errno
import inspect
import random
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from flag_analytics.errors import BadBatch, CommitUnknown, DeliveryError, SinkUnavailable
from flag_analytics.processes import DaemonExecutor
from flag_analytics.protocols import Batch
from flag_analytics.reports import DeadLetter

from .machine import Dead, Failure, Load, Ping, Resolved, SinkMachine, Wait, Write
from .spool import SpoolError

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["SinkWorker"]

CANCEL_GRACE_SECONDS = 1.0
_graveyard: list[Any] = []
"""Threads and loops inherited through fork: collecting them in the child would close what the parent uses."""


class SinkWorker:
    """Drives one ``SinkMachine`` against its sink. The machine is only touched under the engine's lock."""

    def __init__(self, engine: Engine, sink: Any, machine: SinkMachine) -> None:
        self._engine = engine
        self._sink = sink
        self._machine = machine
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken: asyncio.Event | None = None
        self._opened = False
        self._stuck: asyncio.Task[BaseException | None] | None = None
        self.done = False
        """Whether the worker has ended, or never had anything to do, after the engine began to close."""

    # --- called by others, under the engine's lock

    def wake(self) -> bool:
        """Make the worker look at its machine, starting its thread if need be; return whether it runs."""
        if self._thread is None:
            self._start()
        elif self._loop is not None and self._woken is not None:
            try:
                self._loop.call_soon_threadsafe(self._woken.set)
            except RuntimeError:
                pass  # the loop was closed: the worker is done and has nothing to look at
        return self._thread is not None

    def wake_to_close(self, *, start: bool) -> None:
        """Wake the worker for the last time; one that never ran is started only if ``start``, or if events wait."""
        if self._thread is None and not start and self._machine.idle and not self._engine.intake.waiting:
            self.done = True
        else:
            self.wake()

    def leave_in_child(self) -> None:
        _graveyard.append((self._thread, self._loop, self._woken))
        self._thread = self._loop = self._woken = None
        forget = getattr(self._sink, "after_fork_in_child", None)
        if callable(forget):
            try:
                forget()
            except Exception:
                return  # the sink will say so itself at its first write; nothing may be logged inside a fork

    def _start(self) -> None:
        name = f"flag-analytics-{self._machine.name}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no thread to be had, or the interpreter is ending: the next event tries again
            self._thread = None
            self._engine.intake.sleep(self._machine, filling=False)
            if self._engine.intake.closed:
                self.done = True

    # --- the worker's own thread

    def _run(self) -> None:
        loop = asyncio.new_event_loop()
        loop.set_debug(False)  # in debug mode it logs arguments, and so event content
        loop.set_default_executor(DaemonExecutor())
        try:
            loop.run_until_complete(self._main(loop))
        except BaseException as error:
            self._engine.log(f"{self._machine.name}:worker", "worker ended by %s", type(error).__name__)
        finally:
            _close_loop(loop)
            with self._engine.lock:
                self._loop = None
                self._stuck = None
                if self._engine.close_deadline is None:  # ended by a mistake: another thread goes on
                    self._thread = None
                    self._opened = False
                    self._engine.intake.sleep(self._machine, filling=False)
                    if not self._machine.idle:
                        self._machine.interrupted(time.monotonic(), random.random())
                        self.wake()
                else:
                    self.done = True
            self._engine.worker_done()

    async def _main(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._engine.lock:
            self._loop = loop
            self._woken = asyncio.Event()
        while await self._step():
            pass
        await self._close_sink()

    async def _step(self) -> bool:
        """Do the machine's next action; return whether there will be another one."""
        engine, machine = self._engine, self._machine
        assert self._woken is not None
        with engine.lock:
            engine.intake.hand_over()
            now = time.monotonic()
            if engine.close_deadline is not None and (
                now >= engine.close_deadline or (machine.idle and not engine.intake.waiting)
            ):
                return False
            action = machine.poll(now)
            if isinstance(action, Wait):
                self._woken.clear()
                engine.intake.sleep(machine, filling=action.until is not None)
                if engine.intake.unseen:  # a finaliser recorded just now
                    self._woken.set()
        if isinstance(action, Write):
            await self._write(action.batch)
        elif isinstance(action, Load):
            self._load(action.limit)
        elif isinstance(action, Ping):
            await self._ping()
        else:
            await self._sleep(action.until)
        return True

    async def _sleep(self, until: float | None) -> None:
        assert self._woken is not None
        deadline = self._engine.close_deadline
        if deadline is not None:
            until = deadline if until is None else min(until, deadline)
        timeout = None if until is None else max(0.0, until - time.monotonic())
        try:
            await asyncio.wait_for(self._woken.wait(), timeout)
        except TimeoutError:
            pass  # the time has come
        with self._engine.lock:
            self._engine.intake.awake(self._machine)

    async def _write(self, batch: Batch) -> None:
        error = await self._attempt(lambda: self._sink.write(batch))
        now, wall, jitter = time.monotonic(), time.time(), random.random()
        code = ""
        with self._engine.lock:
            if error is None:
                resolved = self._machine.stored(now, wall, jitter)
            else:
                failure, code = _classify(error)
                resolved = self._machine.failed(failure, type(error).__name__, code, now, jitter)
        if error is not None:
            name = type(error).__name__
            self._engine.log(
                f"{self._machine.name}:{name}", "%s: a batch of %d was not stored (%s %s)",
                self._machine.name, len(batch), name, code,
            )  # fmt: skip
        await self._settle(resolved)

    async def _ping(self) -> None:
        error = await self._attempt(self._sink.ping)
        if error is None:
            self._engine.log(
                f"{self._machine.name}:ping",
                "%s: the backend answers a ping: events that it does not store are looked for one by one",
                self._machine.name,
            )
        with self._engine.lock:
            resolved = self._machine.pinged(error is None, time.monotonic(), random.random())
        await self._settle(resolved)

    def _load(self, limit: int) -> None:
        machine, spool = self._machine, self._engine.spool
        try:
            if spool is None:
                raise SpoolError("there is no spool")
            loaded = spool.read(machine, limit)
        except SpoolError as error:
            self._engine.log(f"{machine.name}:spool", "%s: the spool cannot be read (%s)", machine.name, error)
            with self._engine.lock:
                machine.load_failed(time.monotonic(), random.random())
            return
        with self._engine.lock:
            machine.lose_spooled(loaded.unreadable, loaded.spool)
            if loaded.events:
                machine.loaded(loaded.events, loaded.last_seq, loaded.spool)
            elif machine.spooled and not loaded.unreadable:
                machine.load_failed(time.monotonic(), random.random())
        if loaded.unreadable and not loaded.events:  # else the next look would find the same rows again
            spool.acknowledge(machine.name, loaded.last_seq)
        with self._engine.lock:
            self._engine.resolved()

    async def _settle(self, resolved: Resolved) -> None:
        """Keep the dead letters of a report, then forget in the spool what it settled, then tell who waits."""
        try:
            if resolved.dead:
                await self._bury(resolved.dead)
        finally:
            self._acknowledge(resolved)

    def _acknowledge(self, resolved: Resolved) -> None:
        if resolved.ack is not None and self._engine.spool is not None:
            self._engine.spool.acknowledge(self._machine.name, resolved.ack)
        with self._engine.lock:
            self._engine.resolved()

    async def _bury(self, dead: Sequence[Dead]) -> None:
        at = time.time()
        letters = [DeadLetter(self._machine.name, one.event, one.error, one.code, one.batch_id, at) for one in dead]
        keep = getattr(self._sink, "write_dead_letters", None)
        kept = callable(keep) and await self._attempt(lambda: keep(letters)) is None
        if not kept and self._engine.spool is not None:
            self._engine.spool.add_dead(letters)
        self._engine.bury(letters)

    async def _attempt(self, action: Callable[[], Awaitable[Any] | Any]) -> BaseException | None:
        """Do something with the sink within its deadline, opening it first; return what went wrong, if anything."""
        timeout = self._machine.options.attempt_timeout_seconds
        deadline = self._engine.close_deadline
        if deadline is not None:
            timeout = min(timeout, max(0.05, deadline - time.monotonic()))
        if self._stuck is not None:  # a sink is never called while it is still busy with an earlier call
            await asyncio.wait({self._stuck}, timeout=timeout)
            if not self._stuck.done():
                return TimeoutError()
            self._stuck = None
        task = asyncio.ensure_future(self._guarded(action))
        watch = asyncio.ensure_future(self._watch_close(task))
        await asyncio.wait({task}, timeout=timeout)
        watch.cancel()
        if not task.done():
            task.cancel()
            grace = CANCEL_GRACE_SECONDS if self._engine.close_deadline is None else 0.05
            await asyncio.wait({task}, timeout=grace)
        if not task.done():  # it ignores being cancelled
            self._stuck = task
            return TimeoutError()
        return task.result() if not task.cancelled() else TimeoutError()

    async def _watch_close(self, task: asyncio.Task[Any]) -> None:
        """Cut a write short at the deadline of a close that begins while it is under way."""
        assert self._woken is not None
        while True:
            deadline = self._engine.close_deadline  # a later close may have brought it forward
            try:
                await asyncio.wait_for(
                    self._woken.wait(), None if deadline is None else max(0.05, deadline - time.monotonic())
                )
            except TimeoutError:
                task.cancel()
                return
            self._woken.clear()

    async def _guarded(self, action: Callable[[], Awaitable[Any] | Any]) -> BaseException | None:
        try:
            if not self._opened:
                open_sink = getattr(self._sink, "open", None)
                if callable(open_sink):
                    await _maybe_await(open_sink())
                self._opened = True
            await _maybe_await(action())
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return RuntimeError("the sink cancelled itself")
        except BaseException as error:  # SystemExit and the like: a sink does not end the application
            return error
        return None

    async def _close_sink(self) -> None:
        # After the deadline a sink gets a last moment to release its connections.
        task = asyncio.ensure_future(self._guarded_close())
        await asyncio.wait(
            {task}, timeout=0.25 if self._past_deadline() else self._machine.options.attempt_timeout_seconds
        )
        if not task.done():
            task.cancel()

    def _past_deadline(self) -> bool:
        deadline = self._engine.close_deadline
        return deadline is not None and time.monotonic() >= deadline

    async def _guarded_close(self) -> None:
        close = getattr(self._sink, "close", None)
        if not callable(close):
            return
        try:
            await _maybe_await(close())
        except Exception as error:
            self._engine.log(
                f"{self._machine.name}:close", "%s: close raised %s", self._machine.name, type(error).__name__
            )


async def _maybe_await(result: Any) -> None:
    """Wait for what a sink's method returned, if it is something to wait for.

    Raises:
        TypeError: the method is an asynchronous generator (a stray ``yield``), so that nothing of it has run.
    """
    if inspect.isasyncgen(result) or inspect.isgenerator(result):
        raise TypeError("a sink's method is a generator: expected it to have no yield")
    if isinstance(result, Future):
        result = asyncio.wrap_future(result)
    if isinstance(result, Awaitable):
        await result


def _classify(error: BaseException) -> tuple[Failure, str]:
    """Return what an exception from ``write`` says about the batch, and its code."""
    if isinstance(error, DeliveryError):
        if isinstance(error, BadBatch):
            return Failure.BAD, error.code
        unknown = isinstance(error, CommitUnknown) or not isinstance(error, SinkUnavailable)
        return (Failure.UNKNOWN if unknown else Failure.UNAVAILABLE), error.code
    if isinstance(error, TimeoutError):
        return Failure.TIMEOUT, ""
    if isinstance(error, ConnectionRefusedError):
        return Failure.UNAVAILABLE, "ECONNREFUSED"
    if isinstance(error, ConnectionError | EOFError):
        return Failure.UNKNOWN, ""
    if isinstance(error, OSError):
        return Failure.UNAVAILABLE, errno.errorcode.get(error.errno or 0, "")
    return Failure.SUSPICIOUS, ""


def _close_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what a sink left running, and close the loop; never raises, never waits long."""
    try:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=0.2))
        loop.run_until_complete(asyncio.wait_for(loop.shutdown_asyncgens(), 0.2))
    except BaseException:  # the thread ends here; a sink's left-overs cannot be helped further
        pass
    finally:
        loop.close()
