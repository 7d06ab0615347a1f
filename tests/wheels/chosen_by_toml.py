"""A third party's backend, chosen by the TOML file in this directory alone, receives events."""

import json
from datetime import UTC, datetime
from pathlib import Path

from flag_analytics import EvaluationReason, FlagEvaluationEvent, open_pipeline

with open_pipeline("flag-analytics.toml") as pipeline:
    for number in range(3):
        pipeline.record_nowait(FlagEvaluationEvent(datetime.now(UTC), "checkout", number, EvaluationReason.STATIC))
assert pipeline.stats().sinks["jsonl"].delivered == 3

lines = [json.loads(line) for line in Path("events.jsonl").read_text("utf-8").splitlines()]
assert [line["value"] for line in lines] == [0, 1, 2]
