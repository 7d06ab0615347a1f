"""The worker of one sink: a daemon thread with an event loop of its own that does what the sink's machine says.

One thread for each sink, so that a sink that blocks (a synchronous driver, a name look-up, a busy encoder) holds up no
other: an event loop cannot be taken away from a coroutine that does not give it back.
"""

from __future__ import annotations

import asyncio
import errno
import inspect
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from typing import Any

from flag_analytics.errors import BadBatch, CommitUnknown, DeliveryError, FatalConfiguration, SinkUnavailable
from flag_analytics.processes import DaemonExecutor, chain_sigterm, keep_inherited, new_event_loop, sleep, start_thread
from flag_analytics.protocols import Batch
from flag_analytics.reports import DeadLetter

from .accounts import Accounts, Sink
from .bisect import Dead
from .retry import Failure, Ping, Read, Resolved, Wait, Write

__all__ = ["Question", "SinkWorker"]

Question = Callable[[], Awaitable[Any]]

CANCEL_GRACE_SECONDS = 1.0
MOST_STARTS_AT_ONCE = 100
START_PAUSE_SECONDS = 1.0
"""The longest pause before another attempt to start, where there is no thread or no descriptor to be had."""


class SinkWorker:
    """Drives one sink's machine against the backend. The machine is only touched under the accounts' lock.

    Args:
        accounts: The delivery's accounts.
        sink: The sink's accounts.
        backend: What is written to.
        ended: Called, without the lock, when the worker has ended for good.

    Attributes:
        done: Whether the worker has ended, or never had anything to do, after a close began.
    """

    def __init__(self, accounts: Accounts, sink: Sink, backend: Any, ended: Callable[[], None]) -> None:
        self._accounts = accounts
        self._sink = sink
        self._machine = sink.machine
        self._backend = backend
        self._ended = ended
        self._thread: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken: asyncio.Event | None = None
        self._start_after = 0.0
        self._start_failures = 0
        self._opened = False
        self._questions: deque[tuple[Question, Future[Any]]] = deque()
        self._answering: set[asyncio.Task[None]] = set()
        self._prepared: str | None = None
        self._stuck: asyncio.Task[Any] | None = None
        self.done = False

    # --- called by others, under the lock

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
        if self._thread is None and not start and self._machine.idle:
            self.done = True
            return
        self._start_after = 0.0
        if not self.wake():
            self.done = True

    def ask(self, question: Question) -> Future[Any] | None:
        """Have something awaited in the sink's loop, beside writes; None if there is no loop any more."""
        if self.done or not self.wake():
            return None
        answer: Future[Any] = Future()
        self._questions.append((question, answer))
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._answer_all)  # not closed: `_end` comes first, under the lock
        return answer

    def leave_in_child(self) -> None:
        """Forget the parent's thread and connections, in a forked child."""
        keep_inherited(self._thread, self._loop, self._woken)
        self._thread = self._loop = self._woken = None
        forget = getattr(self._backend, "after_fork_in_child", None)
        if callable(forget):
            try:
                forget()
            except Exception:
                return  # the sink will say so itself at its first write; nothing may be logged inside a fork

    def _start(self) -> None:
        now = time.monotonic()
        if now < self._start_after:
            return
        if self._accounts.chains_sigterm:  # the server may have installed its handler since the delivery was made
            chain_sigterm()
        self._thread = start_thread(self._run, name=self._machine.name)
        if self._thread is None:  # the next event tries again
            self._machine.cannot_start("RuntimeError")
            self._start_failures += 1
            self._start_after = now + min(START_PAUSE_SECONDS, self._start_failures // MOST_STARTS_AT_ONCE)

    # --- the worker's own thread

    def _run(self) -> None:
        loop = self._make_loop()
        try:
            if loop is not None:
                loop.run_until_complete(self._main(loop))
        except BaseException as error:
            self._accounts.warn("%s: worker ended by %s", self._machine.name, type(error).__name__)
        finally:
            if loop is not None:
                _close_loop(loop)
            self._end()
            self._ended()

    def _make_loop(self) -> asyncio.AbstractEventLoop | None:
        """Return a loop; where no descriptor is to be had, wait for one until a close gives up."""
        pause = 0.01
        while True:
            try:
                loop = new_event_loop()
            except OSError as error:
                code = errno.errorcode.get(error.errno or 0, "")
                self._accounts.warn("%s: no event loop can be made (%s): trying again", self._machine.name, code)
                with self._accounts.lock:
                    self._machine.cannot_start(f"OSError {code}")
                    deadline = self._accounts.close_deadline
                if deadline is not None and time.monotonic() >= deadline:
                    return None
                sleep(pause)
                pause = min(START_PAUSE_SECONDS, 2 * pause)
                continue
            loop.set_debug(False)  # in debug mode it logs arguments, and so event content
            loop.set_default_executor(DaemonExecutor())
            return loop

    def _end(self) -> None:
        accounts = self._accounts
        with accounts.lock:
            self._loop = self._stuck = None
            for _, answer in self._questions:
                answer.set_exception(SinkUnavailable("the sink's loop has ended", code="closed"))
            self._questions.clear()
            if accounts.close_deadline is not None:
                self.done = True
                return
            # Ended by a mistake: another thread goes on.
            self._thread = None
            self._opened = False
            accounts.log.sleep(self._sink.cursor)
            if not self._machine.idle:
                self._machine.interrupted(time.monotonic(), random.random())
                self.wake()

    async def _main(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._accounts.lock:
            self._loop = loop
            self._woken = asyncio.Event()
            self._answer_all()
        while await self._step():
            pass
        await self._close_backend()

    def _answer_all(self) -> None:
        while self._questions:
            task = asyncio.ensure_future(_answer(*self._questions.popleft()))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _step(self) -> bool:
        """Do the machine's next action; return whether there will be another one."""
        accounts, machine = self._accounts, self._machine
        assert self._woken is not None
        with accounts.lock:
            accounts.log.catch_up()
            now = time.monotonic()
            deadline = accounts.close_deadline
            if deadline is not None and (now >= deadline or machine.halted or (machine.idle and not accounts.adopting)):
                return False
            action = machine.poll(now)
            if isinstance(action, Wait):
                self._woken.clear()
                accounts.log.sleep(self._sink.cursor)
        if isinstance(action, Write):
            await self._write(action.batch)
        elif isinstance(action, Read):
            self._read(action)
        elif isinstance(action, Ping):
            await self._ping()
        else:
            await self._sleep(action.until)
        return True

    async def _sleep(self, until: float | None) -> None:
        assert self._woken is not None
        deadline = self._accounts.close_deadline
        if deadline is not None:
            until = deadline if until is None else min(until, deadline)
        timeout = None if until is None else max(0.0, until - time.monotonic())
        try:
            await asyncio.wait_for(self._woken.wait(), timeout)
        except TimeoutError:
            pass  # the time has come

    def _read(self, action: Read) -> None:
        disk = self._accounts.disk
        if disk is None or not disk.read(action.cursor, action.first, action.end, action.limit):
            with self._accounts.lock:
                self._machine.cannot_read(action.cursor, time.monotonic(), random.random())

    async def _write(self, batch: Batch) -> None:
        answer = self._prepare(batch) or await self._attempt(lambda: self._backend.write(batch))
        now, jitter = time.monotonic(), random.random()
        name, code = type(answer).__name__, ""
        with self._accounts.lock:
            if answer is None:
                resolved = self._machine.stored()
            elif isinstance(answer, BadBatch) and answer.for_each:
                code = answer.code
                resolved = self._machine.answered(answer.refused, answer.stored, name, code, now, jitter)
            else:
                failure, code = _classify(answer)
                pause = answer.retry_after if isinstance(answer, SinkUnavailable) else 0.0
                resolved = self._machine.failed(failure, name, code, now, jitter, retry_after=pause)
            if answer is None or resolved.stored:
                self._sink.last_success = time.time()
        if answer is not None:
            self._accounts.warn("%s: a batch was not stored (%s %s)", self._machine.name, name, code)
        await self._settle(resolved)

    def _prepare(self, batch: Batch) -> BadBatch | None:
        """Let the sink turn each event into its own form; what it raises is that event's fault."""
        prepare = getattr(self._backend, "prepare", None)
        if not callable(prepare) or self._prepared == batch.id:
            return None
        refused = {}
        for event in batch:
            try:
                prepare(event)
            except Exception as error:
                refused[event.event_id] = type(error).__name__
        self._prepared = batch.id
        return BadBatch(refused=refused, code="prepare") if refused else None

    async def _ping(self) -> None:
        answer = await self._attempt(self._backend.ping)
        if answer is None:
            self._accounts.warn(
                "%s: the backend answers a ping: events that it does not store are looked for", self._machine.name
            )
        with self._accounts.lock:
            resolved = self._machine.pinged(answer is None, time.monotonic(), random.random())
        await self._settle(resolved)

    async def _settle(self, resolved: Resolved) -> None:
        """Keep the dead letters of a report, then count what it settled."""
        try:
            if resolved.dead:
                await self._keep_dead_letters(resolved.dead)
        finally:
            with self._accounts.lock:
                self._accounts.settle(self._sink, resolved)

    async def _keep_dead_letters(self, dead: Sequence[Dead]) -> None:
        at = time.time()
        letters = [DeadLetter(self._machine.name, one.event, one.error, one.code, one.batch_id, at) for one in dead]
        keep = getattr(self._backend, "write_dead_letters", None)
        kept = callable(keep) and await self._attempt(lambda: keep(letters)) is None
        if not kept and self._accounts.disk is not None:
            self._accounts.disk.add_dead(letters)
        self._accounts.keep_dead_letters(letters)

    async def _attempt(self, action: Callable[[], Awaitable[Any] | Any]) -> BaseException | None:
        """Do something with the sink within its deadline, opening it first; return what went wrong, if anything."""
        timeout = self._machine.options.attempt_timeout_seconds
        deadline = self._accounts.close_deadline
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
            grace = CANCEL_GRACE_SECONDS if self._accounts.close_deadline is None else 0.05
            await asyncio.wait({task}, timeout=grace)
        if not task.done():  # it ignores being cancelled
            self._stuck = task
            return TimeoutError()
        return task.result() if not task.cancelled() else TimeoutError()

    async def _watch_close(self, task: asyncio.Task[Any]) -> None:
        """Cut a write short at the deadline of a close that begins while it is under way."""
        assert self._woken is not None
        while True:
            deadline = self._accounts.close_deadline  # a later close may have brought it forward
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
                open_backend = getattr(self._backend, "open", None)
                if callable(open_backend):
                    await _maybe_await(open_backend())
                self._opened = True
            answer = await _maybe_await(action())
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return RuntimeError("the sink cancelled itself")
        except BaseException as error:  # SystemExit and the like: a sink does not end the application
            return error
        return answer if isinstance(answer, BadBatch) else None

    async def _close_backend(self) -> None:
        # After the deadline a sink gets a last moment to release its connections.
        deadline = self._accounts.close_deadline
        past = deadline is not None and time.monotonic() >= deadline
        task = asyncio.ensure_future(self._guarded_close())
        await asyncio.wait({task}, timeout=0.25 if past else self._machine.options.attempt_timeout_seconds)
        if not task.done():
            task.cancel()

    async def _guarded_close(self) -> None:
        close = getattr(self._backend, "close", None)
        if not callable(close):
            return
        try:
            await _maybe_await(close())
        except Exception as error:
            self._accounts.warn("%s: close raised %s", self._machine.name, type(error).__name__)


async def _maybe_await(result: Any) -> Any:
    """Wait for what a sink's method returned, if it is something to wait for.

    Raises:
        TypeError: the method is an asynchronous generator (a stray ``yield``), so that nothing of it has run.
    """
    if inspect.isasyncgen(result) or inspect.isgenerator(result):
        raise TypeError("a sink's method is a generator: expected it to have no yield")
    if isinstance(result, Future):
        result = asyncio.wrap_future(result)
    return await result if isinstance(result, Awaitable) else result


def _classify(error: BaseException) -> tuple[Failure, str]:
    """Return what an exception from ``write`` says about the batch, and its code."""
    if isinstance(error, BadBatch):
        return Failure.BAD, error.code
    if isinstance(error, FatalConfiguration):
        return Failure.FATAL, error.code
    if isinstance(error, DeliveryError):
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
    return Failure.UNEXPECTED, ""


async def _answer(question: Question, answer: Future[Any]) -> None:
    if not answer.set_running_or_notify_cancel():
        return
    try:
        answer.set_result(await question())
    except asyncio.CancelledError:
        answer.set_exception(SinkUnavailable("the sink was closed before it answered", code="closed"))
        raise
    except BaseException as error:
        answer.set_exception(error)


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
