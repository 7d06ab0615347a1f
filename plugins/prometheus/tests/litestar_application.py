"""A Litestar application that shows its metrics, as the migration guide has it."""

from __future__ import annotations

from flag_analytics import FlagEvaluationEvent, PrometheusExporter
from flag_analytics_prometheus import asgi_app
from litestar import Litestar, asgi, get

exporter = PrometheusExporter(prefix="litestar")


@get("/checkout")
async def checkout() -> bool:
    await exporter.record(FlagEvaluationEvent.now("checkout", True, "SPLIT", "on", "user-1"))
    return True


app = Litestar([checkout, asgi("/metrics", is_mount=True, copy_scope=True)(asgi_app(exporter))])
