"""Every kind of hostile value in every field of an event: counted once, never raised, and the scrape parses."""

from __future__ import annotations

import pytest
from flag_analytics.testing.hostile import CANARY, HOSTILE_KINDS, PLACES, hostile_event
from flag_analytics_prometheus import PrometheusExporter
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families


@pytest.mark.parametrize("kind", HOSTILE_KINDS)
def test_a_hostile_value_in_any_field_is_counted_and_the_scrape_parses(kind, capfd):
    registry = CollectorRegistry()
    exporter = PrometheusExporter(registry)
    for place in PLACES:
        assert exporter.record_nowait(hostile_event(place, HOSTILE_KINDS[kind]())), place
        assert exporter.record_nowait(hostile_event("value", True)), place
    samples = [
        sample
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    ]
    total = sum(sample.value for sample in samples if sample.name == "feature_flag_evaluations_total")
    assert total >= 2 * len(PLACES) - 1  # a value may make an outcome of its event
    assert all(sample.value >= 0 for sample in samples)
    assert CANARY not in "".join(capfd.readouterr())
