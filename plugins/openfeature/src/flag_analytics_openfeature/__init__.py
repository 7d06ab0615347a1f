"""OpenFeature for flag-analytics: one hook turns the evaluations of any provider into events.

::

    async with open_pipeline(config) as pipeline:
        openfeature.api.add_hooks([AnalyticsHook(pipeline)])
"""

from __future__ import annotations

from .hook import AnalyticsHook
from .tracking import with_outcomes

__all__ = ["AnalyticsHook", "with_outcomes"]
