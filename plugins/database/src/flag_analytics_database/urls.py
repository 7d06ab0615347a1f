"""Connection strings: read, given an async driver, checked without importing it, and shown without their secrets."""

from __future__ import annotations

import re
from importlib.util import find_spec
from urllib.parse import unquote

from flag_analytics.errors import PluginNotInstalledError
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

__all__ = ["check_driver", "family_of", "masked", "missing_driver", "parse_url"]

_SQLALCHEMY_UNQUOTES = make_url("mysql://h/a%20b").database == "a b"
"""Since 2.1 it decodes the name of the database too, as libpq does."""
_ASYNC_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
    "mysql": "mysql+asyncmy",
    "mariadb": "mariadb+asyncmy",
}
_SERVER_WITH_HOSTS = re.compile(r"(?P<login>[^/?]*@)?(?P<hosts>[^/?@]*,[^/?@]*)(?P<rest>[/?].*|)")
_HOST = re.compile(r"[^\s/?#@:]*|\[?[0-9A-Fa-f:.]+(%[\w.-]+)?\]?")
"""A name, or an IPv6 address; a socket's directory comes as the parameter ``host``."""
_EXTRAS = {"asyncpg": "postgresql", "asyncmy": "mysql", "aiomysql": "aiomysql", "aiosqlite": "sqlite"}
_MODULES = frozenset({*_EXTRAS, "psycopg"})
"""Drivers whose name is the name of their module."""


def parse_url(connection_string: str) -> URL:
    """Return the URL with an async driver; several hosts (``h1:5432,h2:5433``) become parameters ``host``.

    Raises:
        ValueError: it is not a URL, or of a database that is not supported; the message does not show it.
    """
    scheme, separator, rest = connection_string.partition("://")
    try:
        url = make_url(f"{scheme.lower()}{separator}{_hosts_as_parameters(rest)}")
    except (ArgumentError, ValueError):  # a port that is not a number is a ValueError, which quotes it
        url = None
    if url is None:
        raise ValueError(
            "connection_string is not a database URL: expected for example sqlite:///analytics.db "
            "or postgresql://host/database"
        )
    if url.get_backend_name() == "sqlite" and url.host:
        raise ValueError("connection_string names a host, which SQLite does not have: write sqlite:/// and the path")
    if url.host is not None and not _HOST.fullmatch(url.host):
        # Most likely a part of the password: it is not shown.
        raise ValueError(
            "connection_string has no valid host: write @ as %40, / as %2F and : as %3A in user and password"
        )
    driver = _ASYNC_DRIVERS.get(url.drivername)
    if driver is not None:
        url = url.set(drivername=driver)
    if family_of(url.get_backend_name()) is None:
        raise ValueError(
            f"connection_string is of type {url.get_backend_name()!r}: expected sqlite, postgresql, mysql or mariadb"
        )
    if not _SQLALCHEMY_UNQUOTES and url.database and url.get_backend_name() != "sqlite":
        url = url.set(database=unquote(url.database))
    return url


def _hosts_as_parameters(rest: str) -> str:
    """Return a URL's part after ``://`` with one host or none: SQLAlchemy takes several only as parameters."""
    found = _SERVER_WITH_HOSTS.fullmatch(rest)
    if found is None:
        return rest
    path, _, query = found["rest"].partition("?")
    hosts = "&".join(f"host={host}" for host in found["hosts"].split(","))
    return f"{found['login'] or ''}{path or '/'}?{hosts}{'&' if query else ''}{query}"


def family_of(backend: str) -> str | None:
    """Return ``sqlite``, ``postgresql`` or ``mysql`` (MariaDB speaks its SQL), or None for any other database."""
    return {"sqlite": "sqlite", "postgresql": "postgresql", "mysql": "mysql", "mariadb": "mysql"}.get(backend)


def masked(url: URL) -> str:
    """Return the URL without user, password and query string, for logs and representations."""
    hosts = ",".join(host for value in url.normalized_query.get("host", ()) for host in value.split(","))
    return f"{url.drivername}://{url.host or hosts}{f':{url.port}' if url.port else ''}/{url.database or ''}"


def check_driver(url: URL) -> None:
    """Return if the driver that a URL names is asynchronous and installed; it is not imported.

    Raises:
        ValueError: SQLAlchemy does not know it, or it is not asynchronous.
        PluginNotInstalledError: it is missing; the message holds the ``pip install`` line.
    """
    backend, driver = url.get_backend_name(), url.get_driver_name()
    try:
        dialect = url.get_dialect(_is_async=True)
    except NoSuchModuleError:
        raise ValueError(
            f"connection_string names the driver {driver!r}, which SQLAlchemy does not know: "
            f"expected {', '.join(sorted(_EXTRAS))} or leave it out"
        ) from None
    if not dialect.is_async:
        raise ValueError(
            f"connection_string names the driver {driver!r}, which is not asynchronous: "
            f"write {_ASYNC_DRIVERS[backend]}://"
        )
    if dialect.driver in _MODULES and find_spec(dialect.driver) is None:
        raise missing_driver(dialect.driver)


def missing_driver(driver: str) -> PluginNotInstalledError:
    """Return the error that says what to install for a driver."""
    extra = _EXTRAS.get(driver)
    distribution = "flag-analytics" if extra in {"postgresql", "mysql"} else "flag-analytics-database"
    line = f"{distribution}[{extra}]" if extra else driver
    return PluginNotInstalledError(f"the database driver {driver!r} is not installed: pip install '{line}'")
