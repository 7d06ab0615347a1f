"""Small files become one: a program that flushes often leaves as many files as one that does not.

A merge is made known before it begins, in ``_merges/``; it writes the new file, then removes its parts. A process that
ends in between leaves the parts beside the whole, until the next start removes them; readers count each event once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

import attrs
import msgspec
from flag_analytics.errors import DeliveryError

from .encoding import merge
from .naming import MERGES, FileName
from .stores import Store

__all__ = ["Merger", "merges_since"]

_MAX_PARTS = 100
_STALE_SECONDS = 3_600.0


class _Intent(msgspec.Struct):
    into: str
    parts: list[str]
    at: float


@attrs.frozen
class _Part:
    name: FileName
    size: int
    at: float


class Merger:
    """Keeps in mind the small files that this process has written, and merges them when they are old or many.

    Args:
        store: Where the files are.
        max_events: The most events in one file.
        max_bytes: The most bytes in one file.
        max_age: How long, in seconds, a small file waits for others.
    """

    def __init__(self, store: Store, *, max_events: int, max_bytes: int, max_age: float) -> None:
        self._store = store
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._parts: list[_Part] = []

    def add(self, name: FileName, size: int) -> None:
        """Note a file that was written; one that is more than half full stays as it is."""
        if name.count * 2 <= self._max_events and size * 2 <= self._max_bytes:
            self._parts.append(_Part(name, size, time.monotonic()))

    def forget(self) -> None:
        """Forget all: they belong to the parent of a forked child."""
        self._parts.clear()

    def due(self) -> bool:
        parts = self._parts
        return bool(parts) and (
            time.monotonic() - parts[0].at >= self._max_age
            or len(parts) >= _MAX_PARTS
            or sum(part.size for part in parts) >= self._max_bytes
            or sum(part.name.count for part in parts) >= self._max_events
        )

    async def run(self) -> None:
        """Merge what there is. The events are stored all the while, so a failure only leaves files small."""
        parts, self._parts = self._parts, []
        while parts:
            group = [parts.pop(0)]
            while parts and self._fits([*group, parts[0]]):
                group.append(parts.pop(0))
            if len(group) > 1:
                try:
                    await self._merge([part.name for part in group])
                except DeliveryError:
                    return

    def _fits(self, group: list[_Part]) -> bool:
        counts, sizes = sum(part.name.count for part in group), sum(part.size for part in group)
        return counts <= self._max_events and sizes <= self._max_bytes

    async def _merge(self, names: list[FileName]) -> None:
        suffix = names[0].suffix
        first, last = min(name.first for name in names), max(name.last for name in names)
        count = sum(name.count for name in names)
        whole = FileName.of("+".join(name.path for name in names), first, last, count, suffix)
        intent = _Intent(whole.path, [name.path for name in names], time.time())
        known_as = f"{MERGES}{whole.path.rpartition('/')[2]}.json"
        begun = await self._store.put(known_as, msgspec.json.encode(intent))
        # Read afterwards: who erases a person from these files sees that the whole may hold what they held.
        bodies = [await self._store.get(name.path) for name in names]
        found = [body for body in bodies if body is not None]
        if len(found) < len(names):  # another process has moved them
            if begun:
                await self._store.delete(known_as)
            return
        await self._store.put(whole.path, await asyncio.to_thread(merge, found, suffix))
        await self._finish(intent, known_as)

    async def _finish(self, intent: _Intent, known_as: str) -> None:
        for part in intent.parts:
            await self._store.delete(part)
        await self._store.delete(known_as)

    async def recover(self) -> None:
        """Finish merges that were begun by processes that have ended; one of a living process is done twice as well."""
        for known_as, intent in await _intents(self._store):
            if await self._store.get(intent.into) is not None:
                await self._finish(intent, known_as)
            elif time.time() - intent.at > _STALE_SECONDS:
                await self._store.delete(known_as)


async def merges_since(store: Store, began: float) -> bool:
    """Return whether merges that began after this time, in seconds since the Unix epoch, may not have ended."""
    return any(intent.at > began for _, intent in await _intents(store))


async def _intents(store: Store) -> list[tuple[str, _Intent]]:
    """Return the merges that are known, by the path of the file that makes them known."""
    found = []
    for known_as in await store.paths(MERGES):
        with contextlib.suppress(msgspec.MsgspecError):  # it is gone, or no intent
            found.append((known_as, msgspec.json.decode(await store.get(known_as) or b"", type=_Intent)))
    return found
