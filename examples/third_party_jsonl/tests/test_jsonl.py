"""The collector keeps the promises of every collector."""

import json

import pytest
from flag_analytics import FlagEvaluationEvent
from flag_analytics.testing import CollectorContract
from third_party_jsonl.plugin import JsonLinesSink, Options


class TestJsonLines(CollectorContract):
    @pytest.fixture
    def collector(self, tmp_path):
        return JsonLinesSink(Options(tmp_path / "events.jsonl"))

    async def stored(self, collector):
        lines = collector.options.path.read_text("utf-8").splitlines()
        return [FlagEvaluationEvent.from_dict(json.loads(line)) for line in lines]
