"""Connections to a server over HTTP, or to an embedded engine: one to write over, and one for questions.

Batches are written by the asynchronous client in the delivery worker's loop. Questions are asked in threads, so that
they can be asked from any loop. An embedded engine has no asynchronous client: both use threads there.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Protocol

from clickhouse_connect.datatypes.registry import get_from_name
from clickhouse_connect.driver import create_async_client, create_client
from clickhouse_connect.driver import options as options_of_client
from clickhouse_connect.driver.exceptions import ClickHouseError
from flag_analytics.errors import FatalConfiguration, PluginError, SinkUnavailable

from .options import ClickHouseOptions
from .urls import MEMORY, Address

__all__ = ["Asking", "Running", "Writing", "as_coroutines", "check_installed", "open_asking", "open_writing"]

Parameters = Mapping[str, Any] | None
Settings = Mapping[str, Any] | None

_ours: contextvars.ContextVar[bool] = contextvars.ContextVar("flag_analytics_clickhouse", default=False)
_engine_process = 0
"""The process whose embedded engine was started; a forked child has its memory, but none of its threads."""
_engine_folder = ""
"""The folder that was opened last."""


class Running(Protocol):
    """What statements are run over."""

    async def rows(self, sql: str, parameters: Parameters = None, settings: Settings = None) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        ...

    async def run(self, sql: str, parameters: Parameters = None, settings: Settings = None) -> None:
        """Run a statement that returns nothing."""
        ...


class Writing(Running, Protocol):
    """What a batch is written over. It belongs to the loop that opened it."""

    async def insert(
        self, table: str, columns: Mapping[str, list[Any]], types: Sequence[str], settings: Settings
    ) -> None:
        """Insert rows, given by column."""
        ...

    async def close(self) -> None:
        """Release the connection."""
        ...


class Asking:
    """A synchronous client, safe from any thread."""

    def __init__(self, client: Any, *, embedded: bool = False) -> None:
        self.client = client
        self._embedded = embedded

    def rows(self, sql: str, parameters: Parameters = None, settings: Settings = None) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self._use():
            result = self.client.query(sql, parameters=_bound(parameters), settings=dict(settings or {}))
            return [tuple(row) for row in result.result_rows]

    def run(self, sql: str, parameters: Parameters = None, settings: Settings = None) -> None:
        """Run a statement that returns nothing."""
        with self._use():
            self.client.command(sql, parameters=_bound(parameters), settings=dict(settings or {}))

    def insert(self, table: str, columns: Mapping[str, list[Any]], types: Sequence[str], settings: Settings) -> None:
        """Insert rows, given by column."""
        with self._use():
            self.client.insert(table, **_given(columns, types, settings))

    def close(self) -> None:
        """Release the connections."""
        self.client.close()

    @contextmanager
    def _use(self) -> Iterator[None]:
        if self._embedded:
            _refuse_after_fork()
        with _quiet():
            yield


class _OverHttp:
    def __init__(self, client: Any) -> None:
        self.client = client

    async def insert(
        self, table: str, columns: Mapping[str, list[Any]], types: Sequence[str], settings: Settings
    ) -> None:
        with _quiet():
            await self.client.insert(table, **_given(columns, types, settings))

    async def rows(self, sql: str, parameters: Parameters = None, settings: Settings = None) -> list[tuple[Any, ...]]:
        with _quiet():
            result = await self.client.query(sql, parameters=_bound(parameters), settings=dict(settings or {}))
        return [tuple(row) for row in result.result_rows]

    async def run(self, sql: str, parameters: Parameters = None, settings: Settings = None) -> None:
        with _quiet():
            await self.client.command(sql, parameters=_bound(parameters), settings=dict(settings or {}))

    async def close(self) -> None:
        await self.client.close()


class _InThread:
    """An embedded engine behind the interface of an asynchronous client."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    async def insert(
        self, table: str, columns: Mapping[str, list[Any]], types: Sequence[str], settings: Settings
    ) -> None:
        await asyncio.to_thread(self._asking.insert, table, columns, types, settings)

    async def rows(self, sql: str, parameters: Parameters = None, settings: Settings = None) -> list[tuple[Any, ...]]:
        return await asyncio.to_thread(self._asking.rows, sql, parameters, settings)

    async def run(self, sql: str, parameters: Parameters = None, settings: Settings = None) -> None:
        await asyncio.to_thread(self._asking.run, sql, parameters, settings)

    async def close(self) -> None:
        await asyncio.to_thread(self._asking.close)


