"""The schema has a version, and one definition: what migrations make is what the tables say."""

from __future__ import annotations

import ast
import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flag_analytics.errors import SinkUnavailable
from flag_analytics.sources import Window
from flag_analytics_database import DatabaseStore
from flag_analytics_database.schema import tables_named
from flag_analytics_database.setup import VERSION, State
from sqlalchemy import inspect
from sqlalchemy.ext.asyncio import create_async_engine

EVERYTHING = Window(None, datetime(2100, 1, 1, tzinfo=UTC))


def test_the_newest_migration_is_the_version_of_this_release() -> None:
    config = Config()
    config.set_main_option("script_location", "flag_analytics_database:migrations")
    assert ScriptDirectory.from_config(config).get_current_head() == VERSION


@pytest.mark.parametrize("partition_by", [None, "month"])
async def test_created_and_migrated_tables_are_the_same(database: Any, partition_by: str | None) -> None:
    created = database.store(table="created", partition_by=partition_by)
    migrated = database.store(table="migrated", partition_by=partition_by)
    await created.open()
    assert await migrated.upgrade() is State.MISSING
    made = [await _definitions(database, store, name) for store, name in ((created, "created"), (migrated, "migrated"))]
    assert made[0] == made[1]
    assert len(made[0]) >= 2
    engine = create_async_engine(database.url)
    async with engine.connect() as connection:
        assert await connection.run_sync(_version_by_alembic, "migrated_version") == VERSION
    await engine.dispose()
    await created.close()
    await migrated.close()


async def _definitions(database: Any, store: DatabaseStore, prefix: str) -> list[Any]:
    """Return how the database itself describes the tables, but for the first part of their names."""
    found: list[Any] = []
    kept = [table.name for table in store.tables.metadata.sorted_tables if table is not store.tables.version]
    for table in (*kept, store.tables.view):
        for statement in _DEFINITION[database.family]:
            found += [
                tuple(_in_any_order(str(field).replace(prefix, "")) for field in row)
                for row in await database.run(statement.format(table=table))
            ]
    return found


def _in_any_order(field: str) -> Any:
    """Return the lines of a statement sorted: a column that a migration adds is the last one."""
    return sorted(line.strip(" ,") for line in field.splitlines()) if "\n" in field else field


_DEFINITION = {
    "sqlite": [
        "SELECT * FROM pragma_table_info('{table}')",
        "SELECT sql FROM sqlite_master WHERE tbl_name = '{table}' AND type <> 'table' ORDER BY name",
    ],
    "postgresql": [
        """
        SELECT column_name, data_type, udt_name, collation_name, is_nullable, column_default
        FROM information_schema.columns WHERE table_name = '{table}' ORDER BY ordinal_position
        """,
        "SELECT indexdef FROM pg_indexes WHERE tablename = '{table}' ORDER BY indexname",
        "SELECT contype::text, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = '{table}'::regclass",
        "SELECT pg_get_partkeydef('{table}'::regclass)",
        "SELECT pg_get_viewdef(oid) FROM pg_class WHERE oid = '{table}'::regclass AND relkind = 'v'",
        "SELECT prosrc FROM pg_proc WHERE proname = '{table}_rows'",
    ],
    "mysql": ["SHOW CREATE TABLE {table}"],
}


def test_a_migration_stays_what_it_was_whatever_becomes_of_the_schema() -> None:
    """It takes nothing from there but names."""
    config = Config()
    config.set_main_option("script_location", "flag_analytics_database:migrations")
    for revision in ScriptDirectory.from_config(config).walk_revisions():
        tree = ast.parse(Path(str(revision.module.__file__)).read_text(encoding="utf-8"))
        taken = {
            (node.module, alias.name)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("flag_analytics")
            for alias in node.names
        }
        assert taken <= {
            ("flag_analytics_database.names", "derived_name"),
            ("flag_analytics_database.schema", "Tables"),
            ("flag_analytics_database.setup", "create_missing"),
        }


def _version_by_alembic(connection: Any, version_table: str) -> Any:
    context = MigrationContext.configure(connection, opts={"version_table": version_table})
    return context.get_current_revision()


