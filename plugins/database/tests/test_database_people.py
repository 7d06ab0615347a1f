"""``forget``: everything that is stored of a person goes, and nothing else."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flag_analytics.reports import DeadLetter
from flag_analytics.sources import EventFilter
from flag_analytics_database import DatabaseOptions, DatabaseStore, people
from sqlalchemy import make_url


def _letter(event: Any) -> DeadLetter:
    return DeadLetter("database", event, "BadBatch", "22001", "b", 1_700_000_000.0)


async def test_events_and_dead_letters_of_the_keys_go_in_pages(
    database: Any, make_event: Any, batch_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people, "BATCH_ROWS", 4)
    monkeypatch.setattr(people, "FOUND_ROWS", 6)
    store = database.store()
    hostile = "o'hara\" -- \\ é"
    keys = ["user-1"] * 9 + ["user-2"] * 3 + [hostile] * 2
    batch = batch_of(*(make_event(number, targeting_key=key) for number, key in enumerate(keys)))
    await store.write(batch)
    await store.write_dead_letters([_letter(batch.events[0]), _letter(batch.events[9]), _letter(batch.events[12])])
    theirs = EventFilter(targeting_key=frozenset({"user-1", hostile}))
    assert len(await store.get_events(where=theirs)) == 11
    assert await store.forget(["user-1", hostile, ""]) == 13
    assert await store.forget(["user-1", hostile]) == 0
    assert {event.targeting_key for event in await store.get_events()} == {"user-2"}
    assert [letter.event.targeting_key for letter in await store.read_dead_letters()] == ["user-2"]


async def test_what_is_erased_is_no_longer_counted_for_its_import(
    database: Any, make_event: Any, batch_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people, "BATCH_ROWS", 2)
    live, store = database.store(), database.store()
    await live.write(batch_of(*(make_event(number, targeting_key="user-1") for number in range(3))))
    for name, first in (("a", 10), ("b", 20)):
        await store.start_import(name)
        keys = ["user-1"] * 3 + ["user-2"]
        await store.write(batch_of(*(make_event(first + place, targeting_key=key) for place, key in enumerate(keys))))
    assert await store.forget(["user-1"]) == 9
    assert [(each.name, each.events) for each in await store.list_imports()] == [("a", 1), ("b", 1)]
    assert await store.undo_import("a") == 1


async def test_without_a_key_nothing_goes(database: Any, make_event: Any, batch_of: Any) -> None:
    store = database.store()
    await store.write(batch_of(make_event(1, targeting_key=None)))
    assert await store.forget([""]) == 0
    assert await store.forget([]) == 0
    assert await database.count() == 1


async def test_events_of_a_person_are_found_in_the_index_by_time(
    database: Any, make_event: Any, batch_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = database.store()
    await store.write(batch_of(*(make_event(number, targeting_key=f"user-{number}") for number in range(2_000))))
    if database.family == "postgresql":  # which reads so small a table at once otherwise
        await database.run(f"ALTER DATABASE {database.url.database} SET enable_seqscan = off")
    asked: list[Any] = []
    ask = store._ask

    async def note(query: Any) -> Any:
        asked.append(query)
        return await ask(query)

    monkeypatch.setattr(store, "_ask", note)
    [found] = await store.get_events(where=EventFilter(targeting_key=frozenset({"user-3"})))
    assert found.targeting_key == "user-3"
    dialect = make_url(database.url).get_dialect()()
    query = asked[0].compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    explain = "EXPLAIN QUERY PLAN" if database.family == "sqlite" else "EXPLAIN"
    plan = str(await database.run(f"{explain} {query}"))
    assert "analytics_events_by_time_and_user" in plan
    assert database.family != "sqlite" or "timestamp>?" in plan


async def test_the_log_of_sqlite_holds_nothing_of_a_person_while_others_write_nor_its_file_once_it_is_vacuumed(
    tmp_path: Path, make_event: Any, batch_of: Any
) -> None:
    options = DatabaseOptions(connection_string=f"sqlite+aiosqlite:///{tmp_path / 'events.db'}", rollups=True)
    writing, store = DatabaseStore(options), DatabaseStore(options)
    keys = ["someone-to-forget" if number % 7 == 0 else f"user-{number}" for number in range(2_000)]
    batch = batch_of(*(make_event(number, targeting_key=key) for number, key in enumerate(keys)))
    await writing.write(batch)
    await writing.write_dead_letters([_letter(batch.events[0])])
    assert _found_in(tmp_path, b"someone-to-forget")
    try:
        assert await store.forget(["someone-to-forget"]) == 287
        assert "events.db-wal" not in _found_in(tmp_path, b"someone-to-forget")
    finally:
        await store.close()
        await writing.close()
    with closing(sqlite3.connect(tmp_path / "events.db")) as connection:
        connection.execute("VACUUM")  # SQLite leaves copies where it moves rows between pages
    assert _found_in(tmp_path, b"someone-to-forget") == []


async def test_what_was_pruned_before_is_not_found_in_the_file_of_sqlite_either(
    tmp_path: Path, make_event: Any, batch_of: Any
) -> None:
    store = DatabaseStore(DatabaseOptions(connection_string=f"sqlite+aiosqlite:///{tmp_path / 'events.db'}"))
    await store.open()

    async def secure_delete(connection: Any) -> Any:
        return (await connection.exec_driver_sql("PRAGMA secure_delete")).scalar()

    try:
        assert await secure_delete(await store._writing.get()) == 1
        assert await store._questions.run(secure_delete) == 1
    finally:
        await store.close()


def _found_in(directory: Path, words: bytes) -> list[str]:
    return [path.name for path in sorted(directory.iterdir()) if words in path.read_bytes()]
