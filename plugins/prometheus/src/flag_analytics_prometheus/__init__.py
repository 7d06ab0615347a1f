"""The Prometheus exporter of flag-analytics."""

from __future__ import annotations

from .exporter import PrometheusExporter
from .exposition import MetricsConflictError
from .labels import LabelCaps
from .series import DEFAULT_DURATION_BUCKETS
from .serving import MetricsServer, asgi_app, metrics_registry, serve, wsgi_app

__all__ = [
    "DEFAULT_DURATION_BUCKETS",
    "LabelCaps",
    "MetricsConflictError",
    "MetricsServer",
    "PrometheusExporter",
    "asgi_app",
    "metrics_registry",
    "serve",
    "wsgi_app",
]
