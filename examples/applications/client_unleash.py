"""Unleash: its own client calls back for each evaluation of a toggle with impression data."""

from flag_analytics import FlagEvaluationEvent, open_pipeline
from UnleashClient import UnleashClient
from UnleashClient.cache import FileCache
from UnleashClient.events import BaseEvent, UnleashEvent

toggle = {"name": "checkout_redesign", "enabled": True, "impressionData": True, "strategies": [{"name": "default"}]}
cache = FileCache("shop", directory=".")
cache.bootstrap_from_dict({"version": 1, "features": [toggle]})

with open_pipeline() as pipeline:

    def record(event: BaseEvent) -> None:
        if isinstance(event, UnleashEvent):
            pipeline.record_nowait(
                FlagEvaluationEvent.now(
                    event.feature_name,
                    event.enabled,
                    "UNKNOWN",
                    event.variant or None,
                    event.context.get("userId"),
                    event.context.get("properties"),
                    provider_name="unleash",
                )
            )

    offline = {"cache": cache, "disable_metrics": True, "disable_registration": True}  # without a server, as here
    client = UnleashClient("http://127.0.0.1:4242/api", "shop", event_callback=record, **offline)
    client.initialize_client(fetch_toggles=False)
    for user in ("user-1", "user-2", "user-3"):
        client.is_enabled("checkout_redesign", {"userId": user})
    client.destroy()
