"""The sink that stores each batch as one file, once, whatever happens to the process or to an answer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flag_analytics.canonical import canonical_key
from flag_analytics.errors import DeliveryError
from flag_analytics.frozen import FrozenEvent
from flag_analytics.protocols import Batch

from .encoding import check_format, encode, ids_of
from .forgetting import forget
from .merging import Merger
from .naming import FileName, days_between, micros
from .options import FilesOptions
from .stores import open_store

if TYPE_CHECKING:
    from .source import FilesSource

__all__ = ["FilesSink"]

_MERGE_SECONDS = 5.0
_CLOSE_SECONDS = 2.0
_CLOCK_SECONDS = 1.0
_FILES_IN_MIND = 16
_MAX_DOUBTFUL = 1_000


class FilesSink:
    """Stores batches as files. Three things keep an event from being stored twice:

    - A batch has one name, and a name is given once: an attempt that comes again finds it taken.
    - The engine may cut a batch whose answer was lost into others: names that may have been given are asked for first.
    - Events that were accepted before this process started come from the spool of one that ended, maybe after it had
      stored them: they are looked for in the files of their time.
    """

    def __init__(self, options: FilesOptions) -> None:
        check_format(options.suffix)
        self.options = options
        self.delivery = options.engine_options()
        self._store = open_store(options)
        self._merger = Merger(
            self._store,
            max_events=options.max_file_events,
            max_bytes=options.max_file_bytes,
            max_age=options.max_file_age.total_seconds(),
        )
        self._started = time.time()
        self._recovered = False
        self._doubtful: dict[str, tuple[FileName, frozenset[str]]] = {}
        self._ids: OrderedDict[str, frozenset[str]] = OrderedDict()

    def __repr__(self) -> str:
        return f"FilesSink(format={self.options.format!r})"

    @property
    def event_source(self) -> FilesSource:
        """Answers questions about what is stored.

        Raises:
            PluginError: DuckDB is not installed.
        """
        from .source import FilesSource

        return FilesSource(self.options)

    async def write(self, batch: Batch) -> None:
        """Store the batch.

        Raises:
            SinkUnavailable: nothing is stored, or, as ``CommitUnknown``, the answer was lost.
            FatalConfiguration: the store refuses access.
        """
        await self._tidy()
        events = list({event.event_id: event for event in batch}.values())
        stored = await self._stored_already(batch.id, events)
        events = [event for event in events if event.event_id not in stored]
        if not events:
            return
        body = await asyncio.to_thread(encode, events, self.options.suffix)
        name = FileName.of_batch(batch.id, events, self.options.suffix)
        if len(self._doubtful) < _MAX_DOUBTFUL:
            self._doubtful[batch.id] = (name, frozenset(event.event_id for event in events))
        await self._store.put(name.path, body)
        self._doubtful.pop(batch.id, None)
        self._merger.add(name, len(body))

    async def _tidy(self) -> None:
        if not self._recovered:
            await self._merger.recover()
            self._recovered = True
        if self._merger.due():
            with contextlib.suppress(TimeoutError):  # files stay small
                async with asyncio.timeout(_MERGE_SECONDS):
                    await self._merger.run()

    async def _stored_already(self, batch_id: str, events: list[FrozenEvent]) -> set[str]:
        """Return the ids of events that an attempt of another batch, or another process, has stored."""
        ids = {event.event_id for event in events}
        stored: set[str] = set()
        for other, (name, tried) in tuple(self._doubtful.items()):
            if other != batch_id and tried & ids and await self._store.get(name.path) is not None:
                stored |= tried & ids
                self._merger.add(name, 0)
                del self._doubtful[other]
        old = [micros(event.received_at) for event in events if event.received_at < self._started + _CLOCK_SECONDS]
        if old:
            first, last = min(old), max(old)
            own = FileName.of_batch(batch_id, events, self.options.suffix).path
            for day in days_between(first, last):
                for path in await self._store.paths(day):
                    found = FileName.read(path)
                    if found is not None and path != own and found.overlaps(first, last):
                        stored |= await self._ids_in(found) & ids
        return stored

    async def _ids_in(self, name: FileName) -> frozenset[str]:
        """Return the ids of the events in a file, those that were erased since included."""
        if name.path not in self._ids:
            body = await self._store.get(name.path)
            self._ids[name.path] = frozenset() if body is None else await asyncio.to_thread(ids_of, body, name.suffix)
            if len(self._ids) > _FILES_IN_MIND:
                self._ids.popitem(last=False)
        self._ids.move_to_end(name.path)
        return self._ids[name.path]

    async def forget(self, targeting_keys: Sequence[str]) -> int:
        """Erase the events of these targeting keys from all files; return how many went.

        It can be interrupted and called again. What is recorded meanwhile may stay. An object store that keeps former
        versions of its objects keeps those.

        Raises:
            SinkUnavailable: the store fails, or files are damaged: all others were done.
            FatalConfiguration: the store refuses access.
        """
        keys = {canonical_key(key) for key in targeting_keys} - {""}
        return await forget(self._store, keys) if keys else 0

    async def ping(self) -> None:
        """Look whether the store answers.

        Raises:
            SinkUnavailable: it does not.
        """
        await self._store.paths("_merges/")

    async def close(self) -> None:
        """Merge small files."""
        with contextlib.suppress(DeliveryError, TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._merger.run()

    def after_fork_in_child(self) -> None:
        """Forget what belongs to the parent."""
        self._started = time.time()
        self._merger.forget()
        self._doubtful.clear()
