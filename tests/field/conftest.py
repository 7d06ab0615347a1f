"""Runs a program in a process of its own that records into a SQLite file, and counts what was stored."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

APPLICATION = """
import os, time
from flag_analytics import FlagEvaluationEvent, open_pipeline

pipeline = open_pipeline({
    "collectors": {"database": {"connection_string": "sqlite+aiosqlite:///" + os.environ["FIELD_DATABASE"]}},
    "delivery": {"flush_interval_seconds": 60.0, "exit_timeout_seconds": 30.0},
})

def record(user="u"):
    return pipeline.record_nowait(FlagEvaluationEvent.now("dark_mode", True, "STATIC", targeting_key=user))

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        return await send({"type": "lifespan.shutdown.complete"})
    if "slow" in scope["path"]:
        import asyncio
        await asyncio.sleep(1.0)
    if "thread" in scope["path"]:
        import asyncio
        await asyncio.to_thread(record)
    elif scope["path"] == "/record" or "slow" in scope["path"]:
        record()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"ok"})

def wsgi(environ, start_response):
    if environ["PATH_INFO"] != "/":
        record()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]
"""


@attrs.define
class Field:
    """A directory with ``application.py``, and the processes that were started in it."""

    directory: Path
    port: int = 0
    processes: list[subprocess.Popen[bytes]] = attrs.field(factory=list)

    @property
    def database(self) -> Path:
        return self.directory / "events.db"

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.directory), "FIELD_DATABASE": str(self.database)}

    @property
    def output(self) -> str:
        return (self.directory / "output.txt").read_text("utf-8", "replace")

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        with (self.directory / "output.txt").open("ab") as output:
            process = subprocess.Popen(
                [part.format(port=self.port) for part in command],
                cwd=self.directory,
                env={
                    **os.environ,
                    "PYTHONPATH": str(self.directory),
                    "FIELD_DATABASE": str(self.database),
                    **environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def python(
        self, code: str, *, timeout: float = 90.0, python: str = sys.executable
    ) -> subprocess.CompletedProcess[str]:
        """Run a script to its end; multiprocessing finds it as a file."""
        script = self.directory / "script.py"
        script.write_text(textwrap.dedent(code), "utf-8")
        return subprocess.run(
            [python, str(script)],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=90.0,
            check=False,
        )

    def serve(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a server on a free port, and return when it answers."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        process = self.start(*command, **environment)
        deadline = time.monotonic() + 60.0
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                self.get("/")
                return process
            assert process.poll() is None, self.output
            time.sleep(0.05)
        raise AssertionError(self.output)

    def get(self, path: str) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30.0) as answer:
            assert answer.status == 200

    def stop(self, process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> int:
        process.send_signal(number)
        return process.wait(60.0)

    def stored(self, name: str = "events.db") -> int:
        if not (self.directory / name).exists():
            return 0
        with contextlib.closing(sqlite3.connect(self.directory / name, timeout=30.0)) as connection:
            try:
                return int(connection.execute("SELECT count(*) FROM analytics_events").fetchone()[0])
            except sqlite3.OperationalError:
                return 0


@pytest.fixture
def field(tmp_path: Path) -> Iterator[Field]:
    (tmp_path / "application.py").write_text(APPLICATION, "utf-8")
    (tmp_path / "output.txt").touch()
    one = Field(tmp_path)
    yield one
    for process in one.processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30.0)
