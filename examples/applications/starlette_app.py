"""Starlette: the pipeline opens and closes with the application's lifespan."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from flag_analytics import AnalyticsHook, open_pipeline
from flags import flags
from openfeature.evaluation_context import EvaluationContext
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    async with open_pipeline() as pipeline:
        flags.add_hooks([AnalyticsHook(pipeline)])
        yield


async def checkout(request: Request) -> JSONResponse:
    context = EvaluationContext(request.query_params["user"])
    return JSONResponse({"redesign": await flags.get_boolean_value_async("checkout_redesign", False, context)})


app = Starlette(lifespan=lifespan, routes=[Route("/checkout", checkout)])
