"""Setting the tables up: created once by many workers, upgraded where asked, never touched otherwise."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator
from enum import Enum

from sqlalchemy import Connection, Table, inspect, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.schema import CreateTable

from .adoption import looks_like_litestar_flags, move_next_page
from .errors import SchemaOutdated
from .online_indexes import build_online
from .partitions import Period, create_partitions, is_partitioned
from .rollup_state import keep_from_the_start
from .schema import TYPED_ERROR, VERSIONED, Tables, indexes_of, tables_named
from .view import create_view

__all__ = [
    "VERSION",
    "State",
    "adopt_page",
    "as_they_are",
    "create_missing",
    "incomplete",
    "prepare",
    "refuse_unusable",
    "state_of",
    "upgrade",
]

VERSION = "0005"
"""The newest schema; the head of the migrations."""

_ADDED_COLUMNS = frozenset({"import_id"})
"""The columns of events that later versions than the first have added."""
_LOCK_SECONDS = 30


class State(Enum):
    """The state of the tables as they are found."""

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
    take_over: bool = True,
    partition_by: Period | None = None,
    rollups: bool = False,
) -> State:
    """Make the tables usable, as far as that is allowed; return ``READY``, or ``ADOPTING`` while rows are to be moved.

    With ``rollups`` counts are kept in tables that are made here.

    Raises:
        SchemaOutdated: they are not, and it is not; the message says what to do.
    """
    state = await connection.run_sync(state_of, tables)
    await connection.rollback()
    refuse_unusable(state, tables, create=create, may_upgrade=may_upgrade, take_over=take_over)
    if state is State.OUTDATED:
        await _migrate_locked(connection, tables, family, partition_by)
    elif state in {State.MISSING, State.LITESTAR_FLAGS}:
        await _create(connection, tables, family, partition_by, rollups=rollups)
    else:
        return state
    state = await connection.run_sync(state_of, tables)
    await connection.rollback()
    return state


def refuse_unusable(state: State, tables: Tables, *, create: bool, may_upgrade: bool, take_over: bool = True) -> None:
    """Return if events can be stored in the tables, or are about to be, as far as that is allowed.

    Raises:
        SchemaOutdated: nothing can be stored; the message says what to do.
    """
    allowed = {
        State.READY: True,
        State.ADOPTING: True,
        State.MISSING: create,
        State.LITESTAR_FLAGS: take_over and (create or may_upgrade),
        State.OUTDATED: may_upgrade,
        State.FOREIGN: False,
    }
    if not allowed[state]:
        raise SchemaOutdated(_advice(state, tables))


def incomplete(tables: Tables) -> SchemaOutdated:
    """Return the error for a question that came before every row was moved."""
    return SchemaOutdated(_advice(State.ADOPTING, tables))


def _advice(state: State, tables: Tables) -> str:
    if state is State.MISSING:
        return f"table {tables.name} does not exist: run flag-analytics db upgrade, or set create_tables"
    if state is State.FOREIGN:
        return f"table {tables.name} is not one of flag-analytics: choose another name with the option table"
    if state is State.LITESTAR_FLAGS:
        return (
            f"table {tables.name} is {state.value}: the first event that is written takes it over where create_tables "
            "is set; or run flag-analytics db upgrade"
        )
    if state is State.ADOPTING:
        return f"table {tables.name} is {state.value}: ask again later, or run flag-analytics db upgrade"
    return f"table {tables.name} is {state.value}: run flag-analytics db upgrade, or set upgrade"


async def upgrade(
    connection: AsyncConnection, tables: Tables, family: str, *, partition_by: Period | None = None
) -> State:
    """Bring the tables to the newest version, keeping every row; return their state before.

    It goes forward in short transactions, so that it can be interrupted anywhere and run again.

    Raises:
        SchemaOutdated: the table is neither ours nor litestar-flags'.
    """
    found = await connection.run_sync(state_of, tables)
    await connection.rollback()
    if found is State.FOREIGN:
        raise SchemaOutdated(_advice(found, tables))
    if found is State.LITESTAR_FLAGS:
        await _create(connection, tables, family, partition_by)
    elif found in {State.MISSING, State.OUTDATED}:
        if family == "postgresql" and found is State.OUTDATED:
            await build_online(connection, tables)
        await _migrate_locked(connection, tables, family, partition_by)
    tables = await as_they_are(connection, tables, family)
    while await adopt_page(connection, tables, family):
        pass
    async with _locked(connection, tables, family):
        await connection.run_sync(_create_missing_view, tables)
    return found


async def as_they_are(connection: AsyncConnection, tables: Tables, family: str) -> Tables:
    """Return the tables with the key that they have: on PostgreSQL it depends on how they were made."""
    if family != "postgresql":
        return tables
    partitioned = await connection.run_sync(is_partitioned, tables)
    await connection.rollback()
    return tables_named(tables.name, tables.schema, partitioned)


async def adopt_page(connection: AsyncConnection, tables: Tables, family: str, most_rows: int | None = None) -> bool:
    """Move the next rows of a table made by litestar-flags; return whether there may be more.

    Workers take turns, so that none waits for another's rows.
    """
    async with _locked(connection, tables, family):
        return await connection.run_sync(move_next_page, tables, family, most_rows)


async def _create(
    connection: AsyncConnection, tables: Tables, family: str, partition_by: Period | None, *, rollups: bool = False
) -> None:
    """Create the tables, once however many workers do; one made by litestar-flags is put aside first."""
    async with _locked(connection, tables, family):
        state = await connection.run_sync(state_of, tables)
        if state is State.LITESTAR_FLAGS:
            await _rename_adopted(connection, tables, family)
        if state in {State.MISSING, State.LITESTAR_FLAGS}:
            await connection.run_sync(_create_and_stamp, tables, family, rollups)
            await _partition(connection, tables, family, partition_by)


async def _migrate_locked(
    connection: AsyncConnection, tables: Tables, family: str, partition_by: Period | None
) -> None:
    async with _locked(connection, tables, family):
        if await connection.run_sync(state_of, tables) is State.MISSING:
            await connection.run_sync(_forget_version, tables)
        await connection.run_sync(_migrate, tables)
        await _partition(connection, tables, family, partition_by)


async def _partition(connection: AsyncConnection, tables: Tables, family: str, partition_by: Period | None) -> None:
    if partition_by is not None and family == "postgresql":
        await connection.run_sync(create_partitions, tables, partition_by)


def state_of(connection: Connection, tables: Tables) -> State:
    """Return the state of the tables of these names."""
    inspector = inspect(connection)
    names = {table for table in _candidates(tables) if inspector.has_table(table, schema=tables.schema)}
    if tables.version.name in names:
        version = connection.execute(select(tables.version.c.version_num)).scalar()
        if version is not None and tables.name not in names:
            return State.MISSING
        if version is not None and version < VERSION:
            return State.OUTDATED
        if version is not None:
            # A newer version is fine: migrations only add, so that old and new workers can share a table.
            return State.ADOPTING if tables.adopted_table in names else State.READY
    if tables.name not in names:
        return State.MISSING
    columns = {column["name"] for column in inspector.get_columns(tables.name, schema=tables.schema)}
    if looks_like_litestar_flags(columns):
        return State.LITESTAR_FLAGS
    columns -= {TYPED_ERROR, VERSIONED}
    newest = {column.name for column in tables.events.c}
    if columns == newest:  # a set-up that was cut short: the version is written last
        return State.MISSING
    return State.OUTDATED if newest - _ADDED_COLUMNS <= columns < newest else State.FOREIGN


def _candidates(tables: Tables) -> tuple[str, str, str]:
    return tables.name, tables.version.name, tables.adopted_table


def create_missing(connection: Connection, *tables: Table) -> None:
    """Create those of these tables, and of their indexes, that are missing."""
    for table in tables:
        if not inspect(connection).has_table(table.name, schema=table.schema):
            connection.execute(CreateTable(table))  # alone: table.create() makes the indexes too, in any order
        if connection.dialect.name in {"mysql", "mariadb"}:
            _add_computed(connection, table)
        for index in indexes_of(connection, table):
            # A set-up that was cut short may have left the table without them: MySQL commits each statement.
            index.create(connection, checkfirst=True)


def _add_computed(connection: Connection, table: Table) -> None:
    """Add the virtual columns of a table on MySQL or MariaDB; other databases do not need them."""
    present = {column["name"] for column in inspect(connection).get_columns(table.name, schema=table.schema)}
    name = connection.dialect.identifier_preparer.format_table(table)
    for column, definition in table.info.get("computed", {}).items():
        if column not in present:
            connection.exec_driver_sql(f"ALTER TABLE {name} ADD COLUMN {column} {definition}")


def _create_missing_view(connection: Connection, tables: Tables) -> None:
    if tables.view not in inspect(connection).get_view_names(schema=tables.schema):
        create_view(connection, tables)


def _create_and_stamp(connection: Connection, tables: Tables, family: str, rollups: bool) -> None:
    create_missing(
        connection,
        tables.events,
        tables.dead_letters,
        tables.imports,
        tables.counts,
        tables.sketches,
        tables.rollup_state,
    )
    if rollups and connection.execute(select(tables.events.c.event_id).limit(1)).first() is None:
        keep_from_the_start(connection, tables, family)
    create_view(connection, tables)
    tables.version.create(connection, checkfirst=True)
    version = connection.execute(select(tables.version.c.version_num)).scalar()
    if version is None:
        connection.execute(tables.version.insert().values(version_num=VERSION))
    elif version < VERSION:  # it outlived the table
        connection.execute(tables.version.update().values(version_num=VERSION))


def _forget_version(connection: Connection, tables: Tables) -> None:
    """Let every migration run, for tables that were dropped and whose version was not."""
    if inspect(connection).has_table(tables.version.name, schema=tables.schema):
        connection.execute(tables.version.delete())


def _migrate(connection: Connection, tables: Tables) -> None:
    """Run Alembic's migrations up to the newest over this connection."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "flag_analytics_database:migrations")
    config.attributes["connection"] = connection
    config.attributes["tables"] = tables
    command.upgrade(config, "head")
    create_view(connection, tables)  # it holds no data: the newest one fits the newest tables


