"""Events of a request carry its attributes, in each framework; outside of one, nothing is added."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from flag_analytics import FlagEvaluationEvent, open_pipeline, read_config
from flag_analytics_api import AsgiRequests, RequestAttributes, WsgiRequests, with_request_attributes
from flag_analytics_api.requests import _current

HOW = {"environment": "production", "release": "2026.11"}


@pytest.fixture
async def recording():
    plan = with_request_attributes(read_config({"collectors": {"memory": {}}}, environ={}))
    async with open_pipeline(plan) as pipeline:
        yield pipeline


def record(pipeline, **context):
    assert pipeline.record_nowait(FlagEvaluationEvent.now("f", True, "STATIC", context_attributes=context))


async def contexts(pipeline):
    return [event.context_attributes for event in await pipeline.collectors["memory"].get_events()]


async def get(app, path, **headers):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        return await client.get(path, headers=headers)


def starlette_app(pipeline):
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def order(_):
        record(pipeline)
        return PlainTextResponse("ok")

    return Starlette(routes=[Route("/orders/{number}", order)])


def litestar_app(pipeline):
    from litestar import Litestar
    from litestar import get as route
    from litestar.params import FromPath

    @route("/orders/{number:int}")
    async def order(number: FromPath[int]) -> int:
        record(pipeline)
        return number

    return Litestar([order])


@pytest.mark.parametrize(
    ("make", "template"), [(starlette_app, "/orders/{number}"), (litestar_app, "/orders/{number}")]
)
async def test_an_event_of_a_request_has_its_route_environment_release_and_id(recording, make, template):
    app = AsgiRequests(make(recording), **HOW)
    assert (await get(app, "/orders/7", **{"X-Request-Id": "abc-1"})).status_code == 200
    (context,) = await contexts(recording)
    route = context.pop("http.route")
    assert route.replace("{number:int}", "{number}") == template
    assert context == {"environment": "production", "release": "2026.11", "request_id": "abc-1"}


async def test_two_requests_at_once_do_not_get_each_others_attributes(recording):
    app = AsgiRequests(starlette_app(recording))
    await asyncio.gather(*(get(app, f"/orders/{number}", **{"x-request-id": f"r{number}"}) for number in range(20)))
    assert {context["request_id"] for context in await contexts(recording)} == {f"r{number}" for number in range(20)}


@pytest.mark.parametrize("given", ["", "with space", "x" * 129, "nul\x00", "é"])
async def test_an_id_that_is_no_id_is_replaced(recording, given):
    scope = {"type": "http", "headers": [(b"x-request-id", given.encode("latin-1"))], "path": "/"}

    async def app(*_):
        record(recording)

    await AsgiRequests(app)(scope, None, None)
    (context,) = await contexts(recording)
    assert len(context["request_id"]) == 32
    assert "http.route" not in context


async def test_what_the_event_says_itself_stays(recording):
    async def app(*_):
        record(recording, environment="canary", plan="gold")

    await AsgiRequests(app, **HOW)({"type": "http", "headers": [], "path": "/"}, None, None)
    (context,) = await contexts(recording)
    assert (context["environment"], context["plan"], context["release"]) == ("canary", "gold", "2026.11")


async def test_outside_of_a_request_nothing_is_added(recording):
    async def app(*_):
        pass

    await AsgiRequests(app)({"type": "http", "headers": [], "path": "/"}, None, None)
    await AsgiRequests(app)({"type": "lifespan"}, None, None)
    record(recording)
    assert await contexts(recording) == [{}]
    assert _current.get() is None


async def test_names_are_configurable_and_each_can_be_left_out():
    chosen = {"type": "request_attributes", "route": "route", "request_id": None}
    chosen.pop("request_id")
    plan = read_config({"collectors": {"memory": {}}, "plugins": ["api"], "processors": [chosen]}, environ={})
    async with open_pipeline(plan) as pipeline:
        await get(AsgiRequests(starlette_app(pipeline)), "/orders/1")
        (context,) = await contexts(pipeline)
        assert context["route"] == "/orders/{number}"
    fewer = with_request_attributes(
        read_config({"collectors": {"memory": {}}}, environ={}), RequestAttributes(request_id=None, route=None)
    )
    async with open_pipeline(fewer) as pipeline:
        await get(AsgiRequests(starlette_app(pipeline), **HOW), "/orders/1")
        assert await contexts(pipeline) == [HOW]


async def test_a_plan_gets_the_processor_once():
    plan = with_request_attributes(read_config({"collectors": {"memory": {}}}, environ={}))
    assert with_request_attributes(plan) is plan


async def test_flask_tells_its_rule(recording):
    import flask

    app = flask.Flask("shop")

    @app.get("/orders/<int:number>")
    def order(number):
        record(recording)
        return str(number)

    app.wsgi_app = WsgiRequests(app.wsgi_app, **HOW)
    assert app.test_client().get("/orders/7", headers={"X-Request-Id": "abc"}).status_code == 200
    (context,) = await contexts(recording)
    assert context == {**HOW, "http.route": "/orders/<int:number>", "request_id": "abc"}
    assert _current.get() is None


async def test_a_wsgi_application_that_fails_leaves_no_request_behind():
    def app(*_):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        WsgiRequests(app)({"PATH_INFO": "/"}, lambda *_: None)
    assert _current.get() is None
