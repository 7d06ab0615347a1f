"""``flag-analytics db upgrade`` and ``flag-analytics prune``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

pytest.importorskip("cyclopts", reason="the command line is not installed")

from cyclopts import App, CycloptsError
from flag_analytics.config.plan import Plan
from flag_analytics.config.reading import read_config
from flag_analytics.errors import FlagAnalyticsError
from flag_analytics_database import DatabaseStore
from flag_analytics_database.plugin import flag_analytics_cli


def run(*words: str, read_plan: Callable[[Path | None], Plan] = read_config) -> int:
    """Run a command, with what it raises said and turned into an exit code as the command line does it."""
    app = App(name="flag-analytics", result_action="return_value")
    flag_analytics_cli(app, read_plan)
    try:
        code = app(list(words), exit_on_error=False, print_error=False)
    except (CycloptsError, FlagAnalyticsError) as error:
        sys.stderr.write(f"{error}\n")
        return 2 if isinstance(error, CycloptsError) else 1
    assert isinstance(code, int)
    return code


def url_in(directory: Path) -> str:
    return f"sqlite:///{(directory / 'events.db').as_posix()}"


def test_upgrade_creates_the_tables_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("db", "upgrade", "--url", url_in(tmp_path)) == 0
    assert capsys.readouterr().out == "database: brought to version 0005 (was: missing)\n"
    assert run("db", "upgrade", "--url", url_in(tmp_path)) == 0
    assert capsys.readouterr().out == "database: is at version 0005 already\n"


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
    assert run("prune", "--days", "4.5", "--dry-run", "--config", str(config)) == 0
    assert capsys.readouterr().out == "database: would remove 5 rows older than 4.5 days\n"
    assert run("prune", "--days", "4.5", "--config", str(config)) == 0
    assert capsys.readouterr().out == "database: removed 5 rows older than 4.5 days\n"
    config.write_text(f'[collectors.database]\nconnection_string = "{url_in(tmp_path)}"\nretention_days = 2.5\n')
    assert run("prune", "--config", str(config)) == 0
    assert capsys.readouterr().out == "database: removed 2 rows older than 2.5 days\n"


def test_what_cannot_be_done_is_said_and_is_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for days in ("-1", "0", "nan", "1e9"):
        assert run("prune", "--days", days, "--url", url_in(tmp_path)) == 2
    assert run("db", "upgrade", "--url", "postgresql://u:s3cret@127.0.0.1:1/none") == 1
    assert run("db", "upgrade", "--url", "nonsense") == 2
    assert run("db", "upgrade", "--url", url_in(tmp_path), "--table", "a b") == 2
    assert run("prune", "--table", "mine") == 2
    config = tmp_path / "flag-analytics.toml"
    config.write_text("[collectors.memory]\n")
    assert run("db", "upgrade", "--config", str(config)) == 1
    words = capsys.readouterr()
    assert words.out == ""
    assert "--days -1 is out of range: expected a number above 0" in words.err
    assert "--days 1e+09 is out of range" in words.err
    assert "database: the database does not answer (ECONNREFUSED" in words.err
    assert "connection_string is not a database URL" in words.err
    assert "table must match" in words.err
    assert "--table and --schema are about the database that --url names" in words.err
    assert "no database collector is configured" in words.err
    assert "s3cret" not in words.err


def test_where_nothing_is_configured_the_commands_work_with_what_the_command_line_falls_back_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Path | None] = []

    def fall_back(config: Path | None) -> Plan:
        asked.append(config)
        plan = read_config({"collectors": {"database": {"connection_string": url_in(tmp_path), "retention_days": 1}}})
        return attrs.evolve(plan, sinks=tuple(attrs.evolve(sink, explicit=frozenset()) for sink in plan.sinks))

    assert run("prune", read_plan=fall_back) == 0
    assert not (tmp_path / "events.db").exists()
    assert run("db", "upgrade", read_plan=fall_back) == 0
    assert run("prune", read_plan=fall_back) == 0
    assert asked == [None, None, None]
    assert capsys.readouterr().out.splitlines() == [
        "database: nothing is stored here yet",
        "database: brought to version 0005 (was: missing)",
        "database: removed 0 rows older than 1 day",
    ]


def test_a_database_that_somebody_named_and_is_not_there_is_said_and_not_created(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "flag-analytics.toml"
    config.write_text(f'[collectors.database]\nconnection_string = "{url_in(tmp_path)}"\n')
    for words in (["--url", url_in(tmp_path)], ["--config", str(config)], ["--days", "3", "--config", str(config)]):
        assert run("prune", *words) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert "database: there is no database " in said.err
        assert "is the path in its connection_string right?" in said.err
    assert not (tmp_path / "events.db").exists()


def test_what_was_done_is_json_for_other_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def document(*words: str, code: int = 0) -> Any:
        assert run(*words, "--format", "json") == code
        return json.loads(capsys.readouterr().out)

    url = url_in(tmp_path)
    line = {"name": "database", "version": "0005", "before": "missing", "problem": None}
    assert document("db", "upgrade", "--url", url) == {"databases": [line]}
    line = {"name": "database", "removed": 0, "older_than_days": 3.0, "problem": None}
    assert document("prune", "--days", "3", "--url", url) == {"databases": [line]}
    assert document("prune", "--url", url) == {"databases": [{**line, "older_than_days": None}]}
    [failed] = document("prune", "--days", "3", "--url", url_in(tmp_path / "nowhere"), code=1)["databases"]
    assert failed.keys() == line.keys()
    assert failed["removed"] is None
    assert failed["problem"].startswith("there is no database ")


def test_one_database_that_does_not_answer_keeps_no_other_from_being_upgraded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "flag-analytics.toml"
    config.write_text(
        '[collectors.database]\nconnection_string = "postgresql://u:s3cret@127.0.0.1:1/none"\n'
        f'[collectors."database/well"]\nconnection_string = "{url_in(tmp_path)}"\n'
    )
    assert run("db", "upgrade", "--config", str(config)) == 1
    said = capsys.readouterr()
    assert said.out == "database/well: brought to version 0005 (was: missing)\n"
    assert said.err.startswith("database: the database does not answer")


def test_one_is_not_many(tmp_path: Path, capsys: pytest.CaptureFixture[str], make_event: Any, batch_of: Any) -> None:
    import asyncio

    from flag_analytics_database import DatabaseOptions

    async def fill() -> None:
        store = DatabaseStore(DatabaseOptions(connection_string=url_in(tmp_path)))
        await store.write(batch_of(make_event(timestamp=datetime.now(UTC) - timedelta(days=2))))
        await store.close()

    asyncio.run(fill())
    assert run("prune", "--days", "1", "--url", url_in(tmp_path)) == 0
    assert capsys.readouterr().out == "database: removed 1 row older than 1 day\n"


def test_adding_the_commands_imports_no_sqlalchemy() -> None:
    code = (
        "import sys; from cyclopts import App; from flag_analytics.config.reading import read_config; "
        "from flag_analytics_database.plugin import flag_analytics_cli; "
        "flag_analytics_cli(App(), read_config); assert 'sqlalchemy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_rollups_are_rebuilt_and_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make_event: Any, batch_of: Any
) -> None:
    import asyncio

    from flag_analytics_database import DatabaseOptions

    url = url_in(tmp_path)

    async def fill() -> None:
        store = DatabaseStore(DatabaseOptions(connection_string=url))
        days = (datetime(2026, 3, day, 12, tzinfo=UTC) for day in (1, 2, 3))
        await store.write(batch_of(*(make_event(timestamp=day) for day in days)))
        await store.close()

    asyncio.run(fill())
    assert run("db", "rollup", "rebuild", "--url", url, "--since", "2026-03-02") == 0
    said = capsys.readouterr()
    assert said.out == "database: counted the events since 2026-03-02 00:00 UTC: 2 counts were missing or wrong\n"
    assert run("db", "rollup", "rebuild", "--url", url) == 0
    assert capsys.readouterr().out == "database: counted the events: 1 count was missing or wrong\n"
    assert run("db", "rollup", "rebuild", "--url", url, "--format", "json") == 0
    line = {"name": "database", "corrected": 0, "since": None, "problem": None}
    assert json.loads(capsys.readouterr().out) == {"databases": [line]}
    assert run("db", "rollup", "drop", "--url", url) == 0
    assert capsys.readouterr().out == "database: removed the rollups\n"


def test_with_rollups_a_dry_run_counts_the_whole_days_that_would_be_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make_event: Any, batch_of: Any
) -> None:
    import asyncio

    from flag_analytics_database import DatabaseOptions

    url = url_in(tmp_path)

    async def fill() -> None:
        store = DatabaseStore(DatabaseOptions(connection_string=url, rollups=True))
        midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        # The last one is old enough, and of a day that is not.
        times = (midnight - timedelta(days=5), midnight - timedelta(days=3), midnight - timedelta(days=2))
        await store.write(batch_of(*(make_event(timestamp=time) for time in times)))
        await store.close()

    asyncio.run(fill())
    assert run("db", "rollup", "rebuild", "--url", url) == 0
    capsys.readouterr()
    assert run("prune", "--days", "2", "--dry-run", "--url", url, "--format", "json") == 0
    told = json.loads(capsys.readouterr().out)["databases"][0]["would_remove"]
    assert run("prune", "--days", "2", "--url", url, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["databases"][0]["removed"] == told


def test_dropped_rollups_that_the_configuration_asks_for_are_said_to_come_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "flag-analytics.toml"
    config.write_text(f'[collectors.database]\nconnection_string = "{url_in(tmp_path)}"\nrollups = true\n')
    assert run("db", "upgrade", "--config", str(config)) == 0
    capsys.readouterr()
    assert run("db", "rollup", "drop", "--config", str(config)) == 0
    said = "database: removed the rollups, until the next writer: take rollups = true out of the configuration\n"
    assert capsys.readouterr().out == said


def test_the_rollups_of_a_file_that_does_not_exist_are_not_rebuilt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("db", "rollup", "rebuild", "--url", url_in(tmp_path)) == 1
    assert "there is no database" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
