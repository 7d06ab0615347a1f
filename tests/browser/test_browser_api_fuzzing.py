"""The API under everything that its own description allows, and much that it does not: never a server error."""

from __future__ import annotations

import os

import pytest

pytestmark = pytest.mark.browser

QUESTIONS = ["/flags", "/flags/{key}", "/flags/{key}/series", "/events"]
"""Those with parameters."""
EXAMPLES = int(os.environ.get("FLAG_ANALYTICS_API_CASES", "200")) // len(QUESTIONS)
"""For each of them; with FLAG_ANALYTICS_API_CASES=2000 two thousand in all."""


@pytest.fixture(scope="module")
def service():
    from .conftest import serving

    with serving(loopback=True, show_people=True) as shown:
        shown.record_an_hour(500)
        yield shown


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("path", QUESTIONS)
def test_no_request_is_answered_with_a_server_error_or_in_another_form_than_described(service, path):
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.checks import not_a_server_error
    from schemathesis.generation import GenerationMode
    from schemathesis.specs.openapi.checks import response_schema_conformance

    schema = schemathesis.openapi.from_url(f"{service.url}/api/v1/openapi.json")
    operation = schema[path]["GET"]
    cases = []
    for mode in GenerationMode:
        few = settings(
            max_examples=max(1, EXAMPLES // 2),
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )

        @few
        @given(case=operation.as_strategy(generation_mode=mode))
        def attempt(case):
            cases.append(case)
            answer = case.call()
            case.validate_response(answer, checks=[not_a_server_error, response_schema_conformance])

        attempt()
    assert len(cases) >= EXAMPLES // 2
