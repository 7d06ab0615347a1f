"""Who is answered: this machine under a known name, a caller with the token, or one that the application lets in."""

from __future__ import annotations

import pytest
from flag_analytics import ConfigError
from flag_analytics_api import Access, ApiOptions
from starlette.requests import HTTPConnection

TOKEN = "a-token-of-many-characters"


def connection(client=("127.0.0.1", 1), **headers: str) -> HTTPConnection:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return HTTPConnection({"type": "http", "headers": raw, "client": client})


def test_an_api_that_anyone_could_read_is_an_error_that_says_what_to_choose():
    with pytest.raises(ConfigError, match=r"give a token, or guarded=True .* or loopback=True"):
        ApiOptions()


@pytest.mark.parametrize("token", ["", "short", "x" * 15, "long enough but\nnot printable", "ä" * 20])
def test_a_token_that_is_easily_found_or_no_header_can_hold_is_refused_without_showing_it(token):
    with pytest.raises(ConfigError, match="at least 16 printable ASCII characters") as raised:
        ApiOptions(token=token)
    assert not token or token not in str(raised.value)


def test_the_options_do_not_show_the_token():
    assert TOKEN not in repr(ApiOptions(token=TOKEN))


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:80", "LOCALHOST"])
async def test_a_client_on_this_machine_is_answered_under_a_known_name(client, address, host):
    async with client(address=(address, 1)) as local:
        assert (await local.get("/health", headers={"host": host})).status_code == 200


@pytest.mark.parametrize("address", ["10.0.0.1", "2001:db8::1", "::ffff:10.0.0.1", "testclient", ""])
async def test_a_client_elsewhere_is_refused_where_only_this_machine_may_ask(client, address):
    async with client(address=(address, 1)) as remote:
        answer = await remote.get("/health")
    assert answer.status_code == 403
    assert "configure a token" in answer.json()["detail"]


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:80", "127.0.0.1.nip.io", "", "[::2]"])
async def test_a_foreign_name_for_this_machine_is_refused(client, host):
    async with client() as rebound:
        answer = await rebound.get("/flags", headers={"host": host})
    assert answer.status_code == 421
    assert answer.headers["content-type"] == "application/problem+json"
    assert host == "" or host not in answer.text


@pytest.mark.parametrize("header", ["forwarded", "x-forwarded-for", "x-forwarded-host"])
async def test_a_request_through_a_proxy_is_not_taken_for_this_machine(client, header):
    async with client() as behind_proxy:
        assert (await behind_proxy.get("/health", headers={header: "for=10.0.0.1"})).status_code == 403


async def test_a_token_opens_the_api_from_anywhere_and_nothing_else_does(client):
    async with client(token=TOKEN, address=("10.0.0.1", 1), base_url="https://metrics.example") as remote:
        given = [None, "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer \xff"]
        for text in given:
            headers = {} if text is None else {"authorization": text.encode("latin-1")}
            answer = await remote.get("/flags", headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer")
        assert (await remote.get(f"/flags?token={TOKEN}")).status_code == 401
        assert (await remote.get("/flags", headers={"authorization": f"bearer {TOKEN}"})).status_code == 200


async def test_a_guarded_api_leaves_the_decision_to_the_application(client):
    async with client(guarded=True, address=("10.0.0.1", 1), base_url="https://metrics.example") as remote:
        assert (await remote.get("/flags")).status_code == 200


def test_a_session_is_given_for_the_token_alone_and_known_by_every_worker():
    cookie = Access(ApiOptions(token=TOKEN)).new_session(TOKEN)
    assert cookie is not None
    assert TOKEN not in cookie
    assert Access(ApiOptions(token=TOKEN)).new_session("another-token-of-characters") is None
    other_worker = Access(ApiOptions(token=TOKEN))
    assert other_worker.refusal(connection(cookie=f"flag_analytics_session={cookie}")) is None


def test_a_session_that_has_ended_was_changed_or_is_of_another_token_opens_nothing(monkeypatch):
    access = Access(ApiOptions(token=TOKEN))
    cookie = access.new_session(TOKEN)
    ends_at, _, mac = cookie.partition(".")
    changed = [f"{int(ends_at) + 1}.{mac}", f"{ends_at}.{mac[:-1]}", f"{ends_at}.", "", ".", f"²{ends_at}.{mac}"]
    for text in changed:
        assert access.refusal(connection(cookie=f"flag_analytics_session={text}")).status == 401
    valid = connection(cookie=f"flag_analytics_session={cookie}")
    assert Access(ApiOptions(token=TOKEN + "2")).refusal(valid).status == 401
    monkeypatch.setattr("time.time", lambda: float(ends_at))
    assert access.refusal(valid).status == 401


async def test_every_answer_forbids_caching_guessing_and_framing(client):
    async with client() as local:
        for path in ("/flags", "/nowhere", "/openapi.json", "/flags?limit=x"):
            headers = (await local.get(path)).headers
            assert headers["cache-control"] == "no-store"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
            assert "access-control-allow-origin" not in headers


async def test_the_api_is_only_read(client):
    async with client() as local:
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            for path in ("/flags", "/flags/x", "/events", "/delivery", "/live"):
                answer = await local.request(method, path)
                assert answer.status_code == 405
                assert answer.json()["detail"] == "this API is only read: use GET"
