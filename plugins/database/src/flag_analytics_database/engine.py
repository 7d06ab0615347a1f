"""Engines: the right driver for a URL, a deadline on every wait, and nothing secret in any text."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attrs
from flag_analytics.processes import is_patched
from sqlalchemy import event
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool

from .connecting import Connector, check_arguments
from .errors import WrongArguments
from .names import TlsMode
from .parameters import read_parameters
from .redaction import LOGGING_NAME, STRICT_SESSION, guard_engine, guard_sqlite_thread
from .sqlite_threads import connect as connect_sqlite
from .tls import Tls
from .urls import family_of, missing_driver, parse_url

__all__ = ["EngineMaker", "EngineOptions", "check_engine", "from_options", "like_engine"]


_NO_COPY = (
    "this process is monkey-patched (gevent, eventlet), and a copy of an aiosqlite engine has greenlets for threads: "
    "pass the URL as connection_string instead of engine"
)


class EngineOptions(Protocol):
    """The settings of ``DatabaseOptions`` that engines are made of."""

    @property
    def connection_string(self) -> str: ...

    @property
    def echo(self) -> bool: ...

    @property
    def connect_timeout_seconds(self) -> float: ...

    @property
    def statement_timeout_seconds(self) -> float: ...

    @property
    def query_timeout_seconds(self) -> float: ...

    @property
    def engine(self) -> Mapping[str, Any]: ...

    @property
    def pooler(self) -> bool: ...

    @property
    def tls_mode(self) -> TlsMode | None: ...

    @property
    def tls_ca_file(self) -> Any: ...

    @property
    def tls_cert_file(self) -> Any: ...

    @property
    def tls_key_file(self) -> Any: ...


@attrs.frozen(eq=False)
class EngineMaker:
    """Makes engines for one database: one for writing and one for questions, in each process and loop."""

    url: URL = attrs.field(repr=False)
    family: str
    make: Callable[[bool], AsyncEngine] = attrs.field(repr=False)
    """Takes whether connections are kept in a pool."""
    warnings: tuple[str, ...] = ()
    """Wishes of the connection string that the driver cannot meet, in sentences."""

    @property
    def in_memory(self) -> bool:
        """Whether it is a SQLite database in memory."""
        return self.family == "sqlite" and _is_in_memory(self.url)

    def for_writing(self) -> AsyncEngine:
        """Return an engine without a pool: the writer keeps one connection itself, and a ping is always fresh."""
        return self.make(False)

    def for_reading(self) -> AsyncEngine:
        """Return an engine with a small pool for questions."""
        return self.make(True)


def from_options(options: EngineOptions) -> EngineMaker:
    """Return the maker of engines for a configuration; opens nothing, but the driver must be importable.

    Raises:
        ValueError: the connection string cannot be used.
        TypeError: SQLAlchemy or the driver does not know an argument.
        PluginNotInstalledError: its driver is missing; the message holds the ``pip install`` line.
    """
    url = parse_url(options.connection_string)
    family = family_of(url.get_backend_name())
    assert family is not None
    if family == "sqlite" and _is_in_memory(url):
        url = _shared_memory(url)
    _load_driver(url)
    driver, parameters = url.get_driver_name(), read_parameters(url)
    given = dict(options.engine)
    connect_args = _connect_args(driver, options)
    if options.pooler or parameters.pooler:
        connect_args |= _without_prepared_statements(driver)
    connect_args |= {**parameters.arguments, **given.pop("connect_args", {})}
    check_arguments(driver, connect_args)
    connector = Connector(driver, parameters, _tls(options, parameters.tls, connect_args))
    plain_url = url.difference_update_query([name for name in url.query if name not in parameters.in_url])

    def make(pooled: bool) -> AsyncEngine:
        arguments = {**parameters.pool, **given} if pooled else _without_pool(given)
        arguments.setdefault("hide_parameters", True)
        arguments.setdefault("logging_name", LOGGING_NAME)
        arguments.setdefault("pool_logging_name", LOGGING_NAME)
        if pooled:
            arguments.setdefault("poolclass", AsyncAdaptedQueuePool)
            arguments.setdefault("pool_pre_ping", True)
        else:
            arguments["poolclass"] = NullPool
        engine = create_async_engine(plain_url, echo=options.echo, connect_args=connect_args, **arguments)
        event.listen(engine.sync_engine, "do_connect", connector)
        _prepare_connections(engine, family, options.statement_timeout_seconds, pooled=pooled)
        return engine

    for pooled in (False, True):  # finds a wrong argument now, not with the first event or question
        make(pooled)
    return EngineMaker(url, family, make, parameters.warnings)


def _tls(options: EngineOptions, in_url: Tls | None, connect_args: Mapping[str, Any]) -> Tls | None:
    """Return the settings of the options, or else of the URL; None leaves it to the driver."""
    if "ssl" in connect_args:
        return None
    named = {"ca_file": options.tls_ca_file, "cert_file": options.tls_cert_file, "key_file": options.tls_key_file}
    files: dict[str, Any] = {name: path for name, path in named.items() if path is not None}
    if options.tls_mode is None and not files:
        return in_url
    mode = options.tls_mode or (in_url.mode if in_url is not None else "verify-full")
    return attrs.evolve(in_url, mode=mode, **files) if in_url is not None else Tls(mode=mode, **files)


def _without_prepared_statements(driver: str) -> dict[str, Any]:
    """Return arguments for statements that are prepared anew, without a name, in each transaction.

    Names that differ (SQLAlchemy's way) would stay behind on the connections of the pooler.
    """
    if driver == "asyncpg":
        names: Callable[[], str] = str
        return {
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": names,
        }
    return {"prepare_threshold": None} if driver == "psycopg" else {}


def like_engine(engine: AsyncEngine, statement_timeout_seconds: float) -> EngineMaker:
    """Return a maker of engines with the URL and connection arguments of an application's engine.

    The application's pool is left alone: an async pool is bound to the loop that made its connections.

    Raises:
        TypeError: it is not an ``AsyncEngine``.
        ValueError: the database is not supported, or lives in the memory of the application's own connection.
    """
    check_engine(engine)
    url = engine.url
    family = family_of(url.get_backend_name())
    if family is None:
        raise ValueError(f"engine is of type {url.get_backend_name()!r}: expected sqlite, postgresql, mysql or mariadb")
    if family == "sqlite" and _is_in_memory(url):
        raise ValueError("engine is an in-memory SQLite database, which no other connection can see: use a file")
    if _has_greenlet_threads(url):
        raise ValueError(_NO_COPY)
    connect = engine.sync_engine.pool._creator  # noqa: SLF001 - the one place that knows the connection arguments

    def make(pooled: bool) -> AsyncEngine:
        if _has_greenlet_threads(url):  # patched since then, as by gunicorn's --preload
            raise WrongArguments(_NO_COPY)
        pool = {"poolclass": AsyncAdaptedQueuePool, "pool_pre_ping": True} if pooled else {"poolclass": NullPool}
        names = {"logging_name": LOGGING_NAME, "pool_logging_name": LOGGING_NAME}
        copy = create_async_engine(url, hide_parameters=True, creator=connect, **names, **pool)
        _prepare_connections(copy, family, statement_timeout_seconds, pooled=pooled)
        return copy

    return EngineMaker(url, family, make)


def _has_greenlet_threads(url: URL) -> bool:
    return is_patched() and url.get_driver_name() == "aiosqlite"


def check_engine(engine: Any) -> None:
    """Return if it is an application's asynchronous engine.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(engine, AsyncEngine):
        raise TypeError(
            f"engine is of type {type(engine).__name__}: expected SQLAlchemy's AsyncEngine, of create_async_engine()"
        )


def _load_driver(url: URL) -> None:
    try:
        url.get_dialect(_is_async=True).import_dbapi()
    except ImportError:
        raise missing_driver(url.get_driver_name()) from None


def _without_pool(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in arguments.items()
        if not name.startswith("pool_") and name not in {"poolclass", "pool", "max_overflow"}
    }


def _connect_args(driver: str, options: EngineOptions) -> dict[str, Any]:
    """Return deadlines for connecting and for statements, in each driver's own terms."""
    connect, statement = options.connect_timeout_seconds, options.statement_timeout_seconds
    if driver == "asyncpg":
        return {"timeout": connect, "command_timeout": max(statement, options.query_timeout_seconds)}
    if driver in {"asyncmy", "aiomysql"}:
        return {"connect_timeout": max(1, round(connect)), "charset": "utf8mb4"}
    if driver == "aiosqlite":
        # Below the deadline of the whole attempt, so that a locked database is reported as that.
        return {"timeout": statement * 0.9, "async_creator_fn": connect_sqlite}
    return {}


def _prepare_connections(engine: AsyncEngine, family: str, statement_timeout_seconds: float, *, pooled: bool) -> None:
    guard_engine(engine)

    def prepare_sqlite(connection: Any, _: Any) -> None:
        guard_sqlite_thread(connection)
        if not pooled:
            connection.isolation_level = None  # the writer's statements commit themselves: see ``writers.sqlite``
        cursor = connection.cursor()
        # A writer and any number of readers at once; a power cut may lose the last commits but corrupts nothing.
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute(f"PRAGMA busy_timeout={int(statement_timeout_seconds * 900)}")
        # A question takes this many KiB for its pages, and as much for each time it sorts.
        cursor.execute(f"PRAGMA cache_size={-8_192 if pooled else -32_768}")
        cursor.execute("PRAGMA wal_autocheckpoint=10000")
        # What is removed is overwritten in the file: see ``people.empty_log``.
        cursor.execute("PRAGMA secure_delete=ON")
        # In a database shared in memory a reader would otherwise fail while the writer writes.
        cursor.execute("PRAGMA read_uncommitted=1")
        cursor.close()

    def prepare_mysql(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(STRICT_SESSION)
        cursor.close()

    if family == "sqlite":
        event.listen(engine.sync_engine, "connect", prepare_sqlite)
    elif family == "mysql":
        event.listen(engine.sync_engine, "connect", prepare_mysql)


def _is_in_memory(url: URL) -> bool:
    database = url.database or ""
    return database in {"", ":memory:"} or "mode=memory" in database or url.query.get("mode") == "memory"


def _shared_memory(url: URL) -> URL:
    """Return the URL of a database in memory that all connections of this process share."""
    if url.query.get("cache") == "shared":
        return url
    name = f"file:flag-analytics-{uuid.uuid4().hex}"
    return url.set(database=name, query={**url.query, "mode": "memory", "cache": "shared", "uri": "true"})
