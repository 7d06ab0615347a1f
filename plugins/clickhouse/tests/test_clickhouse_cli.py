"""``flag-analytics clickhouse upgrade`` and ``prune``."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import timedelta

import pytest

pytest.importorskip("cyclopts", reason="the command line is not installed")

from cyclopts import App, CycloptsError
from flag_analytics.config.reading import read_config
from flag_analytics.errors import FlagAnalyticsError
from flag_analytics_clickhouse.plugin import flag_analytics_cli


def run(plan, *words):
    """Run a command, with what it raises said and turned into an exit code as the command line does it."""
    app = App(name="flag-analytics", result_action="return_value")
    flag_analytics_cli(app, lambda _: read_config({"plugins": ["clickhouse", "memory"], "collectors": plan}))
    try:
        return app(["clickhouse", *words], exit_on_error=False, print_error=False)
    except (CycloptsError, FlagAnalyticsError) as error:
        sys.stderr.write(f"{error}\n")
        return 2 if isinstance(error, CycloptsError) else 1


@pytest.mark.parametrize("days", ["0", "-1", "40000", "nan"])
def test_days_that_make_no_sense_are_refused(capsys, days):
    assert run({"clickhouse": {"url": "http://127.0.0.1:9"}}, "prune", f"--days={days}") == 2
    assert "out of range" in capsys.readouterr().err


def test_without_days_and_retention_everything_is_kept(capsys):
    assert run({"clickhouse": {"url": "http://127.0.0.1:9"}}, "prune") == 0
    assert capsys.readouterr().out == "clickhouse: kept everything: give --days, or set retention_days\n"


def test_without_days_those_of_the_configuration_count(capsys):
    assert run({"clickhouse": {"url": "http://127.0.0.1:9", "retention_days": 30}}, "prune") == 1
    assert "does not answer" in capsys.readouterr().err


def test_without_a_clickhouse_collector_it_says_what_to_add(capsys):
    assert run({"memory": {}}, "upgrade") == 1
    assert "add [collectors.clickhouse]" in capsys.readouterr().err


def test_a_server_that_does_not_answer_is_named(capsys):
    assert run({"clickhouse": {"url": "http://127.0.0.1:9"}}, "upgrade", "--format", "json") == 1
    told = capsys.readouterr()
    assert "clickhouse: the server does not answer (ECONNREFUSED: nothing listens there)" in told.err
    assert json.loads(told.out)["servers"][0]["problem"].startswith("the server does not answer")


@pytest.mark.clickhouse
async def test_tables_are_made_and_old_events_go(engine, capsys):
    plan = {"clickhouse": {"url": engine.url, "database": engine.database, "create_tables": False}}

    async def said(*words):
        assert await asyncio.to_thread(run, plan, *words) == 0
        return capsys.readouterr().out

    assert await said("upgrade") == "clickhouse: is at version 1\n"
    store = engine.store(create_tables=False)
    now = engine.now()
    await store.write(engine.batch(engine.event(n, timestamp=now - timedelta(days=n)) for n in range(10)))
    assert await said("prune", "--days=6.5", "--dry-run") == "clickhouse: would remove 3 rows older than 6.5 days\n"
    assert json.loads(await said("prune", "--days=6.5", "--format=json")) == {
        "servers": [{"name": "clickhouse", "removed": 3, "older_than_days": 6.5, "problem": None}]
    }
    assert await store.ask(f"SELECT count() FROM {store.tables.events}") == [(7,)]
