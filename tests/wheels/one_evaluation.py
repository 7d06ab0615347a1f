"""One evaluation by the OpenFeature SDK, through the hook, into the memory collector."""

from flag_analytics import open_pipeline
from flag_analytics_openfeature import AnalyticsHook
from openfeature import api
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider

api.set_provider(InMemoryProvider({"dark_mode": InMemoryFlag("on", {"on": True, "off": False})}))
with open_pipeline({"collectors": {"memory": {}}}) as pipeline:
    api.add_hooks([AnalyticsHook(pipeline)])
    assert api.get_client().get_boolean_value("dark_mode", False) is True
    assert pipeline.stats().accepted == 1