async def _rename_adopted(connection: AsyncConnection, tables: Tables, family: str) -> None:
    """Put the old table aside: from here on nothing can be added to it, and what was there is moved at leisure."""
    prepare_name = connection.sync_connection.dialect.identifier_preparer  # type: ignore[union-attr]
    old = prepare_name.format_table(tables.events)
    new = prepare_name.quote(tables.adopted_table)
    if family == "mysql" and tables.schema:
        new = f"{prepare_name.quote_schema(tables.schema)}.{new}"
    await connection.execute(text(f"ALTER TABLE {old} RENAME TO {new}"))


@contextlib.asynccontextmanager
async def _locked(connection: AsyncConnection, tables: Tables, family: str) -> AsyncIterator[None]:
    """Hold the lock that all workers agree on, and commit at the end of the block."""
    async with _LOCKS[family](connection, tables):
        try:
            yield
            await connection.commit()
        except BaseException:
            with contextlib.suppress(DBAPIError):  # a broken connection is rolled back by the server
                await connection.rollback()
            raise


@contextlib.asynccontextmanager
async def _write_lock(connection: AsyncConnection, _: Tables) -> AsyncIterator[None]:
    await connection.rollback()
    await connection.exec_driver_sql("BEGIN IMMEDIATE")
    yield


