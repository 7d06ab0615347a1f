"""Setting the tables up: created once however many workers start, upgraded where asked, never touched otherwise."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator
from enum import Enum
from typing import Any

from sqlalchemy import Connection, inspect, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from .adoption import copy_next_page, drop_when_complete, looks_like_litestar_flags
from .errors import SchemaOutdated
from .partitions import Period, create_partitions
from .schema import Tables

__all__ = ["VERSION", "State", "create_all", "prepare", "refuse_unusable", "state_of", "upgrade"]

VERSION = "0001"
"""The newest schema; the head of the migrations."""

_LOCK_SECONDS = 30


class State(Enum):
    """What is found in place of the tables."""

    READY = "ready"
    MISSING = "missing"
    OUTDATED = "outdated"
    LITESTAR_FLAGS = "made by litestar-flags"
    ADOPTING = "being taken over from litestar-flags"
    FOREIGN = "not made by flag-analytics"


async def prepare(
    connection: AsyncConnection,
    tables: Tables,
    family: str,
    *,
    create: bool,
    may_upgrade: bool,
    partition_by: Period | None = None,
) -> None:
    """Make the tables usable, as far as that is allowed.

    Raises:
        SchemaOutdated: they are not, and it is not; the message says what to do.
    """
    state = await connection.run_sync(state_of, tables)
    await connection.rollback()
    if state is State.READY:
        return
    refuse_unusable(state, tables, create=create, may_upgrade=may_upgrade)
    if state is State.MISSING:
        await _create(connection, tables, family, partition_by)
    else:
        await upgrade(connection, tables, family, partition_by=partition_by)


def refuse_unusable(state: State, tables: Tables, *, create: bool, may_upgrade: bool) -> None:
    """Return if the tables are usable, or are about to be made so as far as that is allowed.

    Raises:
        SchemaOutdated: nothing can be stored; the message says what to do.
    """
    if state is State.READY:
        return
    allowed = create if state is State.MISSING else may_upgrade and state is not State.FOREIGN
    if not allowed:
        raise SchemaOutdated(_advice(state, tables))


def _advice(state: State, tables: Tables) -> str:
    if state is State.MISSING:
        return f"table {tables.name} does not exist: run flag-analytics db upgrade, or set create_tables"
    if state is State.FOREIGN:
        return f"table {tables.name} is not one of flag-analytics: choose another name with the option table"
    return f"table {tables.name} is {state.value}: run flag-analytics db upgrade, or set upgrade"


async def upgrade(
    connection: AsyncConnection, tables: Tables, family: str, *, partition_by: Period | None = None
) -> State:
    """Bring whatever is there to the newest version, keeping every row; return what was found.

    It goes forward in short transactions, so that it can be interrupted anywhere and run again.

    Raises:
        SchemaOutdated: the table is neither ours nor litestar-flags'.
    """
    found = await connection.run_sync(state_of, tables)
    await connection.rollback()
    if found is State.READY:
        return found
    if found is State.FOREIGN:
        raise SchemaOutdated(_advice(found, tables))
    if found is State.LITESTAR_FLAGS:
        async with _locked(connection, tables, family):
            if await connection.run_sync(state_of, tables) is State.LITESTAR_FLAGS:
                await _rename_adopted(connection, tables, family)
            await connection.commit()
    async with _locked(connection, tables, family):
        await connection.run_sync(_migrate, tables)
        if partition_by is not None and family == "postgresql":
            await connection.run_sync(create_partitions, tables, partition_by)
        await connection.commit()
    if found in {State.LITESTAR_FLAGS, State.ADOPTING}:
        await _adopt(connection, tables, family)
    return found


async def _create(connection: AsyncConnection, tables: Tables, family: str, partition_by: Period | None) -> None:
    async with _locked(connection, tables, family):
        if await connection.run_sync(state_of, tables) is State.MISSING:
            await connection.run_sync(_create_and_stamp, tables)
            if partition_by is not None and family == "postgresql":
                await connection.run_sync(create_partitions, tables, partition_by)
        await connection.commit()


def state_of(connection: Connection, tables: Tables) -> State:
    """Return what is in the database under these names."""
    inspector = inspect(connection)
    names = {table for table in _candidates(tables) if inspector.has_table(table, schema=tables.schema)}
    if tables.adopted_table in names:
        return State.ADOPTING
    if tables.version.name in names:
        version = connection.execute(select(tables.version.c.version_num)).scalar()
        if version is not None:
            # A newer version is fine: migrations only add, so that old and new workers can share a table.
            return State.READY if version >= VERSION else State.OUTDATED
    if tables.name not in names:
        return State.MISSING
    columns = {column["name"] for column in inspector.get_columns(tables.name, schema=tables.schema)}
    if looks_like_litestar_flags(columns):
        return State.LITESTAR_FLAGS
    # A set-up that was cut short: the version is written last.
    return State.MISSING if columns == {column.name for column in tables.events.c} else State.FOREIGN


def _candidates(tables: Tables) -> tuple[str, str, str]:
    return tables.name, tables.version.name, tables.adopted_table


def create_all(connection: Connection, tables: Tables) -> None:
    """Create what is missing of the tables and their indexes."""
    for table in (tables.events, tables.dead_letters):
        table.create(connection, checkfirst=True)
        for index in table.indexes:
            # One that was cut short after CREATE TABLE has the table and not its indexes (MySQL commits each).
            if index._ddl_if is None or index._ddl_if._should_execute(_create_index(index), index, connection):  # noqa: SLF001
                index.create(connection, checkfirst=True)


def _create_index(index: Any) -> Any:
    from sqlalchemy.schema import CreateIndex

    return CreateIndex(index)


def _create_and_stamp(connection: Connection, tables: Tables) -> None:
    create_all(connection, tables)
    tables.version.create(connection, checkfirst=True)
    if connection.execute(select(tables.version.c.version_num)).scalar() is None:
        connection.execute(tables.version.insert().values(version_num=VERSION))


def _migrate(connection: Connection, tables: Tables) -> None:
    """Run Alembic's migrations up to the newest over this connection."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "flag_analytics_database:migrations")
    config.attributes["connection"] = connection
    config.attributes["tables"] = tables
    command.upgrade(config, "head")


