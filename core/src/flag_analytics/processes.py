"""The one place that registers for exit, fork and signals, and that starts threads.

A backend that has locks, threads, files or connections of its own uses it too:

- ``renew_after_fork(method)``: call a method in every forked child, where the locks of other threads stay held;
- ``ForkBarrier``: keep forks out while a library with locks of its own (SQLite) is at work;
- ``guard_forks(gate)``: be called before and after each fork;
- ``keep_inherited(object)``: never collect in a child what belongs to its parent;
- ``close_at_exit(closable)``: drain when the process ends; ``closed(closable)``: there is nothing to drain any more;
- ``chain_sigterm()``: drain after a server that stops on SIGTERM, before the process dies of that signal;
- ``start_thread``, ``DaemonExecutor``: threads that never hold up the end of the process;
- ``new_lock``, ``new_rlock``, ``new_condition``, ``new_event_loop``, ``new_future``, ``submit``, ``sleep``: what such
  threads work with, since gevent and eventlet replace the standard library's own; ``is_patched()`` tells of that;
- ``wait(future)``, ``wait_for_end(thread)``: wait for such a thread, without holding up other greenlets.

Nothing may yield to other greenlets while one of these locks is held: they would all be let in.
"""

from __future__ import annotations

import atexit
import importlib
import os
import signal
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import BuiltinMethodType, FrameType
from typing import Any, Protocol

from .logs import get_logger, warn
from .unpatched import (
    in_greenlet,
    is_patched,
    new_event_loop,
    new_future,
    original,
    own_threads,
    sleep,
    submit,
    wait,
    wait_for_end,
)

__all__ = [
    "Closable",
    "DaemonExecutor",
    "ForkBarrier",
    "ForkGuard",
    "chain_sigterm",
    "close_all",
    "close_at_exit",
    "closed",
    "guard_forks",
    "in_greenlet",
    "install_signal_handlers",
    "is_patched",
    "keep_inherited",
    "new_condition",
    "new_event_loop",
    "new_future",
    "new_lock",
    "new_rlock",
    "renew_after_fork",
    "sleep",
    "start_thread",
    "submit",
    "wait",
    "wait_for_end",
]

logger = get_logger("flag_analytics.processes")

_IN_UWSGI_MASTER = (
    "an event was recorded in uWSGI's master process, where it stays: uWSGI forks its workers from there, so that no "
    "thread may run in it. Record in the workers alone (flags that are evaluated on import count, too), or start uWSGI "
    "with --lazy-apps"
)
FORK_PATIENCE_SECONDS = 1.0
"""The longest a fork is held up."""
MOST_THREADS = 32


# --- threads


