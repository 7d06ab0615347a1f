"""An executor whose threads never hold up the end of the process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

__all__ = ["DaemonExecutor"]

MOST_THREADS = 32


class DaemonExecutor(ThreadPoolExecutor):
    """A daemon thread for each call, for loops whose calls may never return: a look-up of a name that nobody answers.

    The standard library's threads are joined at exit, whatever they are busy with; asyncio takes no executor of
    another class, so that this one has that class and nothing else of it.
    """

    def __init__(self) -> None:
        super().__init__(max_workers=1)
        self._free = threading.Semaphore(MOST_THREADS)

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call it in a thread of its own.

        Raises:
            RuntimeError: so many calls have not returned yet, or no thread is to be had.
        """
        future: Future[Any] = Future()

        def run() -> None:
            try:
                if future.set_running_or_notify_cancel():
                    future.set_result(call(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)
            finally:
                self._free.release()

        if not self._free.acquire(blocking=False):
            raise RuntimeError(f"{MOST_THREADS} calls have not returned yet")
        try:
            threading.Thread(target=run, name="flag-analytics-call", daemon=True).start()
        except RuntimeError:
            self._free.release()
            raise
        return future
