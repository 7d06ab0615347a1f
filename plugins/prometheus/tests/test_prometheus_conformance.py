"""The Prometheus exporter keeps what every exporter promises."""

from __future__ import annotations

from collections import Counter

import pytest
from flag_analytics.testing import ExporterContract
from flag_analytics_prometheus import PrometheusExporter
from prometheus_client import CollectorRegistry

COUNTER = "feature_flag_evaluations_total"


class TestPrometheusExporter(ExporterContract):
    """A counter for each flag, reason and variant: values, users, times and single durations do not arrive."""

    carries = frozenset({"flag_key", "variant"})
    keeps_texts = False  # labels are bounded, and hold only what can be printed
    store_is_in_process = True
    patience_seconds = 60.0
    max_seconds = 600.0

    @pytest.fixture
    def registry(self):
        return CollectorRegistry()

    @pytest.fixture
    def exporter(self, registry):
        return PrometheusExporter(registry)

    async def exported(self, exporter):
        counts = Counter()
        for sample in self._samples(exporter):
            counts[sample.labels["flag_key"]] += int(sample.value)
        return counts

    async def arrived(self, exporter):
        return [
            {"flag_key": sample.labels["flag_key"], "variant": sample.labels["variant"], "count": int(sample.value)}
            for sample in self._samples(exporter)
        ]

    def _samples(self, exporter):
        return [sample for family in exporter.registry.collect() for sample in family.samples if sample.name == COUNTER]
