"""Under trio, as an application of anyio may run, everything that waits works."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.field

PROGRAM = """
import warnings
warnings.simplefilter("error")
import anyio
from flag_analytics import AnalyticsAggregator, DatabaseAnalyticsCollector, FlagEvaluationEvent, open_pipeline

URL = "sqlite+aiosqlite:///events.db"

async def main():
    pipeline = open_pipeline({"collectors": {"database": {"connection_string": URL}, "memory": {"max_size": 20_000}}})
    for number in range(12_000):
        await pipeline.record(FlagEvaluationEvent.now("dark_mode", True, "STATIC", targeting_key=f"user-{number % 7}"))
        if number % 1_000 == 0:
            await anyio.sleep(0.001)
    report = await pipeline.flush()
    assert report.complete, report
    for source in pipeline.collectors.values():
        metrics = await AnalyticsAggregator(source).get_flag_metrics("dark_mode")
        assert (metrics.total_evaluations, metrics.unique_users) == (12_000, 7), metrics
    with anyio.move_on_after(0.0):
        await pipeline.flush()
    assert (await pipeline.close()).complete
    collector = await DatabaseAnalyticsCollector.create(URL)
    await collector.record(FlagEvaluationEvent.now("dark_mode", True, "STATIC"))
    await collector.flush()
    assert len(await collector.get_events("dark_mode", limit=5)) == 5
    await collector.close()

anyio.run(main, backend="{backend}")
"""


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_flush_close_and_questions_work_under_both_loops_of_anyio(field, backend):
    done = field.python(PROGRAM.replace("{backend}", backend))
    assert done.returncode == 0, done.stderr
    assert field.stored() == 12_001
