"""The files of the page: read once, served under an address that changes with their content."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

import attrs
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

__all__ = ["Asset", "asset_version", "assets", "serve_asset"]

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}


@attrs.frozen
class Asset:
    """One file."""

    content: bytes = attrs.field(repr=False)
    media_type: str


@cache
def assets() -> dict[str, Asset]:
    """Return every file by its path under ``static``."""
    found: dict[str, Asset] = {}
    _collect(files("flag_analytics_dashboard") / "static", "", found)
    return found


def _collect(directory: Traversable, prefix: str, found: dict[str, Asset]) -> None:
    for child in sorted(directory.iterdir(), key=lambda child: child.name):
        name = f"{prefix}{child.name}"
        if child.is_dir():
            _collect(child, f"{name}/", found)
        else:
            suffix = child.name[child.name.rfind(".") :]
            found[name] = Asset(child.read_bytes(), _TYPES.get(suffix, "application/octet-stream"))


@cache
def asset_version() -> str:
    """Return a name for the content of all files together."""
    digest = hashlib.sha256()
    for name, asset in assets().items():
        digest.update(name.encode() + b"\0" + asset.content)
    return digest.hexdigest()[:12]


async def serve_asset(request: Request) -> Response:
    """Answer with a file; a browser keeps it, since other content has another address."""
    asset = assets().get(request.path_params["name"])
    if asset is None:
        raise HTTPException(404)
    current = request.path_params["version"] == asset_version()
    return Response(asset.content, headers=_FOREVER if current else None, media_type=asset.media_type)
