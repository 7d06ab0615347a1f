"""The parameters of a connection string, read in the terms of the tool that wrote it.

Hosting services hand out strings for libpq, MySQL's client or Prisma. Each driver takes a part of their parameters
under other names; the rest is applied here, or refused with the nearest name that is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import attrs
from sqlalchemy.engine import URL

from .names import TLS_MODES, TlsMode
from .tls import Tls, tls_mode

__all__ = ["Keepalive", "Parameters", "read_parameters"]

_POSTGRESQL_PORT = 5432
_TRUE, _FALSE = frozenset({"1", "true", "on", "yes"}), frozenset({"0", "false", "off", "no"})
_UTF8 = frozenset({"utf8", "unicode", "auto"})


@attrs.frozen
class Keepalive:
    """Options of the socket, where the operating system has them; None leaves its default."""

    on: bool | None = None
    idle_seconds: int | None = None
    interval_seconds: int | None = None
    count: int | None = None
    user_timeout_ms: int | None = None


@attrs.frozen(kw_only=True)
class Parameters:
    """The meaning of a query string.

    Attributes:
        arguments: Arguments for the driver's ``connect``.
        in_url: The parameters that SQLAlchemy reads from the URL itself.
        hosts: Hosts and ports to try, where there are several or one came as a parameter.
        shuffled: Whether the hosts are tried in random order.
        pool: Arguments for the pool of questions.
        read_only: Whether a file can be read and not written.
        warnings: Wishes that the driver cannot meet, in sentences.
    """

    arguments: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    in_url: frozenset[str] = frozenset()
    tls: Tls | None = None
    hosts: tuple[tuple[str, int], ...] = ()
    shuffled: bool = False
    keepalive: Keepalive | None = None
    pooler: bool = False
    pool: Mapping[str, Any] = attrs.field(factory=dict)
    read_only: bool = False
    warnings: tuple[str, ...] = ()


def read_parameters(url: URL) -> Parameters:
    """Return the meaning of a URL's parameters for its driver.

    Raises:
        ValueError: one is unknown, or its value is; the message names it and no value.
    """
    given = _Given({name: str(values[-1]) for name, values in url.normalized_query.items()})
    driver = url.get_driver_name()
    if driver == "asyncpg":
        found = _for_asyncpg(given, url)
    elif driver in {"asyncmy", "aiomysql"}:
        found = _for_mysql(given)
    elif driver == "aiosqlite":
        found = _for_sqlite(given)
    else:  # SQLAlchemy and the driver check the rest
        pooler = given.flag("pgbouncer") or False
        return Parameters(pooler=pooler, in_url=given.rest())
    given.refuse_rest()
    return found


class _Given:
    """A query string that is read name by name, and remembers the names that were asked for."""

    def __init__(self, query: Mapping[str, str]) -> None:
        self._query = dict(query)
        self._known: set[str] = set()

    def text(self, *names: str) -> str | None:
        """Return the value under one of these names, or None."""
        self._known.update(names)
        found = [self._query.pop(name) for name in names if name in self._query]
        return found[0] if found else None

    def path(self, *names: str) -> Path | None:
        value = self.text(*names)
        return None if value is None else Path(value)

    def number(self, name: str) -> float | None:
        value = self.text(name)
        try:
            return None if value is None else int(value) if value.isdecimal() else float(value)
        except ValueError:
            raise ValueError(f"connection_string has the parameter {name!r}: expected a number") from None

    def whole(self, name: str) -> int | None:
        number = self.number(name)
        return None if number is None else int(number)

    def flag(self, name: str) -> bool | None:
        value = self.text(name)
        if value is None:
            return None
        if value.lower() not in _TRUE | _FALSE:
            raise ValueError(f"connection_string has the parameter {name!r}: expected true or false")
        return value.lower() in _TRUE

    def choice(self, name: str, *allowed: str) -> str | None:
        value = self.text(name)
        if value is not None and value not in allowed:
            raise ValueError(f"connection_string has the parameter {name!r}: expected one of {', '.join(allowed)}")
        return value

    def texts(self, *names: str) -> dict[str, str]:
        """Return those of these names that are given."""
        return {name: value for name in names if (value := self.text(name)) is not None}

    def numbers(self, *names: str) -> dict[str, float]:
        return {name: value for name in names if (value := self.number(name)) is not None}

    def tls_mode(self, *names: str) -> TlsMode | None:
        value = self.text(*names)
        mode = None if value is None else tls_mode(value)
        if value is not None and mode is None:
            expected = ", ".join(TLS_MODES) if names[0] == "sslmode" else ", ".join(TLS_MODES[:1] + TLS_MODES[2:])
            raise ValueError(
                f"connection_string has the parameter {names[0]!r}: expected one of {expected}"
                + ("" if names[0] == "sslmode" else ", or MySQL's name of it")
            )
        return mode

    def rest(self) -> frozenset[str]:
        return frozenset(self._query)

    def refuse_rest(self) -> None:
        for name in self._query:
            nearest = get_close_matches(name.lower(), sorted(self._known), n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(sorted(self._known))}"
            raise ValueError(f"connection_string has the parameter {name!r}, which is not known: {hint}")


# --- PostgreSQL


def _for_asyncpg(given: _Given, url: URL) -> Parameters:
    warnings = []
    mode = given.tls_mode("sslmode", "ssl")
    binding = given.choice("channel_binding", "disable", "prefer", "require")
    if binding == "require":
        warnings.append(
            "channel_binding=require: asyncpg cannot bind the channel; TLS is required, and sslmode=verify-full "
            "makes sure of the server"
        )
        if mode is None or TLS_MODES.index(mode) < TLS_MODES.index("require"):
            mode = "require"
    if given.choice("gssencmode", "disable", "prefer", "require") == "require":
        raise ValueError("connection_string has the parameter 'gssencmode': asyncpg has no GSS encryption, use sslmode")
    encoding = given.text("client_encoding")
    if encoding is not None and encoding.replace("-", "").lower() not in _UTF8:
        raise ValueError(
            "connection_string has the parameter 'client_encoding': expected utf8, since events hold any character"
        )
    numbers = given.numbers(
        "connect_timeout", "timeout", "command_timeout", "statement_cache_size", "prepared_statement_cache_size",
        "max_cached_statement_lifetime", "max_cacheable_statement_size",
    )  # fmt: skip
    connect_timeout = numbers.pop("connect_timeout", 0)
    arguments: dict[str, Any] = {**({"timeout": connect_timeout} if connect_timeout else {}), **numbers}
    arguments |= given.texts("user", "password", "passfile", "krbsrvname", "gsslib", "service")
    database = given.text("dbname", "database")
    if database is not None:
        arguments["database"] = database
    sessions = ("any", "primary", "standby", "read-write", "read-only", "prefer-standby")
    target = given.choice("target_session_attrs", *sessions)
    if target is not None:
        arguments["target_session_attrs"] = target
    if given.choice("sslnegotiation", "postgres", "direct") == "direct":
        arguments["direct_tls"] = True
    settings = _server_settings(given)
    if settings:
        arguments["server_settings"] = settings
    given.texts("sslcompression", "sslsni")  # compression is never used, and the name is always sent
    tls = _tls(
        mode,
        ca_file=given.path("sslrootcert"),
        cert_file=given.path("sslcert"),
        key_file=given.path("sslkey"),
        key_password=given.text("sslpassword"),
        crl_file=given.path("sslcrl"),
    )
    return Parameters(
        arguments=arguments,
        tls=tls,
        hosts=_hosts(given, url),
        shuffled=given.choice("load_balance_hosts", "disable", "random") == "random",
        keepalive=_keepalive(given),
        pooler=given.flag("pgbouncer") or False,
        pool=_pool(given),
        warnings=tuple(warnings),
    )


def _tls(mode: TlsMode | None, **files: Any) -> Tls | None:
    """Return the settings, if there are any; a CA alone means that the server is verified."""
    ca_file = files["ca_file"]
    if ca_file == Path("system"):  # libpq's name for the certificates of the system
        files["ca_file"], mode = None, mode or "verify-full"
    given = {name: value for name, value in files.items() if value is not None}
    if mode is None and not given:
        return None
    trusted = "ca_file" in given or "ca_directory" in given
    return Tls(mode=mode or ("verify-full" if trusted else "require"), **given)


def _server_settings(given: _Given) -> dict[str, str]:
    settings = given.texts("application_name", "options", "search_path", "timezone")
    name = given.text("fallback_application_name")
    if name is not None:
        settings.setdefault("application_name", name)
    return settings


def _hosts(given: _Given, url: URL) -> tuple[tuple[str, int], ...]:
    """Return hosts with ports: ``host=a:1&host=b:2`` as SQLAlchemy has them, ``host=a,b&port=1,2`` as libpq has."""
    given.texts("host", "port")
    query = url.normalized_query
    hosts = [host for value in query.get("host", ()) for host in value.split(",")]
    if not hosts:
        return ()
    ports = [port for value in query.get("port", ()) for port in value.split(",")]
    if len(ports) not in {0, 1, len(hosts)}:
        raise ValueError("connection_string has the parameter 'port': expected one port, or one for each host")
    if len(ports) < len(hosts):
        ports = (ports or [str(url.port or _POSTGRESQL_PORT)]) * len(hosts)
    try:
        return tuple(_host(host, port) for host, port in zip(hosts, ports, strict=True))
    except ValueError:
        raise ValueError("connection_string has the parameter 'host': expected names as host or host:port") from None


def _host(host: str, port: str) -> tuple[str, int]:
    name, separator, own_port = host.rpartition(":")
    if host.startswith("/") or not separator or host.endswith("]"):  # a socket's directory has no port of its own
        return host.strip("[]"), int(port or _POSTGRESQL_PORT)
    return name.strip("[]"), int(own_port)


def _keepalive(given: _Given) -> Keepalive | None:
    found = Keepalive(
        given.flag("keepalives"),
        given.whole("keepalives_idle"),
        given.whole("keepalives_interval"),
        given.whole("keepalives_count"),
        given.whole("tcp_user_timeout"),
    )
    return None if found == Keepalive() else found


def _pool(given: _Given) -> dict[str, Any]:
    """Return the size of the pool as Prisma has it in its URLs."""
    pool: dict[str, Any] = {}
    limit, timeout = given.whole("connection_limit"), given.number("pool_timeout")
    if limit is not None:
        pool |= {"pool_size": max(1, limit), "max_overflow": 0}
    if timeout:
        pool["pool_timeout"] = timeout
    return pool


# --- MySQL and MariaDB


def _for_mysql(given: _Given) -> Parameters:
    charset = given.text("charset")
    if charset not in {None, "utf8mb4"}:
        raise ValueError(
            "connection_string has the parameter 'charset': expected utf8mb4, since events hold any character"
        )
    arguments: dict[str, Any] = given.texts("user", "password", "unix_socket", "init_command", "sql_mode")
    arguments |= given.texts("program_name")
    timeout = given.whole("connect_timeout")
    if timeout is not None:
        arguments["connect_timeout"] = timeout
    verified = given.flag("ssl_check_hostname")
    mode = given.tls_mode("ssl_mode", "ssl-mode", "sslmode")
    tls = _tls(
        mode,
        ca_file=given.path("ssl_ca", "ssl-ca"),
        ca_directory=given.path("ssl_capath", "ssl-capath"),
        cert_file=given.path("ssl_cert", "ssl-cert"),
        key_file=given.path("ssl_key", "ssl-key"),
        ciphers=given.text("ssl_cipher", "ssl-cipher"),
    )
    if tls is not None and mode is None and verified is False:
        tls = attrs.evolve(tls, mode="verify-ca" if tls.mode == "verify-full" else tls.mode)
    return Parameters(arguments=arguments, tls=tls, pool=_pool(given))


# --- SQLite


def _for_sqlite(given: _Given) -> Parameters:
    read_only = False
    names = ["uri", "timeout", "cached_statements", "isolation_level", "detect_types", "check_same_thread"]
    found = given.texts(*names)
    of_files = ("mode", "cache", "immutable", "vfs", "nolock", "psow")
    if found.get("uri", "").lower() in _TRUE:
        mode = given.choice("mode", "ro", "rw", "rwc", "memory")
        read_only = mode == "ro" or bool(given.flag("immutable"))
        given.choice("cache", "shared", "private")
        given.texts("vfs", "nolock", "psow")
        names += of_files
    elif of_file := next((name for name in of_files if name in given.rest()), None):
        raise ValueError(f"connection_string has the parameter {of_file!r}, which needs uri=true beside it")
    return Parameters(in_url=frozenset(names), read_only=read_only)
