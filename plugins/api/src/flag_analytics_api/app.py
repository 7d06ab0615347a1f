"""``create_api``: the API as one ASGI application, to be mounted or served alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from importlib.metadata import version

import msgspec
from flag_analytics.config.plan import Plan
from flag_analytics.pipeline import Pipeline
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from .access import Access, Guard
from .answers import Panel
from .delivery import delivery_of, health, plugins
from .events import events
from .flags import flag, flags
from .headers import SafeHeaders
from .live import LiveHub
from .openapi import document
from .options import ApiOptions
from .outcomes import outcomes
from .parameters import NoQuery, read_query
from .problems import ProblemError, answer_problem, problem_response
from .series import series
from .service import JSON, Service

__all__ = ["create_api"]

Handler = Callable[[Service, Request], Awaitable[Response]]


def create_api(
    pipeline: Pipeline, options: ApiOptions, *, plan: Plan | None = None, panels: tuple[Panel, ...] = ()
) -> Starlette:
    """Return an ASGI application that answers questions about an open pipeline; it only reads.

    Args:
        pipeline: The pipeline; its opener closes it.
        options: Who may ask, what is shown, and the bounds.
        plan: The pipeline's configuration, to show its parts.
        panels: Further pictures of a dashboard.
    """
    service = Service(pipeline, options, plan, panels)
    hub = LiveHub(service)

    async def delivery(_: Service, request: Request) -> Response:
        read_query(NoQuery, request.query_params)
        return Response(msgspec.json.encode(delivery_of(service, hub.counts())), media_type=JSON)

    async def openapi(_: Service, request: Request) -> Response:
        body = document(version("flag-analytics-api"), request.scope.get("root_path", ""))
        return Response(msgspec.json.encode(body), media_type=JSON)

    handlers: dict[str, Handler] = {
        "/flags": flags,
        "/flags/{key}": flag,
        "/flags/{key}/series": series,
        "/flags/{key}/outcomes": outcomes,
        "/events": events,
        "/health": health,
        "/delivery": delivery,
        "/plugins": plugins,
        "/openapi.json": openapi,
    }
    routes = [Route(path, partial(handler, service), methods=["GET"]) for path, handler in handlers.items()]
    return Starlette(
        routes=[*routes, Route("/live", _LiveEndpoint(hub))],
        middleware=[Middleware(SafeHeaders), Middleware(Guard, access=Access(options))],
        exception_handlers={
            ProblemError: answer_problem,
            HTTPException: _answer_http,
            Exception: _answer_failure,
        },
    )


class _LiveEndpoint:
    """Serves the stream to GET, and nothing to other methods."""

    def __init__(self, hub: LiveHub) -> None:
        self._hub = hub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        if request.method != "GET":
            raise HTTPException(405, headers={"Allow": "GET"})
        read_query(NoQuery, request.query_params)
        await self._hub.serve(scope, receive, send)


async def _answer_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {404: "there is no such address here: /openapi.json lists all", 405: "this API is only read: use GET"}
    detail = words.get(error.status_code, error.detail)
    return problem_response(ProblemError(error.status_code, detail, headers=error.headers))


async def _answer_failure(_: Request, __: Exception) -> Response:
    # The error's words may quote an event; the server logs it.
    return problem_response(ProblemError(500, "the question could not be answered: the server's log says why"))
