"""An application that evaluates through LaunchDarkly and through OpenFeature over it, both recorded, counts once."""

from __future__ import annotations

from flag_analytics import AnalyticsHook, open_pipeline
from flag_analytics_sdks.launchdarkly import AnalyticsHook as LaunchDarklyHook
from ld_openfeature import LaunchDarklyProvider
from ldclient import Context
from ldclient.config import Config
from ldclient.integrations.test_data import TestData
from openfeature import api
from openfeature.evaluation_context import EvaluationContext

CONFIG = {
    "collectors": {"memory": {}},
    "processors": [{"type": "only_providers", "provider_names": ["LaunchDarkly"]}],
}


async def test_launchdarkly_and_openfeature_over_it_count_once():
    flags = TestData.data_source()
    flags.update(flags.flag("dark_mode").variation_for_all(True))
    async with open_pipeline(CONFIG) as pipeline:
        hook = LaunchDarklyHook(pipeline)
        provider = LaunchDarklyProvider(Config("key", hooks=[hook], update_processor_class=flags, send_events=False))
        api.set_provider_and_wait(provider, domain="two-sdks")
        client = api.get_client("two-sdks")
        client.add_hooks([over := AnalyticsHook(pipeline)])
        try:
            assert client.get_boolean_value("dark_mode", False, EvaluationContext("user-1")) is True
            assert provider.client.variation("dark_mode", Context.create("user-2"), False) is True
        finally:
            api.clear_providers()
        events = await pipeline.collectors["memory"].get_events()
        refused = pipeline.stats().refused
    assert hook.failures == over.failures == {}
    assert sorted(event.targeting_key for event in events) == ["user-1", "user-2"]
    assert {event.provider_name for event in events} == {"LaunchDarkly"}
    assert refused == {"filtered": 1}
