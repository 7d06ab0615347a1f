"""A page over a live pipeline, and a browser that looks at it and takes note of what it should not do."""

from __future__ import annotations

import os
import random
import shutil
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from flag_analytics import FlagEvaluationEvent, Pipeline, open_pipeline
from flag_analytics_api import ApiOptions
from flag_analytics_dashboard import DashboardPanel, create_dashboard, panel

CHROMIUM = os.environ.get("FLAG_ANALYTICS_CHROMIUM") or shutil.which("chromium")
TOKEN = "a-token-of-many-characters"
FLAGS = {
    "new-checkout": ("on", "off"),
    "pricing-page": ("control", "annual-first", "usage-based"),
    "search-settings": ("standard", "large"),
    "legacy-banner": ("off",),
    "smart-ranking": ("on", None),
}
WEIGHTS = (40, 25, 20, 5, 10)


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args):
    if CHROMIUM is None:
        if os.environ.get("FLAG_ANALYTICS_REQUIRE_BROWSER") == "1":
            pytest.fail("chromium is required, and there is none on the path")
        pytest.skip("chromium is not installed: `apt-get install chromium`, or name one in FLAG_ANALYTICS_CHROMIUM")
    sandbox = [] if os.name == "nt" or os.geteuid() else ["--no-sandbox"]  # Chromium has none for root
    return {**browser_type_launch_args, "executable_path": CHROMIUM, "args": sandbox}


@attrs.define
class Shown:
    """A page that is served, and the pipeline that it shows."""

    url: str
    pipeline: Pipeline

    def record(self, flag_key: str = "checkout", *, age: float = 0.0, **fields: Any) -> FlagEvaluationEvent:
        given = {"value": True, "reason": "SPLIT", "variant": "on", "evaluation_duration_ms": 1.0, **fields}
        event = FlagEvaluationEvent(datetime.now(UTC) - timedelta(seconds=age), flag_key, **given)
        assert self.pipeline.record_nowait(event)
        return event

    def record_an_hour(self, events: int = 6_000) -> None:
        """Record what an application's hour looks like; the same each time but for the moment."""
        source = random.Random(7)
        for _ in range(events):
            key = source.choices(tuple(FLAGS), WEIGHTS)[0]
            user = int(1_000 * source.random() ** 2)
            variants = FLAGS[key]
            variant = variants[(user * 7 + len(key)) % len(variants)]
            failed = key == "smart-ranking" and variant is None
            self.record(
                key,
                age=3_600 * source.betavariate(1.4, 1.6),
                value=variant in ("on", "large"),
                variant=variant,
                reason="ERROR" if failed else "DISABLED" if len(variants) == 1 else "SPLIT",
                targeting_key=f"user-{user}",
                evaluation_duration_ms=source.lognormvariate(-1.0, 0.6),
                context_attributes={"environment": source.choices(("production", "staging"), (3, 1))[0]},
                error_type="GENERAL" if failed else None,
            )


async def busiest(pipeline: Pipeline) -> list[tuple[str | datetime, float]]:
    return [(flag.flag_key, flag.count) for flag in await pipeline.aggregator.list_flags(3600)]


@contextmanager
def serving(max_size: int = 100_000, panels: Sequence[DashboardPanel] = (), **options: Any) -> Iterator[Shown]:
    import uvicorn

    with open_pipeline({"collectors": {"memory": {"max_size": max_size}}}, environ={}) as pipeline:
        page = create_dashboard(pipeline, ApiOptions(**(options or {"loopback": True})), panels=panels)
        listening = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(page, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Shown(f"http://127.0.0.1:{listening.getsockname()[1]}", pipeline)
        finally:
            server.should_exit = server.force_exit = True
            thread.join()
            listening.close()


@pytest.fixture
def shown() -> Iterator[Shown]:
    with serving() as shown:
        yield shown


@pytest.fixture
def locked() -> Iterator[Shown]:
    with serving(token=TOKEN) as shown:
        yield shown


@pytest.fixture
def shown_with_panel() -> Iterator[Shown]:
    with serving(panels=[panel("Busiest flags", busiest)]) as shown:
        yield shown


@pytest.fixture
def forgetful() -> Iterator[Shown]:
    with serving(max_size=10) as shown:
        yield shown


@pytest.fixture
def view(page, shown) -> Iterator[Any]:
    """A browser's page; any message, error, or request to elsewhere fails the test."""
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("request", lambda request: None if _is_own(request.url, shown.url) else wrong.append(request.url))
    page.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
    yield page
    assert not wrong


def _is_own(url: str, origin: str) -> bool:
    return url.startswith((f"{origin}/", "data:"))
