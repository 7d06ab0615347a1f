"""The pages: each is a frame that its script fills; nothing of what is recorded is written into HTML by the server."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from .assets import asset_version

__all__ = ["PAGES", "render"]

PAGES = {
    "overview": "Flags",
    "flag": "Flag",
    "events": "Events",
    "delivery": "Delivery",
    "configuration": "Configuration",
}
"""The title of each page by its name; ``overview`` is at the root."""

_environment = Environment(
    loader=PackageLoader("flag_analytics_dashboard"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page; its links begin where the application is mounted."""
    root = request.scope.get("root_path", "").rstrip("/")
    text = _environment.get_template(template).render(
        root=root, static=f"{root}/static/{asset_version()}", pages=PAGES, **values
    )
    return HTMLResponse(text, status)
