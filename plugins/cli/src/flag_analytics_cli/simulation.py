"""The demo's world: five flags of every sort behind OpenFeature's in-memory provider, and the users who meet them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any

import attrs
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import FlagResolutionDetails, Reason
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider

__all__ = ["FLAGS", "Visit", "provider", "visits"]

_USERS = 1_000
_COUNTRIES = ("GB", "DE", "FR", "JP", "BR")
_PLANS = ("free", "team", "enterprise")
_PLAN_WEIGHTS = (70, 25, 5)


@attrs.frozen
class Visit:
    """One user who comes to one flag."""

    flag_key: str
    default: Any
    context: EvaluationContext


def provider() -> InMemoryProvider:
    """Return a provider with all of the flags."""
    return InMemoryProvider(dict(FLAGS))


def visits(count: int, seed: int) -> Iterator[Visit]:
    """Yield visits, the same ones for the same seed; some users come often and many come rarely."""
    source = random.Random(seed)
    users = [
        EvaluationContext(
            f"user-{number:04d}",
            {
                "plan": source.choices(_PLANS, _PLAN_WEIGHTS)[0],
                "country": source.choice(_COUNTRIES),
            },
        )
        for number in range(_USERS)
    ]
    keys = tuple(_DEFAULTS)
    for _ in range(count):
        key = source.choices(keys, _WEIGHTS)[0]
        # The square favours low numbers.
        yield Visit(key, _DEFAULTS[key], users[int(_USERS * source.random() ** 2)])


def _bucket(flag_key: str, context: EvaluationContext) -> float:
    """Return where a user stands in a flag's rollout, 0 to 1: always at the same place, and elsewhere in others'."""
    digest = blake2b(f"{flag_key}/{context.targeting_key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def _rollout(flag: InMemoryFlag[bool], context: EvaluationContext) -> FlagResolutionDetails[bool]:
    variant = "on" if _bucket("new-checkout", context) < 0.3 else "off"
    return FlagResolutionDetails(flag.variants[variant], reason=Reason.SPLIT, variant=variant)


def _experiment(flag: InMemoryFlag[str], context: EvaluationContext) -> FlagResolutionDetails[str]:
    names: Sequence[str] = tuple(flag.variants)
    variant = names[int(_bucket("pricing-page", context) * len(names))]
    return FlagResolutionDetails(flag.variants[variant], reason=Reason.SPLIT, variant=variant)


def _settings(flag: InMemoryFlag[Any], context: EvaluationContext) -> FlagResolutionDetails[Any]:
    if context.attributes.get("plan") == "enterprise":
        return FlagResolutionDetails(flag.variants["large"], reason=Reason.TARGETING_MATCH, variant="large")
    return FlagResolutionDetails(flag.variants["standard"], reason=Reason.DEFAULT, variant="standard")


def _disabled(flag: InMemoryFlag[bool], context: EvaluationContext) -> FlagResolutionDetails[bool]:  # noqa: ARG001
    return FlagResolutionDetails(flag.variants["off"], reason=Reason.DISABLED, variant="off")


def _flaky(flag: InMemoryFlag[bool], context: EvaluationContext) -> FlagResolutionDetails[bool]:
    if _bucket("smart-ranking", context) < 0.12:
        return FlagResolutionDetails(
            False, ErrorCode.GENERAL, "the ranking service did not answer", reason=Reason.ERROR
        )
    return FlagResolutionDetails(flag.variants["on"], reason=Reason.STATIC, variant="on")


FLAGS: dict[str, InMemoryFlag[Any]] = {
    "new-checkout": InMemoryFlag("off", {"on": True, "off": False}, context_evaluator=_rollout),
    "pricing-page": InMemoryFlag(
        "control",
        {"control": "monthly", "annual-first": "annual", "usage-based": "usage"},
        context_evaluator=_experiment,
    ),
    "search-settings": InMemoryFlag(
        "standard",
        {
            "standard": {"page_size": 20, "fuzzy": False},
            "large": {"page_size": 100, "fuzzy": True, "fields": ["title", "body"]},
        },
        context_evaluator=_settings,
    ),
    "legacy-banner": InMemoryFlag(
        "off", {"on": True, "off": False}, state=InMemoryFlag.State.DISABLED, context_evaluator=_disabled
    ),
    "smart-ranking": InMemoryFlag("on", {"on": True, "off": False}, context_evaluator=_flaky),
}
"""A percentage rollout, a three-way experiment, a JSON setting, a disabled flag, and one that fails for some."""

_DEFAULTS: dict[str, Any] = {
    "new-checkout": False,
    "pricing-page": "monthly",
    "search-settings": {},
    "legacy-banner": False,
    "smart-ranking": False,
}
_WEIGHTS = (40, 25, 20, 5, 10)
