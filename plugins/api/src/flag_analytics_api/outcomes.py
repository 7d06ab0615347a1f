"""``/flags/{key}/outcomes``: what users did after they had met a flag, by the variant that they saw first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flag_analytics.outcomes import Difference, VariantOutcomes
from starlette.requests import Request
from starlette.responses import Response

from .answers import OutcomeDifference, Outcomes, VariantOutcome
from .parameters import OutcomesQuery, read_query
from .problems import ProblemError
from .service import Service, key_in

__all__ = ["outcomes"]


async def outcomes(service: Service, request: Request) -> Response:
    """Answer ``/flags/{key}/outcomes``."""
    query = read_query(OutcomesQuery, request.query_params)
    key = key_in(request)
    expected = _shares(query.expect)
    asked = service.asked(query)

    async def found() -> Outcomes:
        scope = service.scope(query, asked)
        answer = await service.aggregator.get_outcomes(key, query.outcome, asked.seconds, **scope)
        control = (query.control if answer.variants else "") or answer.usual_control()
        doubts = answer.doubts(expect=expected, stats=service.pipeline.stats())
        differences = {} if control is None else answer.differences(control)
        names = sorted(answer.variants, key=lambda name: (name != control, name))
        return Outcomes(
            key=key,
            outcome=answer.metric,
            control=control,
            variants=[
                _variant(name, answer.variants[name], None if doubts else differences.get(name)) for name in names
            ],
            crossover_users=answer.crossover_users,
            doubts=doubts,
            **await service.envelope(asked, estimated=answer.sampled, accuracies=[answer.accuracy]),
        )

    return await service.answer(f"outcomes {key!r} {request.url.query}", found)


def _shares(expect: Sequence[str]) -> Mapping[str, float] | None:
    """Return the planned shares as ratios that sum to 1."""
    planned = {name: float(number) for name, _, number in (one.rpartition("=") for one in expect)}
    total = sum(planned.values())
    if planned and not total:
        raise ProblemError(400, "the planned shares are all 0", parameter="expect", expected="a number above 0")
    return {name: share / total for name, share in planned.items()} or None


def _variant(name: str, one: VariantOutcomes, difference: Difference | None) -> VariantOutcome:
    low, high = one.rate_interval
    return VariantOutcome(
        variant=name,
        users=one.users,
        converted_users=one.converted_users,
        rate=one.rate * 100,
        low=low * 100,
        high=high * 100,
        values=one.values,
        value_sum=one.value_sum,
        value_mean=one.value_mean,
        difference=None if difference is None else _in_points(difference),
    )


def _in_points(one: Difference) -> OutcomeDifference:
    return OutcomeDifference(one.difference * 100, one.low * 100, one.high * 100, one.is_significant)
