"""The Flagsmith adapter with the real SDK in its offline mode."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest
from flag_analytics_sdks.flagsmith import instrument
from flagsmith import Flagsmith
from flagsmith.exceptions import FlagsmithFeatureDoesNotExistError
from flagsmith.offline_handlers import LocalFileHandler
from sdk_conformance import AdapterConformance, Client, Sdk, case


def _state(number, name, value, *, enabled=True, variants=()):
    return {
        "feature": {"id": number, "name": name, "type": "MULTIVARIATE" if variants else "STANDARD"},
        "enabled": enabled,
        "django_id": number,
        "featurestate_uuid": f"00000000-0000-4000-8000-{number:012}",
        "feature_state_value": value,
        "multivariate_feature_state_values": [
            {
                "id": number * 10,
                "multivariate_feature_option": {"id": number * 10, "value": variant},
                "percentage_allocation": 100.0,
                "mv_fs_value_uuid": f"00000000-0000-4000-9000-{number:012}",
            }
            for variant in variants
        ],
    }


DOCUMENT = {
    "id": 1,
    "api_key": "environment-key",
    "name": "test",
    "updated_at": "2026-01-01T00:00:00+00:00",
    "amplitude_config": None,
    "segment_config": None,
    "mixpanel_config": None,
    "heap_config": None,
    "project": {
        "id": 1,
        "name": "shop",
        "organisation": {
            "id": 1,
            "name": "acme",
            "feature_analytics": False,
            "stop_serving_flags": False,
            "persist_trait_data": True,
        },
        "hide_disabled_flags": False,
        "enable_realtime_updates": False,
        "server_key_only_feature_ids": [],
        "segments": [
            {
                "id": 1,
                "name": "team",
                "rules": [
                    {
                        "type": "ALL",
                        "rules": [],
                        "conditions": [{"operator": "EQUAL", "property_": "plan", "value": "team"}],
                    }
                ],
                "feature_states": [_state(1, "hit", "blue")],
            }
        ],
    },
    "feature_states": [
        _state(1, "hit", "red"),
        _state(2, "off", None, enabled=False),
        _state(3, "split", "red", variants=["blue"]),
    ],
    "identity_overrides": [],
}
CASES = {
    "hit": case("hit", value="blue", error_type=None, context_attributes={"plan": "team"}),
    "miss": case("missing", reason="ERROR", error_type="FLAG_NOT_FOUND", value=None),
    "wrong type": case("hit", value="blue"),  # asked whether it is enabled
    "disabled": case("off", reason="DISABLED", value=False),
    "split": case("split", value="blue"),
    "error": case("missing", reason="ERROR", value=None),  # the SDK raises it
}


@contextmanager
def open_client(pipeline, path, **options):
    path.write_text(json.dumps(DOCUMENT), "utf-8")
    client = Flagsmith(offline_mode=True, offline_handler=LocalFileHandler(str(path)))
    adapter = None if pipeline is None else instrument(client, pipeline, **options)

    def evaluate(name, user):
        flags = client.get_identity_flags(user, {"plan": "team"})
        try:
            if name in {"wrong type", "disabled"}:
                return flags.is_feature_enabled(CASES[name].flag)
            return flags.get_feature_value(CASES[name].flag)
        except FlagsmithFeatureDoesNotExistError as error:
            return str(error)

    yield Client(evaluate, lambda: adapter.failures if adapter else {})


class TestFlagsmith(AdapterConformance):
    @pytest.fixture(autouse=True)
    def _document(self, tmp_path):
        path = tmp_path / "environment.json"
        self.sdk = Sdk(
            provider_name="Flagsmith",
            cases=CASES,
            open=lambda pipeline, **options: open_client(pipeline, path, **options),
        )
