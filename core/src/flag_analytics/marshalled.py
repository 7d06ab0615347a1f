"""Questions to a source that are awaited in the loop of the sink that it belongs to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import Any, TypeVar

from .sources import EventSource, Exposures, FlagActivity, FlagSummary, TimeStep, Window
from .waiting import in_thread, is_trio

__all__ = ["Ask", "MarshalledSource", "marshalled"]

T = TypeVar("T")
Ask = Callable[[Callable[[], Awaitable[Any]]], "Future[Any] | None"]
"""Has a coroutine function awaited in the sink's loop; None after the sink was closed."""


def marshalled(source: EventSource, ask: Ask) -> EventSource:
    """Return a source that may be asked from any loop: this one if it says so by ``any_loop``, else a wrapper."""
    return source if getattr(source, "any_loop", False) else MarshalledSource(source, ask)


class MarshalledSource:
    """See ``EventSource``: a client of the backend belongs to one loop, the sink's, and questions come from others."""

    any_loop = True

    def __init__(self, source: EventSource, ask: Ask) -> None:
        self._source = source
        self._ask = ask
        self.rolls_up = getattr(source, "rolls_up", False)

    async def summarise(self, flag_keys: Sequence[str], window: Window, **options: Any) -> Mapping[str, FlagSummary]:
        return await self._asked(lambda: self._source.summarise(flag_keys, window, **options))

    async def get_exposures(self, flag_key: str, window: Window, **options: Any) -> Exposures:
        return await self._asked(lambda: self._source.get_exposures(flag_key, window, **options))

    async def list_flags(self, window: Window, **options: Any) -> Sequence[FlagActivity]:
        return await self._asked(lambda: self._source.list_flags(window, **options))

    async def count_steps(
        self, flag_key: str, window: Window, step_seconds: float, **options: Any
    ) -> Mapping[int, TimeStep]:
        return await self._asked(lambda: self._source.count_steps(flag_key, window, step_seconds, **options))

    async def count_future(self, now: datetime) -> int:
        return await self._asked(lambda: self._source.count_future(now))

    async def _asked(self, question: Callable[[], Awaitable[T]]) -> T:
        answer: Future[T] | None = self._ask(question)
        if answer is None:
            return await question()
        return await in_thread(answer.result) if is_trio() else await asyncio.wrap_future(answer)
