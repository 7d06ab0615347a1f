"""OpenTelemetry for flag-analytics: spans, log records and metrics of feature-flag evaluations.

::

    exporter = OTelAnalyticsExporter(semconv="both")
    await exporter.record(event)
    await exporter.close()

``OTelHook`` observes evaluations as they happen, with OpenFeature or litestar-flags. Only ``opentelemetry-api`` is
needed; without an SDK events are dropped and counted.
"""

from __future__ import annotations

from .exporter import OTelAnalyticsExporter, create_exporter_from_hook
from .hook import OTelHook
from .options import OTelOptions
from .shaping import Telemetry
from .sink import OTelSink

__all__ = [
    "OTelAnalyticsExporter",
    "OTelHook",
    "OTelOptions",
    "OTelSink",
    "Telemetry",
    "create_exporter_from_hook",
]
