"""The GrowthBook adapter with the real SDK, its features given."""

from __future__ import annotations

from contextlib import contextmanager

from flag_analytics import open_pipeline
from flag_analytics_sdks.growthbook import AnalyticsHook
from growthbook import Experiment, GrowthBook
from growthbook.common_types import Options, UserContext
from growthbook.growthbook_client import GrowthBookClient
from sdk_conformance import AdapterConformance, Client, Sdk, case, events_of

FEATURES = {
    "hit": {"defaultValue": "red", "rules": [{"condition": {"plan": "team"}, "force": "blue"}]},
    "plain": {"defaultValue": "red"},
    "gate": {"defaultValue": False},
    "gated": {
        "defaultValue": "red",
        "rules": [{"parentConditions": [{"id": "gate", "condition": {"value": True}, "gate": True}]}],
    },
    "split": {
        "defaultValue": "red",
        "rules": [
            {"key": "colours", "variations": ["red", "blue"], "weights": [0, 1], "meta": [{"key": "c"}, {"key": "t"}]}
        ],
    },
    "cycle": {"defaultValue": "red", "rules": [{"parentConditions": [{"id": "cycle", "condition": {"value": True}}]}]},
}


USER = {"id": "user-1", "plan": "team"}
CASES = {
    "hit": case("hit", reason="TARGETING_MATCH", kind="evaluation", context_attributes=USER),
    "miss": case("missing", reason="ERROR", error_type="FLAG_NOT_FOUND", value=None),
    "wrong type": case("hit"),  # the SDK compares no types
    "disabled": case("gated", reason="DISABLED", value=None),
    "split": case("split", reason="SPLIT", variant="t"),
    "error": case("cycle", reason="ERROR", error_type="GENERAL", value=None),
}


@contextmanager
def open_client(pipeline, **options):
    hook = None if pipeline is None else AnalyticsHook(pipeline, **options)
    callbacks = {}
    if hook:
        callbacks = {"on_feature_usage": hook.on_feature_usage, "on_experiment_viewed": hook.on_experiment_viewed}

    # A client of this SDK belongs to one user.
    def evaluate(name, user):
        client = GrowthBook(attributes={"id": user, "plan": "team"}, features=FEATURES, **callbacks)
        try:
            return client.get_feature_value(CASES[name].flag, "fallback")
        finally:
            client.destroy()

    yield Client(evaluate, lambda: hook.failures if hook else {})


SDK = Sdk(provider_name="GrowthBook", cases=CASES, open=open_client)


class TestGrowthBook(AdapterConformance):
    sdk = SDK


async def test_the_asynchronous_client_takes_the_same_callbacks():
    async with open_pipeline({"collectors": {"memory": {}}}) as pipeline:
        hook = AnalyticsHook(pipeline)
        options = Options(
            api_host="http://127.0.0.1:9",
            client_key="sdk-key",
            on_feature_usage=hook.on_feature_usage,
            on_experiment_viewed=hook.on_experiment_viewed,
        )
        client = GrowthBookClient(options)
        await client.set_features(FEATURES)
        user = UserContext(attributes={"id": "user-1", "plan": "team"})
        assert await client.get_feature_value("hit", "fallback", user) == "blue"
        await client.close()
        (event,) = await pipeline.collectors["memory"].get_events()
    assert hook.failures == {}
    assert (event.flag_key, event.value, event.targeting_key) == ("hit", "blue", "user-1")


def test_an_experiment_without_a_feature_is_an_exposure():
    with open_pipeline({"collectors": {"memory": {}}}) as pipeline:
        hook = AnalyticsHook(pipeline, user_attribute="device")
        client = GrowthBook(
            attributes={"id": "user-1", "device": "d-1"},
            on_feature_usage=hook.on_feature_usage,
            on_experiment_viewed=hook.on_experiment_viewed,
        )
        client.run(Experiment(key="colours", variations=["red", "blue"], weights=[0, 1]))
        client.destroy()
        (event,) = events_of(pipeline)
    assert hook.failures == {}
    assert (event.flag_key, event.kind, event.variant, event.value) == ("colours", "exposure", "1", "blue")
    assert event.targeting_key == "user-1", "whom the experiment hashed"


def test_an_experiment_of_a_feature_is_recorded_once():
    with open_pipeline({"collectors": {"memory": {}}}) as pipeline:
        with open_client(pipeline) as client:
            client.evaluate("split", "user-1")
        (event,) = events_of(pipeline)
    assert (event.flag_key, event.variant) == ("split", "t")


def test_the_user_is_the_attribute_that_was_named():
    with open_pipeline({"collectors": {"memory": {}}}) as pipeline:
        hook = AnalyticsHook(pipeline, user_attribute="device")
        client = GrowthBook(attributes={"device": "d-1"}, features=FEATURES, on_feature_usage=hook.on_feature_usage)
        client.is_on("plain")
        client.destroy()
        (event,) = events_of(pipeline)
    assert (event.targeting_key, event.reason) == ("d-1", "DEFAULT")
