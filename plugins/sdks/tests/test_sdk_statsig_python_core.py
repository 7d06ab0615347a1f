"""The adapter of Statsig's newer server SDK, its specifications from a data store."""

from __future__ import annotations

import json
from contextlib import contextmanager

from flag_analytics import open_pipeline
from flag_analytics_sdks.statsig_python_core import instrument
from sdk_conformance import AdapterConformance, Client, Sdk, case, events_of
from statsig_python_core import Statsig, StatsigOptions, StatsigUser
from statsig_python_core.data_store import DataStore, DataStoreResponse

PUBLIC = {"type": "public", "targetValue": None, "operator": None, "field": None, "additionalValues": {}}
TEAM = {**PUBLIC, "type": "user_field", "field": "plan", "operator": "any", "targetValue": ["team"]}
CONDITIONS = {"public": PUBLIC, "team": TEAM, "unknown": {**TEAM, "operator": "no such operator"}}
TIME = 1_700_000_000_000


def _spec(name, kind, value, condition="public", *, enabled=True, group=None):
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
        "rules": [rule] if enabled else [],
        "idType": "userID",
        "isActive": True,
        "version": 1,
    }


SPECS = {
    "has_updates": True,
    "time": TIME,
    "checksum": "1",
    "feature_gates": {
        "hit": _spec("hit", "feature_gate", True, "team"),
        "off": _spec("off", "feature_gate", True, enabled=False),
        "broken": _spec("broken", "feature_gate", True, "unknown"),
    },
    "dynamic_configs": {"split": _spec("split", "experiment", {"colour": "blue"}, group="Test")},
    "layer_configs": {},
    "layers": {},
    "param_stores": {},
    "id_lists": {},
    "experiment_to_layer": {},
    "condition_map": {name: {**condition, "idType": "userID"} for name, condition in CONDITIONS.items()},
}
CASES = {
    "hit": case("hit", reason="TARGETING_MATCH", value=True, error_type=None, context_attributes={"plan": "team"}),
    "miss": case("missing", reason="ERROR", error_type="FLAG_NOT_FOUND"),
    "wrong type": case("split", reason="UNKNOWN", value=False),  # asked for as a gate, which is a bool and no more
    "disabled": case("off", reason="DISABLED", value=False),
    "split": case("split", reason="SPLIT", variant="Test", value={"colour": "blue"}),
    "error": case("broken", reason="ERROR", error_type="GENERAL"),
}


class Store(DataStore):
    def get(self, key):
        return DataStoreResponse(json.dumps(SPECS), TIME)


@contextmanager
def open_client(pipeline, **options):
    offline = StatsigOptions(
        disable_network=True, data_store=Store(), disable_all_logging=True, output_log_level="none"
    )
    client = Statsig("secret-key", offline)
    client.initialize().wait()
    adapter = None if pipeline is None else instrument(client, pipeline, **options)

    def evaluate(name, user):
        whom = StatsigUser(user, custom={"plan": "team"}, private_attributes={"income": 1})
        if name == "wrong type":
            return client.check_gate(whom, "split")
        if name == "split":
            return client.get_experiment(whom, "split").get_value()
        return client.get_feature_gate(whom, CASES[name].flag).value

    try:
        yield Client(evaluate, lambda: adapter.failures if adapter else {})
    finally:
        client.shutdown().wait()


class TestStatsigPythonCore(AdapterConformance):
    sdk = Sdk(provider_name="Statsig", cases=CASES, open=open_client)


def test_what_the_sdk_catches_is_an_error(capsys):
    with open_pipeline({"collectors": {"memory": {}}}) as pipeline:
        client = Statsig("secret-key", StatsigOptions(disable_network=True, output_log_level="none"))
        adapter = instrument(client, pipeline)
        assert client.get_feature_gate(None, "hit") is None
        client.shutdown().wait()
        assert adapter.failures == {}
        (event,) = events_of(pipeline)
    assert (event.reason, event.error_type, event.targeting_key) == ("ERROR", "GENERAL", None)


def test_a_client_that_is_not_ready_says_so():
    with open_pipeline({"collectors": {"memory": {}}}) as pipeline:
        client = Statsig("secret-key", StatsigOptions(disable_network=True, output_log_level="none"))
        adapter = instrument(client, pipeline)
        assert client.get_feature_gate(StatsigUser("user-1"), "hit").value is False
        client.shutdown().wait()
        assert adapter.failures == {}
        (event,) = events_of(pipeline)
    assert (event.reason, event.error_type) == ("ERROR", "PROVIDER_NOT_READY")


def test_an_override_and_a_layer_are_recorded():
    with open_pipeline({"collectors": {"memory": {}}}) as pipeline:
        client = Statsig("secret-key", StatsigOptions(disable_network=True, output_log_level="none"))
        adapter = instrument(client, pipeline)
        client.override_layer("page", {"colour": "blue"})
        assert client.get_layer(StatsigUser("user-1"), "page").get("colour") == "blue"
        client.shutdown().wait()
        assert adapter.failures == {}
        (event,) = events_of(pipeline)
    assert (event.flag_key, event.value, event.reason) == ("page", {"colour": "blue"}, "OVERRIDE")
