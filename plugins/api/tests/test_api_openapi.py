"""``/openapi.json`` describes every address, and the answers are as it says."""

from __future__ import annotations

import jsonschema
import pytest
from flag_analytics_api.openapi import OPERATIONS


@pytest.fixture
async def document(client):
    async with client() as local:
        return (await local.get("/openapi.json")).json()


async def test_every_question_is_described_with_bounds_for_each_parameter(document):
    assert set(document["paths"]) == {operation.path for operation in OPERATIONS}
    for path in document["paths"].values():
        for parameter in path["get"]["parameters"]:
            text = repr(parameter["schema"])
            bounded = ("maxLength", "maximum", "maxItems", "enum", "pattern", "date-time")
            assert any(bound in text for bound in bounded), parameter


@pytest.mark.parametrize(
    "path",
    [
        "/flags?detail=full",
        "/flags/checkout?group_by=variant",
        "/flags/checkout/series",
        "/flags/checkout/outcomes?outcome=purchase",
    ],
)
@pytest.mark.parametrize("recorded", [0, 3])
async def test_answers_are_as_described(client, record, document, path, recorded):
    for _ in range(recorded):
        record(targeting_key="user")
    await check(client, document, path)


@pytest.mark.parametrize("path", ["/events", "/health", "/delivery", "/plugins"])
async def test_other_answers_are_too(client, record, document, path):
    record()
    await check(client, document, path)


async def test_so_are_problems(client, document):
    async with client() as local:
        problem = (await local.get("/flags?limit=0")).json()
    jsonschema.validate(problem, {**document["components"]["schemas"]["Problem"], "components": document["components"]})


async def check(client, document, path):
    template = path.partition("?")[0].replace("checkout", "{key}")
    answer = document["paths"][template]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    async with client() as local:
        body = (await local.get(path)).json()
    jsonschema.validate(body, {**answer, "components": document["components"]}, cls=jsonschema.Draft202012Validator)


async def test_the_document_names_where_it_is_mounted(pipeline):
    import httpx
    from flag_analytics_api import ApiOptions, create_api
    from starlette.applications import Starlette
    from starlette.routing import Mount

    app = Starlette(routes=[Mount("/inner", create_api(pipeline, ApiOptions(guarded=True)))])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as local:
        assert (await local.get("/inner/openapi.json")).json()["servers"] == [{"url": "/inner"}]
        assert (await local.get("/inner/flags")).status_code == 200


async def test_a_parameter_without_a_default_is_required(document):
    parameters = document["paths"]["/flags/{key}/outcomes"]["get"]["parameters"]
    assert [one["name"] for one in parameters if one["required"]] == ["key", "outcome"]
