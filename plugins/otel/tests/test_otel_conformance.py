"""The OpenTelemetry exporter and its sink keep what every exporter promises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import pytest
from flag_analytics.testing import ExporterContract
from flag_analytics_otel import OTelAnalyticsExporter, OTelOptions, OTelSink

FIELDS = {
    "flag_key": "feature_flag.key",
    "variant": "feature_flag.variant",
    "reason": "feature_flag.reason",
    "targeting_key": "feature_flag.targeting_key",
}


class SpanContract(ExporterContract):
    """What arrives is looked at in the spans: the value goes nowhere unless it is asked for."""

    carries = frozenset({*FIELDS, "timestamp", "evaluation_duration_ms"})
    store_is_in_process = True  # the SDK's exporter keeps its spans
    patience_seconds = 60.0
    max_seconds = 600.0

    async def exported(self, exporter: Any) -> Mapping[str, int]:
        return Counter(span.attributes["feature_flag.key"] for span in self.sdk.spans())

    async def arrived(self, exporter: Any) -> Iterable[Mapping[str, Any]]:
        return [
            {
                **{field: span.attributes.get(name) for field, name in FIELDS.items()},
                "timestamp": datetime.fromisoformat(span.attributes["feature_flag.event_timestamp"]),
                "evaluation_duration_ms": span.attributes.get("feature_flag.evaluation_duration_ms", 0.0),
            }
            for span in self.sdk.spans()
        ]

    @pytest.fixture(autouse=True)
    def _kept(self, sdk: Any) -> None:
        self.sdk = sdk


class TestOTelSink(SpanContract):
    @pytest.fixture
    def exporter(self, sdk: Any) -> Any:
        return OTelSink(OTelOptions(), **sdk.emitters())


class TestOTelAnalyticsExporter(SpanContract):
    @pytest.fixture
    def exporter(self, sdk: Any) -> Any:
        return OTelAnalyticsExporter(**sdk.emitters())
