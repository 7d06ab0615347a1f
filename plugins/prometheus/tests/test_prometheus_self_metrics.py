"""The reports of the exporter and the delivery engine on themselves."""

from __future__ import annotations

from functools import partial

import attrs
import pytest
from flag_analytics.errors import ConfigError, PluginError
from flag_analytics.pipeline import open_pipeline
from flag_analytics.reports import DeliveryStats, SinkStats
from flag_analytics.testing.samples import plain_event
from flag_analytics_prometheus.plugin import PrometheusOptions, flag_analytics_register_exporters
from flag_analytics_prometheus.self_metrics import Ledgers, SelfReport, combine, self_metrics
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

SINK = SinkStats(
    accepted=100,
    delivered=70,
    queued=10,
    in_flight=5,
    set_aside=1,
    spooled=3,
    dropped={"overflow": 8, "custom": 2},
    dead=2,
    retries=4,
    commit_unknown=1,
    attempts=9,
    backlog_bytes=1234,
    backlog_age_seconds=2.5,
    last_success=1_700_000_000.0,
    breaker="open",
)
LEDGER = DeliveryStats(110, 100, {"filtered": 10}, {"text": 3}, {"database": SINK}, future_events=4)


def samples(report, prefix=""):
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for metric in self_metrics(prefix, report)
        for sample in metric.samples
    }


def test_every_figure_of_the_ledger_is_a_metric():
    values = samples(SelfReport(ledger=LEDGER))
    assert values["flag_analytics_events_recorded_total",] == 110
    assert values["flag_analytics_events_accepted_total",] == 100
    assert values["flag_analytics_events_refused_total", "filtered"] == 10
    assert values["flag_analytics_events_refused_total", "overflow"] == 0
    assert values["flag_analytics_events_sanitised_total", "text"] == 3
    assert values["flag_analytics_stored_future_events",] == 4
    for name, value in (("accepted", 100), ("delivered", 70), ("dead", 2), ("retries", 4), ("attempts", 9)):
        assert values[f"flag_analytics_sink_{name}_total", "database"] == value
    assert values["flag_analytics_sink_commit_unknown_total", "database"] == 1
    assert values["flag_analytics_sink_dropped_total", "database", "overflow"] == 8
    assert values["flag_analytics_sink_dropped_total", "custom", "database"] == 2
    assert values["flag_analytics_sink_dropped_total", "closed", "database"] == 0
    for state, value in (("queued", 10), ("in_flight", 5), ("spooled", 3)):
        assert values["flag_analytics_sink_pending_events", *sorted(("database", state))] == value
    assert values["flag_analytics_sink_set_aside_events", "database"] == 1
    for state, value in (("closed", 0), ("half_open", 0), ("open", 1), ("halted", 0)):
        assert values["flag_analytics_sink_breaker_state", *sorted(("database", state))] == value
    assert values["flag_analytics_sink_backlog_bytes", "database"] == 1234
    assert values["flag_analytics_sink_backlog_age_seconds", "database"] == 2.5
    assert values["flag_analytics_sink_last_success_timestamp_seconds", "database"] == 1_700_000_000


def test_the_equation_of_the_ledger_can_be_checked_from_the_metrics():
    values = samples(SelfReport(ledger=LEDGER))
    resolved = sum(
        value
        for (name, *_), value in values.items()
        if name.removeprefix("flag_analytics_sink_") in {"delivered_total", "dead_total", "dropped_total"}
        or name == "flag_analytics_sink_pending_events"
    )
    assert resolved == values["flag_analytics_sink_accepted_total", "database"]


ledgers = st.builds(
    DeliveryStats,
    st.integers(0, 9),
    st.integers(0, 9),
    st.dictionaries(st.sampled_from("ab"), st.integers(0, 9)),
    st.just({}),
    st.dictionaries(
        st.sampled_from(["x", "y"]),
        st.builds(
            SinkStats,
            accepted=st.integers(0, 9),
            dropped=st.dictionaries(st.sampled_from("ab"), st.integers(1, 9)),
            breaker=st.sampled_from(["closed", "half_open", "open", "halted"]),
            backlog_age_seconds=st.none() | st.integers(0, 9),
        ),
    ),
)


@given(ledgers, ledgers, ledgers)
def test_adding_ledgers_up_is_associative(one, two, three):
    assert combine([combine([one, two]), three]) == combine([one, combine([two, three])])


def test_the_worst_breaker_and_the_oldest_backlog_of_two_sinks_are_shown():
    other = attrs.evolve(SINK, breaker="closed", backlog_age_seconds=9.0, last_success=None)
    both = combine([LEDGER, attrs.evolve(LEDGER, sinks={"database": other})]).sinks["database"]
    assert (both.breaker, both.backlog_age_seconds, both.last_success) == ("open", 9.0, SINK.last_success)


