"""Serves metrics over HTTP from threads of its own, and as an ASGI or WSGI application for web frameworks."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from socketserver import TCPServer
from typing import Any, Protocol, cast
from wsgiref.simple_server import WSGIRequestHandler, make_server

from flag_analytics.logs import get_logger, warn
from flag_analytics.processes import renew_after_fork, start_thread
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

__all__ = ["MetricsServer", "asgi_app", "metrics_registry", "serve", "wsgi_app"]

MAX_CONNECTIONS = 64
MAX_REQUEST_SECONDS = 10.0
"""How long a client may take to send its request."""
MAX_ANSWER_SECONDS = 30.0
"""How long it may take from there to the end of the answer."""
_POLL_SECONDS = 0.05

logger = get_logger(__name__)

Headers = list[tuple[str, str]]
WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
AsgiApp = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Any]], Callable[[dict[str, Any]], Awaitable[None]]],
    Awaitable[None],
]


class Scraped(Protocol):
    """An exporter, as far as scrapes go."""

    def scrape_registry(self) -> CollectorRegistry:
        """Return the registry that a scrape reads."""
        ...


def metrics_registry(source: Scraped | CollectorRegistry) -> CollectorRegistry:
    """Return the registry to scrape: an exporter's own or, in multi-process mode, one that merges all processes."""
    return source if isinstance(source, CollectorRegistry) else source.scrape_registry()


def wsgi_app(source: Scraped | CollectorRegistry) -> WsgiApp:
    """Return a WSGI application (PEP 3333) that answers any path with the metrics, as prometheus_client's does."""
    return cast("WsgiApp", make_wsgi_app(metrics_registry(source)))


def asgi_app(source: Scraped | CollectorRegistry) -> AsgiApp:
    """Return an ASGI application that answers as ``wsgi_app`` does.

    It collects in a thread, so that a scrape delays no other request of the event loop.
    """
    application = wsgi_app(source)

    async def asgi_application(
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            await _follow_lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise ValueError(f"metrics are served over HTTP only, not over {scope['type']}")
        status, headers, body = await asyncio.to_thread(_respond, application, _environ(scope))
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers]
        encoded.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": status, "headers": encoded})
        await send({"type": "http.response.body", "body": body})

    return asgi_application


def _environ(scope: MutableMapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a request that the library's application reads."""
    environ = {
        "REQUEST_METHOD": scope["method"],
        "PATH_INFO": scope["path"],
        "QUERY_STRING": scope.get("query_string", b"").decode("latin-1"),
    }
    for name, value in scope["headers"]:
        key = f"HTTP_{name.decode('latin-1').upper().replace('-', '_')}"
        text = value.decode("latin-1")
        environ[key] = f"{environ[key]},{text}" if key in environ else text
    return environ


def _respond(application: WsgiApp, environ: dict[str, Any]) -> tuple[int, Headers, bytes]:
    started: list[tuple[str, Headers]] = []
    body = b"".join(application(environ, lambda status, headers: started.append((status, headers))))
    status, headers = started[0]
    return int(status.split()[0]), headers, body


async def _follow_lifespan(
    receive: Callable[[], Awaitable[Any]], send: Callable[[dict[str, Any]], Awaitable[None]]
) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


class MetricsServer:
    """A small HTTP server in threads of its own; ``close`` it, or leave it to the end of the process.

    It holds at most 64 connections; a client has 10 seconds for its request, and 30 for the answer. When all are taken,
    a new one replaces the oldest without a request, so that idle clients keep no scrape out. The child of a fork does
    not serve.

    Raises:
        OSError: the port is taken, or not allowed.
    """

    def __init__(self, source: Scraped | CollectorRegistry, port: int, address: str) -> None:
        server = _Server6 if ":" in address else _Server
        self._http = make_server(address, port, _reporting(wsgi_app(source)), server, _Handler)
        self.address = address
        self.port: int = self._http.server_port
        self._thread: threading.Thread | None = start_thread(
            self._http.serve_forever, _POLL_SECONDS, name="prometheus-http", greenlet=True
        )
        if self._thread is None:
            self._http.server_close()
            raise OSError("no thread can be started to serve metrics")
        renew_after_fork(self.after_fork_in_child)

    @property
    def url(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"http://{host}:{self.port}/metrics"

    def after_fork_in_child(self) -> None:
        """Leave the port to the parent, whose thread serves it."""
        self._thread = None
        self._http.socket.close()

    def close(self) -> None:
        """Stop answering and free the port."""
        if self._thread is None:
            return
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        self._thread = None


class _Connection:
    def __init__(self) -> None:
        self.ends_at = time.monotonic() + MAX_REQUEST_SECONDS
        self.has_request = False

    def take_request(self) -> None:
        self.ends_at = time.monotonic() + MAX_ANSWER_SECONDS
        self.has_request = True


class _Server(ThreadingWSGIServer):
    request_queue_size = 128

    def __init__(self, *args: Any) -> None:
        self._connections: dict[socket.socket, _Connection] = {}
        super().__init__(*args)

    def server_bind(self) -> None:
        # The standard library asks DNS for a name of the address here, which can take many seconds and is not needed.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._make_room():
            self.shutdown_request(request)
            return
        self._connections[request] = _Connection()
        if (
            start_thread(
                self.process_request_thread, request, client_address, name="prometheus-connection", greenlet=True
            )
            is None
        ):
            self.shutdown_request(request)

    def _make_room(self) -> bool:
        if len(self._connections) < MAX_CONNECTIONS:
            return True
        for request, connection in list(self._connections.items()):
            if not connection.has_request:
                self._cut(request)
                return True
        return False

    def service_actions(self) -> None:
        """End connections that are overdue; the standard library calls this after each poll."""
        now = time.monotonic()
        for request, connection in list(self._connections.items()):
            if now > connection.ends_at:
                self._cut(request)

    def request_arrived(self, request: socket.socket) -> None:
        connection = self._connections.get(request)
        if connection is not None:
            connection.take_request()

    def shutdown_request(self, request: Any) -> None:
        self._connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: a slow client is no error of the application."""

    def _cut(self, request: socket.socket) -> None:
        self._connections.pop(request, None)
        try:
            request.shutdown(socket.SHUT_RDWR)  # the thread that waits for the client goes on, and closes it
        except OSError:
            pass  # the client has closed it


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = MAX_ANSWER_SECONDS

    def get_environ(self) -> dict[str, Any]:
        cast("_Server", self.server).request_arrived(self.connection)
        return super().get_environ()

    def get_stderr(self) -> io.StringIO:
        """Discard the tracebacks of the standard library about clients that close early."""
        return io.StringIO()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - named so in the standard library
        """Log nothing: scrapes are frequent, and Prometheus reports those that fail."""


def _reporting(application: WsgiApp) -> WsgiApp:
    """Return an application that logs the error of a collector, and answers 500."""

    def reporting(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        try:
            return application(environ, start_response)
        except Exception as error:
            # The class alone: the text of an error in a foreign collector may quote anything.
            warn(logger, "a scrape failed: a collector of the registry raised %s", type(error).__name__)
            start_response("500 Internal Server Error", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"a collector of the registry failed\n"]

    return reporting


def serve(source: Scraped | CollectorRegistry, port: int, address: str = "127.0.0.1") -> MetricsServer:
    """Serve the metrics over HTTP from now on; port 0 means any that is free.

    Raises:
        OSError: the port is taken, or not allowed.
    """
    return MetricsServer(source, port, address)
