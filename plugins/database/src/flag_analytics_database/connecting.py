"""``Connector``: makes each connection, with TLS, one of several hosts, and the socket's options."""

from __future__ import annotations

import inspect
import logging
import random
import socket
import ssl
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from .errors import code_of, without_tls
from .parameters import Keepalive, Parameters
from .tls import Tls

__all__ = ["Connector", "check_arguments"]

_WITHOUT_TLS = frozenset({"mysql-1043", "tls-WRONG_VERSION_NUMBER", "ECONNRESET"})
"""The codes of errors from servers without TLS."""

_OF_SQLALCHEMY = frozenset({"async_creator_fn", "prepared_statement_cache_size", "prepared_statement_name_func"})
_OF_SQLITE3 = frozenset(
    {
        "autocommit", "cached_statements", "check_same_thread", "detect_types", "factory", "isolation_level", "timeout",
        "uri",
    }
)  # fmt: skip

logger = logging.getLogger("flag_analytics.database")


def check_arguments(driver: str, arguments: Mapping[str, Any]) -> None:
    """Return if the driver's ``connect`` takes arguments of these names, as far as its signature says.

    Raises:
        TypeError: it does not know one.
    """
    parameters = inspect.signature(import_module(driver).connect).parameters.values()
    known = {parameter.name for parameter in parameters} | _OF_SQLALCHEMY
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        if driver != "aiosqlite":
            return
        known |= _OF_SQLITE3
    for name in arguments:
        if name not in known:
            raise TypeError(f"{driver} does not know the connect_args {name!r}")


class Connector:
    """SQLAlchemy's ``do_connect``: called for each new connection, in any thread.

    After a failure the hosts are tried from the next one on, so that a silent host costs one attempt only.
    """

    def __init__(self, driver: str, parameters: Parameters, tls: Tls | None) -> None:
        self._driver = driver
        self._hosts = list(parameters.hosts)
        self._shuffled = parameters.shuffled
        self._keepalive = parameters.keepalive
        self._tls = tls

    def __call__(self, dialect: Any, _: Any, args: Any, arguments: dict[str, Any]) -> Any:
        """Return a connection of the driver, as SQLAlchemy wraps it."""
        hosts = self._in_order()
        if hosts:
            arguments = {**arguments, "host": [host for host, _ in hosts], "port": [port for _, port in hosts]}
        try:
            connection = self._connect(dialect, args, arguments)
        except BaseException:
            self._hosts = self._hosts[1:] + self._hosts[:1]
            raise
        if self._keepalive is not None:
            _apply(self._keepalive, connection)
        return connection

    def _in_order(self) -> list[tuple[str, int]]:
        return random.sample(self._hosts, len(self._hosts)) if self._shuffled else list(self._hosts)

    def _connect(self, dialect: Any, args: Any, arguments: dict[str, Any]) -> Any:
        tls = self._tls
        if tls is None:
            return dialect.connect(*args, **arguments)
        if self._driver == "asyncpg":
            value = tls.context() if tls.required else tls.mode
            if isinstance(value, ssl.SSLContext) and arguments.get("direct_tls"):
                value.set_alpn_protocols(["postgresql"])
            return dialect.connect(*args, **arguments, ssl=value)
        if tls.mode == "disable":
            return dialect.connect(*args, **arguments)
        try:
            connection = dialect.connect(*args, **arguments, ssl=tls.context())
        except Exception as error:
            if tls.required or code_of(error) not in _WITHOUT_TLS:
                raise
            return dialect.connect(*args, **arguments)
        if tls.required:
            _refuse_plain(connection)
        return connection


def _refuse_plain(connection: Any) -> None:
    """Refuse a connection that a driver made without TLS although it was given a context."""
    cursor = connection.cursor()
    cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
    row = cursor.fetchone()
    cursor.close()
    if row is None or not row[1]:
        connection.close()
        raise without_tls()


def _apply(keepalive: Keepalive, connection: Any) -> None:
    transport = getattr(connection.driver_connection, "_transport", None)
    found = transport.get_extra_info("socket") if transport is not None else None
    if found is None or found.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    wanted = [(socket.SOL_SOCKET, "SO_KEEPALIVE", None if keepalive.on is None else int(keepalive.on))]
    wanted += [
        (socket.IPPROTO_TCP, name, value)
        for name, value in (
            ("TCP_KEEPIDLE", keepalive.idle_seconds),
            ("TCP_KEEPINTVL", keepalive.interval_seconds),
            ("TCP_KEEPCNT", keepalive.count),
            ("TCP_USER_TIMEOUT", keepalive.user_timeout_ms),
        )
    ]
    for level, name, value in wanted:
        if value is None or not hasattr(socket, name):  # not on every operating system
            continue
        try:
            found.setsockopt(level, getattr(socket, name), value)
        except OSError as error:
            logger.debug("a socket does not take %s: %s", name, code_of(error))
