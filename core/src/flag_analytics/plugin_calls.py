"""Calls the code of plugins: a failure, exit or hang of it becomes one error that names the plugin."""

from __future__ import annotations

import contextlib
import contextvars
import importlib.util
import inspect
import os
import sys
import threading
import traceback
from collections.abc import Callable, Collection
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from .config.secrets import Quote, masked_cause, message_of, place
from .errors import PluginError
from .processes import renew_after_fork, start_thread

__all__ = ["TIMEOUT_SECONDS", "call_plugin", "import_plugin", "kind_of"]

TIMEOUT_SECONDS = 60.0
"""The longest that one call of a plugin may take."""

_Result = TypeVar("_Result")
_importing = threading.RLock()
"""One for the process, as standard output is."""


def _renew() -> None:
    global _importing  # noqa: PLW0603 — another thread of the parent may hold it
    _importing = threading.RLock()


renew_after_fork(_renew)


def call_plugin(
    plugin: str,
    step: str,
    call: Callable[[], _Result],
    *,
    secrets: Collection[str] = (),
    quote: Quote = "all",
    timeout_seconds: float | None = None,
) -> _Result:
    """Return the result of a plugin's code.

    It runs in a thread without an event loop, in a copy of the caller's context, so that a call that hangs can be
    given up. With FLAG_ANALYTICS_TRACE_PLUGINS=1 each call is printed to standard error.

    Args:
        plugin: The plugin and its distribution, for messages.
        step: The hook, ``import`` or ``create``.
        secrets: Texts that the message must not show.
        quote: The exceptions whose words may be shown.
        timeout_seconds: The longest it may take, by default ``TIMEOUT_SECONDS``.

    Raises:
        PluginError: it raised, tried to exit, or has not ended in time.
    """
    if os.environ.get("FLAG_ANALYTICS_TRACE_PLUGINS"):
        sys.stderr.write(f"flag-analytics asks {plugin}: {step}\n")
    future, timeout_seconds = _started(call), timeout_seconds or TIMEOUT_SECONDS
    try:
        return future.result(timeout_seconds)
    except (Exception, SystemExit) as error:
        problem = error
    if not future.done():
        problem, quote = PluginError(f"it has not ended after {timeout_seconds:g} seconds"), "own"
    words, at = message_of(problem, secrets, quote=quote), place(problem)
    if isinstance(problem, ModuleNotFoundError) and problem.name:
        words = f"the module {problem.name!r} is missing{_needed_by(problem)}: install it"
    # Raised here, since the chain of an exception that is raised above would hold the plugin's own words.
    raise PluginError(f"{plugin}: {step} failed: {words}{at and f' ({at})'}") from masked_cause(
        problem, secrets, quote=quote
    )


def import_plugin(
    plugin: str, module_name: str, timeout_seconds: float = TIMEOUT_SECONDS, *, file: Path | None = None
) -> ModuleType:
    """Return the imported module, from a file of its own if there is one; its output goes to standard error.

    Raises:
        PluginError: the import raised, tried to exit, or has not ended in time.
    """

    def run() -> ModuleType:
        return importlib.import_module(module_name) if file is None else _module_of(file, module_name)

    if module_name in sys.modules or _is_importing():
        return call_plugin(plugin, "import", run)
    with _importing, contextlib.redirect_stdout(sys.stderr):
        return call_plugin(plugin, "import", run, timeout_seconds=timeout_seconds)


def _module_of(file: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def kind_of(created: Any) -> str:
    """Return the type of an unexpected object, for messages; close it if it is a coroutine."""
    if inspect.iscoroutine(created):
        created.close()  # else Python warns that it was never awaited
    return "None" if created is None else type(created).__name__


def _started(call: Callable[[], _Result]) -> Future[_Result]:
    future: Future[_Result] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    if _is_importing() or start_thread(contextvars.copy_context().run, run, name="plugin", greenlet=True) is None:
        run()
    return future


def _needed_by(error: ModuleNotFoundError) -> str:
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    package = str(frame.f_globals.get("__name__")).partition(".")[0]
    return "" if package == "importlib" else f", a dependency of {package}"


def _is_importing() -> bool:
    """Return whether this thread is inside an import: another thread would wait for the module locks that it holds."""
    frame = sys._getframe()  # noqa: SLF001 — there is no public name for it
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