async def test_a_set_up_that_was_cut_short_is_completed(database: Any, make_event: Any, batch_of: Any) -> None:
    store = database.store()
    await store.open()
    await store.close()
    await database.run("DROP TABLE analytics_events_version")
    on_table = " ON analytics_events" if database.family == "mysql" else ""
    await database.run(f"DROP INDEX analytics_events_by_time_and_user{on_table}")
    await store.write(batch_of(make_event()))
    assert await database.run("SELECT version_num FROM analytics_events_version") == [(VERSION,)]
    assert await _indexes(database) == _INDEXES
    await store.close()


_INDEXES = {"analytics_events_by_time_and_user", "analytics_events_figures"}


async def _indexes(database: Any, table: str = "analytics_events") -> set[str]:
    engine = create_async_engine(database.url)
    async with engine.connect() as connection:
        indexes = await connection.run_sync(lambda sync: inspect(sync).get_indexes(table))
    await engine.dispose()
    return {index["name"] for index in indexes}


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


async def test_a_database_with_events_gets_the_figures_of_this_release(
    database: Any, make_event: Any, batch_of: Any
) -> None:
    await _migrate_to(database, "0001")
    sql = (
        "INSERT INTO analytics_events (event_id, timestamp, received_at, kind, flag_key, reason, variant, "
        "targeting_key, evaluation_duration_ms, value, context_attributes, sample_rate, error_type) VALUES "
        "({id}, 1, 1, 0, 'checkout', 'DEFAULT', 'a', '{user}', 0, '1', '{{}}', 0.5, {error})"
    )
    ids = {"postgresql": "gen_random_uuid()", "mysql": "unhex(md5('{0}'))", "sqlite": "randomblob(16)"}
    for user, error in (("u", "NULL"), ("v", "'GENERAL'"), ("w", "''")):
        row_id = ids[database.family].format(user)
        await database.run(sql.format(id=row_id, user=user, error=error))
    store = database.store()
    assert await store.upgrade() is State.OUTDATED
    await store.write(batch_of(make_event(variant="b", targeting_key="u", error_type="GENERAL")))
    summary = (await store.summarise(["checkout"], EVERYTHING))["checkout"]
    assert (summary.total, summary.errors, summary.variant_users) == (7, 3, {"a": 6, "b": 1})
    assert await store.upgrade() is State.READY
    await store.close()


async def _migrate_to(database: Any, revision: str) -> None:
    def migrate(connection: Any) -> None:
        config = Config()
        config.set_main_option("script_location", "flag_analytics_database:migrations")
        config.attributes["connection"] = connection
        config.attributes["tables"] = tables_named()
        command.upgrade(config, revision)

    engine = create_async_engine(database.url)
    async with engine.begin() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()


# --- migrations of tables with data


async def as_first_version(database: Any, store: DatabaseStore) -> None:
    """Take the tables back to version 0001."""
    await database.run(f"DROP VIEW {store.tables.view}")
    for table in ("imports", "counts", "sketches", "rollup_state"):
        await database.run(f"DROP TABLE {store.tables.name}_{table}")
    await database.run(f"ALTER TABLE {store.tables.name} DROP COLUMN import_id")
    await as_third_version(database, store, "0001")


async def as_third_version(database: Any, store: DatabaseStore, version: str = "0003") -> None:
    """Take the indexes back to those of version 0003."""
    name = store.tables.name
    on_table = f" ON {name}" if database.family == "mysql" else ""
    await database.run(f"DROP INDEX {name}_by_time_and_user{on_table}")
    await database.run(f"CREATE INDEX {name}_by_time ON {name} (timestamp)")
    await database.run(f"UPDATE {store.tables.version.name} SET version_num = '{version}'")


@pytest.mark.parametrize("partition_by", [None, "month"])
async def test_a_migration_keeps_every_event_and_events_go_on_from_there(
    database: Any, make_event: Any, batch_of: Any, partition_by: str | None
) -> None:
    store = database.store(partition_by=partition_by)
    events = [make_event(number) for number in range(300)]
    await store.write(batch_of(*events))
    await store.close()
    await as_first_version(database, store)
    with pytest.raises(SinkUnavailable, match="outdated: run flag-analytics db upgrade, or set upgrade"):
        await database.store(partition_by=partition_by).write(batch_of(make_event(300)))
    operator = database.store(partition_by=partition_by)
    assert await operator.upgrade() is State.OUTDATED
    assert await operator.get_events() == events
    assert await database.count(store.tables.view) == 300
    later = database.store(partition_by=partition_by)
    await later.write(batch_of(*events, make_event(300)))
    assert await database.count() == 301
    assert await _indexes(database) == _INDEXES
    assert await later.forget(["user-1"]) == sum(event.targeting_key == "user-1" for event in events)


