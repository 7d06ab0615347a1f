"""What the hook adds to an OpenFeature evaluation, beside a hook that does nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from flag_analytics.pipeline import open_pipeline
from flag_analytics_openfeature import AnalyticsHook
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.hook import Hook
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider

from ._harness import Contender, Limit, Table, Timed, calls, compare

_CONTEXT = EvaluationContext("user-12345", {"plan": "premium", "country": "GB"})
_SUSTAINED = 50_000
"""As many as a sink's queue holds by default."""


class _Empty(Hook):
    def before(self, hook_context: Any, hints: Any) -> None:
        pass

    def finally_after(self, hook_context: Any, details: Any, hints: Any) -> None:
        pass


def evaluation() -> Table:
    """Time an evaluation with a hook that does nothing, and with ours to one and to three backends."""
    empty, one = "an empty hook", "AnalyticsHook, to memory"
    three = "AnalyticsHook, to memory, SQLite and Prometheus"
    with tempfile.TemporaryDirectory(prefix="flag-analytics-bench-") as directory, ExitStack() as stack:
        memory: dict[str, Any] = {"memory": {"max_size": 10_000}}
        database = {"database": {"connection_string": f"sqlite:///{Path(directory, 'events.db')}"}}
        to_memory = stack.enter_context(open_pipeline({"collectors": memory}))
        to_three = stack.enter_context(
            open_pipeline(
                {
                    "collectors": {**memory, **database},
                    "exporters": {"prometheus": {}},
                }
            )
        )
        return compare(
            "An OpenFeature evaluation, in-memory provider",
            [
                Contender(empty, _evaluated("empty", [_Empty()]), most=_SUSTAINED),
                Contender("no hook", _evaluated("none", []), most=_SUSTAINED),
                Contender(one, _evaluated("one", [AnalyticsHook(to_memory)]), most=_SUSTAINED),
                Contender(three, _evaluated("three", [AnalyticsHook(to_three)]), most=_SUSTAINED),
            ],
            limits=[Limit(one, at_most=1.5, times=empty), Limit(three, at_most=2.5, times=empty)],
            notes=["the caller's thread shares the interpreter with the database's worker"],
        )


def _evaluated(domain: str, hooks: Sequence[Hook]) -> Timed:
    client = _client(domain)
    client.add_hooks(list(hooks))
    return calls(client.get_boolean_value, "checkout_redesign", False, _CONTEXT)


def _client(domain: str) -> OpenFeatureClient:
    flags = {"checkout_redesign": InMemoryFlag("treatment_a", {"treatment_a": True, "control": False})}
    api.set_provider_and_wait(InMemoryProvider(flags), domain=f"bench-{domain}")
    return api.get_client(f"bench-{domain}")


BENCHMARKS = (evaluation,)
