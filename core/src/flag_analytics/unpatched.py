"""The standard library without monkey-patching, for threads that have to be real.

gevent and eventlet replace threads, locks, sockets and selectors of the standard library by their own: a thread becomes
a greenlet, and an event loop in it is the running loop of every other greenlet too. A worker needs the originals. They
come from second copies of those modules, so that no framework has to be known. Where nothing is patched there are no
copies, and everything here is the standard library itself. The public names are those of ``flag_analytics.processes``.
"""

from __future__ import annotations

import _thread
import asyncio
import builtins
import importlib
import importlib.util
import sys
import time
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from types import BuiltinFunctionType, ModuleType, SimpleNamespace
from typing import Any

__all__ = [
    "is_patched",
    "new_event_loop",
    "new_future",
    "original",
    "own_threads",
    "sleep",
    "submit",
    "wait",
    "wait_for_end",
]

_EXTENSIONS = frozenset({"_thread", "select", "time"})
"""Modules in C: a second instance of each is made."""
_SOURCES = frozenset(
    {
        "asyncio.base_events",
        "asyncio.selector_events",
        "asyncio.unix_events",
        "selectors",
        "socket",
        "threading",
    }
)
"""Modules in Python: their code is run once more, and imports the copies."""
_LOOP = ("threading", "asyncio.selector_events" if sys.platform == "win32" else "asyncio.unix_events")
_POLL_SECONDS = 0.005
"""How often a greenlet looks at what a real thread does: no real thread can wake it."""

_copies: dict[str, ModuleType] = {}
own_threads: set[int] = set()
"""Identifiers of the real threads that run here beside the greenlets."""


def is_patched() -> bool:
    """Return whether this process is monkey-patched, so that ``threading`` starts greenlets."""
    return not isinstance(_thread.start_new_thread, BuiltinFunctionType)


def original(name: str) -> Any:
    """Return a module of the standard library as it is without monkey-patching."""
    if not is_patched():
        return importlib.import_module(name)
    if name not in _copies:
        # gevent imports while it makes its hub, and never ends that where a real thread imports at the same time.
        make_hub = getattr(sys.modules.get("gevent"), "get_hub", None)
        if make_hub is not None:
            make_hub()
        for one in _LOOP:  # all at once: it is no work for two threads beside each other
            _copy(one)
    return _copy(name)


def _copy(name: str) -> ModuleType:
    copy = _copies.get(name)
    if copy is None:
        spec = importlib.util.find_spec(name)
        loader: Any = None if spec is None else spec.loader
        if spec is None or loader is None:
            raise ImportError(f"this Python has no module {name} to copy")
        if name in _EXTENSIONS:
            copy = importlib.util.module_from_spec(spec)
            loader.exec_module(copy)
        else:
            copy = ModuleType(f"{__name__}.{name}")
            copy.__dict__["__builtins__"] = {**vars(builtins), "__import__": _import}
            sys.modules[copy.__name__] = copy  # ``socket`` adds names to the module of its own name
            exec(loader.get_code(name), copy.__dict__)  # noqa: S102 - the interpreter's own library
        _copies[name] = copy
    return copy


def _import(
    name: str,
    globals: Mapping[str, object] | None = None,  # noqa: A002 - the signature of ``__import__``
    locals: Mapping[str, object] | None = None,  # noqa: A002
    fromlist: Sequence[str] = (),
    level: int = 0,
) -> Any:
    """Import for a copy: other copies where there are some, and the shared modules."""
    if level == 0:
        is_copied = name in _EXTENSIONS or name in _SOURCES
        return _copy(name) if is_copied else builtins.__import__(name, globals, locals, fromlist)
    if name:
        return importlib.import_module(f"asyncio.{name}")
    parts = {part: f"asyncio.{part}" for part in fromlist}
    return SimpleNamespace(
        **{part: _copy(path) if path in _SOURCES else importlib.import_module(path) for part, path in parts.items()}
    )


def in_greenlet() -> bool:
    """Return whether this is a greenlet, or may be one, so that to wait for a real thread would stop all others."""
    return is_patched() and original("_thread").get_ident() not in own_threads


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop for a thread of ``start_thread``."""
    if not is_patched():
        return asyncio.new_event_loop()
    selector = original("selectors").DefaultSelector()
    loops = original(_LOOP[-1])
    loop: Any = getattr(loops, "SelectorEventLoop", None) or loops.BaseSelectorEventLoop
    made: asyncio.AbstractEventLoop = loop(selector)
    return made


def new_future() -> Future[Any]:
    """Return a future that threads of ``start_thread`` may set; ``wait`` waits for it."""
    future: Future[Any] = Future()
    if is_patched():
        future._condition = original("threading").Condition()  # noqa: SLF001 - a greenlet's lock is not for real threads
    return future


def submit(work: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> Future[Any]:
    """Begin ``work`` in a loop of ``new_event_loop`` that another thread runs; cancelling the future cancels it."""
    if not is_patched():
        return asyncio.run_coroutine_threadsafe(work, loop)
    future = new_future()

    def begin() -> None:
        task = loop.create_task(work)
        task.add_done_callback(end)
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(task.cancel) if future.cancelled() else None)

    def end(task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            future.cancel()
        if not future.set_running_or_notify_cancel():
            return
        error = task.exception()
        if error is None:
            future.set_result(task.result())
        else:
            future.set_exception(error)

    loop.call_soon_threadsafe(begin)
    return future


def sleep(seconds: float) -> None:
    """Sleep, in a thread of ``start_thread``."""
    original("time").sleep(seconds)


def wait(future: Future[Any], timeout: float) -> Any:
    """Return the result of a future of ``new_future``; other greenlets run meanwhile.

    Raises:
        TimeoutError: it has none in time.
    """
    if in_greenlet():
        ends = time.monotonic() + timeout
        while not future.done() and time.monotonic() < ends:
            time.sleep(_POLL_SECONDS)
        timeout = 0.0
    return future.result(timeout)


def wait_for_end(thread: Any, timeout: float) -> None:
    """Wait until a thread of ``start_thread`` has ended; other greenlets run meanwhile."""
    if not in_greenlet():
        thread.join(timeout)
        return
    ends = time.monotonic() + timeout
    while thread.is_alive() and time.monotonic() < ends:
        time.sleep(_POLL_SECONDS)
