"""``Address``: where the events are, read from the URL of the options."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

import attrs

__all__ = ["MEMORY", "Address", "parse_url"]

MEMORY = ":memory:"
"""The path of an embedded engine that keeps nothing."""

_SCHEMES = ("http", "https", "clickhouse", "clickhouses", "chdb")
_PORTS = {False: 8123, True: 8443}


@attrs.frozen
class Address:
    """A server, or the folder of an embedded engine.

    Attributes:
        host: The server's name; empty for an embedded engine.
        port: The port of its HTTP interface.
        secure: Whether it is spoken to over TLS.
        username: The user, as the URL has it.
        password: The password, as the URL has it.
        database: The database, as the URL has it.
        path: The folder of an embedded engine, or ``MEMORY``; None for a server.
    """

    host: str = ""
    port: int = 0
    secure: bool = False
    username: str = attrs.field(default="", repr=False)
    password: str = attrs.field(default="", repr=False)
    database: str = ""
    path: str | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return "chdb://memory" if self.path == MEMORY else f"chdb://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}"


def parse_url(url: Any) -> Address:
    """Return what a URL says.

    Raises:
        TypeError: it is no text.
        ValueError: it is no URL of a server or an embedded engine; the message does not quote it.
    """
    if not isinstance(url, str):
        raise TypeError("expected a URL such as https://host:8443/database or chdb:///folder")
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    if scheme not in _SCHEMES:
        raise ValueError("expected a URL that begins with https://, http://, clickhouse:// or chdb://")
    if parts.query or parts.fragment:
        raise ValueError("expected a URL without ? and #: each setting is an option of its own")
    if scheme == "chdb":
        return Address(path=_path_of(parts.netloc, unquote(parts.path)))
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("expected a number from 1 to 65535 as the port") from None
    if not host:
        raise ValueError("expected the name of a host after //")
    database = unquote(parts.path.strip("/"))
    if "/" in database:
        raise ValueError("expected at most a database's name after the host")
    secure = scheme in {"https", "clickhouses"}
    return Address(
        host=host,
        port=port or _PORTS[secure],
        secure=secure,
        username=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=database,
    )


def _path_of(netloc: str, path: str) -> str:
    if netloc in {"memory", MEMORY} and path in {"", "/"}:
        return MEMORY
    if netloc not in {"", ".", ".."} and not path:
        return netloc  # chdb://folder
    whole = netloc + path
    if not whole.strip("/"):
        raise ValueError("expected a folder after chdb://, such as chdb:///var/lib/flags, or chdb://memory")
    return whole
