"""ASGI applications over a pipeline that opens later, as handlers of Litestar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flag_analytics.errors import ConfigError, PluginNotInstalledError, SourceError
from flag_analytics.pipeline import Pipeline
from flag_analytics_api import ApiOptions, create_api
from litestar.handlers import ASGIRouteHandler
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp, Receive, Scope, Send

from .config import FlagAnalyticsConfig

__all__ = ["access_of", "api_mount", "dashboard_mount", "metrics_mount"]


class Late:
    """An ASGI application that is made of the pipeline when the first request comes.

    Args:
        opened: Returns the pipeline; None while it is not open.
        make: Makes the application.
        path: Where it is mounted.
    """

    def __init__(self, opened: Callable[[], Pipeline | None], make: Callable[[Pipeline], Any], path: str) -> None:
        self._opened = opened
        self._make = make
        self._path = path.rstrip("/")
        self._made: tuple[Pipeline, Any] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pipeline = self._opened()
        if pipeline is None:
            await ASGIResponse(status_code=503, body=b"the application has not started")(scope, receive, send)
            return
        if self._made is None or self._made[0] is not pipeline:
            self._made = (pipeline, self._make(pipeline))
        root = scope.get("root_path", "").rstrip("/") + self._path
        # Litestar leaves the path of the mount out of the path, unless it is all of it, ends the rest with a slash, and
        # does not add the mount to the root.
        below = "" if scope["path"] == self._path else scope["path"].strip("/")
        inner = {**scope, "root_path": root, "path": f"{root}/{below}"}
        await self._made[1](inner, receive, send)


def api_mount(config: FlagAnalyticsConfig, opened: Callable[[], Pipeline | None], options: ApiOptions) -> Any:
    """Return the handler of the API."""
    assert config.api_path is not None
    late = Late(opened, lambda pipeline: create_api(pipeline, options), config.api_path)
    return _handler(config, late, config.api_path)


def dashboard_mount(config: FlagAnalyticsConfig, opened: Callable[[], Pipeline | None], options: ApiOptions) -> Any:
    """Return the handler of the page.

    Raises:
        PluginNotInstalledError: the page is not installed.
    """
    assert config.dashboard_path is not None
    try:
        from flag_analytics_dashboard import create_dashboard
    except ModuleNotFoundError as error:
        raise PluginNotInstalledError(
            f"dashboard_path needs {error.name}, which is not installed: "
            "run `pip install 'flag-analytics-litestar[dashboard]'`"
        ) from None
    late = Late(opened, lambda pipeline: create_dashboard(pipeline, options), config.dashboard_path)
    return _handler(config, late, config.dashboard_path)


def metrics_mount(config: FlagAnalyticsConfig, opened: Callable[[], Pipeline | None]) -> Any:
    """Return the handler of the metrics: it answers as prometheus_client's own, 404 without an exporter."""
    assert config.metrics_path is not None
    return _handler(config, Late(opened, _metrics_of, config.metrics_path), config.metrics_path)


def access_of(config: FlagAnalyticsConfig, *, debug: bool) -> ApiOptions:
    """Return who may see API and page.

    Raises:
        ConfigError: anyone could.
    """
    if config.access is not None:
        return config.access
    if config.guards:
        return ApiOptions(guarded=True)
    if debug:
        return ApiOptions(loopback=True)
    try:
        return ApiOptions()
    except ConfigError as error:
        raise ConfigError(error.problems, "FlagAnalyticsConfig.access") from None


def _handler(config: FlagAnalyticsConfig, app: ASGIApp, path: str) -> ASGIRouteHandler:
    handler = ASGIRouteHandler(path, is_mount=True, copy_scope=True, guards=list(config.guards), opt=dict(config.opt))

    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    return handler(mounted)


def _metrics_of(pipeline: Pipeline) -> Any:
    from flag_analytics_prometheus import asgi_app

    for exporter in pipeline.exporters.values():
        if callable(getattr(exporter, "scrape_registry", None)):
            return asgi_app(exporter)
    raise SourceError("metrics_path is set, and the pipeline has no exporter of metrics: add [exporters.prometheus]")
