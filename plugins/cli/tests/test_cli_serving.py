"""``serve`` and ``demo --serve``: the page over stored events and over live evaluations, until Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flag_analytics_cli.main import main
from flag_analytics_cli.page import is_loopback

pytestmark = pytest.mark.server
TOKEN = "a-token-of-many-characters"


@contextmanager
def page(directory: Path, *arguments: str, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Start the command, and yield the address of its page."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLAG_ANALYTICS")}
    process = subprocess.Popen(
        [sys.executable, "-m", "flag_analytics_cli", *arguments, "--port", "0"],
        cwd=directory,
        env={**kept, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            found = re.search(r"Serving (http://\S+/)", line)
            if found:
                yield found[1], process
                break
        else:
            pytest.fail("".join(said))
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate()


def ask(url: str, token: str | None = None) -> Any:
    request = urllib.request.Request(url, headers={} if token is None else {"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def test_the_demo_shows_live_evaluations_and_ends_with_all_of_them_stored(tmp_path: Path):
    with page(tmp_path, "demo", "--serve", "--events", "500") as (url, process):
        flags = ask(f"{url}api/v1/flags?window=24h")
        first = sum(flag["count"] for flag in flags["flags"])
        assert flags["total"] == 5
        assert first >= 500
        series = ask(f"{url}api/v1/flags/new-checkout/series?window=1h")["lines"][0]["steps"]
        assert sum(step["count"] > 0 for step in series) > 20
        while ask(f"{url}api/v1/delivery")["recorded"] <= first:
            pass
        with urllib.request.urlopen(f"{url}flag?key=new-checkout", timeout=60) as answer:
            assert b"<main" in answer.read()
        recorded = ask(f"{url}api/v1/delivery")["recorded"]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "Traceback" not in errors
    with page(tmp_path, "serve") as (url, process):
        assert sum(flag["count"] for flag in ask(f"{url}api/v1/flags?window=all")["flags"]) >= recorded


def test_stored_events_are_served_to_this_machine_or_to_who_knows_the_token(tmp_path: Path):
    subprocess.run(
        [sys.executable, "-m", "flag_analytics_cli", "demo", "--once", "--events", "50"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    with page(tmp_path, "serve") as (url, _):
        assert ask(f"{url}api/v1/events?window=all&limit=1")["events"][0]["user"] is None
    (tmp_path / "token").write_text(f"{TOKEN}\n", "utf-8")
    with page(tmp_path, "serve", "--token-file", "token", "--show-people", "--host", "0.0.0.0") as (everywhere, _):
        url = everywhere.replace("0.0.0.0", "127.0.0.1")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask(f"{url}api/v1/events")
        assert ask(f"{url}api/v1/events?window=all", TOKEN)["events"][0]["user"].startswith("user-")


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["serve", "--host", "0.0.0.0"], "give a token in --token-file or FLAG_ANALYTICS_TOKEN", 2),
        (["serve"], "nothing is stored here yet", 1),
        (["serve", "--token-file", "missing"], "missing: No such file", 1),
        (["demo", "--serve", "--port", "70000"], "choose one from 0 to 65535 with --port", 1),
    ],
)
def test_what_cannot_be_served_is_explained(arguments, words, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLAG_ANALYTICS_TOKEN", raising=False)
    assert main(arguments) == code
    assert words in capsys.readouterr().err


def test_a_token_that_is_too_short_is_refused_and_not_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--once", "--events", "10"]) == 0
    monkeypatch.setenv("FLAG_ANALYTICS_TOKEN", "short-one")
    assert main(["serve"]) == 1
    errors = capsys.readouterr().err
    assert "at least 16 printable ASCII characters" in errors
    assert "short-one" not in errors


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("example.org", False),
    ],
)
def test_addresses_of_this_machine_alone_are_known(host, expected):
    assert is_loopback(host) is expected
