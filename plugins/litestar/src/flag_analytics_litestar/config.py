"""``FlagAnalyticsConfig``: where the pipeline comes from, and what of it the application shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from flag_analytics.config.plan import Plan
from flag_analytics.pipeline import Pipeline
from flag_analytics_api import ApiOptions, RequestAttributes
from litestar.types import Guard

__all__ = ["FlagAnalyticsConfig"]


@attrs.frozen
class FlagAnalyticsConfig:
    """The settings of ``FlagAnalyticsPlugin``.

    Attributes:
        source: A configuration: a mapping, the path of a TOML file, a ``Plan``, None for what ``open_pipeline`` finds
            by itself; or an open ``Pipeline``, which the application then leaves open.
        close_timeout: How long events that wait are delivered when the application ends, in seconds; by default the
            configuration's ``delivery.close_timeout_seconds``.
        pipeline_dependency_key: The name under which handlers get the ``Pipeline``.
        aggregator_dependency_key: The name under which handlers get its ``AnalyticsAggregator``.
        metrics_path: Where the metrics of the pipeline's Prometheus exporter are shown, if it has one; None is nowhere.
        api_path: Where the JSON API is mounted; None is nowhere.
        dashboard_path: Where the page is mounted, with the API below it under ``/api/v1``; None is nowhere.
        access: Who may see API and page, and their bounds. Without it, ``guards`` decide; in debug without them, this
            machine alone may.
        guards: Litestar's guards of metrics, API and page.
        opt: Litestar's ``opt`` of their handlers.
        include_in_schema: Whether the metrics are part of the application's OpenAPI schema.
        request_attributes: Add route, environment, release and id of the request to events; None leaves it out.
        environment: The environment that the application runs in, for these attributes.
        release: Its version.
        litestar_flags: Record the evaluations of litestar-flags' plugin, and let its admin API answer.
        most_admin_events: The most events that one question of that admin API looks at, the newest.
    """

    source: Mapping[str, Any] | Path | str | Plan | Pipeline | None = attrs.field(default=None, repr=False)
    close_timeout: float | None = attrs.field(default=None, kw_only=True)
    pipeline_dependency_key: str = attrs.field(default="flag_analytics_pipeline", kw_only=True)
    aggregator_dependency_key: str = attrs.field(default="flag_analytics_aggregator", kw_only=True)
    metrics_path: str | None = attrs.field(default="/metrics", kw_only=True)
    api_path: str | None = attrs.field(default=None, kw_only=True)
    dashboard_path: str | None = attrs.field(default=None, kw_only=True)
    access: ApiOptions | None = attrs.field(default=None, kw_only=True)
    guards: Sequence[Guard] = attrs.field(default=(), kw_only=True)
    opt: Mapping[str, Any] = attrs.field(factory=dict[str, Any], kw_only=True)
    include_in_schema: bool = attrs.field(default=False, kw_only=True)
    request_attributes: RequestAttributes | None = attrs.field(factory=RequestAttributes, kw_only=True)
    environment: str | None = attrs.field(default=None, kw_only=True)
    release: str | None = attrs.field(default=None, kw_only=True)
    litestar_flags: bool = attrs.field(default=True, kw_only=True)
    most_admin_events: int = attrs.field(default=100_000, kw_only=True, validator=attrs.validators.ge(1))
