"""The alerts and the dashboard ask for metrics that there are, and the alerts fire when they should."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.reports import DeliveryStats, SinkStats
from flag_analytics_prometheus import PrometheusExporter
from prometheus_client import CollectorRegistry, generate_latest

HERE = Path(__file__).parent.parent
RULES = HERE / "alerts" / "flag-analytics.rules.yml"
RULE_TESTS = HERE / "alerts" / "flag-analytics.test.yml"
DASHBOARD = HERE / "dashboards" / "grafana.json"


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = shutil.which("promtool")
    if path is None:
        reason = "promtool is not installed (on Debian: apt-get install prometheus)"
        if os.environ.get("FLAG_ANALYTICS_REQUIRE_PROMETHEUS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return subprocess.run([path, *arguments], capture_output=True, text=True, timeout=60, check=False)


class OpenPipeline:
    closed = False

    def stats(self):
        return DeliveryStats(1, 1, {}, {}, {"memory": SinkStats(accepted=1, delivered=1, last_success=1.0)})


@pytest.fixture(scope="module")
def names_in_a_scrape():
    registry = CollectorRegistry()

    class Answers:
        async def get_metrics(self, flag_keys, *, window_seconds):
            return {key: {"unique_users": 1, "error_rate": 0.0} for key in flag_keys}

    exporter = PrometheusExporter(registry, aggregator=Answers(), flag_keys=["checkout"], timeout_seconds=10)
    exporter.record_nowait(FlagEvaluationEvent(datetime.now(UTC), "checkout", True, "SPLIT", "a", "ann", {}, 1.5))
    exporter.exposition.ledgers.add(OpenPipeline())
    lines = generate_latest(registry).decode().splitlines()
    exporter.exposition.query.close()
    return {re.match(r"[a-zA-Z0-9_:]+", line)[0] for line in lines if not line.startswith("#")}


def metrics_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w:.])(?:feature_flag|flag_analytics)_\w+", text))


def test_every_metric_of_the_dashboard_is_in_a_scrape(names_in_a_scrape):
    used = metrics_in(DASHBOARD.read_text())
    assert len(used) > 12
    assert used <= names_in_a_scrape


def test_every_metric_of_the_alerts_is_in_a_scrape(names_in_a_scrape):
    used = metrics_in("\n".join(line for line in RULES.read_text().splitlines() if not line.lstrip().startswith("#")))
    assert len(used) > 6
    assert used <= names_in_a_scrape


def test_every_metric_of_a_scrape_is_in_the_readme(names_in_a_scrape):
    documented = metrics_in((HERE / "README.md").read_text())
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in names_in_a_scrape}
    assert families <= documented


def test_every_alert_has_a_test():
    alerts = set(re.findall(r"alert: (\w+)", RULES.read_text()))
    tested = set(re.findall(r"alertname: (\w+)", RULE_TESTS.read_text()))
    assert alerts == tested


def test_the_dashboard_is_complete():
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(target["expr"] and panel["title"] for panel in panels for target in panel["targets"])
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)


def test_promtool_accepts_the_alerts():
    result = promtool("check", "rules", str(RULES))
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_alerts_fire_when_they_should():
    result = promtool("test", "rules", str(RULE_TESTS))
    assert result.returncode == 0, result.stdout + result.stderr


def test_prometheus_can_parse_every_query_of_the_dashboard(tmp_path):
    """Each becomes a recording rule, with Grafana's variables filled in."""
    queries = [target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]]
    rules = [
        {
            "record": f"query:{number}",
            "expr": re.sub(r"\$(job|flag_key)", ".*", query).replace("$__rate_interval", "1m"),
        }
        for number, query in enumerate(queries)
    ]
    path = tmp_path / "dashboard.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    result = promtool("check", "rules", str(path))
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{len(queries)} rules found" in result.stdout


def test_promtool_accepts_a_scrape():
    registry = CollectorRegistry()
    exporter = PrometheusExporter(registry)
    exporter.record_nowait(FlagEvaluationEvent(datetime.now(UTC), 'x"\n', True, "SPLIT", "a", "ann", {}, 1.5))
    exporter.exposition.ledgers.add(OpenPipeline())
    path = shutil.which("promtool")
    if path is None:
        promtool()
    result = subprocess.run(
        [path, "check", "metrics"], input=generate_latest(registry), capture_output=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
