"""The schema has a version, and one definition: what migrations make is what the tables say."""

from __future__ import annotations

from typing import Any

import pytest
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flag_analytics.errors import SinkUnavailable
from flag_analytics_database import DatabaseStore
from flag_analytics_database.setup import VERSION, State
from sqlalchemy import inspect
from sqlalchemy.ext.asyncio import create_async_engine


def test_the_newest_migration_is_the_version_of_this_release() -> None:
    config = Config()
    config.set_main_option("script_location", "flag_analytics_database:migrations")
    assert ScriptDirectory.from_config(config).get_current_head() == VERSION


async def test_created_and_migrated_tables_are_the_same(database: Any) -> None:
    created, migrated = database.store(table="created"), database.store(table="migrated")
    await created.open()
    assert await migrated.upgrade() is State.MISSING
    engine = create_async_engine(database.url)
    async with engine.connect() as connection:
        shapes = await connection.run_sync(
            lambda sync: [_shape(sync, store, name) for store, name in ((created, "created"), (migrated, "migrated"))]
        )
        versions = await connection.run_sync(_version_by_alembic, "migrated_version")
    assert shapes[0] == shapes[1]
    assert versions == VERSION
    await engine.dispose()
    await created.close()
    await migrated.close()


def _shape(connection: Any, store: DatabaseStore, prefix: str) -> Any:
    inspector = inspect(connection)
    shape = {}
    for table in store.tables.metadata.tables.values():
        columns = [
            (column["name"], str(column["type"]), column["nullable"]) for column in inspector.get_columns(table.name)
        ]
        indexes = {
            index["name"].removeprefix(prefix): (index["column_names"], index.get("include_columns"))
            for index in inspector.get_indexes(table.name)
        }
        key = inspector.get_pk_constraint(table.name)["constrained_columns"]
        shape[table.name.removeprefix(prefix)] = (columns, indexes, key)
    return shape


def _version_by_alembic(connection: Any, version_table: str) -> Any:
    context = MigrationContext.configure(connection, opts={"version_table": version_table})
    return context.get_current_revision()


async def test_a_set_up_that_was_cut_short_is_completed(database: Any, make_event: Any, batch_of: Any) -> None:
    store = database.store()
    await store.open()
    await store.close()
    await database.run("DROP TABLE analytics_events_version")
    on_table = " ON analytics_events" if database.family == "mysql" else ""
    await database.run(f"DROP INDEX analytics_events_by_time{on_table}")
    await store.write(batch_of(make_event()))
    assert await database.run("SELECT version_num FROM analytics_events_version") == [(VERSION,)]
    engine = create_async_engine(database.url)
    async with engine.connect() as connection:
        indexes = await connection.run_sync(lambda sync: inspect(sync).get_indexes("analytics_events"))
    await engine.dispose()
    assert {index["name"] for index in indexes} == {"analytics_events_by_time", "analytics_events_by_flag"}
    await store.close()


async def test_an_older_version_is_refused_and_a_newer_one_shared(
    database: Any, make_event: Any, batch_of: Any
) -> None:
    store = database.store()
    await store.open()
    await store.close()
    await database.run("UPDATE analytics_events_version SET version_num = '0000'")
    with pytest.raises(SinkUnavailable, match="outdated: run flag-analytics db upgrade, or set upgrade"):
        await store.write(batch_of(make_event()))
    await database.run("UPDATE analytics_events_version SET version_num = '9999'")
    await store.write(batch_of(make_event()))
    assert await database.count() == 1
    await store.close()