class Owner:
    def __init__(self, stats):
        self.ledger, self.closed = stats, False

    def stats(self):
        return self.ledger


def test_a_closed_pipeline_s_figures_stay_when_the_pipeline_is_gone():
    settled = attrs.evolve(LEDGER, sinks={"database": SinkStats(accepted=5, delivered=5)})
    first, second, ledger = Owner(settled), Owner(settled), Ledgers()
    ledger.add(first)
    ledger.add(second)
    assert ledger.read().recorded == 220
    first.closed = True
    assert ledger.read().recorded == 220
    assert ledger._owners == [second]
    assert ledger.read().sinks["database"].delivered == 10


def test_a_closed_pipeline_with_something_pending_is_still_asked():
    owner, ledger = Owner(LEDGER), Ledgers()
    ledger.add(owner)
    owner.closed = True
    assert ledger.read().sinks["database"].pending == 18
    owner.ledger = attrs.evolve(LEDGER, sinks={"database": SinkStats(accepted=100, delivered=100)})
    assert ledger.read().sinks["database"].delivered == 100
    assert ledger._owners == []


an_event = partial(plain_event, flag_key="checkout", variant="a", targeting_key="ann")


def value(name, **labels):
    return REGISTRY.get_sample_value(name, labels)


def test_a_pipeline_s_ledger_is_wired_to_the_exporter_that_it_configures():
    config = {
        "exporters": {"prometheus": {"prefix": "wired", "duration_buckets": [0.01, 1], "extra_reasons": ["PARTNER"]}}
    }
    with open_pipeline(config) as pipeline:
        for _ in range(5):
            assert pipeline.record_nowait(an_event())
        assert value("wired_flag_analytics_events_recorded_total") == 5
        assert value("wired_flag_analytics_sink_delivered_total", sink="prometheus") == 5
    labels = {"flag_key": "checkout", "reason": "SPLIT", "variant": "a"}
    assert value("wired_feature_flag_evaluations_total", **labels) == 5
    with open_pipeline(config) as pipeline:
        pipeline.record_nowait(an_event())
        assert value("wired_flag_analytics_events_recorded_total") == 6
        assert value("wired_feature_flag_evaluations_total", **labels) == 6


def test_gauges_come_from_the_pipeline_s_aggregator_where_configured():
    exporter = {"prefix": "asked", "gauges": "aggregator", "gauge_timeout_seconds": 5.0}
    with open_pipeline({"collectors": {"memory": {}}, "exporters": {"prometheus": exporter}}) as pipeline:
        pipeline.record_nowait(an_event())
        pipeline.flush_sync()
        assert value("asked_feature_flag_unique_users", flag_key="checkout") == 1
        assert pipeline.exporters["prometheus"].exposition.query.last_success is not None


def test_gauges_without_an_aggregator_stay_empty_and_say_so(caplog):
    with open_pipeline({"exporters": {"prometheus": {"prefix": "lonely", "gauges": "aggregator"}}}) as pipeline:
        pipeline.record_nowait(an_event())
        assert value("lonely_feature_flag_unique_users", flag_key="checkout") is None
        assert value("lonely_flag_analytics_prometheus_aggregator_failures_total", cause="error") >= 1
    assert "no collector of the pipeline keeps events" in caplog.text


@pytest.mark.parametrize(
    ("option", "wrong"),
    [
        ("prefix", "not ok"),
        ("duration_buckets", [0.5, 0.1]),
        ("max_flag_keys", 0),
        ("gauges", "magic"),
        ("gauge_timeout_seconds", 0),
        ("port", 70_000),
        ("prefxi", "app"),
    ],
)
def test_a_wrong_option_is_a_problem_with_its_path(option, wrong):
    with pytest.raises(ConfigError, match=f"exporters.prometheus.{option}"):
        open_pipeline({"exporters": {"prometheus": {option: wrong}}})


def test_a_port_that_is_taken_fails_when_the_pipeline_opens():
    config = {"exporters": {"prometheus": {"prefix": "port", "port": 0}}}
    with open_pipeline(config) as pipeline:
        taken = pipeline.exporters["prometheus"].server.port
        with pytest.raises(PluginError, match=f"port {taken}"):
            open_pipeline({"exporters": {"prometheus": {"prefix": "port2", "port": taken}}})


def test_the_backend_is_registered_under_its_name():
    (backend,) = flag_analytics_register_exporters()
    assert (backend.name, backend.options) == ("prometheus", PrometheusOptions)