class _AtOnce:
    """A synchronous client behind the interface of an asynchronous one, for a thread that may wait."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    async def rows(self, sql: str, parameters: Parameters = None, settings: Settings = None) -> list[tuple[Any, ...]]:
        return self._asking.rows(sql, parameters, settings)

    async def run(self, sql: str, parameters: Parameters = None, settings: Settings = None) -> None:
        self._asking.run(sql, parameters, settings)


def as_coroutines(asking: Asking) -> Running:
    """Return the connection with coroutines that wait where they are called."""
    return _AtOnce(asking)


def check_installed(address: Address) -> None:
    """Check that what an address needs is installed.

    Raises:
        PluginError: it is not; the message holds the command that installs it.
    """
    if address.path is not None and find_spec("chdb") is None:
        raise PluginError("chdb:// needs chDB: run `pip install 'flag-analytics-clickhouse[chdb]'`")


async def open_writing(options: ClickHouseOptions) -> Writing:
    """Return a new connection to write over, in the running loop; raise what the client raises."""
    _silence_client()
    path = options.address.path
    if path is not None:
        return _InThread(await asyncio.to_thread(_open_engine, path))
    # The client imports them, where they are installed, with the first insert, and pandas takes a second.
    await asyncio.to_thread(lambda: (options_of_client.np, options_of_client.pd))
    with _quiet():
        client = await create_async_client(
            **_arguments(options), send_receive_timeout=options.statement_timeout_seconds, connector_limit=4
        )
    return _OverHttp(client)


def open_asking(options: ClickHouseOptions) -> Asking:
    """Return a new connection for questions; raise what the client raises."""
    _silence_client()
    path = options.address.path
    if path is not None:
        return _open_engine(path)
    with _quiet():
        client = create_client(
            **_arguments(options),
            send_receive_timeout=options.query_timeout_seconds + 1.0,
            dedicated_pool=True,
            autogenerate_session_id=False,
        )
    return Asking(client)


def _open_engine(path: str) -> Asking:
    """Return a connection to the embedded engine of this process, which is started with the first one.

    Raises:
        FatalConfiguration: this is a child of the process in which the engine runs.
        SinkUnavailable: another process has the folder open, or this process another folder.
    """
    global _engine_process, _engine_folder  # noqa: PLW0603 - an engine is one for each process, as these are
    _refuse_after_fork()
    _engine_process = os.getpid()
    folder = path if path == MEMORY else os.path.realpath(path)
    try:
        with _quiet():
            client = create_client(interface="chdb", path=path, show_clickhouse_errors=False)
    except ClickHouseError:
        if folder != _engine_folder and _engine_folder:
            raise SinkUnavailable(
                "this process has another folder of chdb:// open, and can open one only: use that, or a server",
                code="chdb_folder",
            ) from None
        raise SinkUnavailable(
            "chDB cannot open the folder of chdb://: another process has it open, and only one can, or it is not "
            "writable; use a ClickHouse server for several processes",
            code="chdb_locked",
        ) from None
    _engine_folder = folder
    return Asking(client, embedded=True)


def _refuse_after_fork() -> None:
    if _engine_process not in {0, os.getpid()}:
        raise FatalConfiguration(
            "chDB runs in the parent of this process, and cannot run in a forked child: start the child with "
            "spawn, or use a ClickHouse server",
            code="forked",
        )


def _arguments(options: ClickHouseOptions) -> dict[str, Any]:
    address = options.address
    arguments: dict[str, Any] = {
        "interface": "https" if address.secure else "http",
        "host": address.host,
        "port": address.port,
        "username": address.username or None,
        "password": address.password,
        "compress": options.compress,
        "connect_timeout": options.connect_timeout_seconds,
        "query_retries": 0,
        "client_name": "flag-analytics",
        "show_clickhouse_errors": False,
        # Bound values belong into the body: a URL is in the logs of every proxy.
        "form_encode_query_params": True,
        "settings": dict(options.settings),
    }
    for name, file in (
        ("ca_cert", options.tls_ca_file),
        ("client_cert", options.tls_cert_file),
        ("client_cert_key", options.tls_key_file),
    ):
        if file is not None:
            arguments[name] = str(file)
    return arguments


def _given(columns: Mapping[str, list[Any]], types: Sequence[str], settings: Settings) -> dict[str, Any]:
    """Return the client's arguments for an insert; with the types it asks the server for nothing first."""
    return {
        "data": list(columns.values()),
        "column_names": list(columns),
        "column_types": [get_from_name(name) for name in types],
        "column_oriented": True,
        "settings": dict(settings or {}),
    }


def _bound(parameters: Parameters) -> dict[str, Any] | None:
    return dict(parameters) if parameters else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Let the client log nothing meanwhile: its words may quote events."""
    token = _ours.set(True)
    try:
        yield
    finally:
        _ours.reset(token)


class _NotOurs(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002 - logging's signature
        return not _ours.get()


_not_ours = _NotOurs()


def _silence_client() -> None:
    for name in [*logging.root.manager.loggerDict]:
        if name.startswith(("clickhouse_connect", "urllib3")):
            logging.getLogger(name).addFilter(_not_ours)
