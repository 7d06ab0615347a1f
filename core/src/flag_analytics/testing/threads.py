"""Runs coroutine functions in threads at once, each in an event loop of its own."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["eager_switching", "in_threads"]


@contextmanager
def eager_switching() -> Iterator[None]:
    """Let threads take turns as often as the interpreter can, so that what is not safe shows."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


async def in_threads(functions: Sequence[Callable[[], Coroutine[Any, Any, None]]], patience_seconds: float) -> None:
    """Run coroutine functions at once, each in a thread and an event loop of its own; raise what one of them raised."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(functions))

    async def together(function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        # On a busy machine one thread could be done before the next one has a loop.
        start.wait(patience_seconds)
        await function()

    def run(function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            asyncio.run(together(function))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,), daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join, patience_seconds)
    assert not any(thread.is_alive() for thread in threads), f"a thread was stuck for {patience_seconds} seconds"
    if errors:
        raise errors[0]
