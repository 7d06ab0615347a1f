"""A real Prometheus scrapes a running application and shows its figures over its HTTP API."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flag_analytics.events import EvaluationReason, FlagEvaluationEvent
from flag_analytics.pipeline import open_pipeline
from flag_analytics_prometheus import PrometheusExporter
from litestar import get
from litestar.response import Response
from litestar.testing import create_test_client
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

pytestmark = pytest.mark.server

RULES = Path(__file__).parent.parent / "alerts" / "flag-analytics.rules.yml"


def required(program: str) -> str:
    """Return the path of a program; without it, skip, or fail where servers are required."""
    path = shutil.which(program)
    if path is None:
        reason = f"{program} is not installed (on Debian: apt-get install prometheus)"
        if os.environ.get("FLAG_ANALYTICS_REQUIRE_PROMETHEUS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


class Prometheus:
    """A server on loopback that scrapes one application every 200 ms."""

    def __init__(self, directory: Path, target: str) -> None:
        program = required("prometheus")
        config = {
            "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"},
            "scrape_configs": [{"job_name": "application", "static_configs": [{"targets": [target]}]}],
            "rule_files": [str(RULES)],
        }
        (directory / "prometheus.yml").write_text(json.dumps(config))  # YAML is a superset of JSON
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = (directory / "log").open("w+")
        self.process = subprocess.Popen(
            [
                program,
                f"--config.file={directory}/prometheus.yml",
                f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def ask(self, path: str, **query: str) -> object:
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=5) as response:
            return json.load(response)["data"]

    def until(self, wanted, path: str, **query: str) -> object:
        """Ask until ``wanted(answer)``; the deadline is for a machine that is very busy."""
        deadline = time.monotonic() + 60
        answer = None
        while True:
            try:
                answer = self.ask(path, **query)
            except (urllib.error.URLError, ConnectionError):
                pass  # it is still starting
            else:
                if wanted(answer):
                    return answer
            in_time = self.process.poll() is None and time.monotonic() < deadline
            assert in_time, (answer, Path(self.log.name).read_text())
            time.sleep(0.05)  # between two scrapes there is nothing to wait for but time

    def value(self, query: str, expected: float) -> None:
        self.until(
            lambda data: [float(result["value"][1]) for result in data["result"]] == [pytest.approx(expected)],
            "query",
            query=query,
        )

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self.log.close()


@pytest.fixture
def application():
    exporter = {"prefix": "real", "port": 0, "gauges": "aggregator", "gauge_timeout_seconds": 5.0}
    config = {"collectors": {"memory": {}}, "exporters": {"prometheus": exporter}}
    with open_pipeline(config) as pipeline:
        yield pipeline


@pytest.fixture
def prometheus(application, tmp_path):
    server = Prometheus(tmp_path, f"127.0.0.1:{application.exporters['prometheus'].server.port}")
    yield server
    server.stop()


def test_prometheus_shows_the_figures_of_the_application(application, prometheus):
    def record(flag_key, reason, variant, user, milliseconds):
        application.record_nowait(
            FlagEvaluationEvent(datetime.now(UTC), flag_key, True, reason, variant, user, {}, milliseconds)
        )

    for number in range(300):
        variant = ("control", "treatment")[number % 3 == 0]
        record("checkout", EvaluationReason.SPLIT, variant, f"user-{number % 120}", 0.3 if number % 10 else 80.0)
    for number in range(100):
        record("checkout", EvaluationReason.ERROR, None, f"user-{number}", 0.0)
    hostile = 'x"} 1\n# EOF\n\0é'
    record(hostile, "\x1b[31m", hostile, hostile, float("nan"))
    application.flush_sync()

    only = 'flag_key="checkout"'
    prometheus.value(f'real_feature_flag_evaluations_total{{{only},variant="treatment",reason="SPLIT"}}', 100)
    prometheus.value(f'real_feature_flag_evaluations_total{{{only},variant="control",reason="SPLIT"}}', 200)
    prometheus.value(f'real_feature_flag_evaluations_total{{{only},variant="",reason="ERROR"}}', 100)
    prometheus.value(f"real_feature_flag_evaluation_duration_seconds_count{{{only}}}", 300)
    prometheus.value(f"real_feature_flag_evaluation_duration_seconds_sum{{{only}}}", (270 * 0.3 + 30 * 80.0) / 1000)
    prometheus.value(f'real_feature_flag_evaluation_duration_seconds_bucket{{{only},le="0.0005"}}', 270)
    prometheus.value(f"real_feature_flag_unique_users{{{only}}}", 120)
    prometheus.value(f"real_feature_flag_error_rate{{{only}}}", 0.25)
    prometheus.value("sum(real_feature_flag_evaluations_total)", 401)
    prometheus.value("real_flag_analytics_events_recorded_total", 401)
    prometheus.value('real_flag_analytics_sink_delivered_total{sink="memory"}', 401)
    prometheus.value('real_flag_analytics_prometheus_label_overflow_total{label="reason"}', 1)
    prometheus.value("up", 1)
    prometheus.until(
        lambda data: (
            all(rule["health"] == "ok" for group in data["groups"] for rule in group["rules"]) and data["groups"]
        ),
        "rules",
    )
    targets = prometheus.until(lambda data: data["activeTargets"], "targets")
    assert [target["lastError"] for target in targets["activeTargets"]] == [""]


def test_prometheus_shows_a_run_of_the_demo(tmp_path, monkeypatch, capsys):
    pytest.importorskip("flag_analytics_cli", reason="the command line is not installed")
    required("prometheus")
    from flag_analytics_cli.main import main
    from flag_analytics_cli.simulation import visits

    expected = list(visits(600, 7))
    assert len({visit.flag_key for visit in expected}) == 5
    configuration = tmp_path / "flag-analytics.toml"
    configuration.write_text('[collectors.memory]\n[exporters.prometheus]\nprefix = "demo"\n')
    monkeypatch.chdir(tmp_path)
    exporter = PrometheusExporter(prefix="demo")  # shares the demo's metrics, and goes on showing them
    prometheus = Prometheus(tmp_path, f"127.0.0.1:{exporter.serve(0).port}")
    try:
        assert main(["demo", "--once", "--events", "600", "--seed", "7", "--config", str(configuration)]) == 0
        shown = capsys.readouterr().out
        for flag_key in {visit.flag_key for visit in expected}:
            users = [visit.context.targeting_key for visit in expected if visit.flag_key == flag_key]
            prometheus.value(f'sum(demo_feature_flag_evaluations_total{{flag_key="{flag_key}"}})', len(users))
            prometheus.value(f'demo_feature_flag_unique_users{{flag_key="{flag_key}"}}', len(set(users)))
            assert flag_key in shown
        prometheus.value("demo_flag_analytics_events_recorded_total", 600)
        prometheus.value('demo_flag_analytics_sink_delivered_total{sink="memory"}', 600)
        total = "demo_feature_flag_evaluations_total"
        errors = f'sum by (flag_key) ({total}{{reason="ERROR"}})'
        prometheus.value(f"count({errors} > 0)", 1)  # one of the demo's flags fails now and then
        ratio = f"{errors} / sum by (flag_key) ({total})"
        prometheus.value(f"max(abs(demo_feature_flag_error_rate - on (flag_key) ({ratio})))", 0.0)
    finally:
        prometheus.stop()
        exporter.server.close()


@pytest.fixture
def litestar(tmp_path):
    """Start the Litestar application on a free port, and return its address."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        log = (tmp_path / "uvicorn.log").open("w")
        command = [sys.executable, "-m", "uvicorn", "--fd", str(listening.fileno()), "litestar_application:app"]
        process = subprocess.Popen(
            command, cwd=Path(__file__).parent, stdout=log, stderr=log, pass_fds=[listening.fileno()]
        )
        yield f"127.0.0.1:{listening.getsockname()[1]}"  # connections wait in the socket until it serves
    process.terminate()
    process.wait(20)
    log.close()


