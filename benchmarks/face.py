"""What people look at: a request with the plugin, the API under load, the overview, the page, live streams."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flag_analytics import FlagEvaluationEvent, open_pipeline
from flag_analytics_api import ApiOptions, create_api

from ._harness import Contender, Figure, Limit, Table, Timed, compare, installed, judge

_HERE = Path(__file__).parents[1]
_SERVER = """
import random, sys
from datetime import UTC, datetime, timedelta
import uvicorn
from flag_analytics import FlagEvaluationEvent, open_pipeline
from flag_analytics_api import ApiOptions
from flag_analytics_dashboard import create_dashboard

events, port = int(sys.argv[1]), int(sys.argv[2])
pipeline = open_pipeline({"collectors": {"memory": {"max_size": events + 10_000}}}, environ={})
source, now = random.Random(1), datetime.now(UTC)
for number in range(events):
    pipeline.record_nowait(FlagEvaluationEvent(
        now - timedelta(seconds=3_500 * (1 - number / events)), f"flag-{number % 100}", True, "SPLIT",
        ("on", "off")[number % 3 == 0], f"user-{source.randrange(5_000)}", {}, source.random(),
    ))
page = create_dashboard(pipeline, ApiOptions(loopback=True, max_live_clients=2_000))
uvicorn.run(page, port=port, log_level="error")
"""


@contextmanager
def _started(code: str, argument: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", code, argument, str(port)])
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait()


def _figures(title: str, figures: list[Figure]) -> Table:
    return Table(title, figures=figures, verdicts=judge(figures))


_LITESTAR = """
import sys
import uvicorn
from flag_analytics_litestar import FlagAnalyticsConfig, FlagAnalyticsPlugin
from litestar import Litestar, get

@get("/order", sync_to_thread=False)
def order() -> dict[str, str]:
    return {"state": "sent"}

