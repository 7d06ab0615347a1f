"""A canary in every secret and in what events tell of people: no log, repr, error, metric or answer shows it.

Over every distribution, with backends that work, refuse and cannot be reached. What a store or a receiver is for (rows,
files, requests) holds events, and is not looked at here.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from flag_analytics import ConfigError, FlagEvaluationEvent, open_pipeline
from flag_analytics.config.reading import read_config
from flag_analytics_api import ApiOptions, create_api
from flag_analytics_openfeature import AnalyticsHook
from flag_analytics_privacy import forget
from flag_analytics_sdks.adapter import Adapter, guarded
from openfeature.evaluation_context import EvaluationContext
from openfeature.flag_evaluation import FlagEvaluationDetails, FlagType, Reason
from openfeature.hook import HookContext
from prometheus_client import generate_latest

SECRET, PERSON = "canary-s3cr3t-7f3a91", "canary-person-7f3a91"
CANARIES = (SECRET, PERSON)
NOWHERE = "127.0.0.1:9"
QUICK = {"flush_interval_seconds": 0.01, "retry_initial_seconds": 0.01, "retry_max_seconds": 0.05}

UNREACHABLE: dict[str, dict[str, Any]] = {
    "clickhouse": {"url": f"http://app:{SECRET}@{NOWHERE}/analytics"},
    "database": {"connection_string": f"postgresql+asyncpg://app:{SECRET}@{NOWHERE}/x?application_name={SECRET}"},
    "files": {"location": "s3://bucket/flags", "storage": {"endpoint": f"http://{NOWHERE}", "access_key_id": SECRET,
                                                           "secret_access_key": SECRET, "region": "us-east-1"}},
    "memory": {},
    "otel": {},
    "prometheus": {},
    "webhook": {"url": f"http://u:{SECRET}@{NOWHERE}/?token={SECRET}", "headers": {"Authorization": f"Bearer {SECRET}"},
                "signing_secret": SECRET, "key": SECRET},
}  # fmt: skip
"""Every backend, with each of its secrets."""

EXPORTERS = ("otel", "prometheus", "webhook")


def role_of(name: str) -> str:
    return "exporters" if name in EXPORTERS else "collectors"


def event(number: int = 0, value: Any = None, **changes: Any) -> FlagEvaluationEvent:
    fields = {
        "targeting_key": f"{PERSON}-{number}",
        "context_attributes": {PERSON: PERSON, "plan": [PERSON]},
        "error_message": f"cannot read {PERSON}",
    }
    return FlagEvaluationEvent.now("checkout", value or {"text": PERSON}, "ERROR", "on", **(fields | changes))


class Unprintable:
    """A value that breaks whatever looks at it, in words of its own."""

    def __repr__(self) -> str:
        raise RuntimeError(PERSON)

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(PERSON)


@pytest.fixture(autouse=True)
def listening(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Have every logger of ours, and of the libraries below, say all it can."""
    talkative = ("", "flag_analytics", "sqlalchemy", "asyncpg", "aiosqlite", "aiohttp", "opentelemetry", "urllib3")
    with contextlib.ExitStack() as levels:
        for name in talkative:
            levels.enter_context(caplog.at_level(logging.DEBUG, name or None))
        yield


def shown_by(pipeline: Any) -> list[str]:
    parts = [pipeline, *pipeline.collectors.values(), *pipeline.exporters.values()]
    sources = [getattr(part, "event_source", None) for part in pipeline.collectors.values()]
    told = [pipeline.stats(), pipeline.health(), pipeline.plan, *(sink.options for sink in pipeline.plan.sinks)]
    return [repr(each) for each in (*parts, *sources, *told)]


def assert_silent(words: list[str]) -> None:
    found = [word for word in words for canary in CANARIES if canary in word]
    assert not found, found


def test_every_backend_is_tried() -> None:
    here = Path(__file__).parents[1]
    offered = {
        path.parents[2].name
        for path in here.glob("plugins/*/src/*/*.py")
        if "Backend(" in path.read_text("utf-8") and "_register_" in path.read_text("utf-8")
    }
    assert offered == set(UNREACHABLE)