@pytest.mark.skipif(os.name != "posix", reason="the port is handed over as a descriptor")
def test_prometheus_scrapes_a_litestar_application_as_the_migration_guide_has_it(litestar, tmp_path):
    for _ in range(3):
        with urllib.request.urlopen(f"http://{litestar}/checkout", timeout=30) as response:
            assert response.read() == b"true"
    with urllib.request.urlopen(f"http://{litestar}/metrics", timeout=30) as response:
        # Prometheus 3 refuses a type that it cannot parse, such as one with two charsets.
        assert response.headers["Content-Type"].lower().count("charset=") == 1
    prometheus = Prometheus(tmp_path, litestar)
    try:
        prometheus.value('litestar_feature_flag_evaluations_total{flag_key="checkout",variant="on"}', 3)
        prometheus.value("litestar_feature_flag_unique_users", 1)
        targets = prometheus.until(lambda data: data["activeTargets"], "targets")
        assert [target["lastError"] for target in targets["activeTargets"]] == [""]
    finally:
        prometheus.stop()


def test_the_reference_s_litestar_handler_answers_with_two_charsets():
    @get("/metrics")
    async def metrics() -> Response[bytes]:
        return Response(content=generate_latest(), media_type=CONTENT_TYPE_LATEST)

    with create_test_client([metrics]) as client:
        assert client.get("/metrics").headers["content-type"].count("charset=") == 2
