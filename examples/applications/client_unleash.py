"""Unleash: its own client, and the adapter that records each toggle that it evaluates."""

from flag_analytics import open_pipeline
from flag_analytics_sdks.unleash import instrument
from UnleashClient import UnleashClient
from UnleashClient.cache import FileCache

toggle = {"name": "checkout_redesign", "enabled": True, "strategies": [{"name": "default"}]}
cache = FileCache("shop", directory=".")
cache.bootstrap_from_dict({"version": 1, "features": [toggle]})

with open_pipeline() as pipeline:
    offline = {"cache": cache, "disable_metrics": True, "disable_registration": True}  # without a server, as here
    client = UnleashClient("http://127.0.0.1:4242/api", "shop", **offline)
    instrument(client, pipeline)
    client.initialize_client(fetch_toggles=False)
    for user in ("user-1", "user-2", "user-3"):
        client.is_enabled("checkout_redesign", {"userId": user})
    client.destroy()
