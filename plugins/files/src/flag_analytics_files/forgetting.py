"""Erasing people from files that are kept: a file that holds events of theirs is written anew, under its name.

The name stays taken, so that a batch that comes again is not stored again; an empty file may remain.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection

from flag_analytics.errors import PluginError, SinkUnavailable

from .encoding import without
from .merging import merges_since
from .naming import is_events
from .stores import Store

__all__ = ["MERGE_ENDS_SECONDS", "forget"]

MERGE_ENDS_SECONDS = 30.0
"""The time after which a merge has ended, or its process has."""
_PAUSE_SECONDS = 0.1
_ATTEMPTS = 5


async def forget(store: Store, targeting_keys: Collection[str]) -> int:
    """Erase the events of these targeting keys from all files; return how many went.

    It can be interrupted and called again. What is stored meanwhile may stay.

    Raises:
        SinkUnavailable: the store fails, or files are damaged: all others were done.
        FatalConfiguration: the store refuses access.
        PluginError: there are Parquet files, and pyarrow is not installed.
    """
    removed, done, unreadable = 0, set[str](), 0
    while True:
        # A merge that began before may have read what is erased by now: its file is looked at as well.
        merging = await merges_since(store, time.time() - MERGE_ENDS_SECONDS)
        new = [path for path in await store.paths("") if is_events(path) and path not in done]
        for path in new:
            gone = await _forget_in(store, path, targeting_keys)
            removed, unreadable = removed + (gone or 0), unreadable + (gone is None)
            done.add(path)
        if not new and not merging:
            break
        if not new:
            await asyncio.sleep(_PAUSE_SECONDS)
    if unreadable:
        raise SinkUnavailable(f"{unreadable} files are damaged: repair or remove them", code="unreadable")
    return removed


async def _forget_in(store: Store, path: str, targeting_keys: Collection[str]) -> int | None:
    """Return how many events went; None if it is no file of its format."""
    for _ in range(_ATTEMPTS):
        body = await store.get(path)
        if body is None:
            return 0  # it was merged into another
        try:
            left, removed = await asyncio.to_thread(without, body, targeting_keys, path)
        except PluginError:
            raise
        except Exception:
            return None
        if not removed or await store.replace(path, body, left):
            return removed
    raise SinkUnavailable("a file is changed by others all the time: call again", code="changing")
