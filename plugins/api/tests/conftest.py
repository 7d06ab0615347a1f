"""A client of the API over a real pipeline."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from flag_analytics import FlagEvaluationEvent, Pipeline, open_pipeline
from flag_analytics_api import ApiOptions, create_api

LOCAL = ("127.0.0.1", 50_000)
Client = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
async def pipeline() -> AsyncIterator[Pipeline]:
    async with open_pipeline({"collectors": {"memory": {"max_size": 10_000}}}, environ={}) as pipeline:
        yield pipeline


@pytest.fixture
def client(pipeline) -> Client:
    """Return a function that opens a client of an API with these options; without any, for this machine alone."""

    @asynccontextmanager
    async def opened(base_url="http://localhost", address=LOCAL, over=None, **options: Any):
        app = create_api(over or pipeline, ApiOptions(**(options or {"loopback": True})))
        transport = httpx.ASGITransport(app, client=address)
        async with httpx.AsyncClient(transport=transport, base_url=base_url) as client:
            yield client

    return opened


@pytest.fixture
def record(pipeline) -> Callable[..., FlagEvaluationEvent]:
    """Return a function that records one event, some seconds old."""

    def recorded(flag_key="checkout", *, age=0.0, over=None, **fields: Any) -> FlagEvaluationEvent:
        given = {"value": True, "reason": "SPLIT", "variant": "on", "evaluation_duration_ms": 1.0, **fields}
        moment = datetime.now(UTC) - timedelta(seconds=age)
        event = FlagEvaluationEvent(timestamp=moment, flag_key=flag_key, **given)
        assert (over or pipeline).record_nowait(event)
        return event

    return recorded
