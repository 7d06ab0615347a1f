"""FastAPI with OpenFeature: page, metrics, and the route of each request on its events."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from flag_analytics import AnalyticsHook, open_pipeline
from flag_analytics_api import ApiOptions, AsgiRequests
from flag_analytics_dashboard import create_dashboard
from flag_analytics_prometheus import asgi_app
from openfeature.evaluation_context import EvaluationContext
from shop_flags import flags

pipeline = open_pipeline()
flags.add_hooks([AnalyticsHook(pipeline)])


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with pipeline:
        yield


app = FastAPI(lifespan=lifespan)
app.add_middleware(AsgiRequests, environment="example", release="1")
app.mount("/flag-analytics", create_dashboard(pipeline, ApiOptions(token=os.environ["ANALYTICS_TOKEN"])))
app.mount("/metrics", asgi_app(pipeline.exporters["prometheus"]))


@app.get("/checkout/{user}")
async def checkout(user: str) -> dict[str, bool]:
    return {"redesign": await flags.get_boolean_value_async("checkout_redesign", False, EvaluationContext(user))}