@contextlib.asynccontextmanager
async def _advisory_lock(connection: AsyncConnection, tables: Tables) -> AsyncIterator[None]:
    """Lock for one transaction: a session's lock would stay on whichever session a pooler gave for it."""
    key = int.from_bytes(hashlib.sha256(tables.lock_name.encode()).digest()[:8], "big", signed=True)
    await connection.rollback()
    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
    yield


@contextlib.asynccontextmanager
async def _named_lock(connection: AsyncConnection, tables: Tables) -> AsyncIterator[None]:
    # The server's locks have no database, and names of at most 64 characters.
    name = "concat('flag_analytics:', md5(concat(coalesce(database(), ''), ':', :name)))"
    parameters = {"name": tables.lock_name}
    got = await connection.execute(text(f"SELECT GET_LOCK({name}, {_LOCK_SECONDS})"), parameters)
    if got.scalar() != 1:
        raise SchemaOutdated(f"another worker has been setting up table {tables.name} for {_LOCK_SECONDS} seconds")
    await connection.commit()
    try:
        yield
    finally:
        with contextlib.suppress(DBAPIError):  # a broken connection has no lock
            await connection.execute(text(f"SELECT RELEASE_LOCK({name})"), parameters)
            await connection.commit()


_LOCKS = {"sqlite": _write_lock, "postgresql": _advisory_lock, "mysql": _named_lock}
