"""The Unleash adapter with the real SDK, its toggles from a cache."""

from __future__ import annotations

import itertools
from contextlib import contextmanager

import pytest
from flag_analytics_sdks.unleash import instrument
from sdk_conformance import AdapterConformance, Client, Sdk, case
from UnleashClient import UnleashClient
from UnleashClient.cache import FileCache

TEAM = [{"contextName": "plan", "operator": "IN", "values": ["team"]}]
TOGGLES = [
    {"name": "hit", "enabled": True, "strategies": [{"name": "default", "constraints": TEAM}]},
    {"name": "off", "enabled": False, "strategies": [{"name": "default"}]},
    {
        "name": "split",
        "enabled": True,
        "strategies": [{"name": "default"}],
        "variants": [{"name": "blue", "weight": 1000, "payload": {"type": "string", "value": "#00f"}}],
    },
]
CASES = {
    "hit": case("hit", reason="UNKNOWN", value=True, error_type=None, context_attributes={"plan": "team"}),
    "miss": case("missing", reason="ERROR", error_type="FLAG_NOT_FOUND", value=False),
    "wrong type": case("hit", value=False, variant=None),  # a variant of a toggle that has none
    "disabled": case("off", reason="UNKNOWN", value=False),  # as one whose strategies do not match
    "split": case("split", reason="SPLIT", variant="blue", value="#00f"),
    "error": case("missing", reason="ERROR"),
}
_names = itertools.count()


def _fallback(name, context):
    raise ValueError("a fallback of the application's own")


@contextmanager
def open_client(pipeline, directory, **options):
    cache = FileCache(f"shop-{next(_names)}", directory=str(directory))
    cache.bootstrap_from_dict({"version": 1, "features": TOGGLES})
    client = UnleashClient(
        "http://127.0.0.1:9/api", f"shop-{next(_names)}", cache=cache, disable_metrics=True, disable_registration=True
    )
    client.initialize_client(fetch_toggles=False)
    adapter = None if pipeline is None else instrument(client, pipeline, **options)

    def evaluate(name, user):
        context = {"userId": user, "properties": {"plan": "team"}}
        if name in {"split", "wrong type"}:
            return client.get_variant(CASES[name].flag, context)
        try:
            return client.is_enabled(CASES[name].flag, context, _fallback if name == "error" else None)
        except ValueError as error:
            return str(error)

    try:
        yield Client(evaluate, lambda: adapter.failures if adapter else {})
    finally:
        client.destroy()


class TestUnleash(AdapterConformance):
    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path):
        self.sdk = Sdk(
            provider_name="Unleash",
            cases=CASES,
            open=lambda pipeline, **options: open_client(pipeline, tmp_path, **options),
        )
