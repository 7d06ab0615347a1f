"""Litestar: the pipeline opens and closes with the application's lifespan."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from flag_analytics import AnalyticsHook, open_pipeline
from flags import flags
from litestar import Litestar, get
from litestar.params import FromQuery
from openfeature.evaluation_context import EvaluationContext


@asynccontextmanager
async def lifespan(_: Litestar) -> AsyncIterator[None]:
    async with open_pipeline() as pipeline:
        flags.add_hooks([AnalyticsHook(pipeline)])
        yield


@get("/checkout")
async def checkout(user: FromQuery[str]) -> dict[str, bool]:
    return {"redesign": await flags.get_boolean_value_async("checkout_redesign", False, EvaluationContext(user))}


app = Litestar([checkout], lifespan=[lifespan])
