"""Writers of batches, one for each driver: as fast as it allows, and each event id once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from flag_analytics.frozen import FrozenEvent
from sqlalchemy.ext.asyncio import AsyncConnection

from ..counting import Cell
from ..schema import Tables

__all__ = ["BatchWriter", "writer_for"]


class BatchWriter(Protocol):
    """Stores batches over one connection, each in one transaction."""

    async def write(self, connection: AsyncConnection, events: tuple[FrozenEvent, ...]) -> None:
        """Store all the events or none; an id that is there already stays as it is. Raises what the driver raises."""
        ...

    async def write_new(self, connection: AsyncConnection, events: tuple[FrozenEvent, ...]) -> None:
        """Store the events with their counts, in one transaction, or nothing if an id is there already.

        Raises:
            IdsKnown: an id is there already; or what the driver raises for it.
        """
        ...

    async def insert(self, connection: AsyncConnection, events: tuple[FrozenEvent, ...], import_id: int | None) -> None:
        """Add events with new ids, perhaps of an import, within the caller's transaction. Raises as the driver does."""
        ...

    async def add(self, connection: AsyncConnection, cells: Sequence[Cell]) -> None:
        """Add to the counts, within the caller's transaction. Raises what the driver raises."""
        ...


def writer_for(family: str, driver: str, tables: Tables) -> BatchWriter:
    """Return the fast path of a driver, or the one that works with every driver of the family."""
    if driver == "asyncpg":
        from .postgresql import CopyWriter

        return CopyWriter(tables)
    if driver in {"asyncmy", "aiomysql"}:
        from .mysql import ValuesWriter

        return ValuesWriter(tables)
    if driver == "aiosqlite":
        from .sqlite import OneStatementWriter

        return OneStatementWriter(tables)
    from .any_driver import CoreWriter

    return CoreWriter(tables, family)
