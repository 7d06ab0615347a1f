"""What an application tracks through OpenFeature becomes an outcome, and the application never notices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flag_analytics import Pipeline, open_pipeline
from flag_analytics.outcomes import VariantOutcomes
from flag_analytics_openfeature import AnalyticsHook, with_outcomes
from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider

track = pytest.importorskip("openfeature.track", reason="this SDK has no tracking")


class Provider(InMemoryProvider):
    """A provider that tracks on its own, too."""

    def __init__(self) -> None:
        super().__init__({"checkout": InMemoryFlag("on", {"on": True, "off": False})})
        self.tracked: list[tuple[Any, ...]] = []

    def track(self, *arguments: Any) -> None:
        self.tracked.append(arguments)


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    with open_pipeline({"collectors": {"memory": {}}}) as pipeline:
        yield pipeline
    api.clear_providers()


def client_of(provider: Any, domain: str) -> Any:
    api.set_provider_and_wait(provider, domain)
    return api.get_client(domain)


async def test_what_is_tracked_is_an_outcome_of_the_variant_that_was_seen(pipeline: Pipeline):
    provider = with_outcomes(Provider(), pipeline)
    client = client_of(provider, "tracked")
    client.add_hooks([AnalyticsHook(pipeline)])
    ada = EvaluationContext("ada", {"email": "ada@example.org"})
    client.get_boolean_value("checkout", False, ada)
    client.track("purchase", ada, track.TrackingEventDetails(value=9.5, attributes={"currency": "EUR"}))
    client.track("signup", ada)
    found = await pipeline.aggregator.get_outcomes("checkout", "purchase")
    assert found.variants == {"on": VariantOutcomes(1, 1, 1, 9.5)}
    (event,) = await pipeline.collectors["memory"].get_events("purchase")
    assert (event.kind, event.targeting_key, event.context_attributes) == ("outcome", "ada", {"currency": "EUR"})
    assert [name for name, *_ in provider.tracked] == ["purchase", "signup"]
    assert provider.tracked[0][2].value == 9.5


def test_a_provider_that_is_wrapped_again_for_the_same_pipeline_records_once(pipeline: Pipeline):
    provider = with_outcomes(with_outcomes(Provider(), pipeline), pipeline)
    client_of(provider, "twice").track("purchase", EvaluationContext("ada"))
    assert len(pipeline.collectors["memory"]) == 1
    assert len(provider.tracked) == 1


def test_a_collector_that_fails_leaves_tracking_alone(caplog: pytest.LogCaptureFixture):
    class Fails:
        def record_nowait(self, event: Any) -> Any:
            raise RuntimeError("secret-42")

    provider = with_outcomes(Provider(), Fails())
    client_of(provider, "failing").track("purchase", EvaluationContext("ada"))
    assert len(provider.tracked) == 1
    assert "could not record an outcome: RuntimeError" in caplog.text
    assert "secret-42" not in caplog.text


def test_a_provider_whose_tracking_cannot_be_replaced_is_refused(pipeline: Pipeline):
    class Fixed:
        __slots__ = ()

        def track(self) -> None: ...

    with pytest.raises(TypeError, match=r"Fixed has a track\(\) that cannot be replaced: call pipeline.record_outcome"):
        with_outcomes(Fixed(), pipeline)
