"""Django (ASGI) in one file: the page stands beside it, under one server."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from flag_analytics import AnalyticsHook, open_pipeline
from flag_analytics_api import ApiOptions, AsgiRequests
from flag_analytics_dashboard import create_dashboard
from flag_analytics_prometheus import metrics_registry
from openfeature.evaluation_context import EvaluationContext
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from shop_flags import flags
from starlette.applications import Starlette
from starlette.routing import Mount

pipeline = open_pipeline()
flags.add_hooks([AnalyticsHook(pipeline)])


def checkout(_: HttpRequest, user: str) -> JsonResponse:
    return JsonResponse({"redesign": flags.get_boolean_value("checkout_redesign", False, EvaluationContext(user))})


def metrics(_: HttpRequest) -> HttpResponse:
    registry = metrics_registry(pipeline.exporters["prometheus"])
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


urlpatterns = [path("checkout/<str:user>", checkout), path("metrics", metrics)]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["127.0.0.1"], SECRET_KEY="only-for-this-example")


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    async with pipeline:
        yield


app = Starlette(
    lifespan=lifespan,
    routes=[
        Mount("/flag-analytics", create_dashboard(pipeline, ApiOptions(token=os.environ["ANALYTICS_TOKEN"]))),
        Mount("/", AsgiRequests(get_asgi_application(), environment="example", release="1")),
    ],
)
