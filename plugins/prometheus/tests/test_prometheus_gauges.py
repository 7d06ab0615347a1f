"""The two gauges: observed, set from an aggregator, or read from one whenever a scrape comes."""

from __future__ import annotations

import asyncio
import threading
import time
import urllib.request
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from flag_analytics.aggregator import AnalyticsAggregator
from flag_analytics.testing.samples import plain_event
from flag_analytics_memory import InMemoryAnalyticsCollector
from flag_analytics_prometheus import LabelCaps, PrometheusExporter, scrape
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families


def an_event(flag_key="checkout", reason="SPLIT", user="ann"):
    return plain_event(timestamp=datetime.now(UTC), flag_key=flag_key, reason=reason, variant="a", targeting_key=user)


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
async def aggregator():
    collector = InMemoryAnalyticsCollector()
    for user in ("ann", "bob", "cleo"):
        await collector.record(an_event(user=user))
    await collector.record(an_event(reason="ERROR", user="ann"))
    await collector.record(an_event("search", user="dan"))
    return AnalyticsAggregator(collector)


def scraped(exporter):
    """Return the gauges of a real scrape over HTTP: gauge name and flag key to value."""
    server = exporter.serve(0)
    with urllib.request.urlopen(server.url, timeout=10) as response:
        families = text_string_to_metric_families(response.read().decode())
    return {
        (sample.name, sample.labels.get("flag_key")): sample.value for family in families for sample in family.samples
    }


def gauges(registry, flag_key="checkout"):
    return tuple(
        registry.get_sample_value(f"feature_flag_{name}", {"flag_key": flag_key})
        for name in ("unique_users", "error_rate")
    )


class OneAnswer:
    """An aggregator that answers after ``wait()``, counts its questions and can fail."""

    def __init__(self, users=7, percent=50.0, wait=None, problem=None):
        self.users, self.percent, self.wait, self.problem = users, percent, wait, problem
        self.asked = []

    async def get_metrics(self, flag_keys, *, window_seconds):
        self.asked.append((list(flag_keys), window_seconds))
        if self.wait is not None:
            await asyncio.to_thread(self.wait)
        if self.problem is not None:
            raise self.problem
        return {key: SimpleNamespace(unique_users=self.users, error_rate=self.percent) for key in flag_keys}

    async def list_flags(self, *, window_seconds):
        assert window_seconds == 3600
        return [SimpleNamespace(flag_key=f"flag-{number}", count=number) for number in range(5)]


async def test_an_aggregator_sets_the_gauges_that_a_scrape_shows(registry, aggregator):
    exporter = PrometheusExporter(registry)
    await exporter.update_from_aggregator(aggregator=aggregator, flag_keys=["checkout", "search"], window_seconds=3600)
    values = await asyncio.to_thread(scraped, exporter)
    assert values["feature_flag_unique_users", "checkout"] == 3
    assert values["feature_flag_error_rate", "checkout"] == 0.25
    assert values["feature_flag_unique_users", "search"] == 1
    assert values["feature_flag_error_rate", "search"] == 0.0
    await exporter.close()


async def test_metrics_of_one_flag_set_its_gauges_as_a_ratio(registry, aggregator):
    exporter = PrometheusExporter(registry)
    exporter.update_from_metrics("checkout", await aggregator.get_flag_metrics("checkout"))
    assert gauges(registry) == (3, 0.25)
    exporter.update_from_metrics("checkout", {"unique_users": 12, "error_rate": 50.0, "total_evaluations": 100})
    assert gauges(registry) == (12, 0.5)


async def test_all_flags_are_asked_for_in_one_call(registry):
    aggregator = OneAnswer()
    await PrometheusExporter(registry).update_from_aggregator(aggregator, ["a", "b"], window_seconds=60)
    assert aggregator.asked == [(["a", "b"], 60)]
    assert gauges(registry, "b") == (7, 0.5)


async def test_an_aggregator_without_get_metrics_is_asked_flag_by_flag(registry):
    class Theirs:
        async def get_flag_metrics(self, flag_key, window_seconds):
            return {"unique_users": window_seconds, "error_rate": None}

    await PrometheusExporter(registry).update_from_aggregator(Theirs(), ["a"], window_seconds=60)
    assert gauges(registry, "a") == (60, 0.0)


async def test_what_an_aggregator_raises_reaches_the_caller_and_changes_nothing(registry):
    exporter = PrometheusExporter(registry)
    exporter.update_from_metrics("a", {"unique_users": 1, "error_rate": 0})
    with pytest.raises(OSError, match="down"):
        await exporter.update_from_aggregator(OneAnswer(problem=OSError("down")), ["a"])
    assert gauges(registry, "a") == (1, 0.0)


async def test_a_flag_that_was_set_shows_what_was_set_until_it_is_reset(registry):
    exporter = PrometheusExporter(registry)
    exporter.record_nowait(an_event())
    exporter.update_from_metrics("checkout", {"unique_users": 40, "error_rate": 25.0})
    exporter.record_nowait(an_event(user="bob"))
    assert gauges(registry) == (40, 0.25)
    await exporter.reset_flag_stats("checkout")
    assert gauges(registry) == (2, 0.0)
    exporter.update_from_metrics("checkout", {"unique_users": 40, "error_rate": 25.0})
    await exporter.reset_all_stats()
    assert gauges(registry) == (2, 0.0)


