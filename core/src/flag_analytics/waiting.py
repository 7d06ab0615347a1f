"""Waits for callers of both kinds, under asyncio and under trio, as anyio's applications are."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["in_thread", "is_trio", "pause"]

_Result = TypeVar("_Result")


def is_trio() -> bool:
    """Return whether the caller is a task of trio: futures, locks and timeouts of asyncio do not work there."""
    return _trio() is not None


def _trio() -> Any:
    trio: Any = sys.modules.get("trio")
    if trio is None:
        return None
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return None
    return trio


async def in_thread(call: Callable[..., _Result], *args: Any) -> _Result:
    """Return the result of a call that may wait, made in a thread; who is cancelled leaves it to itself."""
    trio = _trio()
    if trio is None:
        return await asyncio.to_thread(call, *args)
    result: _Result = await trio.to_thread.run_sync(call, *args, abandon_on_cancel=True)
    return result


async def pause() -> None:
    """Let the caller's other tasks run."""
    trio = _trio()
    if trio is None:
        await asyncio.sleep(0)
    else:
        await trio.lowlevel.checkpoint()
