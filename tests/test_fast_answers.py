"""A fast answer from end to end: recorded, rolled up, and asked for in Python, by the API and by the command."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from flag_analytics import FlagEvaluationEvent, Pipeline, open_pipeline
from flag_analytics_api import ApiOptions, create_api
from flag_analytics_cli.main import main

pytest.importorskip("datasketches", reason="it has no wheel for this Python")

DAY = 86_400


@pytest.fixture
async def pipeline(tmp_path: Path) -> AsyncIterator[Pipeline]:
    """One with 1,500 events of ten days, summaries of all but the last."""
    options = {"connection_string": f"sqlite:///{tmp_path / 'events.db'}", "rollups": True}
    (tmp_path / "flag-analytics.toml").write_text(
        "[collectors.database]\n" + "\n".join(f"{name} = {json.dumps(value)}" for name, value in options.items())
    )
    async with open_pipeline({"collectors": {"database": options}}, environ={}) as opened:
        now = datetime.now(UTC)
        for number in range(1_500):
            moment = now - timedelta(days=number % 10, seconds=number)
            user = f"user-{number % 700}"
            opened.record_nowait(
                FlagEvaluationEvent(
                    moment, "checkout", True, "SPLIT", "ab"[number % 2], user, evaluation_duration_ms=2.0
                )
            )
        await opened.flush()
        source: Any = opened.event_source
        while await source.compact():
            pass
        yield opened


async def test_python_the_api_and_the_command_tell_the_same_figures_and_bounds(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    until = datetime.now(UTC)
    exact = await pipeline.aggregator.get_flag_metrics("checkout", 20 * DAY, until=until)
    fast = await pipeline.aggregator.get_flag_metrics("checkout", 20 * DAY, until=until, accuracy="fast")
    bounds = fast.accuracy.bounds
    assert 0 < bounds["latency"] <= 0.02
    assert 0 < bounds["users"] <= 0.01
    assert fast.unique_users == pytest.approx(exact.unique_users, rel=bounds["users"])
    assert fast.latency_p99 == pytest.approx(exact.latency_p99, rel=bounds["latency"])
    counted = ("total_evaluations", "variant_distribution", "reason_distribution", "error_rate")
    assert [getattr(fast, name) for name in counted] == [getattr(exact, name) for name in counted]

    app = create_api(pipeline, ApiOptions(loopback=True))
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 50_000))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        detail = (await client.get("/flags/checkout?window=20d&accuracy=fast")).json()
        page = (await client.get("/flags?window=20d&accuracy=fast&detail=full")).json()
        series = (await client.get("/flags/checkout/series?window=5d&step=1d&group_by=variant&accuracy=fast")).json()
        plain = (await client.get("/flags/checkout?window=20d")).json()
        refused = await client.get("/flags?accuracy=roughly")
    assert (detail["exact"], detail["bounds"], detail["exposure"]) == (False, bounds, None)
    assert detail["missing"] == ["crossover_users", "variant_users"]
    assert (detail["figures"]["users"], detail["figures"]["crossover_users"]) == (fast.unique_users, None)
    assert page["flags"][0]["users"] == fast.unique_users
    assert page["flags"][0]["count"] == 1_500
    assert series["missing"] == ["users"]
    assert {step["users"] for line in series["lines"] for step in line["steps"] if step["count"]} == {None}
    assert (plain["exact"], plain["bounds"], plain["missing"]) == (True, {}, [])
    assert refused.status_code == 400

    await pipeline.close()
    monkeypatch.chdir(tmp_path)
    assert await asyncio.to_thread(main, ["report", "checkout", "--fast", "--format", "json"]) == 0
    [told] = json.loads(capsys.readouterr().out)["flags"]
    assert told["accuracy"]["bounds"] == bounds
    assert (told["unique_users"], told["exposures"], told["crossover_users"]) == (fast.unique_users, None, None)
    assert await asyncio.to_thread(main, ["report", "checkout", "--fast"]) == 0
    printed = capsys.readouterr().out
    assert "From rollups: latency ± 1 %, users ± 0.81 %" in printed
    assert "Not told by rollups: crossover users, variant users" in printed
    for arguments in (["--step", "1h", "--window", "3d"], ["--group-by", "variant"]):
        assert await asyncio.to_thread(main, ["series", "checkout", "--format", "json", "--fast", *arguments]) == 0
        fast_steps = json.loads(capsys.readouterr().out)
        assert await asyncio.to_thread(main, ["series", "checkout", "--format", "json", *arguments]) == 0
        exact_steps = json.loads(capsys.readouterr().out)
        if "--group-by" in arguments:  # without it the exact series begins where the window does, within an hour
            assert counts_of(fast_steps) == counts_of(exact_steps)
    assert await asyncio.to_thread(main, ["db", "rollup", "compact"]) == 0
    assert "made 0 summaries" in capsys.readouterr().out


def counts_of(series: dict[str, Any]) -> dict[str, list[Any]]:
    return {
        line["group"]: [(step["start"], step["count"], step["errors"]) for step in line["steps"]]
        for line in series["series"]
    }