def start_thread(
    target: Callable[..., object], *args: Any, name: str, greenlet: bool = False
) -> threading.Thread | None:
    """Return a started daemon thread, or None where none can be had: the limit is reached, or the process is ending.

    Args:
        greenlet: Whether it may be one where the process is monkey-patched: right for code that uses ``socket`` or
            ``threading`` itself. By default it is a real thread there, too.
    """
    if _is_uwsgi_master():
        if not greenlet:  # else it is a plugin's code, which is then run in place
            warn(logger, _IN_UWSGI_MASTER)
        return None
    threads = threading if greenlet else original("threading")

    def run() -> None:
        if _held:  # a thread inherits the signals that its creator has blocked
            _unblock_sigterm()
        if greenlet or not is_patched():
            target(*args)
            return
        own = original("_thread").get_ident()
        own_threads.add(own)
        try:
            target(*args)
        finally:
            own_threads.discard(own)

    thread: threading.Thread = threads.Thread(target=run, name=f"flag-analytics-{name}", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread


def new_lock() -> threading.Lock:
    """Return a lock that is a real one, even where the process is monkey-patched."""
    lock: threading.Lock = original("threading").Lock()
    return lock


def new_rlock() -> Any:
    """Return a re-entrant lock that is a real one, even where the process is monkey-patched."""
    return original("threading").RLock()


def new_condition(lock: Any = None) -> threading.Condition:
    """Return a condition of real threads, even where the process is monkey-patched."""
    condition: threading.Condition = original("threading").Condition(lock)
    return condition


_Call = tuple["Future[Any]", Callable[[], Any]]


class DaemonExecutor(ThreadPoolExecutor):
    """Daemon threads, for loops with calls that may never return, such as the look-up of a name.

    The standard library joins its threads at exit. asyncio takes no executor of another class, so this one has that
    class and nothing else of it.
    """

    def __init__(self) -> None:
        super().__init__(max_workers=1)
        self._guard = new_lock()
        self._running = 0
        self._waiting: deque[_Call] = deque()

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call it in a thread; where ``MOST_THREADS`` are busy, when one of them is free.

        Where no thread is to be had (Python 3.12 starts none at the end of the process), it is called in place.
        """
        future = new_future()
        task = (future, lambda: call(*args, **kwargs))
        with self._guard:
            if self._running >= MOST_THREADS:
                self._waiting.append(task)
                return future
            self._running += 1
        if start_thread(self._work, *task, name="call") is None:
            self._work(*task)
        return future

    def _work(self, future: Future[Any], call: Callable[[], Any]) -> None:
        while True:
            _run(future, call)
            with self._guard:
                if not self._waiting:
                    self._running -= 1
                    return
                future, call = self._waiting.popleft()


def _run(future: Future[Any], call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


# --- forks


class ForkGuard(Protocol):
    """Is called around each fork, in the thread that forks."""

    def before_fork(self, deadline: float) -> None:
        """Get ready, until a monotonic time at the latest."""
        ...

    def after_fork_in_parent(self) -> None: ...

    def after_fork_in_child(self) -> None: ...


# Plain dicts, since a fork may come while another thread registers: copying their values is a single step.
_guards: dict[int, weakref.ref[ForkGuard]] = {}
_renewals: dict[int, Callable[[], Callable[[], None] | None]] = {}
_inherited: list[object] = []


def guard_forks(guard: ForkGuard) -> None:
    """Have the methods of ``guard`` called around each fork, for as long as it lives."""
    key = id(guard)
    _guards[key] = weakref.ref(guard, lambda _: _guards.pop(key, None))


def renew_after_fork(renew: Callable[[], None]) -> None:
    """Have ``renew`` called in the child of each fork. A bound method is held weakly, a function for good."""
    _hook_into_uwsgi()
    owner = getattr(renew, "__self__", None)
    if owner is None or isinstance(renew, BuiltinMethodType):
        _renewals[id(renew)] = lambda: renew
        return
    # No WeakMethod: with a callback, one that is alive at the end of the process prints an AttributeError.
    key, method = id(owner), renew.__func__  # type: ignore[attr-defined]
    reference = weakref.ref(owner, lambda _: _renewals.pop(key, None))
    _renewals[key] = lambda: None if (found := reference()) is None else method.__get__(found)


def keep_inherited(*objects: object) -> None:
    """Keep what a child inherited and does not own: collecting it would close what the parent uses."""
    _inherited.extend(objects)


class ForkBarrier:
    """Entered around each use of a library that has locks of its own: ``with barrier``. Forks wait a moment for it."""

    def __init__(self) -> None:
        self.after_fork_in_child()
        guard_forks(self)

    def __enter__(self) -> None:
        depth = getattr(self._mine, "depth", 0)
        if not depth:
            with self._changed:
                self._changed.wait_for(lambda: not self._forks, FORK_PATIENCE_SECONDS)
                self._inside += 1
        self._mine.depth = depth + 1

    def __exit__(self, *_: object) -> None:
        self._mine.depth -= 1
        if not self._mine.depth:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def before_fork(self, deadline: float) -> None:
        own = 1 if getattr(self._mine, "depth", 0) else 0
        with self._changed:
            self._forks += 1
            self._changed.wait_for(lambda: self._inside <= own, max(0.0, deadline - time.monotonic()))

    def after_fork_in_parent(self) -> None:
        with self._changed:
            self._forks -= 1
            self._changed.notify_all()

    def after_fork_in_child(self) -> None:
        self._changed = new_condition()
        self._inside = 0
        self._forks = 0
        self._mine = original("threading").local()


def _living_guards() -> list[ForkGuard]:
    return [guard for reference in list(_guards.values()) if (guard := reference()) is not None]


def _before_fork() -> None:
    deadline = time.monotonic() + FORK_PATIENCE_SECONDS
    for guard in _living_guards():
        guard.before_fork(deadline)


def _after_fork_in_parent() -> None:
    for guard in _living_guards():
        guard.after_fork_in_parent()


def _after_fork_in_child() -> None:
    for guard in _living_guards():
        guard.after_fork_in_child()
    for reference in list(_renewals.values()):
        renew = reference()
        if renew is not None:
            renew()
    _release_sigterm()
    _close_with_pools()


# --- uWSGI, which runs none of Python's handlers around its forks

_ending = False
"""Whether the process ends: then threads are started even in the process that uWSGI forks its workers from."""


def _is_uwsgi_master() -> bool:
    """Return whether uWSGI forks its workers from this process: a thread here might hold any lock meanwhile."""
    uwsgi: Any = sys.modules.get("uwsgi")
    if uwsgi is None or _ending or not hasattr(uwsgi, "worker_id"):
        return False
    return not (uwsgi.worker_id() or uwsgi.mule_id() or uwsgi.i_am_the_spooler())


def _hook_into_uwsgi() -> None:
    """Have the handlers for children called in uWSGI's workers."""
    uwsgi: Any = sys.modules.get("uwsgi")
    if uwsgi is None or not hasattr(uwsgi, "worker_id"):
        return
    try:
        decorators = importlib.import_module("uwsgidecorators")  # its import replaces the hook by a list of its own
    except Exception:  # it is not installed, or does not like to be without a master
        previous = getattr(uwsgi, "post_fork_hook", None)
        if previous is not _after_uwsgi_fork:
            _uwsgi_hooks.extend([] if previous is None else [previous])
            uwsgi.post_fork_hook = _after_uwsgi_fork
    else:
        if _after_fork_in_child not in decorators.postfork_chain:
            decorators.postfork_chain.insert(0, _after_fork_in_child)


_uwsgi_hooks: list[Callable[[], object]] = []


def _after_uwsgi_fork() -> None:
    _after_fork_in_child()
    for hook in _uwsgi_hooks:
        hook()


# --- the end of a process


class Closable(Protocol):
    """What is drained when the process ends."""

    @property
    def exit_timeout(self) -> float:
        """The longest the process may be held, in seconds."""
        ...

    def flush_at_exit(self, deadline: float) -> None:
        """Drain what waits, until a monotonic time at the latest; refuse nothing yet."""
        ...

    def begin_exit(self) -> None:
        """Refuse further events and begin to drain."""
        ...

    def end_exit(self, deadline: float) -> None:
        """Wait for what ``begin_exit`` began, until a monotonic time at the latest."""
        ...


_closables: dict[int, weakref.ref[Closable]] = {}


def close_at_exit(closable: Closable) -> None:
    """Drain ``closable`` when the process ends, for as long as it lives."""
    if not _flushes_first:  # the handler that was registered last runs first
        atexit.unregister(_flush_at_exit)
        atexit.register(_flush_at_exit)
    key = id(closable)
    _closables[key] = weakref.ref(closable, lambda _: _closables.pop(key, None))
    _close_with_pools()


def closed(closable: Closable) -> None:
    """Note that there is nothing more to drain; after the last one a signal that was held is let through."""
    _closables.pop(id(closable), None)
    if not _closables and _held:
        _in_main_thread(_release_sigterm)


def _living_closables() -> list[Closable]:
    return [closable for reference in list(_closables.values()) if (closable := reference()) is not None]


def _flush_at_exit() -> None:
    """Drain everything while the libraries that sinks use still work: their own exit handlers come later."""
    global _ending, _flush_seconds  # noqa: PLW0603 - a process ends once
    _ending = True
    began = time.monotonic()
    flushes = {closable.flush_at_exit: began + closable.exit_timeout for closable in _living_closables()}
    threads = {flush: start_thread(flush, deadline, name="exit") for flush, deadline in flushes.items()}
    for flush, thread in threads.items():
        if thread is None:  # Python 3.12 starts none any more
            flush(flushes[flush])
        else:
            thread.join()
    _flush_seconds = time.monotonic() - began


def close_all() -> None:
    """Drain everything at once, each within its own timeout."""
    closables = _living_closables()
    started = time.monotonic() - _flush_seconds
    for closable in closables:
        closable.begin_exit()
    for closable in closables:
        closable.end_exit(started + closable.exit_timeout)
    if threading.current_thread() is threading.main_thread():
        _release_sigterm()


_flush_seconds = 0.0
"""How much of the time that the process may be held was used for flushing."""


class _Anchor:
    """An object for multiprocessing to hang a callback on; it lives as long as the module."""


_anchor = _Anchor()
_finalized: set[tuple[str, int]] = set()


def _close_with_pools() -> None:
    """Close with a child of multiprocessing, billiard or Celery: none of them runs the interpreter's exit handlers."""
    for package in ("multiprocessing", "billiard"):
        util, process = sys.modules.get(f"{package}.util"), sys.modules.get(f"{package}.process")
        if util is None or process is None:
            continue
        # A child that was just forked forgets its finalisers in a moment: it calls back after that.
        util.register_after_fork(_anchor, lambda _, util=util, package=package: _finalize(util, package))
        if getattr(process.current_process(), "_parent_pid", None) is not None:
            _finalize(util, package)
    signals = sys.modules.get("celery.signals")
    if signals is not None:
        signals.worker_process_shutdown.connect(_close_with_celery, weak=False, dispatch_uid="flag_analytics")


def _finalize(util: Any, package: str) -> None:
    if (package, os.getpid()) not in _finalized:
        util.Finalize(None, close_all, exitpriority=0)
        _finalized.add((package, os.getpid()))


def _close_with_celery(**_: object) -> None:
    close_all()


atexit.register(close_all)
try:
    # This runs before every exit handler, even of a library that is set up later; it is private, so it may be missing.
    threading._register_atexit(_flush_at_exit)  # type: ignore[attr-defined]  # noqa: SLF001
    _flushes_first = True
except (AttributeError, RuntimeError):
    _flushes_first = False
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


# --- SIGTERM

_pending_calls: deque[object] = deque(maxlen=100)
_held = False
"""Whether SIGTERM waits, in the main thread, until everything is drained."""


def chain_sigterm() -> None:
    """Let a server's own handler of SIGTERM stop it, and drain before the process dies of the signal.

    A server such as uvicorn answers its last requests, restores the default action and raises the signal again, so that
    the process ends before any exit handler runs. From its first handling on the signal waits in the main thread, until
    the exit handlers have drained; the exit status stays as it is. Only a handler in Python that is installed already
    is wrapped, and a later ``signal.signal`` of the application replaces the wrapper. Without effect on Windows. A
    subprocess that is started while the signal waits inherits that.
    """
    if not hasattr(signal, "pthread_sigmask"):
        return
    if not _chain_here():
        _in_main_thread(_chain_here)


def _chain_here() -> bool:
    """Wrap the handler that there is, if any; return False outside the main thread."""
    previous = signal.getsignal(signal.SIGTERM)
    if previous is None or not callable(previous) or _is_chained(previous):
        return True

    def handle(number: int, frame: FrameType | None) -> None:
        _hold_sigterm()
        previous(number, frame)

    handle.flag_analytics_chained = True  # type: ignore[attr-defined]
    try:
        # Asked of the interpreter, since ``threading`` takes a greenlet of the main thread for another thread.
        signal.signal(signal.SIGTERM, handle)
    except ValueError:
        return False  # or a subinterpreter
    return True


def _is_chained(handler: object) -> bool:
    return hasattr(handler, "flag_analytics_chained")


def _hold_sigterm() -> None:
    global _held  # noqa: PLW0603 - there is one signal mask
    if _closables:
        _held = True
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _release_sigterm() -> None:
    global _held  # noqa: PLW0603 - there is one signal mask
    if _held:
        _held = False
        _unblock_sigterm()


def _unblock_sigterm() -> None:
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _in_main_thread(call: Callable[[], object]) -> None:
    """Call something in the main thread, as soon as that runs Python code."""
    if threading.current_thread() is threading.main_thread():
        call()
        return
    import ctypes

    def run(_: object) -> int:
        call()
        return 0

    pending = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(run)
    _pending_calls.append(pending)  # it must be alive when it is called
    ctypes.pythonapi.Py_AddPendingCall(pending, None)


def install_signal_handlers() -> None:
    """On SIGTERM, drain within the longest exit timeout, then do what was done before on that signal.

    Call it from the main thread, in a script or another program whose server does not end cleanly on SIGTERM.

    Raises:
        ValueError: called from another thread than the main one.
    """
    previous = signal.getsignal(signal.SIGTERM)
    closings: list[threading.Thread | None] = []

    def handle(number: int, frame: FrameType | None) -> None:
        # Another thread, since the interrupted one may hold any lock. A second signal waits for the same one.
        if not closings:
            closings.append(start_thread(close_all, name="sigterm"))
        if closings[0] is not None:
            closings[0].join(0.5 + max((closable.exit_timeout for closable in _living_closables()), default=0.0))
        _pass_on(previous, number, frame)

    handle.flag_analytics_chained = True  # type: ignore[attr-defined]
    signal.signal(signal.SIGTERM, handle)


def _pass_on(previous: Any, number: int, frame: FrameType | None) -> None:
    if callable(previous):
        previous(number, frame)
    elif previous != signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
