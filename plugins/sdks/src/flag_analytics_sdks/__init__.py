"""Vendors' flag SDKs for flag-analytics: one module for each, so that only the SDK in use is imported.

::

    from flag_analytics_sdks.launchdarkly import AnalyticsHook

    ldclient.set_config(Config(sdk_key, hooks=[AnalyticsHook(pipeline)]))
"""

from __future__ import annotations

from .adapter import Adapter

__all__ = ["Adapter"]
