"""Connection strings: read, given an async driver, checked without importing it, and shown without their secrets."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Any

from flag_analytics.errors import PluginNotInstalledError
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

__all__ = ["check_driver", "family_of", "masked", "missing_driver", "parse_url", "split_parameters"]

_ASYNC_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
    "mysql": "mysql+asyncmy",
    "mariadb": "mariadb+asyncmy",
}
_HOST = re.compile(r"[^\s/?#@:]*|\[?[0-9A-Fa-f:.]+(%[\w.-]+)?\]?")
"""A name, or an IPv6 address; a socket's directory comes as the parameter ``host``."""
_ASYNCPG_NAMES = {"sslmode": "ssl", "connect_timeout": "timeout"}
"""What libpq and asyncpg call differently."""
_ASYNCPG_NUMBERS = frozenset({"connect_timeout", "timeout", "command_timeout", "statement_cache_size"})
_SERVER_SETTINGS = frozenset({"application_name", "options", "search_path", "timezone"})
_ASYNCPG_ITSELF = frozenset(
    {
        "ssl", "host", "port", "user", "password", "passfile", "database", "target_session_attrs", "krbsrvname",
        "gsslib", "prepared_statement_cache_size",
    }
)  # fmt: skip
"""What asyncpg, or SQLAlchemy's dialect for it, takes as text."""
_EXTRAS = {"asyncpg": "postgresql", "asyncmy": "mysql", "aiomysql": "aiomysql", "aiosqlite": "sqlite"}
_MODULES = frozenset({*_EXTRAS, "psycopg"})
"""Drivers that are called as the module they are imported from."""


def parse_url(connection_string: str) -> URL:
    """Return the URL with an async driver.

    Raises:
        ValueError: it is no URL, or of a database that is not supported; the message does not show it.
    """
    scheme, separator, rest = connection_string.partition("://")
    try:
        url = make_url(f"{scheme.lower()}{separator}{rest}")
    except (ArgumentError, ValueError):  # a port that is no number is a ValueError, which quotes it
        url = None
    if url is None:
        raise ValueError(
            "connection_string is not a database URL: expected for example sqlite:///analytics.db "
            "or postgresql://host/database"
        )
    if url.get_backend_name() == "sqlite" and url.host:
        raise ValueError("connection_string names a host, which SQLite has none of: write sqlite:/// and the path")
    if url.host is not None and not _HOST.fullmatch(url.host):
        # Most likely a part of the password: it is not shown.
        raise ValueError(
            "connection_string has a host that is none: write @ as %40, / as %2F and : as %3A in user and password"
        )
    driver = _ASYNC_DRIVERS.get(url.drivername)
    if driver is not None:
        url = url.set(drivername=driver)
    if family_of(url.get_backend_name()) is None:
        raise ValueError(
            f"connection_string is of type {url.get_backend_name()!r}: expected sqlite, postgresql, mysql or mariadb"
        )
    return url


def split_parameters(url: URL) -> tuple[URL, dict[str, Any]]:
    """Return a URL without the parameters that asyncpg calls otherwise, and what it calls them.

    Raises:
        ValueError: asyncpg does not know a parameter, or a number is none.
    """
    if url.get_driver_name() != "asyncpg":
        return url, {}
    arguments: dict[str, Any] = {}
    settings: dict[str, str] = {}
    for name in url.query:
        value = str(url.normalized_query[name][-1])
        if name in _ASYNCPG_NUMBERS:
            arguments[_ASYNCPG_NAMES.get(name, name)] = _number(name, value)
        elif name in _ASYNCPG_NAMES:
            arguments[_ASYNCPG_NAMES[name]] = value
        elif name in _SERVER_SETTINGS:
            settings[name] = value
        elif name not in _ASYNCPG_ITSELF:
            raise ValueError(f"connection_string has the parameter {name!r}, which asyncpg does not know: leave it out")
    if settings:
        arguments["server_settings"] = settings
    ours = {*_ASYNCPG_NAMES, *_ASYNCPG_NUMBERS, *_SERVER_SETTINGS}
    return url.difference_update_query([name for name in url.query if name in ours]), arguments


def _number(name: str, value: str) -> float:
    try:
        return int(value) if value.isdecimal() else float(value)
    except ValueError:
        raise ValueError(f"connection_string has the parameter {name!r}: expected a number") from None


def family_of(backend: str) -> str | None:
    """Return ``sqlite``, ``postgresql`` or ``mysql`` (MariaDB speaks its SQL), or None for any other database."""
    return {"sqlite": "sqlite", "postgresql": "postgresql", "mysql": "mysql", "mariadb": "mysql"}.get(backend)


def masked(url: URL) -> str:
    """Return the URL without user, password and query string: what a log may show of it."""
    return f"{url.drivername}://{url.host or ''}{f':{url.port}' if url.port else ''}/{url.database or ''}"


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
    line = f"flag-analytics-database[{extra}]" if extra else driver
    return PluginNotInstalledError(f"the database driver {driver!r} is not installed: pip install '{line}'")
