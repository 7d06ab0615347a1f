"""``flag-analytics db upgrade`` and ``flag-analytics prune``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cyclopts", reason="the command line is not installed")

from cyclopts import App
from flag_analytics.config import Plan, read_config
from flag_analytics_database import DatabaseStore
from flag_analytics_database.plugin import flag_analytics_cli


def run(*words: str, read_plan: Callable[[Path | None], Plan] = read_config) -> int:
    app = App(name="flag-analytics", result_action="return_value")
    flag_analytics_cli(app, read_plan)
    code = app(list(words), exit_on_error=False)
    assert isinstance(code, int)
    return code


def url_in(directory: Path) -> str:
    return f"sqlite:///{(directory / 'events.db').as_posix()}"


def test_upgrade_creates_the_tables_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("db", "upgrade", "--url", url_in(tmp_path)) == 0
    assert capsys.readouterr().out == "database: brought to version 0001 (was: missing)\n"
    assert run("db", "upgrade", "--url", url_in(tmp_path)) == 0
    assert capsys.readouterr().out == "database: is at version 0001 already\n"


def test_prune_removes_what_is_older(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make_event: Any, batch_of: Any
) -> None:
    import asyncio

    from flag_analytics_database import DatabaseOptions

    async def fill() -> None:
        store = DatabaseStore(DatabaseOptions(connection_string=url_in(tmp_path)))
        now = datetime.now(UTC)
        await store.write(batch_of(*(make_event(timestamp=now - timedelta(days=days)) for days in range(10))))
        await store.close()

    asyncio.run(fill())
    config = tmp_path / "flag-analytics.toml"
    config.write_text(f'[collectors.database]\nconnection_string = "{url_in(tmp_path)}"\n')
    assert run("prune", "--config", str(config)) == 0
    assert "kept everything: give --days, or set retention_days" in capsys.readouterr().out
    assert run("prune", "--days", "4.5", "--config", str(config)) == 0
    assert capsys.readouterr().out == "database: removed 5 rows older than 4.5 days\n"
    config.write_text(f'[collectors.database]\nconnection_string = "{url_in(tmp_path)}"\nretention_days = 2.5\n')
    assert run("prune", "--config", str(config)) == 0
    assert capsys.readouterr().out == "database: removed 2 rows older than 2.5 days\n"


def test_what_cannot_be_done_is_said_and_is_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prune", "--days", "-1", "--url", url_in(tmp_path)) == 2
    assert run("db", "upgrade", "--url", "postgresql://u:s3cret@127.0.0.1:1/none") == 1
    assert run("db", "upgrade", "--url", "nonsense") == 1
    assert run("db", "upgrade", "--url", url_in(tmp_path), "--table", "a b") == 1
    config = tmp_path / "flag-analytics.toml"
    config.write_text("[collectors.memory]\n")
    assert run("db", "upgrade", "--config", str(config)) == 1
    words = capsys.readouterr()
    assert words.out == ""
    assert "--days must be a number above 0" in words.err
    assert "the database does not answer (ECONNREFUSED)" in words.err
    assert "connection_string is not a database URL" in words.err
    assert "table must match" in words.err
    assert "no database collector is configured" in words.err
    assert "s3cret" not in words.err


def test_where_nothing_is_configured_the_commands_work_with_what_the_command_line_falls_back_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Path | None] = []

    def fall_back(config: Path | None) -> Plan:
        asked.append(config)
        return read_config({"collectors": {"database": {"connection_string": url_in(tmp_path), "retention_days": 1}}})

    assert run("prune", read_plan=fall_back) == 0
    assert not (tmp_path / "events.db").exists()
    assert run("db", "upgrade", read_plan=fall_back) == 0
    assert run("prune", read_plan=fall_back) == 0
    assert asked == [None, None, None]
    assert capsys.readouterr().out.splitlines() == [
        "database: nothing is stored here yet",
        "database: brought to version 0001 (was: missing)",
        "database: removed 0 rows older than 1 days",
    ]


def test_adding_the_commands_imports_no_sqlalchemy() -> None:
    code = (
        "import sys; from cyclopts import App; from flag_analytics.config import read_config; "
        "from flag_analytics_database.plugin import flag_analytics_cli; "
        "flag_analytics_cli(App(), read_config); assert 'sqlalchemy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
