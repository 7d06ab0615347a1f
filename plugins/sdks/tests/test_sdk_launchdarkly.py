"""The LaunchDarkly adapter with the real SDK and its ``TestData``."""

from __future__ import annotations

from contextlib import contextmanager

from flag_analytics import open_pipeline
from flag_analytics_sdks.launchdarkly import AnalyticsHook
from ldclient import Context, LDClient
from ldclient.config import Config
from ldclient.feature_store import InMemoryFeatureStore
from ldclient.integrations.test_data import TestData
from ldclient.versioned_data_kind import FEATURES
from sdk_conformance import AdapterConformance, Client, Sdk, case, events_of


def _data() -> TestData:
    data = TestData.data_source()
    data.update(
        data.flag("hit").variations("red", "blue").fallthrough_variation(0).if_match("plan", "team").then_return(1)
    )
    data.update(data.flag("off").variations("red", "blue").on(False).off_variation(0))
    return data


SPLIT = {
    "key": "split",
    "version": 1,
    "on": True,
    "salt": "salt",
    "variations": ["red", "blue"],
    "fallthrough": {
        "rollout": {
            "kind": "experiment",
            "contextKind": "user",
            "seed": 1,
            "variations": [{"variation": 0, "weight": 0}, {"variation": 1, "weight": 100_000}],
        }
    },
}
"""An experiment as the service sends it: the builder of test data has none."""


TEAM = {"plan": "team"}
CASES = {
    "hit": case("hit", reason="TARGETING_MATCH", variant="1", error_type=None, context_attributes=TEAM),
    "miss": case("missing", reason="ERROR", variant=None, error_type="FLAG_NOT_FOUND"),
    "wrong type": case("hit", reason="TARGETING_MATCH", variant="1"),  # the SDK compares no types
    "disabled": case("off", reason="DISABLED", variant="0"),
    "split": case("split", reason="SPLIT", variant="1"),
    "error": case("hit", reason="ERROR", error_type="TARGETING_KEY_MISSING", targeting_key=None),
}


@contextmanager
def open_client(pipeline, **options):
    hook = None if pipeline is None else AnalyticsHook(pipeline, **options)
    store = InMemoryFeatureStore()
    hooks = [hook] if hook else []
    config = Config("key", update_processor_class=_data(), feature_store=store, send_events=False, hooks=hooks)
    client = LDClient(config, start_wait=5)
    store.upsert(FEATURES, SPLIT)

    def evaluate(name, user):
        context = Context.builder("" if name == "error" else user).set("plan", "team").build()
        return client.variation(CASES[name].flag, context, 0 if name == "wrong type" else "fallback")

    try:
        yield Client(evaluate, lambda: hook.failures if hook else {})
    finally:
        client.close()


SDK = Sdk(provider_name="LaunchDarkly", cases=CASES, open=open_client)


class TestLaunchDarkly(AdapterConformance):
    sdk = SDK


def _event(pipeline, context: Context):
    hook = AnalyticsHook(pipeline)
    client = LDClient(Config("key", update_processor_class=_data(), send_events=False, hooks=[hook]), start_wait=5)
    client.variation("hit", context, "fallback")
    client.close()
    assert hook.failures == {}
    (event,) = events_of(pipeline)
    return event


def test_private_attributes_are_left_out():
    context = (
        Context.builder("user-1")
        .name("Ada")
        .set("plan", "team")
        .set("email", "ada@example.com")
        .set("address", {"city": "Graz", "street": "Hauptplatz"})
        .private("email", "name", "/address/street")
        .build()
    )
    with open_pipeline({"collectors": {"memory": {}}}) as pipeline:
        event = _event(pipeline, context)
    assert event.context_attributes == {"plan": "team"}


def test_of_several_contexts_the_user_is_whom_it_was_evaluated_for():
    user = Context.builder("user-1").set("plan", "team").build()
    company = Context.builder("acme").kind("company").set("size", 12).build()
    with open_pipeline({"collectors": {"memory": {}}}) as pipeline:
        event = _event(pipeline, Context.create_multi(company, user))
    assert event.targeting_key == "user-1"
    assert event.context_attributes == {"plan": "team", "company": {"key": "acme", "size": 12}}


def test_the_duration_is_measured():
    with open_pipeline({"collectors": {"memory": {}}}) as pipeline:
        event = _event(pipeline, Context.create("user-1"))
    assert event.evaluation_duration_ms > 0
