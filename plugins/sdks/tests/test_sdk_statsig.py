"""The adapter of Statsig's older server SDK, its specifications given at the start."""

from __future__ import annotations

import json
from contextlib import contextmanager

from flag_analytics import open_pipeline
from flag_analytics_sdks.statsig import instrument
from sdk_conformance import AdapterConformance, Client, Sdk, case, events_of
from statsig import StatsigOptions, StatsigServer, StatsigUser, statsig

PUBLIC = {
    "type": "public",
    "targetValue": None,
    "operator": None,
    "field": None,
    "additionalValues": {},
    "idType": "userID",
}
TEAM = {**PUBLIC, "type": "user_field", "field": "plan", "operator": "any", "targetValue": ["team"]}


def _spec(name, kind, value, *, enabled=True, condition=PUBLIC, group=None, **further):
    rule = {
        "id": f"{name}-rule",
        "name": f"{name}-rule",
        "groupName": group,
        "passPercentage": 100,
        "conditions": [condition],
        "returnValue": value,
        "salt": "salt",
        "idType": "userID",
        "isExperimentGroup": kind == "experiment",
    }
    return {
        "name": name,
        "type": "feature_gate" if kind == "feature_gate" else "dynamic_config",
        "entity": kind,
        "salt": "salt",
        "enabled": enabled,
        "defaultValue": False if kind == "feature_gate" else {},
        "rules": [rule],
        "idType": "userID",
        "isActive": True,
        **further,
    }


SPECS = {
    "has_updates": True,
    "time": 1_700_000_000_000,
    "feature_gates": [
        _spec("hit", "feature_gate", True, condition=TEAM),
        _spec("off", "feature_gate", True, enabled=False),
        _spec("broken", "feature_gate", True, condition={**TEAM, "operator": "no such operator"}),
    ],
    "dynamic_configs": [_spec("split", "experiment", {"colour": "blue"}, group="Test")],
    "layer_configs": [_spec("page", "layer", {"colour": "blue"})],
    "layers": {},
    "id_lists": {},
}
CASES = {
    "hit": case("hit", reason="TARGETING_MATCH", value=True, error_type=None, context_attributes={"plan": "team"}),
    "miss": case("missing", reason="ERROR", error_type="FLAG_NOT_FOUND"),
    "wrong type": case("split", reason="ERROR", error_type="FLAG_NOT_FOUND"),  # an experiment asked for as a gate
    "disabled": case("off", reason="DISABLED", value=False),
    "split": case("split", reason="SPLIT", variant="Test"),
    "error": case("broken", reason="ERROR", error_type="GENERAL"),
}


@contextmanager
def open_client(pipeline, **options):
    server = StatsigServer()
    server.initialize("secret-key", StatsigOptions(local_mode=True, bootstrap_values=json.dumps(SPECS)))
    adapter = None if pipeline is None else instrument(server, pipeline, **options)

    def evaluate(name, user):
        whom = StatsigUser(user, custom={"plan": "team"}, private_attributes={"income": 1})
        if name == "split":
            return server.get_experiment(whom, "split").get_value()
        return server.check_gate(whom, CASES[name].flag)

    try:
        yield Client(evaluate, lambda: adapter.failures if adapter else {})
    finally:
        server.shutdown()


class TestStatsig(AdapterConformance):
    sdk = Sdk(provider_name="Statsig", cases=CASES, open=open_client)


def test_the_module_is_instrumented_as_its_server_is():
    with open_pipeline({"collectors": {"memory": {}}}) as pipeline:
        statsig.initialize("secret-key", StatsigOptions(local_mode=True, bootstrap_values=json.dumps(SPECS)))
        adapter = instrument(statsig, pipeline)
        user = StatsigUser("user-1", email="a@example.com", custom={"plan": "team"})
        assert statsig.check_gate(user, "hit")
        assert statsig.check_gate_with_exposure_logging_disabled(user, "hit")
        assert statsig.get_layer(user, "page").get("colour") == "blue"
        statsig.shutdown()
        assert adapter.failures == {}
        events = events_of(pipeline)
    assert sorted((event.flag_key, event.reason) for event in events) == [
        ("hit", "TARGETING_MATCH"),
        ("hit", "TARGETING_MATCH"),
        ("page", "TARGETING_MATCH"),
    ]
    assert events[0].context_attributes == {"email": "a@example.com", "plan": "team"}


def test_an_override_is_told():
    with open_pipeline({"collectors": {"memory": {}}}) as pipeline:
        server = StatsigServer()
        server.initialize("secret-key", StatsigOptions(local_mode=True))
        adapter = instrument(server, pipeline)
        server.override_gate("hit", True, "user-1")
        assert server.check_gate(StatsigUser("user-1"), "hit")
        server.shutdown()
        assert adapter.failures == {}
        (event,) = events_of(pipeline)
    assert event.reason == "OVERRIDE"


def test_an_answer_before_the_start_is_an_error():
    with open_pipeline({"collectors": {"memory": {}}}) as pipeline:
        server = StatsigServer()
        server.initialize("secret-key", StatsigOptions(local_mode=True))
        adapter = instrument(server, pipeline)
        assert not server.check_gate(StatsigUser("user-1"), "hit")
        server.shutdown()
        assert adapter.failures == {}
        (event,) = events_of(pipeline)
    assert (event.reason, event.error_type) == ("ERROR", "PROVIDER_NOT_READY")
