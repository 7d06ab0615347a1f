"""Attributes of the request on every event that is recorded while it is answered: middleware, and a processor.

The middleware only remembers the request in a context variable. The processor adds attributes to events, so that
recording costs nothing more where it is not configured. An attribute that an event has already stays as it is.
"""

from __future__ import annotations

import re
import sys
import uuid
from collections.abc import Callable, Iterable, MutableMapping
from contextvars import ContextVar
from typing import Any

import attrs
from flag_analytics.config.plan import Plan, PlannedProcessor
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.protocols import Processor, ProcessorFactory

__all__ = [
    "REQUEST_ATTRIBUTES",
    "AsgiRequests",
    "RequestAttributes",
    "WsgiRequests",
    "add_request_attributes",
    "with_request_attributes",
]

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_MOST_ROUTE_CHARS = 256

AsgiApp = Callable[[MutableMapping[str, Any], Callable[[], Any], Callable[[Any], Any]], Any]
WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@attrs.frozen(kw_only=True)
class RequestAttributes:
    """The attributes that events get, by their names; None leaves one out.

    Attributes:
        route: The name of the route's template, such as ``/orders/{id}``; never the path itself.
        environment: The name of the environment.
        release: The name of the release.
        request_id: The name of the request's id.
    """

    route: str | None = "http.route"
    environment: str | None = "environment"
    release: str | None = "release"
    request_id: str | None = "request_id"


class _Request:
    """The request that is answered now. Nothing is looked up before an event asks for it: most requests record none."""

    __slots__ = ("_find", "_id", "_route", "_where", "environment", "release")

    def __init__(
        self,
        find: Callable[[Any], tuple[str | None, str | None]],
        where: Any,
        environment: str | None,
        release: str | None,
    ) -> None:
        self._find = find
        self._where = where
        self.environment = environment
        self.release = release
        self._route: str | None = None
        self._id: str | None = None

    def route_and_id(self) -> tuple[str | None, str]:
        """Return the template of the route, which is known once the framework has found it, and the request's id."""
        if self._id is None or self._route is None:
            route, given = self._find(self._where)
            self._route = route[:_MOST_ROUTE_CHARS] if isinstance(route, str) else None
            if self._id is None:
                self._id = given if given and _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        return self._route, self._id


_current: ContextVar[_Request | None] = ContextVar("flag_analytics_request", default=None)


class AsgiRequests:
    """ASGI middleware: remembers each HTTP and WebSocket request while the application answers it.

    Args:
        app: The application.
        environment: The environment it runs in, such as ``production``.
        release: Its version.
    """

    def __init__(self, app: AsgiApp, *, environment: str | None = None, release: str | None = None) -> None:
        self._app = app
        self._environment = environment
        self._release = release

    async def __call__(
        self, scope: MutableMapping[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]
    ) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        token = _current.set(_Request(_of_asgi, scope, self._environment, self._release))
        try:
            await self._app(scope, receive, send)
        finally:
            _current.reset(token)


class WsgiRequests:
    """WSGI middleware: the same for Flask and Django, until the application has returned its response.

    Args:
        app: The application.
        environment: The environment it runs in, such as ``production``.
        release: Its version.
    """

    def __init__(self, app: WsgiApp, *, environment: str | None = None, release: str | None = None) -> None:
        self._app = app
        self._environment = environment
        self._release = release

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        token = _current.set(_Request(_of_wsgi, environ, self._environment, self._release))
        try:
            return self._app(environ, start_response)
        finally:
            _current.reset(token)


def _of_asgi(scope: MutableMapping[str, Any]) -> tuple[str | None, str | None]:
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"").decode("latin-1")
    try:
        return _asgi_route(scope), given
    except Exception:  # a framework's own resolver: an event without a route is better than none
        return None, given


def _of_wsgi(environ: dict[str, Any]) -> tuple[str | None, str | None]:
    given = environ.get("HTTP_X_REQUEST_ID")
    try:
        return _wsgi_route(environ), given
    except Exception:
        return None, given


def _asgi_route(scope: MutableMapping[str, Any]) -> str | None:
    template = scope.get("path_template")  # Litestar
    if isinstance(template, str):
        return template
    route = scope.get("route")  # Starlette, FastAPI; one without an endpoint is a mount, of Django perhaps
    if not hasattr(route, "endpoint"):
        route = _route_to(scope.get("router"), scope.get("endpoint"))
    path = getattr(route, "path", None)
    return path if isinstance(path, str) else _django_route(scope.get("path", ""))


def _route_to(router: Any, endpoint: Any) -> Any:
    """Return the route that leads to an endpoint; older releases of Starlette do not say which it is."""
    for route in getattr(router, "routes", None) or () if endpoint is not None else ():
        found = route if getattr(route, "endpoint", None) is endpoint else _route_to(route, endpoint)
        if found is not None:
            return found
    return None


def _wsgi_route(environ: dict[str, Any]) -> str | None:
    rule = getattr(getattr(environ.get("werkzeug.request"), "url_rule", None), "rule", None)  # Flask
    return rule if isinstance(rule, str) else _django_route(environ.get("PATH_INFO", ""))


def _django_route(path: str) -> str | None:
    urls = sys.modules.get("django.urls")
    if urls is None:
        return None
    route: str = urls.resolve(path).route
    return f"/{route.lstrip('/')}"


def add_request_attributes(options: RequestAttributes) -> Processor:
    """Return a processor that adds the attributes of the current request, if there is one."""

    def add(event: FlagEvaluationEvent) -> FlagEvaluationEvent:
        request = _current.get()
        if request is None:
            return event
        route, request_id = request.route_and_id()
        found = {
            options.environment: request.environment,
            options.release: request.release,
            options.request_id: request_id,
            options.route: route,
        }
        added = {name: value for name, value in found.items() if name is not None and value is not None}
        return event.replace(context_attributes={**added, **event.context_attributes})

    return add


REQUEST_ATTRIBUTES = ProcessorFactory("request_attributes", RequestAttributes, add_request_attributes)
"""The processor, as configuration finds it: ``type = "request_attributes"`` with ``plugins = ["api"]``."""


def with_request_attributes(plan: Plan, options: RequestAttributes | None = None) -> Plan:
    """Return a plan whose pipeline adds the attributes of requests, before any other processor sees an event."""
    if any(processor.backend is REQUEST_ATTRIBUTES for processor in plan.processors):
        return plan
    planned = PlannedProcessor(
        REQUEST_ATTRIBUTES.name, REQUEST_ATTRIBUTES, options or RequestAttributes(), plugin="flag-analytics-api"
    )
    return attrs.evolve(plan, processors=(planned, *plan.processors))
