"""The ConfigCat adapter with the real SDK, its configuration from a cache."""

from __future__ import annotations

import itertools
import json
from contextlib import contextmanager

from configcatclient import ConfigCatClient
from configcatclient.configcatoptions import ConfigCatOptions, Hooks
from configcatclient.interfaces import ConfigCache
from configcatclient.pollingmode import PollingMode
from configcatclient.user import User
from flag_analytics import open_pipeline
from flag_analytics_sdks.configcat import AnalyticsHook
from sdk_conformance import AdapterConformance, Client, Sdk, case, events_of

BLUE = {"v": {"s": "blue"}, "i": "blue-id"}
RED = {"v": {"s": "red"}, "i": "red-id"}
CONFIG = {
    "p": {"u": "http://127.0.0.1:9", "r": 0, "s": "salt"},
    "f": {
        "hit": {"t": 1, "r": [{"c": [{"u": {"a": "plan", "c": 0, "l": ["team"]}}], "s": BLUE}], **RED},
        "off": {"t": 0, "v": {"b": False}, "i": "off-id"},
        "split": {"t": 1, "p": [{"p": 0, **RED}, {"p": 100, **BLUE}], **RED},
        "broken": {"t": 1, "r": [{"c": [{"p": {"f": "broken", "c": 0, "v": {"s": "x"}}}], "s": BLUE}], **RED},
    },
}


class Cached(ConfigCache):
    def get(self, key):
        return f"{2_000_000_000_000}\netag\n{json.dumps(CONFIG)}"

    def set(self, key, value):
        pass


CASES = {
    "hit": case("hit", reason="TARGETING_MATCH", variant="blue-id", context_attributes={"plan": "team"}),
    "miss": case("missing", reason="ERROR", error_type="FLAG_NOT_FOUND", variant=None),
    "wrong type": case("hit", reason="TARGETING_MATCH"),  # the SDK warns, and answers what it has
    "disabled": case("off", reason="DEFAULT", variant="off-id"),  # a flag is a setting that is False
    "split": case("split", reason="SPLIT", variant="blue-id"),
    "error": case("broken", reason="ERROR", error_type="GENERAL"),
}
_keys = itertools.count()


def _key():
    """Return a key that was not used before: the SDK keeps one client for each."""
    return f"configcat-sdk-1/{next(_keys):022}/{'0' * 22}"


def _options(hook):
    hooks = Hooks(on_flag_evaluated=hook) if hook else None
    mode = PollingMode.manual_poll()
    return ConfigCatOptions(polling_mode=mode, config_cache=Cached(), hooks=hooks, offline=True)


@contextmanager
def open_client(pipeline, **options):
    hook = None if pipeline is None else AnalyticsHook(pipeline, **options)
    client = ConfigCatClient.get(_key(), _options(hook))

    def evaluate(name, user):
        default = 1 if name == "wrong type" else "fallback"
        return client.get_value(CASES[name].flag, default, User(user, custom={"plan": "team"}))

    try:
        yield Client(evaluate, lambda: hook.failures if hook else {})
    finally:
        client.close()


SDK = Sdk(provider_name="ConfigCat", cases=CASES, open=open_client)


class TestConfigCat(AdapterConformance):
    sdk = SDK


def _event(user, **options):
    with open_pipeline({"collectors": {"memory": {}}}) as pipeline:
        hook = AnalyticsHook(pipeline, **options)
        client = ConfigCatClient.get(_key(), _options(hook))
        client.get_value("hit", "fallback", user)
        client.close()
        assert hook.failures == {}
        (event,) = events_of(pipeline)
    return event


def test_an_evaluation_without_a_user_has_none():
    event = _event(None)
    assert (event.targeting_key, event.context_attributes, event.reason) == (None, {}, "DEFAULT")


def test_all_attributes_of_the_user_are_recorded():
    event = _event(User("user-1", email="a@example.com", country="AT", custom={"plan": "team"}))
    assert event.context_attributes == {"Email": "a@example.com", "Country": "AT", "plan": "team"}


def test_the_named_attributes_are_recorded():
    event = _event(User("user-1", email="a@example.com", country="AT"), context_attributes=["Country", "plan"])
    assert event.context_attributes == {"Country": "AT"}
