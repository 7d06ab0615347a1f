"""Runs a function in a forked child, which must not hang."""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable

__all__ = ["can_fork", "run_in_child"]


def can_fork() -> bool:
    """Return whether this system has fork."""
    return hasattr(os, "fork")


def run_in_child(function: Callable[[], None], deadline_seconds: float) -> None:
    """Fork, call the function in the child and wait for its end.

    Raises:
        AssertionError: the child was stuck beyond the deadline, or the function raised; its traceback is on stderr.
    """
    if sys.platform == "win32":  # a statement type checkers understand, unlike can_fork
        raise AssertionError("there is no fork here")
    with warnings.catch_warnings():
        # Python warns of exactly what is being tried: forking beside other threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, deadline_seconds)
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code != -signal.SIGALRM, f"a forked child was stuck for {deadline_seconds} seconds"
    assert code == 0, f"a forked child failed with exit code {code}"
