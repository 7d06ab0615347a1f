"""No text that anyone sends breaks a scrape, and no number of texts makes it large."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from flag_analytics_prometheus import LabelCaps, PrometheusExporter
from flag_analytics_prometheus.labels import MAX_LABEL_BYTES, OTHER, label_text
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

any_text = st.text(st.characters(), max_size=30) | st.text(
    st.sampled_from('"\\{}\n\r#= ,\0\x85\u2028\u202e\ud800é😀\t'), max_size=250
)


def an_event(flag_key="checkout", reason="SPLIT", variant="a", user="ann", duration=1.0):
    return SimpleNamespace(
        flag_key=flag_key,
        reason=reason,
        variant=variant,
        targeting_key=user,
        evaluation_duration_ms=duration,
        context_attributes={},
        value=None,
        timestamp=None,
    )


def samples_of(text, parser=parse):
    return [sample for metric in parser(text) for sample in metric.samples]


def total(registry, name, **labels):
    return sum(
        sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(any_text, any_text, st.none() | any_text, st.none() | any_text), min_size=1, max_size=12))
def test_any_text_in_any_field_gives_a_scrape_that_parses_and_counts_that_add_up(texts):
    registry = CollectorRegistry()
    exporter = PrometheusExporter(registry, caps=LabelCaps(max_flag_keys=4, max_variants=2, max_series=6))
    for flag_key, reason, variant, user in texts:
        assert exporter.record_nowait(an_event(flag_key, reason, variant, user))
    samples = samples_of(generate_latest(registry).decode())
    counts = [sample for sample in samples if sample.name == "feature_flag_evaluations_total"]
    assert sum(sample.value for sample in counts) == len(texts)
    assert len({(s.labels["flag_key"], s.labels["reason"], s.labels["variant"]) for s in counts}) == len(counts)
    durations = [s.value for s in samples if s.name == "feature_flag_evaluation_duration_seconds_count"]
    assert sum(durations) == len(texts)
    assert len({sample.labels["flag_key"] for sample in counts} - {OTHER}) <= 4
    again = samples_of(generate_openmetrics(registry).decode(), parse_openmetrics)
    assert sum(s.value for s in again if s.name == "feature_flag_evaluations_total") == len(texts)


anything = any_text | st.none() | st.booleans() | st.integers() | st.floats() | st.binary() | st.lists(st.integers())


@settings(deadline=None)
@given(st.tuples(anything, anything, anything, anything, anything))
def test_anything_in_any_field_is_counted_once_and_gives_a_scrape_that_parses(fields):
    registry = CollectorRegistry()
    exporter = PrometheusExporter(registry)
    for _ in range(2):
        assert exporter.record_nowait(an_event(*fields))
    samples = samples_of(generate_latest(registry).decode())
    assert sum(sample.value for sample in samples if sample.name == "feature_flag_evaluations_total") == 2
    assert all(sample.value >= 0 for sample in samples)  # which NaN is not


@given(any_text)
def test_a_label_is_short_printable_and_its_own_label(text):
    label = label_text(text)
    assert len(label.replace("\\", "\\\\").replace('"', '\\"').encode()) <= MAX_LABEL_BYTES
    assert not any(character in label for character in "\n\r\0\x85\u2028\u202e")
    assert label_text(label) == label


@pytest.mark.parametrize("text", ["checkout", "new-checkout.v2", "größe", "フラグ", "a b", ""])
def test_ordinary_text_is_its_own_label(text):
    assert label_text(text) == text


def test_long_keys_that_begin_alike_have_different_labels():
    first, second = (label_text("k" * 300 + end) for end in "ab")
    assert first != second


def test_an_injected_line_is_part_of_a_label_and_no_sample():
    registry = CollectorRegistry()
    evil = 'x"} 1\nfeature_flag_evaluations_total{flag_key="owned"} 1000000\n# EOF\n'
    PrometheusExporter(registry).record_nowait(an_event(evil, variant=evil))
    keys = {s.labels.get("flag_key") for s in samples_of(generate_latest(registry).decode())}
    assert "owned" not in keys
    assert total(registry, "feature_flag_evaluations_total") == 1


def test_flag_keys_beyond_the_cap_are_counted_as_other():
    registry = CollectorRegistry()
    exporter = PrometheusExporter(registry, caps=LabelCaps(max_flag_keys=2))
    for key in ("a", "b", "c", "d", "a", "c"):
        exporter.record_nowait(an_event(key, user=f"user of {key}"))
    name = "feature_flag_evaluations_total"
    assert [total(registry, name, flag_key=key) for key in ("a", "b", "c", OTHER)] == [2, 1, 0, 3]
    assert total(registry, name, flag_key=OTHER, variant=OTHER) == 3
    assert total(registry, "feature_flag_unique_users", flag_key=OTHER) == 2
    assert total(registry, "flag_analytics_prometheus_label_overflow_total", label="flag_key") == 3


def test_variants_beyond_the_cap_of_a_flag_are_counted_as_other():
    registry = CollectorRegistry()
    exporter = PrometheusExporter(registry, caps=LabelCaps(max_variants=2))
    for variant in ("a", "b", "c", "d", "a"):
        exporter.record_nowait(an_event(variant=variant))
    exporter.record_nowait(an_event("another", variant="d"))
    name = "feature_flag_evaluations_total"
    assert [total(registry, name, flag_key="checkout", variant=variant) for variant in ("a", "b", OTHER)] == [2, 1, 2]
    assert total(registry, name, flag_key="another", variant="d") == 1
    assert total(registry, "flag_analytics_prometheus_label_overflow_total", label="variant") == 2


def test_reasons_are_a_closed_set_that_can_be_extended():
    registry = CollectorRegistry()
    exporter = PrometheusExporter(registry, caps=LabelCaps(extra_reasons=("PARTNER",)))
    for reason in ("SPLIT", "PARTNER", "whatever", "split"):
        exporter.record_nowait(an_event(reason=reason))
    name = "feature_flag_evaluations_total"
    assert [total(registry, name, reason=reason) for reason in ("SPLIT", "PARTNER", OTHER)] == [1, 1, 2]
    assert total(registry, "flag_analytics_prometheus_label_overflow_total", label="reason") == 2


def test_series_beyond_the_cap_keep_their_flag_and_whether_they_are_errors():
    registry = CollectorRegistry()
    exporter = PrometheusExporter(registry, caps=LabelCaps(max_series=1))
    for reason in ("SPLIT", "SPLIT", "STATIC", "ERROR"):
        exporter.record_nowait(an_event(reason=reason))
    name = "feature_flag_evaluations_total"
    assert total(registry, name, reason="SPLIT", variant="a") == 2
    assert total(registry, name, reason=OTHER, variant=OTHER) == 1
    assert total(registry, name, reason="ERROR", variant=OTHER) == 1
    assert total(registry, "feature_flag_error_rate", flag_key="checkout") == 0.25
    assert total(registry, "flag_analytics_prometheus_label_overflow_total", label="series") == 2


def test_labels_that_had_to_be_changed_are_counted():
    registry = CollectorRegistry()
    exporter = PrometheusExporter(registry)
    for key in ("fine", "not\nfine", "not\nfine", "x" * 200):
        exporter.record_nowait(an_event(key))
    assert total(registry, "flag_analytics_prometheus_sanitised_total", kind="label") == 3


@pytest.mark.parametrize("cap", ["max_flag_keys", "max_variants", "max_series"])
def test_a_cap_below_one_is_refused(cap):
    with pytest.raises(ValueError, match=cap):
        LabelCaps(**{cap: 0})


def test_hostile_labels_without_number_leave_the_scrape_small_and_the_memory_bounded():
    registry = CollectorRegistry()
    exporter = PrometheusExporter(registry)
    started = time.perf_counter()
    for number in range(12_000):
        exporter.record_nowait(
            an_event(
                f'{number % 3_000}"}} 1\n# EOF\n' + '"' * 200,
                f"reason {number}",
                f"variant {number} " + "😀" * 60,
                f"user {number}",
            )
        )
    assert time.perf_counter() - started < 60
    text = generate_latest(registry).decode()
    samples = samples_of(text)
    assert len(text) <= 5_000_000
    assert len({s.labels["flag_key"] for s in samples if "flag_key" in s.labels}) == 1_001
    assert sum(s.value for s in samples if s.name == "feature_flag_evaluations_total") == 12_000
    assert len(exporter.exposition.cells) <= 5_000
