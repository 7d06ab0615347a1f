"""The entry point: the exporter as a plugin of flag-analytics."""

from __future__ import annotations

from collections.abc import Sequence

from flag_analytics.hookspecs import hookimpl
from flag_analytics.protocols import Backend

from .options import OTelOptions
from .sink import OTelSink

__all__ = ["flag_analytics_register_exporters"]


@hookimpl
def flag_analytics_register_exporters() -> Sequence[Backend[OTelOptions]]:
    """Offer the OpenTelemetry exporter as ``[exporters.otel]``."""
    return [Backend("otel", options=OTelOptions, create=OTelSink)]
