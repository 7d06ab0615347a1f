"""The entry point: the exporter as a plugin of flag-analytics."""

from __future__ import annotations

from collections.abc import Sequence

from flag_analytics.hookspecs import hookimpl
from flag_analytics.protocols import Backend

from .options import WebhookOptions
from .sink import WebhookSink

__all__ = ["flag_analytics_register_exporters"]


@hookimpl
def flag_analytics_register_exporters() -> Sequence[Backend[WebhookOptions]]:
    """Offer the webhook exporter as ``[exporters.webhook]``."""
    return [Backend("webhook", options=WebhookOptions, create=WebhookSink)]
