"""The page as a server sends it: strict headers, own files alone, and a door that knows who may come in."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from flag_analytics import FlagEvaluationEvent
from flag_analytics_dashboard import panel
from flag_analytics_dashboard.assets import assets

PAGES = ["/", "/flag?key=checkout", "/events", "/delivery", "/configuration"]
TOKEN = "a-token-of-many-characters"
HERE = Path(__file__).parents[1]


@pytest.mark.parametrize("at", ["", "/inner/page"])
@pytest.mark.parametrize("path", PAGES)
async def test_every_page_is_answered_wherever_it_is_mounted_and_asks_for_its_own_files_alone(visitor, at, path):
    async with visitor(at=at) as client:
        answer = await client.get(f"{at}{path}")
        assert answer.status_code == 200
        assert f'data-api="{at}/api/v1"' in answer.text
        files = re.findall(r'(?:src|href)="([^"]+)"', answer.text)
        for file in {file for file in files if "/static/" in file}:
            found = await client.get(file)
            assert found.status_code == 200
            assert "immutable" in found.headers["cache-control"]
            assert found.headers["x-content-type-options"] == "nosniff"
        assert all(file.startswith((f"{at}/", "#")) for file in files), files


@pytest.mark.parametrize("path", [*PAGES, "/nowhere"])
async def test_the_headers_allow_nothing_but_files_of_the_page(visitor, path):
    async with visitor() as client:
        headers = (await client.get(path)).headers
    assert headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


async def test_an_option_allows_embedding(visitor):
    async with visitor(how={"embed_in": ["https://portal.example"]}) as client:
        policy = (await client.get("/")).headers["content-security-policy"]
    assert policy.endswith("frame-ancestors https://portal.example")


async def test_there_is_no_script_or_style_inside_a_page(visitor):
    async with visitor() as client:
        for path in (*PAGES, "/nowhere"):
            text = (await client.get(path)).text
            assert not re.search(r"<script(?![^>]*\bsrc=)", text)
            assert not re.search(r"<style|\bstyle=|\bon\w+=", text)


async def test_what_is_recorded_and_what_is_in_the_address_is_not_written_into_pages(visitor, pipeline):
    pipeline.record_nowait(FlagEvaluationEvent.now("<script>alert(1)</script>", True, "STATIC"))
    async with visitor() as client:
        for path in ("/", "/flag?key=%3Cscript%3Ealert(1)%3C/script%3E", "/%3Cscript%3Ealert(1)"):
            assert "alert(1)" not in (await client.get(path)).text


async def test_a_title_is_escaped(visitor):
    async with visitor(how={"title": "<b>us & them"}) as client:
        text = (await client.get("/")).text
    assert "&lt;b&gt;us &amp; them" in text
    assert "<b>us" not in text


async def test_a_page_that_is_not_there_says_so_within_the_frame(visitor):
    async with visitor() as client:
        answer = await client.get("/nowhere")
    assert answer.status_code == 404
    assert "Not Found" in answer.text
    assert 'href="/"' in answer.text


async def test_a_file_name_reaches_no_other_file(visitor):
    async with visitor() as client:
        for name in ("%2e%2e/app.py", "..%2fapp.py", "%2fetc/passwd", "vendor", "vendor/%2e%2e/%2e%2e/app.py"):
            assert (await client.get(f"/static/x/{name}")).status_code == 404


# -- who may come in ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*PAGES, "/api/v1/flags"])
async def test_a_client_elsewhere_sees_nothing_where_only_this_machine_may(visitor, path):
    async with visitor(address="10.0.0.1") as client:
        answer = await client.get(path)
    assert answer.status_code == 403
    assert "configure a token" in answer.text


@pytest.mark.parametrize("at", ["", "/inner"])
async def test_one_form_takes_the_token_and_sets_a_cookie_that_no_script_and_no_other_site_can_use(visitor, at):
    async with visitor(at=at, token=TOKEN) as client:
        assert (await client.get(f"{at}/api/v1/flags")).status_code == 401
        sent_away = await client.get(f"{at}/events")
        assert (sent_away.status_code, sent_away.headers["location"]) == (303, f"{at}/login")
        form = await client.get(f"{at}/login")
        assert 'type="password"' in form.text

        wrong = await client.post(f"{at}/login", data={"token": "another-token-of-characters"})
        assert wrong.status_code == 401
        assert "This is not the token" in wrong.text
        assert "set-cookie" not in wrong.headers

        right = await client.post(f"{at}/login", data={"token": TOKEN}, headers={"origin": "http://localhost"})
        assert (right.status_code, right.headers["location"]) == (303, f"{at}/")
        cookie = right.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert f"path={at}/;" in cookie
        assert TOKEN not in cookie
        assert (await client.get(f"{at}/events")).status_code == 200
        assert (await client.get(f"{at}/api/v1/flags")).status_code == 200

        out = await client.post(f"{at}/logout")
        assert out.headers["location"] == f"{at}/login"
        assert (await client.get(f"{at}/api/v1/flags")).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}],
)
async def test_a_form_of_another_site_logs_nobody_in(visitor, headers):
    async with visitor(token=TOKEN) as client:
        assert (await client.post("/login", data={"token": TOKEN}, headers=headers)).status_code == 401


async def test_a_form_that_is_too_large_is_not_read_to_its_end(visitor):
    async with visitor(token=TOKEN) as client:
        assert (await client.post("/login", data={"token": TOKEN, "more": "x" * 10_000})).status_code == 401


async def test_the_page_of_a_guarded_application_has_no_form(visitor):
    async with visitor(guarded=True, address="10.0.0.1") as client:
        assert (await client.get("/")).status_code == 200
        assert (await client.get("/login")).status_code == 404
        assert "Log out" not in (await client.get("/")).text


# -- panels ------------------------------------------------------------------------------------------------------------


async def test_a_panel_is_told_to_the_page(visitor):
    shown = panel("Orders by variant", "/orders.json", "bars")
    async with visitor(how={"panels": [shown]}) as client:
        panels = (await client.get("/api/v1/plugins")).json()["panels"]
    assert panels == [{"title": "Orders by variant", "question": "/orders.json", "chart": "bars"}]


async def test_a_backend_can_bring_a_panel_that_asks_the_pipeline(visitor, pipeline, monkeypatch):
    async def busiest(pipeline):
        return [(flag.flag_key, flag.count) for flag in await pipeline.aggregator.list_flags(3600)]

    async def broken(_):
        raise RuntimeError("secret words")

    brought = [panel("Busiest", busiest), panel("Broken", broken, "number"), panel("Elsewhere", "/orders.json")]
    monkeypatch.setattr(pipeline.collectors["memory"], "dashboard_panels", lambda: brought, raising=False)
    pipeline.record_nowait(FlagEvaluationEvent.now("checkout", True, "STATIC"))
    async with visitor(at="/inner") as client:
        panels = (await client.get("/inner/api/v1/plugins")).json()["panels"]
        assert [one["question"] for one in panels] == ["panels/0", "panels/1", "/orders.json"]
        assert (await client.get("/inner/panels/0")).json() == {"points": [{"name": "checkout", "value": 1}]}
        failed = await client.get("/inner/panels/1")
        assert (failed.status_code, failed.json()) == (502, {"error": "RuntimeError"})
        for number in ("2", "3", "-1"):
            assert (await client.get(f"/inner/panels/{number}")).status_code == 404
    async with visitor(address="10.0.0.1") as stranger:
        assert (await stranger.get("/panels/0")).status_code == 403


@pytest.mark.parametrize("question", ["https://evil.example/x", "//evil.example", "orders.json", "/\\evil.example"])
def test_a_panel_asks_its_own_origin_alone(question):
    with pytest.raises(ValueError, match="begins with one slash"):
        panel("Elsewhere", question)


# -- what is in the wheel ----------------------------------------------------------------------------------------------


def test_vendored_files_are_those_that_the_bill_of_materials_names():
    (component,) = json.loads((HERE / "sboms" / "uplot.cdx.json").read_text("utf-8"))["components"]
    named = {}
    for file in component["components"]:
        named[file["name"].removeprefix("flag_analytics_dashboard/static/")] = file["hashes"][0]["content"]
    found = {
        name: hashlib.sha256(asset.content).hexdigest()
        for name, asset in assets().items()
        if name.startswith("vendor/")
    }
    assert found == named
    assert all(component["version"] in name for name in found if not name.endswith(".txt"))
    assert b"Permission is hereby granted" in assets()["vendor/LICENSE-uPlot.txt"].content


def test_no_file_of_the_page_evaluates_text_as_code_or_as_html():
    for name, asset in assets().items():
        if name.endswith(".js") and not name.startswith("vendor/"):
            text = asset.content.decode()
            assert not re.search(r"\beval\(|new Function|innerHTML|outerHTML|insertAdjacentHTML|document\.write", text)
            assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), name
