"""A client of the page over a real pipeline."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from flag_analytics import Pipeline, open_pipeline
from flag_analytics_api import ApiOptions
from flag_analytics_dashboard import create_dashboard
from starlette.applications import Starlette
from starlette.routing import Mount


@pytest.fixture
async def pipeline() -> AsyncIterator[Pipeline]:
    async with open_pipeline({"collectors": {"memory": {}}}, environ={}) as pipeline:
        yield pipeline


@pytest.fixture
def visitor(pipeline):
    """Return a function that opens a client of the page, mounted at a path or at the root."""

    @asynccontextmanager
    async def opened(at="", address="127.0.0.1", how: dict[str, Any] | None = None, **options: Any):
        page = create_dashboard(pipeline, ApiOptions(**(options or {"loopback": True})), **(how or {}))
        app = Starlette(routes=[Mount(at, page)]) if at else page
        transport = httpx.ASGITransport(app, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield client

    return opened
