"""FastAPI: the pipeline opens and closes with the application's lifespan."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from flag_analytics import AnalyticsHook, open_pipeline
from flags import flags
from openfeature.evaluation_context import EvaluationContext


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with open_pipeline() as pipeline:
        flags.add_hooks([AnalyticsHook(pipeline)])
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/checkout")
async def checkout(user: str) -> dict[str, bool]:
    return {"redesign": await flags.get_boolean_value_async("checkout_redesign", False, EvaluationContext(user))}
