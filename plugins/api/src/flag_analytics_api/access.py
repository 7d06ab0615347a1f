"""Decides who may ask: this machine by a known name, a caller with the token, or one the application lets in."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Mapping
from typing import ClassVar

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from .options import ApiOptions
from .problems import ProblemError, problem_response

__all__ = ["Access", "Guard"]

_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host")


class Access:
    """Checks requests against the options.

    A session is the moment it ends and a MAC of it under the token, so that every worker process knows it, none keeps
    anything, and a new token ends all.

    Attributes:
        COOKIE: The name of the cookie with a session.
        SESSION_SECONDS: How long a session lasts.
    """

    COOKIE: ClassVar[str] = "flag_analytics_session"
    SESSION_SECONDS: ClassVar[int] = 12 * 3_600

    def __init__(self, options: ApiOptions) -> None:
        self._token = options.token
        self._loopback = options.loopback
        self._hosts = frozenset(host.lower() for host in options.allowed_hosts)

    def refusal(self, connection: HTTPConnection) -> ProblemError | None:
        """Return why a request is not answered; None if it is."""
        if self._loopback and (problem := self._not_local(connection)) is not None:
            return problem
        if self._token is None or self._knows_token(connection.headers) or self._has_session(connection.cookies):
            return None
        return ProblemError(
            401,
            "a token is needed: send it as `Authorization: Bearer TOKEN`",
            headers={"WWW-Authenticate": 'Bearer realm="flag-analytics"'},
        )

    @property
    def has_token(self) -> bool:
        """Whether there is a token to log in with."""
        return self._token is not None

    def new_session(self, token: str) -> str | None:
        """Return the value of a cookie for a client that knows the token; None for one that does not."""
        if self._token is None or not _same(token, self._token):
            return None
        ends_at = str(int(time.time()) + self.SESSION_SECONDS)
        return f"{ends_at}.{self._mac(ends_at)}"

    def _mac(self, ends_at: str) -> str:
        assert self._token is not None
        return hmac.new(self._token.encode(), f"flag-analytics session {ends_at}".encode(), hashlib.sha256).hexdigest()

    def _knows_token(self, headers: Mapping[str, str]) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        return self._token is not None and scheme.lower() == "bearer" and _same(given.strip(), self._token)

    def _has_session(self, cookies: Mapping[str, str]) -> bool:
        ends_at, _, mac = cookies.get(self.COOKIE, "").partition(".")
        if not ends_at.isascii() or not ends_at.isdigit() or not _same(mac, self._mac(ends_at)):
            return False
        return time.time() < int(ends_at)

    def _not_local(self, connection: HTTPConnection) -> ProblemError | None:
        if any(name in connection.headers for name in _FORWARDED):
            return ProblemError(
                403, "the request came through a proxy, and this is for its own machine alone: configure a token"
            )
        if connection.client is None or not _is_loopback(connection.client.host):
            return ProblemError(403, "this is for clients on its own machine alone: configure a token to open it")
        host = _name_of(connection.headers.get("host", ""))
        if host not in self._hosts:
            return ProblemError(
                421,
                "the Host header names an unknown host: add it to allowed_hosts if it is one of this machine's",
                expected=", ".join(sorted(self._hosts)),
            )
        return None


class Guard:
    """ASGI middleware that answers with a problem where access is refused."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refusal = self._access.refusal(HTTPConnection(scope))
            if refusal is not None:
                await problem_response(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _same(given: str, expected: str) -> bool:
    return secrets.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())


def _is_loopback(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)


def _name_of(host: str) -> str:
    """Return the name or address in a ``Host`` header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
