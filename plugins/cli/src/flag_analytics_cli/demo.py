"""``flag-analytics demo``: real evaluations, watched live, then the full metrics of every flag."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from flag_analytics.aggregator import AnalyticsAggregator
from flag_analytics.config.plan import Plan
from flag_analytics.errors import FlagAnalyticsError
from flag_analytics.pipeline import Pipeline, open_pipeline
from flag_analytics.recording import Recorder
from flag_analytics_openfeature import AnalyticsHook
from openfeature import api
from openfeature.client import OpenFeatureClient
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .figures import Report, gather
from .layout import Trimmed, overview, print_report
from .selection import Selection
from .simulation import FLAGS, Visit, provider, visits
from .terminal import results
from .visible import visible

__all__ = ["DemoError", "demo_client", "evaluate", "run_demo"]

_DOMAIN = "flag-analytics-demo"
_LIVE_SECONDS = 8.0
_FRAMES_PER_SECOND = 10
_FLUSH_EVERY = 5_000


class DemoError(FlagAnalyticsError):
    """The demo ran, and not all of its events were stored."""


def run_demo(plan: Plan, *, events: int, seed: int, live: bool) -> bool:
    """Evaluate flags ``events`` times, and show the recorded figures; return whether it came to its end.

    Interrupted (SIGINT), it stores and shows the evaluations until then.

    Args:
        live: Take ``_LIVE_SECONDS`` for it and show a table that follows; else be done as soon as possible.

    Raises:
        DemoError: some events were not stored.
        SourceError: none of the plan's collectors can be asked about its events.
    """
    return asyncio.run(_demo(plan, events, seed, live))


async def _demo(plan: Plan, events: int, seed: int, live: bool) -> bool:
    console = results()
    started = datetime.now(UTC)
    finished = True
    async with open_pipeline(plan) as pipeline, demo_client(pipeline) as client:
        aggregator = pipeline.aggregator
        coming = visits(events, seed)
        try:
            if live:
                await _watch(console, pipeline, client, coming, events, started)
            for number, visit in enumerate(coming, 1):
                await evaluate(client, visit)
                if number % _FLUSH_EVERY == 0:
                    await pipeline.flush()
        except asyncio.CancelledError:
            # The first Ctrl-C only ends the evaluating; the next one ends the command.
            finished = False
            if (task := asyncio.current_task()) is not None:
                task.uncancel()
        report = await pipeline.flush()
        if not report.complete:
            raise DemoError(
                f"not every event was stored: {report.pending:,} wait, {sum(report.dropped.values()):,} lost"
            )
        print_report(console, await _figures(aggregator, started), overview_last=True)
        _print_ledger(console, pipeline)
    return finished


def _print_ledger(console: Console, pipeline: Pipeline) -> None:
    """Show the outcome of every event, by backend."""
    console.print()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("Ledger")
    for title in ("Accepted", "Delivered", "Waiting", "Refused", "Lost"):
        table.add_column(title, justify="right")
    for name, sink in pipeline.stats().sinks.items():
        counts = (sink.accepted, sink.delivered, sink.pending, sink.dead, sum(sink.dropped.values()))
        table.add_row(visible(name), *(f"{count:,}" for count in counts))
    console.print(Trimmed(table))


@asynccontextmanager
async def demo_client(recorder: Recorder) -> AsyncIterator[OpenFeatureClient]:
    """Yield a client with the hook; in a domain of its own, so that nothing of the SDK's global state is touched."""
    # Newer releases initialise a provider in the background unless asked to wait.
    getattr(api, "set_provider_and_wait", api.set_provider)(provider(), _DOMAIN)
    client = api.get_client(_DOMAIN)
    client.add_hooks([AnalyticsHook(recorder)])
    yield client


async def evaluate(client: OpenFeatureClient, visit: Visit) -> None:
    """Evaluate the flag of a visit, as an application would."""
    match visit.default:
        case bool():
            client.get_boolean_value(visit.flag_key, visit.default, visit.context)
        case str():
            client.get_string_value(visit.flag_key, visit.default, visit.context)
        case _:
            await client.get_object_value_async(visit.flag_key, visit.default, visit.context)


async def _watch(
    console: Console,
    pipeline: Pipeline,
    client: OpenFeatureClient,
    coming: Iterator[Visit],
    events: int,
    started: datetime,
) -> None:
    """Evaluate at an even pace, and draw the figures so far."""
    begin = time.monotonic()
    frames = int(_LIVE_SECONDS * _FRAMES_PER_SECOND)
    with Live(console=console, auto_refresh=False, transient=True) as view:
        done = 0
        for frame in range(1, frames + 1):
            due = events * frame // frames
            for visit in itertools.islice(coming, due - done):
                await evaluate(client, visit)
            done = due
            view.update(_frame(console, await _figures(pipeline.aggregator, started), done, events), refresh=True)
            await asyncio.sleep(max(0.0, begin + frame / _FRAMES_PER_SECOND - time.monotonic()))


async def _figures(aggregator: AnalyticsAggregator, started: datetime) -> Report:
    now = datetime.now(UTC)
    # From the start and not a moment before: the store may hold the events of an earlier run.
    return await gather(aggregator, tuple(FLAGS), Selection((now - started).total_seconds(), now, "this run"))


def _frame(console: Console, report: Report, done: int, events: int) -> Group:
    progress = Table.grid(padding=(0, 2))
    progress.add_row(
        ProgressBar(total=max(events, 1), completed=done, width=min(40, console.width // 2), complete_style="cyan"),
        Text(f"{done:,} of {events:,} evaluations", "dim"),
    )
    return Group(
        Text("Evaluating five flags with OpenFeature", "bold"),
        Padding(progress, (1, 0)),
        overview(report.flags, console.width),
    )