config = FlagAnalyticsConfig({"collectors": {"memory": {}}}, environment="production", release="1")
plugins = [FlagAnalyticsPlugin(config)] if sys.argv[1] == "with" else []
uvicorn.run(Litestar([order], plugins=plugins), port=int(sys.argv[2]), log_level="error", access_log=False)
"""


def request() -> Table:
    """A Litestar request over HTTP, one connection, with plugin and middleware and without them."""
    with _started(_LITESTAR, "without") as (plain, _), _started(_LITESTAR, "with") as (plugin, _):
        return compare(
            "A Litestar request on uvicorn that answers a small dict",
            [
                Contender("without the plugin", _round_trips(plain)),
                Contender("with plugin and middleware", _round_trips(plugin)),
            ],
            limits=[Limit("with plugin and middleware", at_most=1.05, times="without the plugin")],
            rounds=25,
            round_ns=200_000_000,
        )


def _round_trips(url: str) -> Timed:
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    asking = b"GET /order HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n"
    connection.sendall(asking)
    length = len(connection.recv(65_536))

    def many(operations: int) -> int:
        started = time.perf_counter_ns()
        for _ in range(operations):
            connection.sendall(asking)
            left = length
            while left > 0:
                left -= len(connection.recv(left))
        return time.perf_counter_ns() - started

    return many


def load() -> Table:
    """``/flags/{key}`` under wrk: 100,000 events of 100 flags in memory, one worker."""
    if shutil.which("wrk") is None:
        return Table("/flags/{key} under load: left out, wrk is not installed")
    figures = []
    with _started(_SERVER, "100000") as (url, _):
        subprocess.run(
            ["wrk", "-c", "1", "-t", "1", "-d", "2s", f"{url}/api/v1/flags/flag-7"], check=True, capture_output=True
        )
        for name, path in {
            "answers kept for a second": "/api/v1/flags/flag-7?window=1h",
            "each answer computed": None,
        }.items():
            command = ["wrk", "--latency", "-c", "8", "-t", "1", "-d", "6s"]
            if path is None:
                script = Path(tempfile.mkdtemp()) / "each.lua"
                script.write_text(
                    'local n = 0\nrequest = function()\n  n = n + 1\n  return wrk.format("GET", '
                    '"/api/v1/flags/flag-" .. (n % 100) .. "?window=" .. (3600 + n % 9000) .. "s")\nend\n'
                )
                command += ["-s", str(script)]
            said = subprocess.run([*command, url + (path or "/")], capture_output=True, text=True, check=True).stdout
            # The server's cache of a second is allowed, since the answer says as of when it is.
            kept = path is not None
            figures += [
                Figure(
                    f"{name}: requests per second",
                    _number(r"Requests/sec:\s+([\d.]+)", said),
                    "/s",
                    at_least=200.0 if kept else None,
                ),
                Figure(
                    f"{name}: p99",
                    _milliseconds(r"99%\s+([\d.]+)(us|ms|s)", said),
                    "ms",
                    at_most=50.0 if kept else None,
                ),
            ]
    return _figures("/flags/{key}, 100,000 events of 100 flags in memory, one worker, wrk with 8 connections", figures)


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found, text
    return float(found[1])


def _milliseconds(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found, text
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1_000.0}[found[2]]


def overview() -> Table:
    """The first page of the overview: 20 of 200 flags over 400,000 events in SQLite."""
    return asyncio.run(_overview())


async def _overview() -> Table:
    import httpx

    with tempfile.TemporaryDirectory() as directory:
        database = {"connection_string": f"sqlite:///{directory}/flags.db", "batch_size": 5_000}
        patient = {"policy": "block", "block_timeout_seconds": 60.0}
        async with open_pipeline({"collectors": {"database": database}, "delivery": patient}, environ={}) as pipeline:
            now = datetime.now(UTC)
            for number in range(400_000):
                pipeline.record_nowait(
                    FlagEvaluationEvent(
                        now - timedelta(seconds=86_000 * (1 - number / 400_000)), f"flag-{number * 7 % 200}", True,
                        "SPLIT", ("on", "off")[number % 3 == 0], f"user-{number % 9_973}", {}, 0.1 + number % 97 / 50,
                    )
                )  # fmt: skip
                if number % 20_000 == 19_999:
                    await pipeline.flush()
            assert await pipeline.flush()
            app = create_api(pipeline, ApiOptions(guarded=True, cache_seconds=0.0, question_timeout_seconds=60.0))
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60.0) as client:
                first = await _fastest(client, "/flags?window=24h")
                full = await _fastest(client, "/flags?window=24h&detail=full")
    return _figures(
        "The overview, 20 of 200 flags over 400,000 events in SQLite",
        [
            Figure("first answer: counts and last seen", first, "ms", at_most=400.0),
            Figure("second answer: users, errors, p99, small series", full, "ms"),
        ],
    )


async def _fastest(client: Any, path: str) -> float:
    times = []
    for _ in range(5):
        started = time.perf_counter()
        answer = await client.get(path)
        times.append((time.perf_counter() - started) * 1e3)
        assert answer.status_code == 200, answer.text
    return min(times)


def page() -> Table:
    """The page in a cold Chromium over loopback, and the wheel."""
    figures = []
    chromium = shutil.which("chromium")
    if chromium is not None and installed("playwright"):
        from playwright.sync_api import sync_playwright

        with _started(_SERVER, "20000") as (url, _), sync_playwright() as playwright:
            times = []
            for _ in range(3):
                browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                view = browser.new_page()
                started = time.perf_counter()
                view.goto(url)
                view.locator("tbody tr").first.wait_for()
                times.append(time.perf_counter() - started)
                browser.close()
        figures.append(Figure("page ready, its first rows drawn", min(times), "s", at_most=1.0))
    with tempfile.TemporaryDirectory() as directory:
        command = ["uv", "build", "--quiet", "--wheel", "--package=flag-analytics-dashboard", f"--out-dir={directory}"]
        subprocess.run(command, cwd=_HERE, check=True)
        (wheel,) = Path(directory).glob("*.whl")
        figures.append(Figure("wheel of the dashboard", wheel.stat().st_size / 1_000, "kB", at_most=150.0))
    return _figures("The page in Chromium, cold, loopback", figures)


def streams() -> Table:
    """1,000 open ``/live`` clients in a process of their own: another request's p99 beside them, and the memory."""
    with _started(_SERVER, "10000") as (url, process):
        host, port = url.removeprefix("http://").split(":")
        asyncio.run(_ask_often(host, int(port), 300))
        alone, before = asyncio.run(_ask_often(host, int(port), 2_000)), _resident(process.pid)
        followers = subprocess.Popen([sys.executable, "-c", _FOLLOWERS, "1000", port])
        time.sleep(4.0)
        beside, after = asyncio.run(_ask_often(host, int(port), 2_000)), _resident(process.pid)
        followers.kill()
        followers.wait()
    return _figures(
        "1,000 open /live clients",
        [
            Figure("p99 of /health alone", alone, "ms"),
            Figure("p99 of /health beside them", beside, "ms"),
            Figure("times alone", beside / alone, "x", at_most=1.1),
            Figure("memory that they take", (after - before) / 1_000, "MB", at_most=100.0),
        ],
    )


_FOLLOWERS = """
import asyncio, resource, sys

async def follow():
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(sys.argv[2]))
        writer.write(b"GET /api/v1/live HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
        while await reader.read(65_536):
            pass
        writer.close()

async def main():
    async with asyncio.TaskGroup() as group:
        for _ in range(int(sys.argv[1])):
            group.create_task(follow())

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8_192), hard))
asyncio.run(main())
"""


async def _ask_often(host: str, port: int, times: int) -> float:
    """Return the p99 of requests on one connection, one each few milliseconds, in milliseconds."""
    reader, writer = await asyncio.open_connection(host, port)
    took = []
    for _ in range(times):
        started = time.perf_counter()
        writer.write(b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        found = re.search(rb"content-length: (\d+)", head.lower())
        assert found
        await reader.readexactly(int(found[1]))
        took.append((time.perf_counter() - started) * 1e3)
        await asyncio.sleep(0.004)
    writer.close()
    return sorted(took)[int(0.99 * len(took))]


def _resident(pid: int) -> int:
    """Return the resident memory of a process in kB."""
    return int(_number(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text("utf-8")))


BENCHMARKS = (request, load, overview, page, streams)