async def test_a_worker_that_may_upgrade_does_so_with_its_first_event(
    database: Any, make_event: Any, batch_of: Any
) -> None:
    store = database.store()
    await store.write(batch_of(make_event()))
    await store.close()
    await as_first_version(database, store)
    workers = [database.store(upgrade=True) for _ in range(3)]
    await asyncio.gather(*(worker.write(batch_of(make_event(1 + n))) for n, worker in enumerate(workers)))
    assert await database.count() == 4
    assert await database.run("SELECT version_num FROM analytics_events_version") == [(VERSION,)]


@pytest.mark.parametrize("cut", ["imports", "column", "version"])
async def test_a_migration_that_was_cut_short_is_completed(
    database: Any, make_event: Any, batch_of: Any, cut: str
) -> None:
    store = database.store()
    await store.write(batch_of(make_event()))
    await store.close()
    if cut == "imports":
        await as_first_version(database, store)
    else:
        await database.run("UPDATE analytics_events_version SET version_num = '0001'")
    if cut == "version":
        await database.run("DELETE FROM analytics_events_version")
    later = database.store(upgrade=True)
    await later.write(batch_of(make_event(1)))
    assert await database.count("analytics_events_v") == 2
    assert await database.count("analytics_events_imports") == 0


# --- an index that is built while events are stored


@pytest.mark.server
@pytest.mark.parametrize("partition_by", [None, "month"])
async def test_events_are_stored_while_an_index_is_built(
    postgresql: Any, make_event: Any, batch_of: Any, partition_by: str | None
) -> None:
    """A transaction that has stored something is open all the time: a build with a lock on the table would wait."""
    store = postgresql.store(partition_by=partition_by)
    await store.write(batch_of(*(make_event(number) for number in range(50))))
    await as_third_version(postgresql, store)
    engine = create_async_engine(postgresql.url)
    async with engine.connect() as writer:
        await writer.exec_driver_sql(f"DELETE FROM {store.tables.name} WHERE flag_key = 'none'")
        upgrading = asyncio.create_task(postgresql.store(partition_by=partition_by).upgrade())
        while not await _is_building(postgresql):
            assert not upgrading.done()
        await asyncio.wait_for(store.write(batch_of(make_event(60))), 5)
        await writer.commit()
    await engine.dispose()
    assert await upgrading is State.OUTDATED
    assert await _indexes(postgresql) == _INDEXES
    assert await postgresql.run("SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid") == []
    of_time = (
        "SELECT tablename, count(*) FROM pg_indexes WHERE indexdef LIKE '%(\"timestamp\", targeting_key)' GROUP BY 1"
    )
    assert {count for _, count in await postgresql.run(of_time)} == {1}
    assert await postgresql.count() == 51


async def _is_building(postgresql: Any) -> bool:
    return bool(await postgresql.run("SELECT 1 FROM pg_stat_progress_create_index WHERE datname = current_database()"))


@pytest.mark.server
@pytest.mark.parametrize("partition_by", [None, "month"])
async def test_many_may_upgrade_at_once_after_one_was_interrupted(
    postgresql: Any, make_event: Any, batch_of: Any, partition_by: str | None
) -> None:
    store = postgresql.store(partition_by=partition_by)
    await store.write(batch_of(*(make_event(number) for number in range(50))))
    await as_third_version(postgresql, store)
    engine = create_async_engine(postgresql.url)
    async with engine.connect() as writer:  # holds the build up
        await writer.exec_driver_sql(f"DELETE FROM {store.tables.name} WHERE flag_key = 'none'")
        upgrading = asyncio.create_task(postgresql.store(partition_by=partition_by).upgrade())
        while not await _is_building(postgresql):
            assert not upgrading.done()
        await postgresql.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_progress_create_index WHERE datname = current_database()"
        )
        with pytest.raises(SinkUnavailable):
            await upgrading
    await engine.dispose()
    assert await postgresql.run("SELECT 1 FROM pg_index WHERE NOT indisvalid") != []
    operators = [postgresql.store(partition_by=partition_by).upgrade() for _ in range(4)]
    assert State.OUTDATED in await asyncio.gather(*operators)
    assert await postgresql.run("SELECT 1 FROM pg_index WHERE NOT indisvalid") == []
    assert await _indexes(postgresql) == _INDEXES
