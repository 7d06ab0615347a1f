"""``FlagAnalyticsPlugin``: opens the pipeline with the application, and closes it when the application ends."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flag_analytics.aggregator import AnalyticsAggregator
from flag_analytics.config.plan import Plan
from flag_analytics.config.reading import read_config
from flag_analytics.pipeline import Pipeline, open_pipeline
from flag_analytics_api import AsgiRequests, with_request_attributes
from litestar.di import Provide
from litestar.middleware import DefineMiddleware
from litestar.plugins import CLIPlugin, InitPlugin

from .commands import add_commands
from .config import FlagAnalyticsConfig
from .mounts import access_of, api_mount, dashboard_mount, metrics_mount

if TYPE_CHECKING:
    from click import Group
    from litestar import Litestar
    from litestar.config.app import AppConfig

__all__ = ["FlagAnalyticsPlugin"]


class FlagAnalyticsPlugin(InitPlugin, CLIPlugin):
    """Gives an application a pipeline, by dependency, and shows what is in it.

    Handlers get it as ``flag_analytics_pipeline: NamedDependency[Pipeline]``, and its aggregator as
    ``flag_analytics_aggregator: NamedDependency[AnalyticsAggregator]``.

    Args:
        config: See ``FlagAnalyticsConfig``.

    Raises:
        ConfigError: the configuration is wrong, or anyone could see API and page.
    """

    def __init__(self, config: FlagAnalyticsConfig | None = None) -> None:
        self._config = config or FlagAnalyticsConfig()
        self._pipeline: Pipeline | None = None

    @property
    def config(self) -> FlagAnalyticsConfig:
        """The settings."""
        return self._config

    @property
    def pipeline(self) -> Pipeline | None:
        """The pipeline, while the application runs."""
        return self._pipeline

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Add dependencies, handlers, middleware and the pipeline's life to the application."""
        config = self._config
        app_config.dependencies[config.pipeline_dependency_key] = Provide(self._open, sync_to_thread=False)
        app_config.dependencies[config.aggregator_dependency_key] = Provide(self._aggregator, sync_to_thread=False)
        app_config.lifespan.insert(0, self._lifespan)
        if config.request_attributes is not None:
            app_config.middleware.insert(
                0, DefineMiddleware(_requests, environment=config.environment, release=config.release)
            )
        app_config.route_handlers.extend(self._handlers(debug=app_config.debug))
        return app_config

    def on_cli_init(self, cli: Group) -> None:
        """Add ``litestar flag-analytics …``: the commands of flag-analytics-cli."""
        add_commands(cli, self._config)

    def _handlers(self, *, debug: bool) -> list[Any]:
        config, handlers = self._config, []
        if config.metrics_path is not None and self._exports_metrics():
            handlers.append(metrics_mount(config, lambda: self._pipeline))
        if config.api_path is not None:
            handlers.append(api_mount(config, lambda: self._pipeline, access_of(config, debug=debug)))
        if config.dashboard_path is not None:
            handlers.append(dashboard_mount(config, lambda: self._pipeline, access_of(config, debug=debug)))
        return handlers

    def _exports_metrics(self) -> bool:
        """Return whether the pipeline has a Prometheus exporter."""
        source = self._config.source
        if isinstance(source, Pipeline):
            return any(callable(getattr(one, "scrape_registry", None)) for one in source.exporters.values())
        return any(sink.name.partition("/")[0] == "prometheus" for sink in self._plan().sinks)

    def _plan(self) -> Plan:
        source = self._config.source
        assert not isinstance(source, Pipeline)
        plan = source if isinstance(source, Plan) else read_config(_as_path(source))
        attributes = self._config.request_attributes
        return plan if attributes is None else with_request_attributes(plan, attributes)

    @asynccontextmanager
    async def _lifespan(self, app: Litestar) -> AsyncIterator[None]:
        source = self._config.source
        self._pipeline = source if isinstance(source, Pipeline) else open_pipeline(self._plan())
        app.state.flag_analytics_pipeline = self._pipeline
        try:
            if self._config.litestar_flags:
                self._join_litestar_flags(app, self._pipeline)
            yield
        finally:
            pipeline, self._pipeline = self._pipeline, None
            if not isinstance(source, Pipeline):
                await pipeline.close(self._config.close_timeout)

    def _join_litestar_flags(self, app: Litestar, pipeline: Pipeline) -> None:
        """Let litestar-flags record into the pipeline once its own plugin has started, whichever comes first."""
        from .flags import FlagsBridge, flags_plugin

        if flags_plugin(app) is None:
            return

        # Hooks for the start run after all of the lifespan has begun, in their order.
        async def join(app: Litestar) -> None:
            app.on_startup.remove(join)
            FlagsBridge(pipeline, self._config.most_admin_events).join(app)

        app.on_startup.append(join)

    def _open(self) -> Pipeline:
        if self._pipeline is None:
            raise RuntimeError(
                "the pipeline is not open: it opens with the application's lifespan, which has not begun; with a test "
                "client, use `with TestClient(app)`"
            )
        return self._pipeline

    def _aggregator(self) -> AnalyticsAggregator:
        return self._open().aggregator


def _requests(app: Any, **fields: Any) -> Any:
    return AsgiRequests(app, **fields)


def _as_path(source: Any) -> Any:
    return Path(os.fspath(source)) if isinstance(source, str | Path) else source
