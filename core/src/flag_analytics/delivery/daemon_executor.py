"""An executor whose threads never hold up the end of the process."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

__all__ = ["MOST_THREADS", "DaemonExecutor"]

MOST_THREADS = 32

_Call = tuple[Future[Any], Callable[[], Any]]


class DaemonExecutor(ThreadPoolExecutor):
    """Daemon threads, for loops whose calls may never return: a look-up of a name that nobody answers.

    The standard library's threads are joined at exit, whatever they are busy with; asyncio takes no executor of
    another class, so that this one has that class and nothing else of it.
    """

    def __init__(self) -> None:
        super().__init__(max_workers=1)
        self._guard = threading.Lock()
        self._running = 0
        self._waiting: deque[_Call] = deque()

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call it in a thread; where ``MOST_THREADS`` are busy, when one of them is free.

        Raises:
            RuntimeError: no thread is to be had.
        """
        future: Future[Any] = Future()
        task = (future, lambda: call(*args, **kwargs))
        with self._guard:
            if self._running >= MOST_THREADS:
                self._waiting.append(task)
                return future
            self._running += 1
        try:
            threading.Thread(target=self._work, args=task, name="flag-analytics-call", daemon=True).start()
        except RuntimeError:
            with self._guard:
                self._running -= 1
            raise
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