@pytest.mark.parametrize("name", sorted(UNREACHABLE))
def test_a_backend_that_cannot_be_reached_shows_nothing(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    spools = tmp_path / "spools"
    source = {
        "collectors": {},
        role_of(name): {name: UNREACHABLE[name]},
        "delivery": {**QUICK, "durability": "spool", "spool_directory": str(spools)},
    }
    pipeline = open_pipeline(source, environ={})
    words = []
    with pipeline:
        for number in range(3):
            pipeline.record_nowait(event(number, value=Unprintable()) if number == 2 else event(number))
        words.append(repr(pipeline.flush_sync(0.5)))
        words += shown_by(pipeline)
        if os.name == "posix":
            assert not any(path.stat().st_mode & 0o077 for path in spools.rglob("*"))
            assert any(path.is_file() for path in spools.rglob("*")) == (name not in {"memory", "prometheus"})
    words.append(repr(pipeline.close_sync(0.5)))
    assert_silent([*words, caplog.text, *capfd.readouterr()])


class _Echo(BaseHTTPRequestHandler):
    """Refuses each request in the words of its own content."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(400, f"cannot take {PERSON} from {SECRET}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def echo() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def configuration(tmp_path: Path, echo: str = NOWHERE) -> dict[str, Any]:
    return {
        "plugins": ["privacy"],
        "collectors": {
            "memory": {},
            "database": {
                "connection_string": f"sqlite+aiosqlite:///{(tmp_path / 'flags.db').as_posix()}",
                "processors": [{"type": "hash_targeting_key", "key": SECRET, "key_id": "1"}],
            },
            "files": {"location": (tmp_path / "kept").as_posix()},
        },
        "exporters": {
            "prometheus": {},
            "webhook": {**UNREACHABLE["webhook"], "url": f"http://u:{SECRET}@{echo}/?token={SECRET}"},
        },
        "delivery": QUICK,
    }


async def test_answers_metrics_and_receipts_show_nothing(
    tmp_path: Path, echo: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    words = []
    async with open_pipeline(configuration(tmp_path, echo), environ={}) as pipeline:
        for number in range(3):
            pipeline.record_nowait(event(number, True))  # values are shown on the page of events
            pipeline.record_nowait(event(number, True, kind="outcome"))
        words.append(repr(await pipeline.flush(2.0)))
        words += shown_by(pipeline)
        words.append(generate_latest().decode())
        api = create_api(pipeline, ApiOptions(loopback=True), plan=pipeline.plan)
        transport = httpx.ASGITransport(api, client=("127.0.0.1", 50_000), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            words += [answer async for answer in answers(client, *QUESTIONS)]
            await pipeline.collectors["database"].forget([f"{PERSON}-9"])
            (tmp_path / "flags.db").write_bytes(b"damaged")
            words += [answer async for answer in answers(client, "/flags/checkout?window=2h")]
        receipt = await forget(pipeline, f"{PERSON}-1", timeout=1.0)
        words += [repr(receipt), json.dumps(receipt.to_dict())]
        assert {place.name: place.erased for place in receipt.places}["files"] == 2
    assert "webhook" in caplog.text, "something was said of the refusal"
    assert_silent([*words, caplog.text, *capfd.readouterr()])


QUESTIONS = (
    "/flags", "/flags?detail=full", "/flags/checkout", "/flags/checkout/series", "/events", "/health", "/delivery",
    "/plugins", "/openapi.json",
)  # fmt: skip


async def answers(client: httpx.AsyncClient, *paths: str) -> AsyncIterator[str]:
    for path in paths:
        answer = await client.get(path)
        yield f"{path} {answer.status_code} {answer.headers} {answer.text}"


COMMANDS = [
    ["check"], ["plugins"], ["privacy"], ["db", "upgrade"], ["report"], ["dead-letters"], ["spool", "list"],
    ["forget", f"{PERSON}-1"], ["forget", f"{PERSON}-1", "--format", "json"],
]  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("private")
    with open_pipeline(configuration(tmp_path), environ={}) as pipeline:
        for number in range(3):
            pipeline.record_nowait(event(number))
        pipeline.flush_sync(1.0)
        pipeline.close_sync(0.1)
    lines = (f"{name} = {toml(value)}\n" for name, value in configuration(tmp_path).items())
    (tmp_path / "flag-analytics.toml").write_text("".join(lines), "utf-8")
    return tmp_path


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {toml(each)}" for name, each in value.items()) + "}"
    return f"[{', '.join(map(toml, value))}]" if isinstance(value, list) else json.dumps(value)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_shows_nothing(directory: Path, words: list[str]) -> None:
    program = Path(sys.executable).with_name("flag-analytics")
    done = subprocess.run(
        [program, *words], cwd=directory, capture_output=True, encoding="utf-8", timeout=60, check=False
    )
    assert done.stdout or done.stderr
    assert_silent([done.stdout, done.stderr])


def test_a_wrong_configuration_quotes_no_secret() -> None:
    broken = [
        {"collectors": {"database": {"connection_string": f"nothing://u:{SECRET}@h/?password={SECRET}"}}},
        {"collectors": {"clickhouse": {"url": f"nothing://u:{SECRET}@h/"}}},
        {"collectors": {"files": {"location": "x", "storage": [SECRET]}}},
        {"exporters": {"webhook": {**UNREACHABLE["webhook"], "url": f"nothing://u:{SECRET}@h/"}}},
        {"plugins": ["privacy"], "processors": [{"type": "hash_targeting_key", "key": SECRET, "key_id": SECRET * 20}]},
    ]
    for source in broken:
        with pytest.raises(ConfigError, match="problem in configuration") as raised:
            read_config(source)
        assert_silent(["".join(traceback.format_exception(raised.value)), repr(raised.value)])


def test_an_adapter_that_fails_shows_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def record_nowait(self, _: Any) -> bool:
            raise RuntimeError(PERSON)

    class OfAnSdk(Adapter):
        @guarded
        def after(self, key: str) -> None:
            self.record(key, PERSON, user=PERSON)

    adapter = OfAnSdk(Broken())
    adapter.after("checkout")
    context = EvaluationContext(PERSON, {PERSON: PERSON})
    hook = AnalyticsHook(Broken())
    details = FlagEvaluationDetails("checkout", PERSON, reason=Reason.ERROR, error_message=PERSON)
    hook.finally_after(HookContext("checkout", FlagType.STRING, PERSON, context), details, {})
    assert adapter.failures == {"RuntimeError": 1}
    assert_silent([caplog.text, repr(adapter), repr(hook)])
