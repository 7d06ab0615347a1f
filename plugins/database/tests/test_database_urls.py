"""Connection strings are checked before anything is opened, and never shown."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from flag_analytics.config.reading import read_config
from flag_analytics.errors import ConfigError, PluginNotInstalledError
from flag_analytics.pipeline import open_pipeline
from flag_analytics_database import DatabaseAnalyticsCollector, DatabaseOptions, DatabaseStore
from flag_analytics_database.urls import parse_url

CANARY = "hunter2"
EXAMPLE = "expected for example sqlite:///analytics.db or postgresql://host/database"


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("sqlite:///a.db", "sqlite+aiosqlite"),
        ("postgresql://h/d", "postgresql+asyncpg"),
        ("postgres://h/d", "postgresql+asyncpg"),
        ("mysql://h/d", "mysql+asyncmy"),
        ("mariadb://h/d", "mariadb+asyncmy"),
        ("mysql+aiomysql://h/d", "mysql+aiomysql"),
    ],
)
def test_a_url_without_a_driver_gets_an_asynchronous_one(given: str, driver: str) -> None:
    assert parse_url(given).drivername == driver


WRONG = [
    ("", f"is not a database URL: {EXAMPLE}"),
    ("notaurl", f"is not a database URL: {EXAMPLE}"),
    (f"sqlite://user:{CANARY}", f"is not a database URL: {EXAMPLE}"),
    (f"postgresql://user:{CANARY}/host", f"is not a database URL: {EXAMPLE}"),
    (f"user:{CANARY}@host/db", f"is not a database URL: {EXAMPLE}"),
    (f"oracle://user:{CANARY}@h/d", "is of type 'oracle': expected sqlite, postgresql, mysql or mariadb"),
    ("mssql+aioodbc://h/d", "is of type 'mssql': expected sqlite, postgresql, mysql or mariadb"),
    ("postgresql+nothing://h/d", "names the driver 'nothing', which SQLAlchemy does not know: expected aiomysql, "),
    ("sqlite+pysqlite:///a.db", "'pysqlite', which is not asynchronous: write sqlite+aiosqlite://"),
    (f"mysql+pymysql://u:{CANARY}@h/d", "'pymysql', which is not asynchronous: write mysql+asyncmy://"),
]


@pytest.mark.parametrize(("url", "expected"), WRONG)
def test_a_url_that_cannot_work_is_a_problem_beside_the_others(url: str, expected: str) -> None:
    source = {"collectors": {"database": {"connection_string": url, "batch_size": 0}}}
    with pytest.raises(ConfigError) as caught:
        read_config(source, environ={})
    problems = {problem.path: problem.message for problem in caught.value.problems}
    assert expected in problems["collectors.database.connection_string"]
    assert problems["collectors.database.batch_size"] == "expected an integer of at least 1, got 0"
    assert CANARY not in words_of(caught.value)


@pytest.mark.parametrize(("url", "expected"), WRONG)
async def test_a_url_that_cannot_work_is_refused_by_create(url: str, expected: str) -> None:
    with pytest.raises(ValueError, match="connection_string") as caught:
        await DatabaseAnalyticsCollector.create(url)
    assert expected in str(caught.value)
    assert CANARY not in words_of(caught.value)


def test_a_missing_driver_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncmy", None)
    with pytest.raises(PluginNotInstalledError, match=r"pip install 'flag-analytics\[mysql\]'"):
        DatabaseOptions(connection_string="mysql://h/d")
    with pytest.raises(ConfigError, match=r"connection_string: the database driver 'asyncmy' is not installed"):
        read_config({"collectors": {"database": {"connection_string": "mysql://h/d"}}}, environ={})


def test_a_driver_that_cannot_be_imported_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    options = DatabaseOptions(connection_string="mysql://h/d")
    monkeypatch.setitem(sys.modules, "asyncmy", None)
    with pytest.raises(PluginNotInstalledError, match="'asyncmy'"):
        DatabaseStore(options)


def test_a_store_and_a_collector_say_which_database_is_theirs_and_no_secret(tmp_path: Path) -> None:
    url = f"postgresql://user:{CANARY}@127.0.0.1:1/shop?password={CANARY}"
    store = DatabaseStore(DatabaseOptions(connection_string=url, schema="flags"))
    shown = "DatabaseStore(postgresql+asyncpg://127.0.0.1:1/shop, table='analytics_events', schema='flags')"
    assert repr(store) == shown
    assert repr(DatabaseAnalyticsCollector(store)) == f"DatabaseAnalyticsCollector({shown})"
    with open_pipeline(
        {"collectors": {f"database/{name}": {"connection_string": f"sqlite:///{name}.db"} for name in ("a", "b")}},
        environ={},
    ) as pipeline:
        shown_both = {repr(collector) for collector in pipeline.collectors.values()}
    assert len(shown_both) == 2


def words_of(error: Any) -> str:
    words = []
    while error is not None:
        words.append(f"{error!r} {error} {vars(error)}")
        error = error.__cause__ or error.__context__
    return "\n".join(words)