@pytest.mark.parametrize("metrics", [{"unique_users": float("nan")}, {"error_rate": float("inf")}])
def test_values_that_are_not_finite_are_refused(registry, metrics):
    with pytest.raises(ValueError, match="not finite"):
        PrometheusExporter(registry).update_from_metrics("a", metrics)


def test_gauges_of_flags_beyond_the_cap_are_left_out_and_counted(registry):
    exporter = PrometheusExporter(registry, caps=LabelCaps(max_flag_keys=1))
    for key in ("a", "b"):
        exporter.update_from_metrics(key, {"unique_users": 1, "error_rate": 0.0})
    assert gauges(registry, "a") == (1, 0.0)
    assert gauges(registry, "b") == gauges(registry, "__other__") == (None, None)
    name = "flag_analytics_prometheus_label_overflow_total"
    assert registry.get_sample_value(name, {"label": "flag_key"}) == 1


async def test_gauges_read_at_scrape_are_never_stale(registry):
    collector = InMemoryAnalyticsCollector()
    exporter = PrometheusExporter(registry, aggregator=AnalyticsAggregator(collector), flag_keys=["checkout"])
    exporter.record_nowait(an_event(user="only observed"))
    assert (await asyncio.to_thread(scraped, exporter))["feature_flag_unique_users", "checkout"] == 0
    for user in ("ann", "bob"):
        await collector.record(an_event(user=user))
        await collector.record(an_event(user=user, reason="ERROR"))
    values = await asyncio.to_thread(scraped, exporter)
    assert values["feature_flag_unique_users", "checkout"] == 2
    assert values["feature_flag_error_rate", "checkout"] == 0.5
    await exporter.close()


async def test_without_flag_keys_the_busiest_flags_are_read_up_to_the_cap(registry):
    exporter = PrometheusExporter(registry, caps=LabelCaps(max_flag_keys=2), aggregator=OneAnswer())
    assert await asyncio.to_thread(gauges, registry, "flag-4") == (7, 0.5)
    assert await asyncio.to_thread(gauges, registry, "flag-2") == (None, None)
    await exporter.close()


async def test_a_slow_aggregator_delays_a_scrape_by_the_bound_and_is_counted(registry):
    answer = threading.Event()
    aggregator = OneAnswer(wait=lambda: answer.wait(10))
    exporter = PrometheusExporter(registry, aggregator=aggregator, flag_keys=["a"], timeout_seconds=0.05)
    started = time.perf_counter()
    assert gauges(registry, "a") == (None, None)  # two scrapes
    assert time.perf_counter() - started < 5
    assert len(aggregator.asked) == 1  # the second scrape waited for the same answer
    failures = exporter.exposition.query.failures
    assert failures == {"timeout": 2, "error": 0}
    answer.set()
    exporter.exposition.query._question.result(5)
    exporter.exposition.query._timeout_seconds = 5.0
    assert gauges(registry, "a") == (7, 0.5)
    name = "flag_analytics_prometheus_aggregator_failures_total"
    assert registry.get_sample_value(name, {"cause": "timeout"}) == 2
    await exporter.close()


async def test_a_failing_aggregator_leaves_the_last_values_for_a_while_and_is_counted(registry, monkeypatch):
    aggregator = OneAnswer()
    exporter = PrometheusExporter(registry, aggregator=aggregator, flag_keys=["a"], timeout_seconds=5.0)
    assert gauges(registry, "a") == (7, 0.5)
    aggregator.problem = TimeoutError("secret-host refused")
    assert gauges(registry, "a") == (7, 0.5)
    monkeypatch.setattr(scrape, "STALE_AFTER_SECONDS", 0.0)
    assert gauges(registry, "a") == (None, None)
    name = "flag_analytics_prometheus_aggregator_failures_total"
    assert registry.get_sample_value(name, {"cause": "error"}) == 5
    name = "flag_analytics_prometheus_aggregator_last_success_timestamp_seconds"
    assert time.time() - 60 < registry.get_sample_value(name) <= time.time()
    await exporter.close()


@pytest.mark.parametrize("times", [{"window_seconds": 0}, {"timeout_seconds": 0}])
def test_times_that_are_not_above_zero_are_refused(registry, times):
    with pytest.raises(ValueError, match="above 0"):
        PrometheusExporter(registry, aggregator=OneAnswer(), **times)


async def test_closing_ends_the_thread_that_asks(registry):
    before = {thread.name for thread in threading.enumerate()}
    exporter = PrometheusExporter(registry, aggregator=OneAnswer(), flag_keys=["a"])
    gauges(registry, "a")
    asking = [thread for thread in threading.enumerate() if thread.name == "flag-analytics-prometheus-gauges"]
    assert asking
    await exporter.close()
    for thread in asking:
        await asyncio.to_thread(thread.join, 5)
    assert {thread.name for thread in threading.enumerate()} <= before | {"asyncio_0"} | {
        name for name in (thread.name for thread in threading.enumerate()) if name.startswith("asyncio")
    }
