"""A real server that forks its workers out of a parent that has recorded already, and is then told to stop."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="gunicorn and its workers are POSIX only")

WORKERS = 4
PER_REQUEST = 25


def test_workers_of_a_preloading_server_deliver_each_event_once_when_it_is_told_to_stop(tmp_path):
    stored, recorded, log = tmp_path / "stored", tmp_path / "recorded", tmp_path / "log"
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", str(WORKERS), "--bind", "127.0.0.1:0"]
    command += ["--chdir", str(Path(__file__).parent), "preloaded_application:application"]
    environment = {"STORED": str(stored), "RECORDED": str(recorded), "PYTHONDONTWRITEBYTECODE": "1"}
    with log.open("w") as file:
        server = subprocess.Popen(command, env={**os.environ, **environment}, stderr=file)
    try:
        url = address_in(log, server)
        answers = Counter()
        deadline = time.monotonic() + 30.0
        while len(answers) < WORKERS:
            assert time.monotonic() < deadline, answers
            with urllib.request.urlopen(f"{url}/?count={PER_REQUEST}", timeout=20) as response:
                answers[response.read()] += 1
        assert not stored.exists()
        server.terminate()
        assert server.wait(20) == 0
    finally:
        server.kill()
        server.wait()
    accepted = recorded.read_text().split()
    assert len(accepted) == 50 + PER_REQUEST * answers.total()
    assert sorted(stored.read_text().split()) == sorted(accepted)
    assert "Traceback" not in log.read_text()


def address_in(log, server):
    """Wait for the line of the server's log that says where it listens."""
    deadline = time.monotonic() + 30.0
    while not (found := re.search(r"Listening at: (http://[\d.:]+)", log.read_text())):
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)
    return found[1]
