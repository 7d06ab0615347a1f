"""Every kind of hostile value in every field of an event reaches OTLP, or is refused alone."""

from __future__ import annotations

import pytest
from flag_analytics.freezer import Freezer
from flag_analytics.protocols import Batch
from flag_analytics.testing.hostile import CANARY, HOSTILE_KINDS, PLACES, hostile_event
from flag_analytics_otel import OTelOptions, OTelSink
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans


@pytest.mark.parametrize("kind", HOSTILE_KINDS)
async def test_a_hostile_value_in_any_field_is_exported_with_the_others(sdk, kind, capfd):
    sink = OTelSink(OTelOptions(semconv="both", record_values=True), **sdk.emitters())
    freezer = Freezer()
    events = [freezer.freeze(hostile_event(place, HOSTILE_KINDS[kind]())) for place in PLACES]
    events.append(freezer.freeze(hostile_event("flag_key", "good")))
    await sink.write(Batch("1", tuple(events)))
    spans = sdk.spans()
    assert len(spans) == len(events)
    assert spans[-1].attributes["feature_flag.key"] == "good"
    assert encode_spans(spans).SerializeToString()
    assert len(sdk.logs()) == sum(event.kind == "evaluation" for event in events)
    assert sink.failures().keys() <= {"flag_key_over_limit", "variant_over_limit", "attribute_set_over_limit"}
    assert CANARY not in "".join(capfd.readouterr())
