"""Serves metrics to those without a web framework, and as an ASGI or WSGI application to those with one."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import ThreadingWSGIServer, choose_encoder
from prometheus_client.metrics_core import Metric

if TYPE_CHECKING:
    from .exporter import PrometheusExporter
    from .exposition import Exposition

__all__ = ["MetricsServer", "asgi_app", "metrics_registry", "serve", "wsgi_app"]

Headers = list[tuple[str, str]]
WsgiApp = Callable[[Mapping[str, Any], Callable[..., Any]], Iterable[bytes]]
AsgiApp = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Any]], Callable[[dict[str, Any]], Awaitable[None]]],
    Awaitable[None],
]


class _Merged:
    """All processes' metrics as a collector; its names are this process's, so that a scrape can choose among them."""

    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition

    def describe(self) -> Iterator[Metric]:
        return self._exposition.describe()

    def collect(self) -> Iterator[Metric]:
        return self._exposition.collect_merged()


def metrics_registry(exporter: PrometheusExporter) -> CollectorRegistry:
    """Return the registry to scrape: the exporter's own or, in multi-process mode, one that merges all processes."""
    if not exporter.exposition.shared:
        return exporter.registry
    registry = CollectorRegistry()
    registry.register(_Merged(exporter.exposition))
    return registry


def _respond(
    registry: CollectorRegistry, method: str, query: str, accept: str, accept_encoding: str
) -> tuple[int, Headers, bytes]:
    if method not in {"GET", "HEAD"}:
        return 405, [("Allow", "GET, HEAD")], b""
    names = parse_qs(query).get("name[]")
    encode, content_type = choose_encoder(accept)
    body = encode(registry.restricted_registry(names) if names else registry)
    headers = [("Content-Type", content_type)]
    if "gzip" in accept_encoding.lower():
        body = gzip.compress(body, compresslevel=1)
        headers.append(("Content-Encoding", "gzip"))
    return 200, [*headers, ("Content-Length", str(len(body)))], b"" if method == "HEAD" else body


def wsgi_app(exporter: PrometheusExporter) -> WsgiApp:
    """Return a WSGI application that answers any path with the metrics (PEP 3333)."""
    registry = metrics_registry(exporter)

    def application(environ: Mapping[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        status, headers, body = _respond(
            registry,
            environ.get("REQUEST_METHOD", "GET"),
            environ.get("QUERY_STRING", ""),
            environ.get("HTTP_ACCEPT", ""),
            environ.get("HTTP_ACCEPT_ENCODING", ""),
        )
        start_response("200 OK" if status == 200 else "405 Method Not Allowed", headers)
        return [body]

    return application


def asgi_app(exporter: PrometheusExporter) -> AsgiApp:
    """Return an ASGI application that answers any path with the metrics.

    They are collected in a thread, so that a scrape holds up no other request of the event loop.
    """
    registry = metrics_registry(exporter)

    async def application(
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            await _follow_lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise ValueError(f"metrics are served over HTTP only, not over {scope['type']}")
        headers = {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        status, answer_headers, body = await asyncio.to_thread(
            _respond,
            registry,
            scope["method"],
            scope.get("query_string", b"").decode("latin-1"),
            headers.get("accept", ""),
            headers.get("accept-encoding", ""),
        )
        encoded = [(name.lower().encode(), value.encode()) for name, value in answer_headers]
        await send({"type": "http.response.start", "status": status, "headers": encoded})
        await send({"type": "http.response.body", "body": body})

    return application


async def _follow_lifespan(
    receive: Callable[[], Awaitable[Any]], send: Callable[[dict[str, Any]], Awaitable[None]]
) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


class MetricsServer:
    """A small HTTP server in threads of its own; ``close`` it, or leave it to the end of the process."""

    def __init__(self, application: WsgiApp, port: int, address: str) -> None:
        server = _Server6 if ":" in address else _Server
        self._http = make_server(address, port, application, server, _QuietHandler)
        self.address = address
        self.port: int = self._http.server_port
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.1,), name="flag-analytics-prometheus-http", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"http://{host}:{self.port}/metrics"

    def close(self) -> None:
        """Stop answering and free the port."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Server(ThreadingWSGIServer):
    def server_bind(self) -> None:
        # The standard library asks DNS for a name of the address here, which can take many seconds and is not needed.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()


class _Server6(_Server):
    address_family = socket.AF_INET6


class _QuietHandler(WSGIRequestHandler):
    timeout = 10.0  # a client that stays silent holds a thread no longer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - named so in the standard library
        """Log nothing: a line for each scrape tells nobody anything."""


def serve(exporter: PrometheusExporter, port: int, address: str = "127.0.0.1") -> MetricsServer:
    """Serve the metrics over HTTP from now on; port 0 means any that is free.

    Raises:
        OSError: the port is taken, or not allowed.
    """
    return MetricsServer(wsgi_app(exporter), port, address)
