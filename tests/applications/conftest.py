"""Starts an application of ``examples/applications`` in a process of its own, and asks it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples" / "applications"


@attrs.define
class Site:
    """A directory with the configuration of the examples, and the processes that were started in it."""

    directory: Path
    port: int = attrs.field(init=False)
    processes: list[subprocess.Popen[bytes]] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def start(self, module: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start ``python -m module arguments`` in the directory."""
        with (self.directory / "output.txt").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=self.directory,
                env={**os.environ, "PYTHONPATH": str(EXAMPLES), "PYTHONUNBUFFERED": "1", **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def serve(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a server on the port, and return when it accepts connections."""
        process = self.start(*(argument.format(port=self.port) for argument in arguments), **environment)
        self.wait_until(self._accepts)
        return process

    def _accepts(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1.0):
            return True
        assert self.processes[-1].poll() is None, self.output
        return False

    def wait_until(self, holds, seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)

    def ask(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30.0) as answer:
            return answer.read()

    def end(self, process: subprocess.Popen[bytes]) -> int:
        """Send SIGTERM, and return the exit code."""
        process.send_signal(signal.SIGTERM)
        return process.wait(timeout=60.0)

    @property
    def output(self) -> str:
        return (self.directory / "output.txt").read_text("utf-8", "replace")

    def stored(self) -> list[str]:
        """Return the targeting key of every stored event."""
        with contextlib.closing(sqlite3.connect(self.directory / "flags.db")) as connection:
            return sorted(key for (key,) in connection.execute("SELECT targeting_key FROM analytics_events"))


@pytest.fixture
def site(tmp_path) -> Iterator[Site]:
    shutil.copy(EXAMPLES / "flag-analytics.toml", tmp_path)
    site = Site(tmp_path)
    yield site
    for process in site.processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30.0)
