"""What evaluations take while the database behind them is slow, beside one that is well.

The server is PostgreSQL's of the tests: ``FLAG_ANALYTICS_TEST_POSTGRES``, else the local default.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from typing import Any

from flag_analytics.pipeline import open_pipeline
from flag_analytics.testing.faults import FaultProxy
from sqlalchemy import make_url

from ._harness import Figure, Table, installed, judge
from .database import _databases

_ROUNDS = 40
_EVALUATIONS = 500
_DELAY_SECONDS = 0.25
_TITLE = "An evaluation of litestar-flags, stored in PostgreSQL that is 250 ms slower for each packet"


def slow_database() -> Table:
    """Compare the 99th percentile of evaluations before a slow database with that before a healthy one."""
    if not installed("litestar_flags"):
        return Table(_TITLE, notes=["not installed: litestar_flags"])
    with _databases("postgresql", count=2) as urls, ExitStack() as stack:
        if not urls:
            return Table(_TITLE, notes=["no postgresql server answers"])
        slow = make_url(urls[1])
        proxy = stack.enter_context(FaultProxy((slow.host or "", slow.port or 5432)))
        behind = slow.set(host=proxy.address[0], port=proxy.address[1]).render_as_string(hide_password=False)
        pipelines = [
            stack.enter_context(
                open_pipeline({"collectors": {"database": {"connection_string": url, "flush_interval_seconds": 0.05}}})
            )
            for url in (urls[0], behind)
        ]
        for pipeline in pipelines:
            assert pipeline.flush_sync(10.0)
        healthy, ours = asyncio.run(_evaluate_in_turn(pipelines, lambda: proxy.delay(_DELAY_SECONDS)))
        proxy.heal()
        figures = [
            Figure("99th percentile, healthy database, best round", healthy * 1e6, "µs"),
            Figure("99th percentile, slow database, best round", ours * 1e6, "µs"),
            Figure("ratio", ours / healthy, "x", at_most=1.05),
        ]
        return Table(_TITLE, figures=figures, verdicts=judge(figures))


async def _evaluate_in_turn(pipelines: list[Any], make_slow: Any) -> list[float]:
    """Return the best 99th percentile of each pipeline's client, in seconds; the last one is made slow first."""
    clients = [await _client(pipeline) for pipeline in pipelines]
    for client in clients:
        await _percentile(client)
    make_slow()
    best = [float("inf")] * len(clients)
    for _ in range(_ROUNDS):
        for place, client in enumerate(clients):
            best[place] = min(best[place], await _percentile(client))
    return best


async def _percentile(client: Any) -> float:
    from litestar_flags import EvaluationContext

    context = EvaluationContext(targeting_key="user-1", attributes={"plan": "premium", "country": "GB"})
    took = []
    for _ in range(_EVALUATIONS):
        started = time.perf_counter()
        await client.get_boolean_value("checkout", default=False, context=context)
        took.append(time.perf_counter() - started)
    return sorted(took)[int(_EVALUATIONS * 0.99)]


async def _client(pipeline: Any) -> Any:
    from litestar_flags import FeatureFlagClient, MemoryStorageBackend
    from litestar_flags.models import FeatureFlag
    from litestar_flags.types import FlagStatus, FlagType

    storage = MemoryStorageBackend()
    flag = FeatureFlag(
        key="checkout",
        name="checkout",
        flag_type=FlagType.BOOLEAN,
        status=FlagStatus.ACTIVE,
        default_enabled=True,
        rules=[],
        overrides=[],
        variants=[],
    )
    await storage.create_flag(flag)
    return FeatureFlagClient(storage, analytics_collector=pipeline)


BENCHMARKS = (slow_database,)
