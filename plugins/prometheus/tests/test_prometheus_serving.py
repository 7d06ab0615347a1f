"""Metrics over HTTP: from a thread, as a WSGI and as an ASGI application."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
import urllib.error
import urllib.request
from datetime import UTC, datetime
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics_prometheus import PrometheusExporter, asgi_app, serve, wsgi_app
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse


@pytest.fixture
def exporter():
    exporter = PrometheusExporter(CollectorRegistry())
    exporter.record_nowait(FlagEvaluationEvent(datetime.now(UTC), "checkout", True, "SPLIT", "a", "ann", {}, 1.5))
    return exporter


def total(text, parser=parse):
    samples = [sample for family in parser(text) for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == "feature_flag_evaluations_total")


def fetch(url, headers=(), method="GET"):
    request = urllib.request.Request(url, headers=dict(headers), method=method)
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.headers, response.read()


async def ask(application, method="GET", headers=(), query=b""):
    sent = []

    async def receive():
        return {"type": "http.request"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": "/metrics", "query_string": query, "headers": list(headers)}
    await application(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


async def test_a_server_of_its_own_answers_until_it_is_closed(exporter):
    server = exporter.serve(0)
    assert exporter.serve(0) is server
    headers, body = fetch(server.url)
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
        assert total(fetch(server.url)[1].decode()) == 1
    finally:
        server.close()


def test_a_taken_port_is_an_os_error(exporter):
    server = serve(exporter, 0)
    try:
        with pytest.raises(OSError):
            serve(exporter, server.port)
    finally:
        server.close()


def test_answers_are_compressed_for_those_who_ask(exporter):
    server = serve(exporter, 0)
    try:
        headers, body = fetch(server.url, {"Accept-Encoding": "gzip"})
        assert headers["Content-Encoding"] == "gzip"
        assert total(gzip.decompress(body).decode()) == 1
        assert fetch(server.url, method="HEAD")[1] == b""
        with pytest.raises(urllib.error.HTTPError, match="405"):
            fetch(server.url, method="DELETE")
    finally:
        server.close()


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


async def test_a_scrape_holds_up_no_other_request_of_the_loop(exporter):
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
