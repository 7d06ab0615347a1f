"""Recording an evaluation of a flag SDK in one call."""

from __future__ import annotations

import time

from flag_analytics import EvaluationReason, RecordResult, open_pipeline, record_evaluation


async def test_an_evaluation_is_recorded_with_all_that_an_sdk_says_of_it():
    with open_pipeline({"collectors": {"memory": {}}}) as pipeline:
        began = time.perf_counter_ns()
        result = record_evaluation(
            pipeline, "checkout", True, variant="on", reason="SPLIT", user="u1", attributes={"plan": "pro"},
            started=began, kind="exposure", error_type="GENERAL", error_message="late", flag_version="7",
            flag_set_id="shop", provider_name="sdk",
        )  # fmt: skip
        (event,) = await pipeline.collectors["memory"].get_events()
    assert result is RecordResult.ACCEPTED
    fields = event.to_dict()
    assert 0.0 < fields.pop("evaluation_duration_ms") < 60_000.0
    assert {name: value for name, value in fields.items() if name not in {"timestamp", "event_id"}} == {
        "flag_key": "checkout", "value": True, "reason": "SPLIT", "variant": "on", "targeting_key": "u1",
        "context_attributes": {"plan": "pro"}, "error_type": "GENERAL", "error_message": "late", "flag_version": "7",
        "flag_set_id": "shop", "provider_name": "sdk", "kind": "exposure", "sample_rate": 1.0,
    }  # fmt: skip


async def test_what_an_sdk_does_not_say_has_its_default():
    with open_pipeline({"collectors": {"memory": {}}}) as pipeline:
        record_evaluation(pipeline, "checkout", False)
        (event,) = await pipeline.collectors["memory"].get_events()
    assert (event.reason, event.variant, event.targeting_key) == (EvaluationReason.UNKNOWN, None, None)
    assert (event.context_attributes, event.evaluation_duration_ms, event.kind) == ({}, 0.0, "evaluation")


def test_a_closed_pipeline_refuses_an_evaluation_without_an_error():
    with open_pipeline({"collectors": {"memory": {}}}) as pipeline:
        pass
    assert record_evaluation(pipeline, "checkout", True) is RecordResult.CLOSED
