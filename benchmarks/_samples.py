"""What the benchmarks record."""

from __future__ import annotations

from datetime import UTC, datetime

from flag_analytics import EvaluationReason, FlagEvaluationEvent

__all__ = ["EVENT"]

EVENT = FlagEvaluationEvent(
    datetime.now(UTC),
    "checkout_redesign",
    True,
    EvaluationReason.TARGETING_MATCH,
    "treatment_a",
    "user-12345",
    {"plan": "premium", "country": "GB"},
    1.5,
)
"""An evaluation as they are mostly: a boolean flag with a variant, for a known user in a small context."""