async def _rename_adopted(connection: AsyncConnection, tables: Tables, family: str) -> None:
    """Put the old table aside: from here on nothing can be added to it, and what was there is copied at leisure."""
    prepare_name = connection.sync_connection.dialect.identifier_preparer  # type: ignore[union-attr]
    old = prepare_name.format_table(tables.events)
    new = prepare_name.quote(tables.adopted_table)
    if family == "mysql" and tables.schema:
        new = f"{prepare_name.quote_schema(tables.schema)}.{new}"
    await connection.execute(text(f"ALTER TABLE {old} RENAME TO {new}"))


async def _adopt(connection: AsyncConnection, tables: Tables, family: str) -> None:
    last: Any = None
    while True:
        last = await connection.run_sync(copy_next_page, tables, family, last)
        await connection.commit()
        if last is None:
            break
    async with _locked(connection, tables, family):
        await connection.run_sync(drop_when_complete, tables)
        await connection.commit()


@contextlib.asynccontextmanager
async def _locked(connection: AsyncConnection, tables: Tables, family: str) -> AsyncIterator[None]:
    """Hold the lock that all workers agree on; on SQLite it is the write lock of a transaction begun here."""
    if family == "sqlite":
        await connection.rollback()
        await connection.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            await connection.rollback()
            raise
        return
    key = int.from_bytes(hashlib.sha256(tables.lock_name.encode()).digest()[:8], "big", signed=True)
    release: Any
    parameters: dict[str, Any]
    if family == "postgresql":
        await connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key})
        release, parameters = text("SELECT pg_advisory_unlock(:key)"), {"key": key}
    else:
        name = f"flag_analytics:{key & (2**63 - 1)}"
        got = await connection.execute(
            text("SELECT GET_LOCK(:name, :seconds)"), {"name": name, "seconds": _LOCK_SECONDS}
        )
        if got.scalar() != 1:
            raise SchemaOutdated(f"another worker has been setting up table {tables.name} for {_LOCK_SECONDS} seconds")
        release, parameters = text("SELECT RELEASE_LOCK(:name)"), {"name": name}
    await connection.commit()
    try:
        yield
    finally:
        # On a broken connection the server has released the lock already.
        with contextlib.suppress(DBAPIError):
            await connection.rollback()
            await connection.execute(release, parameters)
            await connection.commit()
