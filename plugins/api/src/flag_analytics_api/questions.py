"""Bounds the cost of questions: so many at once, each for so long, and equal ones are asked once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from flag_analytics.errors import SinkUnavailable, SourceError

from .problems import ProblemError

__all__ = ["Questions"]

_MOST_WAITING = 64
_MOST_KEPT = 256
_BUSY = {"Retry-After": "1"}


class Questions:
    """Asks questions within bounds, and keeps each answer for a moment.

    Args:
        at_once: The most questions that are asked at once; 64 others may wait.
        timeout_seconds: The longest a question may take, its waiting included.
        keep_seconds: How long an answer is given again.
    """

    def __init__(self, at_once: int, timeout_seconds: float, keep_seconds: float) -> None:
        self._at_once = asyncio.Semaphore(at_once)
        self._timeout_seconds = timeout_seconds
        self._keep_seconds = keep_seconds
        self._asked: dict[str, asyncio.Task[bytes]] = {}
        self._kept: dict[str, tuple[float, bytes]] = {}

    async def ask(self, name: str, question: Callable[[], Awaitable[bytes]]) -> bytes:
        """Return the answer to the question of this name.

        Raises:
            ProblemError: too many questions wait, this one took too long, or the source does not answer.
        """
        kept = self._kept.get(name)
        if kept is not None and time.monotonic() < kept[0]:
            return kept[1]
        task = self._asked.get(name)
        if task is None or task.get_loop() is not asyncio.get_running_loop():
            if len(self._asked) >= _MOST_WAITING:
                raise ProblemError(503, "too many questions wait for an answer: try again later", headers=_BUSY)
            task = asyncio.create_task(self._answer(name, question))
            self._asked[name] = task
            task.add_done_callback(lambda done: self._forget(name, done))
        # A client that goes away must not end the question of the others.
        return await asyncio.shield(task)

    def _forget(self, name: str, task: asyncio.Task[bytes]) -> None:
        if self._asked.get(name) is task:
            del self._asked[name]
        if not task.cancelled():
            task.exception()  # it was raised for those who still waited

    async def _answer(self, name: str, question: Callable[[], Awaitable[bytes]]) -> bytes:
        try:
            async with asyncio.timeout(self._timeout_seconds), self._at_once:
                answer = await question()
        except TimeoutError:
            raise ProblemError(
                504,
                f"the question took more than {self._timeout_seconds:g} s: ask for a shorter window or fewer groups",
            ) from None
        except SinkUnavailable as error:
            raise ProblemError(503, f"the source of events does not answer: {error}", headers=_BUSY) from None
        except SourceError as error:
            raise ProblemError(501, str(error)) from None
        except ValueError as error:
            raise ProblemError(400, str(error)) from None
        if self._keep_seconds:
            while len(self._kept) >= _MOST_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept.pop(name, None)
            self._kept[name] = (time.monotonic() + self._keep_seconds, answer)
        return answer
