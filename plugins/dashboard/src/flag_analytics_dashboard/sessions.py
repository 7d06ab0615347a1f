"""The login form of the page: a token once, then a cookie that no script can read and no other site can send."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from flag_analytics_api import Access
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from .pages import render

__all__ = ["Sessions"]

_MOST_BYTES = 4_096


class Sessions:
    """Answers ``/login`` and ``/logout``."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def form(self, request: Request) -> Response:
        """Show the form."""
        return render(request, "login.html", wrong=False, title="Log in")

    async def log_in(self, request: Request) -> Response:
        """Take the token, and go on to the page with a cookie; or show the form again."""
        body = await _short_body(request)
        given = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True).get("token", [""])[0]
        cookie = self._access.new_session(given.strip()) if _is_own_form(request) else None
        if cookie is None:
            return render(request, "login.html", 401, wrong=True, title="Log in")
        answer = RedirectResponse(_home(request), 303)
        answer.set_cookie(
            Access.COOKIE,
            cookie,
            max_age=Access.SESSION_SECONDS,
            path=_home(request),
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return answer

    async def log_out(self, request: Request) -> Response:
        """Forget the cookie."""
        answer = RedirectResponse(f"{_home(request)}login", 303)
        answer.delete_cookie(Access.COOKIE, path=_home(request), httponly=True, samesite="strict")
        return answer


def _home(request: Request) -> str:
    root: str = request.scope.get("root_path", "")
    return root.rstrip("/") + "/"


async def _short_body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MOST_BYTES:
            return b""
    return body


def _is_own_form(request: Request) -> bool:
    """Return whether a form was sent from a page of this origin, as far as the browser tells."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    return origin in (None, "null") or urlsplit(origin).netloc == request.headers.get("host")
