"""``flag-analytics demo --serve``: real evaluations go on while the page shows them."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import attrs
from flag_analytics.config.plan import Plan
from flag_analytics.pipeline import Pipeline, open_pipeline
from flag_analytics.protocols import RecordResult

from .demo import demo_client, evaluate
from .page import dashboard_of, listen, serve_page, until_interrupted
from .simulation import Visit, visits
from .terminal import note

__all__ = ["serve_demo"]

_PAST = timedelta(hours=1)
_PAUSE_SECONDS = 0.25
_MOST_AT_ONCE = 5
_FLUSH_EVERY = 1_000


@attrs.define
class _Dated:
    """Records evaluations of now as if they had happened before: the page of a demo begins with an hour's figures."""

    pipeline: Pipeline
    before: timedelta = timedelta()

    def record_nowait(self, event: Any) -> RecordResult:
        return self.pipeline.record_nowait(event.replace(timestamp=event.timestamp - self.before))


def serve_demo(plan: Plan, *, events: int, seed: int, port: int) -> None:
    """Evaluate flags ``events`` times, spread over the last hour, then some each second while the page is served.

    Raises:
        PageError: the port cannot be had.
        PluginNotInstalledError: the page's distributions are not installed.
    """

    async def serving() -> None:
        async with open_pipeline(plan) as pipeline:
            page = dashboard_of(pipeline, plan, show_people=True)
            listening = listen("127.0.0.1", port)
            dated = _Dated(pipeline)
            async with demo_client(dated) as client:
                coming = visits(10**9, seed)
                note(f"Evaluating five flags with OpenFeature, {events:,} times")
                await _evaluate_past(dated, client, itertools.islice(coming, events), events)
                going_on = asyncio.create_task(_evaluate_on(client, coming, seed))
                try:
                    await serve_page(page, listening)
                finally:
                    going_on.cancel()
                    await asyncio.gather(going_on, return_exceptions=True)

    until_interrupted(serving())


async def _evaluate_past(dated: _Dated, client: Any, coming: Iterator[Visit], events: int) -> None:
    for number, visit in enumerate(coming, 1):
        dated.before = _PAST * (1 - number / events)
        await evaluate(client, visit)
        if number % _FLUSH_EVERY == 0:
            await dated.pipeline.flush()
    dated.before = timedelta()
    await dated.pipeline.flush()


async def _evaluate_on(client: Any, coming: Iterator[Visit], seed: int) -> None:
    source = random.Random(seed)
    while True:
        for visit in itertools.islice(coming, source.randrange(_MOST_AT_ONCE)):
            await evaluate(client, visit)
        await asyncio.sleep(_PAUSE_SECONDS)
