"""Metrics over HTTP: from a thread, as a WSGI and as an ASGI application."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from flag_analytics import logs
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics_prometheus import PrometheusExporter, asgi_app, serve, serving, wsgi_app
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

pytestmark = pytest.mark.server


@pytest.fixture
def exporter():
    exporter = PrometheusExporter(CollectorRegistry())
    exporter.record_nowait(FlagEvaluationEvent(datetime.now(UTC), "checkout", True, "SPLIT", "a", "ann", {}, 1.5))
    return exporter


@pytest.fixture
def server(exporter):
    server = serve(exporter, 0)
    yield server
    server.close()


def total(text, parser=parse):
    samples = [sample for family in parser(text) for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == "feature_flag_evaluations_total")


def fetch(url, headers=(), method="GET"):
    request = urllib.request.Request(url, headers=dict(headers), method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


async def ask(application, method="GET", headers=(), query=b"", path="/metrics"):
    sent = []

    async def receive():
        return {"type": "http.request"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": list(headers)}
    await application(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


async def test_a_server_of_its_own_answers_until_it_is_closed(exporter):
    server = exporter.serve(0)
    assert exporter.serve(0) is server
    _, headers, body = fetch(server.url)
    assert headers["Content-Type"].startswith("text/plain; version=")
    assert total(body.decode()) == 1
    await exporter.close()
    with pytest.raises(urllib.error.URLError):
        fetch(server.url)
    assert not [thread for thread in threading.enumerate() if thread.name == "flag-analytics-prometheus-http"]


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_an_ipv6_address_can_be_served_on(exporter):
    try:
        server = serve(exporter, 0, "::1")
    except OSError:
        pytest.skip("no IPv6 loopback here")
    try:
        assert total(fetch(server.url)[2].decode()) == 1
    finally:
        server.close()


def test_a_taken_port_is_an_os_error(exporter, server):
    with pytest.raises(OSError):
        serve(exporter, server.port)


def test_a_registry_is_served_like_an_exporter(exporter):
    server = serve(exporter.registry, 0)
    try:
        assert total(fetch(server.url)[2].decode()) == 1
    finally:
        server.close()


REQUESTS = [
    ("GET", "/metrics", {}),
    ("GET", "/unknown/path?name[]=feature_flag_unique_users", {}),
    ("GET", "/metrics", {"Accept-Encoding": "gzip"}),
    ("GET", "/metrics", {"Accept-Encoding": "deflate, GZIP;q=0.5, br"}),
    ("GET", "/metrics", {"Accept-Encoding": "identity, gzipped"}),
    ("GET", "/metrics", {"Accept": "application/openmetrics-text; version=1.0.0; charset=utf-8"}),
    ("GET", "/favicon.ico", {}),
    ("HEAD", "/metrics", {}),
    ("OPTIONS", "/metrics", {}),
    ("DELETE", "/metrics", {}),
    ("POST", "/metrics", {}),
]


@pytest.mark.parametrize(("method", "path", "headers"), REQUESTS)
def test_every_answer_is_that_of_prometheus_client(exporter, server, method, path, headers):
    theirs, thread = start_http_server(0, "127.0.0.1", exporter.registry)
    try:
        answers = []
        for port in (server.port, theirs.server_port):
            status, answered, body = fetch(f"http://127.0.0.1:{port}{path}", headers, method)
            compressed = answered.get("Content-Encoding") == "gzip"
            del answered["Date"]
            if compressed:
                answered.pop("Content-Length")  # a compressed body holds the time
            answers.append((status, answered, gzip.decompress(body) if compressed else body))
        assert answers[0] == answers[1]
    finally:
        theirs.shutdown()
        theirs.server_close()
        thread.join()


def open_connections(server, number):
    return [socket.create_connection((server.address, server.port), timeout=10) for _ in range(number)]


def ends_within(connection, seconds):
    connection.settimeout(seconds)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_four_hundred_idle_clients_print_nothing_and_keep_no_scrape_out(server, capfd):
    clients = open_connections(server, 400)
    try:
        assert total(fetch(server.url)[2].decode()) == 1
        assert all(ends_within(client, 10) for client in clients[: -serving.MAX_CONNECTIONS])
        assert threading.active_count() < serving.MAX_CONNECTIONS + 20
    finally:
        for client in clients:
            client.close()
    assert total(fetch(server.url)[2].decode()) == 1
    assert capfd.readouterr() == ("", "")


def test_a_client_that_sends_a_byte_now_and_then_is_cut_off_in_time(exporter, monkeypatch, capfd):
    monkeypatch.setattr(serving, "MAX_REQUEST_SECONDS", 0.3)
    server = serve(exporter, 0)
    (client,) = open_connections(server, 1)
    try:
        started = time.monotonic()
        with pytest.raises(OSError):  # noqa: PT012 - the client notices at its next byte, or the one after
            while time.monotonic() < started + 10:
                client.sendall(b"G")
                if ends_within(client, 0.05):
                    raise ConnectionError
        assert time.monotonic() < started + 5
    except TimeoutError:
        pass
    finally:
        client.close()
        server.close()
    assert capfd.readouterr() == ("", "")


def test_a_client_that_does_not_read_its_answer_is_cut_off_in_time(monkeypatch, capfd):
    monkeypatch.setattr(serving, "MAX_ANSWER_SECONDS", 0.3)
    exporter = PrometheusExporter(CollectorRegistry())
    for number in range(1_000):  # 2 MB: more than the buffers of a connection hold
        name = f"flag-{number}-{'x' * 80}"
        exporter.record_nowait(FlagEvaluationEvent(datetime.now(UTC), name, True, "SPLIT", "a", "ann", {}, 1.5))
    server = serve(exporter, 0)
    (client,) = open_connections(server, 1)
    try:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        deadline = time.monotonic() + 10
        while not server._http._connections and time.monotonic() < deadline:
            time.sleep(0.01)
        while server._http._connections and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not server._http._connections
    finally:
        client.close()
        server.close()
    assert capfd.readouterr() == ("", "")


def test_a_collector_that_fails_is_a_500_and_one_log_line_without_its_text(exporter, server, caplog, capfd):
    class Broken:
        def describe(self):
            return []

        def collect(self):
            raise RuntimeError("secret")

    exporter.registry.register(Broken())
    logs.forget()
    assert [fetch(server.url)[0] for _ in range(3)] == [500] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "a scrape failed: a collector of the registry raised RuntimeError"
    ]
    assert "secret" not in capfd.readouterr().err


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_the_child_of_a_fork_leaves_the_port_to_its_parent(exporter):
    server = exporter.serve(0)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            exporter.close_sync()
            os.read(read, 1)
        finally:
            os._exit(0)
    try:
        assert total(fetch(server.url)[2].decode()) == 1
        server.close()
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind((server.address, server.port))  # the child does not hold it
            taken.listen()
    finally:
        os.write(write, b"x")
        os.close(write)
        os.close(read)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_wsgi_application_keeps_to_the_standard(exporter):
    environ = {}
    setup_testing_defaults(environ)
    environ["QUERY_STRING"] = "name[]=feature_flag_unique_users"
    statuses = []
    answer = validator(wsgi_app(exporter))(environ, lambda status, headers, exc_info=None: statuses.append(status))
    body = b"".join(answer).decode()
    answer.close()
    assert statuses == ["200 OK"]
    assert [family.name for family in parse(body)] == ["feature_flag_unique_users"]


async def test_the_asgi_application_answers_in_the_format_that_is_asked_for(exporter):
    application = asgi_app(exporter)
    status, headers, body = await ask(application)
    assert (status, total(body.decode())) == (200, 1)
    assert int(headers[b"content-length"]) == len(body)
    accept = (b"accept", b"application/openmetrics-text; version=1.0.0")
    _, headers, body = await ask(application, headers=[accept, (b"accept-encoding", b"gzip")])
    assert headers[b"content-type"].startswith(b"application/openmetrics-text")
    assert total(gzip.decompress(body).decode(), parse_openmetrics) == 1
    assert (await ask(application, method="POST"))[0] == 405
    assert (await ask(application, query=b"name[]=\xff%00"))[0] == 200
    assert (await ask(application, path="/any/other"))[0] == 200


async def test_the_asgi_application_follows_the_lifespan_and_refuses_websockets(exporter):
    application = asgi_app(exporter)
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent = []

    async def receive():
        return next(messages)

    async def send(message):
        sent.append(message["type"])

    await application({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    with pytest.raises(ValueError, match="HTTP only"):
        await application({"type": "websocket"}, receive, send)


async def test_a_scrape_delays_no_other_request_of_the_loop(exporter):
    scraping, answer = threading.Event(), threading.Event()

    class Waiting:
        async def get_metrics(self, flag_keys, *, window_seconds):
            scraping.set()
            await asyncio.to_thread(answer.wait, 10)
            return {}

    exporter.read_gauges_from(Waiting(), ["checkout"], timeout_seconds=10)
    scrape = asyncio.create_task(ask(asgi_app(exporter)))
    assert await asyncio.to_thread(scraping.wait, 5)  # would not return if the scrape held the loop
    assert not scrape.done()
    answer.set()
    assert (await scrape)[0] == 200
    await exporter.close()
