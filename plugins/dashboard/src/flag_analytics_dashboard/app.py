"""``create_dashboard``: the page and the API below it as one ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any

from flag_analytics.config.plan import Plan
from flag_analytics.pipeline import Pipeline
from flag_analytics_api import Access, ApiOptions, Panel, SafeHeaders, create_api
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from .assets import serve_asset
from .pages import PAGES, render
from .panels import DashboardPanel, panels_of
from .sessions import Sessions

__all__ = ["create_dashboard"]

API_PATH = "/api/v1"
_PANEL_SECONDS = 10.0
_MOST_POINTS = 500
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors {}"
)


def create_dashboard(
    pipeline: Pipeline,
    options: ApiOptions,
    *,
    plan: Plan | None = None,
    panels: Sequence[DashboardPanel] = (),
    embed_in: Sequence[str] = (),
    title: str = "flag-analytics",
) -> Starlette:
    """Return an ASGI application that shows an open pipeline: the page, and the API under ``/api/v1``.

    Args:
        pipeline: The pipeline; it stays open when the application ends.
        options: Who may see it, what is shown, and the bounds.
        plan: The pipeline's configuration, to show its parts.
        panels: Further pictures of the overview, beside those of the pipeline's backends; see ``panel``.
        embed_in: Origins whose pages may show this one in a frame; none by default.
        title: The name in the page's head.
    """
    access = Access(options)
    sessions = Sessions(access)
    shown: dict[str, Any] = {"brand": title, "has_token": access.has_token}
    pages = [
        Route("/" if name == "overview" else f"/{name}", partial(_page, name, shown), methods=["GET"]) for name in PAGES
    ]
    login = [
        Route("/login", sessions.form, methods=["GET"]),
        Route("/login", sessions.log_in, methods=["POST"]),
        Route("/logout", sessions.log_out, methods=["POST"]),
    ]
    shown_panels = panels_of(pipeline, panels)
    told = tuple(
        Panel(one.title, one.question if isinstance(one.question, str) else f"panels/{number}", one.chart)
        for number, one in enumerate(shown_panels)
    )
    frames = " ".join(embed_in) or "'none'"
    return Starlette(
        routes=[
            *pages,
            *(login if access.has_token else ()),
            Route("/static/{version}/{name:path}", serve_asset, methods=["GET"]),
            Route("/panels/{number:int}", partial(_answer_panel, pipeline, shown_panels), methods=["GET"]),
            Mount(API_PATH, create_api(pipeline, options, plan=plan, panels=told)),
        ],
        middleware=[Middleware(SafeHeaders, policy=_POLICY.format(frames)), Middleware(_Door, access=access)],
        exception_handlers={HTTPException: partial(_failed, shown)},
    )


async def _page(name: str, shown: dict[str, Any], request: Request) -> Response:
    return render(request, "page.html", page=name, title=PAGES[name], api=API_PATH, **shown)


async def _answer_panel(pipeline: Pipeline, panels: Sequence[DashboardPanel], request: Request) -> Response:
    number = request.path_params["number"]
    question = panels[number].question if number < len(panels) else ""
    if isinstance(question, str):
        raise HTTPException(404)
    try:
        async with asyncio.timeout(_PANEL_SECONDS):
            points = [{"name": _named(name), "value": value} for name, value in await question(pipeline)]
    except Exception as error:
        # The class alone: the words of a backend's error may quote anything.
        return JSONResponse({"error": type(error).__name__}, 502)
    return JSONResponse({"points": points[:_MOST_POINTS]})


def _named(name: str | datetime) -> str:
    return name.isoformat() if isinstance(name, datetime) else str(name)


async def _failed(shown: dict[str, Any], request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return render(request, "error.html", error.status_code, title=error.detail, reason=None, page="", **shown)


class _Door:
    """ASGI middleware: pages only for those who may see them; others are shown the login form.

    The API below has its own guard, which answers with a problem.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", "").rstrip("/"))
        refusal = None if path.startswith(f"{API_PATH}/") else self._access.refusal(HTTPConnection(scope))
        if refusal is None or (refusal.status == 401 and path.startswith(("/static/", "/login"))):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        answer: Response
        if refusal.status == 401:
            answer = RedirectResponse(f"{scope.get('root_path', '').rstrip('/')}/login", 303)
        else:
            answer = render(
                request,
                "error.html",
                refusal.status,
                title="Not for this client",
                reason=refusal.detail,
                page="",
                brand="flag-analytics",
                has_token=False,
            )
        await answer(scope, receive, send)
