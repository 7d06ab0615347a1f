"""From a real flag SDK, through the pipeline and every backend at once, to the metrics that a user asks for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flag_analytics import AnalyticsAggregator, EvaluationReason, FlagEvaluationEvent, open_pipeline
from flag_analytics_database import DatabaseAnalyticsCollector
from flag_analytics_memory import InMemoryAnalyticsCollector
from flag_analytics_openfeature import AnalyticsHook
from flag_analytics_otel import OTelAnalyticsExporter
from flag_analytics_prometheus import PrometheusExporter
from litestar_flags import EvaluationContext as LitestarContext
from litestar_flags import FeatureFlagClient
from litestar_flags.models import FeatureFlag
from litestar_flags.storage.memory import MemoryStorageBackend
from litestar_flags.types import FlagStatus, FlagType
from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.flag_evaluation import FlagResolutionDetails, Reason
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

USERS = 60


@pytest.fixture
def openfeature():
    def rollout(flag, context):
        variant = "on" if int(context.targeting_key.rpartition("-")[2]) % 3 == 0 else "off"
        return FlagResolutionDetails(flag.variants[variant], variant=variant, reason=Reason.SPLIT)

    def broken(flag, context):
        raise RuntimeError("the rule cannot be evaluated")

    api.set_provider(
        InMemoryProvider(
            {
                "checkout": InMemoryFlag("off", {"on": True, "off": False}, context_evaluator=rollout),
                "settings": InMemoryFlag("wide", {"wide": {"columns": 3}}),
                "broken": InMemoryFlag("on", {"on": True}, context_evaluator=broken),
            }
        )
    )
    yield api.get_client()
    api.clear_hooks()
    api.clear_providers()


def evaluate(client):
    for number in range(USERS):
        context = EvaluationContext(f"user-{number}", {"plan": "premium" if number % 2 else "free"})
        client.get_boolean_value("checkout", False, context)
        client.get_object_value("settings", {}, context)
        assert client.get_boolean_value("broken", False, context) is False
        client.get_boolean_value("missing", True, context)


async def test_every_backend_tells_the_same_of_the_same_evaluations(openfeature, tmp_path):
    config = {
        "collectors": {
            "memory": {},
            "database": {"connection_string": f"sqlite+aiosqlite:///{(tmp_path / 'flags.db').as_posix()}"},
        },
        "exporters": {"prometheus": {"prefix": "end_to_end"}, "otel": {}},
    }
    async with open_pipeline(config) as pipeline:
        api.add_hooks([AnalyticsHook(pipeline)])
        evaluate(openfeature)
        assert (await pipeline.flush()).pending == 0
        stats = pipeline.stats()
        assert stats.recorded == stats.accepted == 4 * USERS
        assert stats.balanced()
        assert {name: sink.delivered for name, sink in stats.sinks.items()} == dict.fromkeys(
            ("memory", "database", "prometheus"), 4 * USERS
        ) | {"otel": 0}
        assert stats.sinks["otel"].dead == 4 * USERS, "the API of OpenTelemetry alone exports nothing"
        flags = ["broken", "checkout", "missing", "settings"]
        answers = []
        for name in ("memory", "database"):
            aggregator = AnalyticsAggregator(pipeline.collectors[name])
            metrics = await aggregator.get_metrics(flags, window_seconds=3600)
            answers.append(
                {
                    key: (
                        found.total_evaluations,
                        found.unique_users,
                        found.variant_distribution,
                        found.reason_distribution,
                        found.error_rate,
                        round(found.latency_p50, 6),
                        round(found.latency_p99, 6),
                    )
                    for key, found in metrics.items()
                }
            )
        in_memory, in_database = answers
        assert in_memory == in_database
        assert in_memory["checkout"][:4] == (USERS, USERS, {"on": 20, "off": 40}, {"SPLIT": USERS})
        assert [in_memory[key][4] for key in flags] == [100.0, 0.0, 100.0, 0.0]

        from prometheus_client import generate_latest

        scraped = Counter()
        for family in text_string_to_metric_families(generate_latest().decode()):
            for sample in family.samples:
                if sample.name == "end_to_end_feature_flag_evaluations_total":
                    scraped[sample.labels["flag_key"]] += sample.value
        assert scraped == dict.fromkeys(flags, USERS)


async def litestar_client(collector):
    storage = MemoryStorageBackend()
    await storage.create_flag(
        FeatureFlag(
            key="dark_mode",
            name="dark_mode",
            flag_type=FlagType.BOOLEAN,
            status=FlagStatus.ACTIVE,
            default_enabled=True,
            default_value=None,
        )
    )
    return FeatureFlagClient(storage, analytics_collector=collector)


async def test_the_litestar_flags_client_takes_our_collectors_as_they_are(tmp_path):
    database = await DatabaseAnalyticsCollector.create(f"sqlite+aiosqlite:///{(tmp_path / 'flags.db').as_posix()}")
    memory = InMemoryAnalyticsCollector()
    registry = CollectorRegistry()
    prometheus = PrometheusExporter(registry=registry)
    otel = OTelAnalyticsExporter()
    pipeline = open_pipeline({"collectors": {"memory": {}}})
    for collector in (database, memory, prometheus, otel, pipeline):
        client = await litestar_client(collector)
        assert await client.get_boolean_value("dark_mode", False, LitestarContext(targeting_key="user-1")) is True
        await collector.flush()
    for source in (database, memory):
        metrics = await AnalyticsAggregator(source).get_flag_metrics("dark_mode")
        assert (metrics.total_evaluations, metrics.unique_users) == (1, 1)
        assert metrics.reason_distribution.keys() <= {reason.value for reason in EvaluationReason}
    (event,) = await memory.get_events()
    assert event.event_id
    assert pipeline.stats().accepted == 1
    labels = {"flag_key": "dark_mode", "reason": str(event.reason), "variant": event.variant or ""}
    counted = [
        sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "feature_flag_evaluations_total" and sample.labels["flag_key"] == labels["flag_key"]
    ]
    assert counted == [1.0]
    for collector in (database, memory, prometheus, otel, pipeline):
        await collector.close()


def test_another_process_reports_what_this_one_recorded(tmp_path):
    (tmp_path / "flag-analytics.toml").write_text(
        f"""[collectors.database]
connection_string = "sqlite+aiosqlite:///{(tmp_path / "flags.db").as_posix()}"
""",
        "utf-8",
    )
    with open_pipeline(tmp_path / "flag-analytics.toml") as pipeline:
        for number in range(10):
            pipeline.record_nowait(
                FlagEvaluationEvent(
                    datetime.now(UTC), "checkout", True, EvaluationReason.SPLIT, f"v{number % 2}", f"user-{number}"
                )
            )
    command = [Path(sys.executable).with_name("flag-analytics"), "report", "checkout", "--format", "json"]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, encoding="utf-8", timeout=60)
    text = json.dumps(json.loads(done.stdout))
    assert '"v0": 5' in text
    assert '"v1": 5' in text
