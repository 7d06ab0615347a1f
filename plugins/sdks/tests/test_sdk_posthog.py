"""The PostHog adapter with the real SDK, its flags evaluated locally."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from flag_analytics import open_pipeline
from flag_analytics_sdks.posthog import AnalyticsHook
from posthog import Posthog
from sdk_conformance import AdapterConformance, Client, Sdk, case, events_of

pytestmark = pytest.mark.filterwarnings("ignore:`get_feature_flag` is deprecated:DeprecationWarning")


def _flag(key, *, active=True, percent=100, variants=(), properties=()):
    groups = [{"properties": list(properties), "rollout_percentage": percent}]
    return {
        "id": 1,
        "key": key,
        "active": active,
        "version": 7,
        "filters": {"groups": groups, "multivariate": {"variants": list(variants)}},
    }


PLAN = {"key": "plan", "value": "team", "operator": "exact", "type": "person"}
DEFINITIONS = [
    _flag("hit", properties=[PLAN]),
    _flag("switch"),
    _flag("off", active=False),
    _flag("split", variants=[{"key": "test", "rollout_percentage": 100}]),
    _flag("broken", properties=[{**PLAN, "operator": "no such operator"}]),
]


CASES = {
    "hit": case("hit", kind="exposure", reason="UNKNOWN", variant=None, context_attributes={"plan": "team"}),
    "miss": case("missing", reason="UNKNOWN", error_type=None),  # a local evaluation says no more than None
    "wrong type": case("switch"),  # the SDK compares no types
    "disabled": case("off", reason="UNKNOWN"),
    "split": case("split", variant="test"),
    "error": case("broken", error_type=None),  # as a miss
}


@contextmanager
def open_client(pipeline, **options):
    hook = None if pipeline is None else AnalyticsHook(pipeline, **options)
    client = Posthog("phc_key", host="http://127.0.0.1:9", before_send=hook, send=False, thread=0)
    client.feature_flags = DEFINITIONS
    client.super_properties = {"plan": "team"}

    def evaluate(name, user):
        flag, properties = CASES[name].flag, {"plan": "team"}
        return client.get_feature_flag(flag, user, person_properties=properties, only_evaluate_locally=True)

    # Without sending, it has no thread that would have to be stopped.
    yield Client(evaluate, lambda: hook.failures if hook else {})


SDK = Sdk(provider_name="PostHog", cases=CASES, open=open_client)


class TestPostHog(AdapterConformance):
    sdk = SDK


def _message(**properties):
    return {
        "event": "$feature_flag_called",
        "distinct_id": "user-1",
        "properties": {"$feature_flag": "f", "$feature_flag_response": None, "locally_evaluated": False, **properties},
    }


def _event(message):
    with open_pipeline({"collectors": {"memory": {}}}) as pipeline:
        hook = AnalyticsHook(pipeline)
        assert hook(message) is message
        assert hook.failures == {}
        (event,) = events_of(pipeline)
    return event


def test_a_flag_that_the_service_does_not_know_is_an_error():
    event = _event(_message(**{"$feature_flag_error": "flag_missing"}))
    assert (event.reason, event.error_type, event.error_message) == ("ERROR", "FLAG_NOT_FOUND", "flag_missing")


def test_a_service_that_cannot_be_reached_is_an_error():
    event = _event(_message(**{"$feature_flag_error": "timeout"}))
    assert (event.reason, event.error_type) == ("ERROR", "GENERAL")


def test_errors_of_other_flags_are_none_of_one_with_a_value():
    event = _event(_message(**{"$feature_flag_error": "errors_while_computing_flags", "$feature_flag_response": True}))
    assert (event.value, event.reason, event.error_type) == (True, "UNKNOWN", None)


def test_reason_and_version_come_from_the_service():
    properties = {"$feature_flag_response": "t", "$feature_flag_reason_code": "experiment_split"}
    event = _event(_message(**properties, **{"$feature_flag_version": 7, "plan": "team"}))
    assert (event.reason, event.variant, event.flag_version) == ("SPLIT", "t", "7")
    assert event.context_attributes == {"plan": "team"}


def test_other_messages_pass_unrecorded():
    message = {"event": "purchase", "distinct_id": "user-1", "properties": {}}
    with open_pipeline({"collectors": {"memory": {}}}) as pipeline:
        assert AnalyticsHook(pipeline)(message) is message
        assert events_of(pipeline) == []


def test_an_exposure_is_recorded_once_for_each_user_and_value():
    with open_pipeline({"collectors": {"memory": {}}}) as pipeline:
        with open_client(pipeline) as client:
            answers = {client.evaluate("split", user) for user in ("user-1", "user-1", "user-2")}
        events = events_of(pipeline)
    assert answers == {"test"}
    assert sorted(event.targeting_key for event in events) == ["user-1", "user-2"]
