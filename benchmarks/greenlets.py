"""The price of two database sinks for requests under gevent: 99 of 100 requests take at most this long."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ._harness import Contender, Limit, Table, Timed, compare, installed

_CLIENTS = 4
_REQUESTS = 400
"""Requests of one round."""
_APPLICATION = """
import os, time

sinks = int(os.environ["SINKS"])
if sinks:
    from flag_analytics import FlagEvaluationEvent, open_pipeline

    urls = [f"sqlite+aiosqlite:///{os.environ['DIRECTORY']}/{at}.db" for at in range(sinks)]
    pipeline = open_pipeline(
        {"collectors": {f"database/{at}": {"connection_string": url} for at, url in enumerate(urls)}}
    )

def application(environ, start_response):
    time.sleep(0.002)  # what a request waits for
    if sinks:
        pipeline.record_nowait(FlagEvaluationEvent.now("dark_mode", True, "STATIC", "on", "user-123"))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]
"""


def request_p99() -> Table:
    """Two SQLite sinks against none, under ``gunicorn -k gevent``; the second server without any shows the noise."""
    title = "p99 of requests under gunicorn -k gevent"
    if not (installed("gevent") and installed("gunicorn")):
        return Table(title, notes=["gevent and gunicorn are not installed: uv sync --group field"])
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(_server(sinks)) for name, sinks in (("none", 0), ("two", 2), ("noise", 0))}
        return compare(
            title,
            [
                Contender("without analytics", _requests(servers["none"]), _REQUESTS),
                Contender("two SQLite sinks", _requests(servers["two"]), _REQUESTS),
                Contender("without analytics, once more", _requests(servers["noise"]), _REQUESTS),
            ],
            limits=[Limit("two SQLite sinks", at_most=1.1, times="without analytics")],
            notes=[f"{_CLIENTS} clients with a connection each, {_REQUESTS} requests a round, 2 ms of waiting in each"],
            rounds=15,
            round_ns=10**12,
        )


@contextlib.contextmanager
def _server(sinks: int) -> Iterator[int]:
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "application.py").write_text(_APPLICATION, "utf-8")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-k", "gevent", "--bind", f"127.0.0.1:{port}", "application"],
            cwd=directory,
            env={**os.environ, "SINKS": str(sinks), "DIRECTORY": directory},
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_for(port)
            yield port
        finally:
            process.terminate()
            process.wait(30.0)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 30.0
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.1)
    raise TimeoutError("the server does not answer")


def _requests(port: int) -> Timed:
    def ask(count: int) -> list[int]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30.0)
        times = []
        for _ in range(count):
            started = time.perf_counter_ns()
            connection.request("GET", "/")
            connection.getresponse().read()
            times.append(time.perf_counter_ns() - started)
        connection.close()
        return times

    def timed(operations: int) -> int:
        with ThreadPoolExecutor(_CLIENTS) as pool:
            found = sorted(one for times in pool.map(ask, [max(1, operations // _CLIENTS)] * _CLIENTS) for one in times)
        return found[int(0.99 * (len(found) - 1))] * operations

    return timed


BENCHMARKS = (request_p99,)
