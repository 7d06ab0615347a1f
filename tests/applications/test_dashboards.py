"""Each application shows the same figures on its page, in its metrics and in the report."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples" / "dashboards"
TOKEN = "a-token-of-many-characters"
USERS = [f"user-{number:02}" for number in range(20)]
UVICORN = ("uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--timeout-graceful-shutdown", "5")
SERVERS = {
    "Litestar with litestar-flags on uvicorn": (*UVICORN, "litestar_dashboard:app"),
    "Litestar with litestar-flags on Granian": (
        *("granian", "--interface", "asgi", "--host", "127.0.0.1", "--port", "{port}", "litestar_dashboard:app"),
    ),
    "FastAPI with OpenFeature on uvicorn": (*UVICORN, "fastapi_dashboard:app"),
    "Django on uvicorn": (*UVICORN, "django_dashboard:app"),
    "Flask on gunicorn with four workers": (
        "gunicorn",
        "--bind",
        "127.0.0.1:{port}",
        "--workers",
        "4",
        "flask_dashboard:app",
    ),
}
ROUTES = {"Litestar": "/checkout/{user}", "FastAPI": "/checkout/{user}", "Django": "/checkout/<str:user>"}
ROUTES["Flask"] = "/checkout/<user>"

pytestmark = [
    pytest.mark.application,
    pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM ends a process at once on Windows"),
]


def ask(url: str):
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=30.0) as answer:
        return json.loads(answer.read())


def counted(metrics: str) -> int:
    return sum(
        round(float(line.rpartition(" ")[2]))
        for line in metrics.splitlines()
        if line.startswith("feature_flag_evaluations_total{")
    )


def page_beside(site) -> str:
    """Start `flag-analytics serve`, and return where its API is."""
    process = subprocess.Popen(
        [sys.executable, "-m", "flag_analytics_cli", "serve", "--port", "0"],
        cwd=site.directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    site.processes.append(process)
    for line in process.stderr:
        found = re.search(r"Serving (http://\S+)/", line)
        if found:
            return found[1]
    pytest.fail("the page was not served")


@pytest.mark.parametrize("name", SERVERS)
def test_page_metrics_and_report_show_the_same(name, site):
    shutil.copy(EXAMPLES / "flag-analytics.toml", site.directory)
    shared = site.directory / "metrics"
    shared.mkdir()
    settings = {"PYTHONPATH": str(EXAMPLES), "ANALYTICS_TOKEN": TOKEN}
    if name.startswith("Flask"):
        settings["PROMETHEUS_MULTIPROC_DIR"] = str(shared)
    process = site.serve(*SERVERS[name], **settings)
    for user in USERS * 2:
        assert json.loads(site.ask(f"/checkout/{user}")) == {"redesign": True}, site.output

    stored = site.directory / "flags.db"
    site.wait_until(stored.exists)
    if name.startswith("Flask"):
        root = page_beside(site)
        site.wait_until(lambda: len(ask(f"{root}/api/v1/flags?window=all")["flags"]) == 1)
    else:
        root = f"http://127.0.0.1:{site.port}/flag-analytics"
    flag = f"{root}/api/v1/flags/checkout_redesign?window=1h&group_by=context.http.route"
    site.wait_until(lambda: ask(flag)["figures"]["evaluations"] == len(USERS) * 2)
    shown = ask(flag)
    assert shown["figures"]["users"] == len(USERS)
    assert list(shown["groups"]) == [ROUTES[name.partition(" ")[0]]]
    assert shown["loss"]["events"] == 0
    assert counted(site.ask("/metrics").decode()) == len(USERS) * 2
    with urllib.request.urlopen(f"{root}/" if name.startswith("Flask") else f"{root}/login", timeout=30.0) as page:
        assert b"flag-analytics" in page.read()

    site.end(process)
    report = subprocess.run(
        [sys.executable, "-m", "flag_analytics_cli", "report", "--format", "json"],
        cwd=site.directory,
        capture_output=True,
        check=True,
    )
    (reported,) = json.loads(report.stdout)["flags"]
    assert reported["total_evaluations"] == len(USERS) * 2, site.output
    assert reported["unique_users"] == len(USERS)
