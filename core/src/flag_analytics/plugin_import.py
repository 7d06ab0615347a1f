"""Imports one plugin module so that whatever its import does, raise, exit, print or hang, harms nobody else."""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import sys
import threading
from types import ModuleType

__all__ = ["import_plugin"]


def import_plugin(module_name: str, timeout_seconds: float) -> ModuleType:
    """Return the imported module; what it prints goes to standard error, where it cannot spoil output for programs.

    The import runs in a thread of its own, so that one that hangs can be given up.

    Raises:
        TimeoutError: the import goes on for longer than ``timeout_seconds``.
        BaseException: what the import raised, ``SystemExit`` included.
    """
    outcome: list[ModuleType | BaseException] = []

    def run() -> None:
        try:
            outcome.append(importlib.import_module(module_name))
        except BaseException as error:  # raised again below, in the caller's thread
            outcome.append(error)

    with contextlib.redirect_stdout(sys.stderr):
        if module_name in sys.modules or _is_importing():
            run()
        else:
            context = contextvars.copy_context()
            name = f"flag-analytics import {module_name}"
            thread = threading.Thread(target=context.run, args=(run,), name=name, daemon=True)
            thread.start()
            thread.join(timeout_seconds)
    if not outcome:
        raise TimeoutError(f"its import has not ended after {timeout_seconds:g} seconds")
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _is_importing() -> bool:
    """Return whether this thread is inside an import: another one would wait for the module locks that it holds."""
    frame = sys._getframe()  # noqa: SLF001 — there is no public name for it
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
