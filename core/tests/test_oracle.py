"""Every figure is that of pandas, which knows nothing of our arithmetic, over random sets of events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flag_analytics.aggregator import AnalyticsAggregator
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.freezer import Freezer
from flag_analytics.metrics import EventsSource
from flag_analytics.sources import NO_VALUE, EventFilter
from flag_analytics.testing import ManualClock

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
WINDOW = 1_000
# Weights are whole, so that pandas can repeat a row as often as it counts.
RATES = {"none": [1.0], "one": [0.2], "mixed": [1.0, 0.5, 0.25, 0.1]}


def random_events(random: Random) -> list[FlagEvaluationEvent]:
    """Return up to 120 events of one flag with times of their own, a few of them outside the window or outcomes."""
    rates = RATES[random.choice(sorted(RATES))]
    seconds = random.sample(range(-20, 1_100), random.randrange(120))
    users = [None, "", *(f"u{n}" for n in range(random.randrange(1, 30)))]
    return [
        FlagEvaluationEvent(
            NOW - timedelta(seconds=ago),
            "flag",
            True,
            random.choice(["SPLIT", "STATIC", "ERROR", "custom"]),
            random.choice([None, "", "default", "a", "b", "é"]),
            random.choice(users),
            {"plan": random.choice(["pro", "free", 1, None])} if random.random() < 0.8 else {},
            random.choice([0.0, -1.0, random.uniform(0.01, 9.0), 2.0]),
            error_type=random.choice([None, None, "", "GENERAL"]),
            flag_version=random.choice([None, "", "1", "2"]),
            provider_name=random.choice([None, "flagd"]),
            kind=random.choice(["evaluation", "evaluation", "exposure", "outcome"]),
            sample_rate=random.choice(rates),
        )
        for ago in seconds
    ]


def frame_of(events: list[FlagEvaluationEvent], *, provider: str | None) -> pd.DataFrame:
    """Return the events of the window that count, a row each."""
    rows = [
        {
            "time": event.timestamp,
            "variant": event.variant or "default",
            "reason": str(event.reason),
            "user": event.targeting_key or None,
            "error": event.reason == "ERROR" or bool(event.error_type),
            "duration": event.evaluation_duration_ms,
            "weight": round(1 / event.sample_rate),
            "version": event.flag_version or NO_VALUE,
            "plan": str(plan) if (plan := event.context_attributes.get("plan")) is not None else NO_VALUE,
        }
        for event in events
        if NOW - timedelta(seconds=WINDOW) <= event.timestamp <= NOW
        and event.kind != "outcome"
        and provider in {None, event.provider_name}
    ]
    columns = ["time", "variant", "reason", "user", "error", "duration", "weight", "version", "plan"]
    return pd.DataFrame(rows, columns=columns).sort_values("time")


def check_metrics(found: Any, frame: pd.DataFrame) -> None:
    weight = frame["weight"]
    total = weight.sum()
    assert found.total_evaluations == total
    assert found.evaluation_rate == pytest.approx(total / WINDOW)
    assert found.variant_distribution == frame.groupby("variant")["weight"].sum().to_dict()
    assert found.reason_distribution == frame.groupby("reason")["weight"].sum().to_dict()
    assert found.error_rate == pytest.approx(100 * weight[frame["error"]].sum() / total if total else 0.0)
    known = frame.dropna(subset="user")
    assert found.unique_users == known.groupby("user")["weight"].min().sum()
    pairs = known.groupby(["variant", "user"])["weight"].min()
    assert found.variant_users == pairs.groupby("variant").sum().to_dict()
    assert found.crossover_users == second_smallest(pairs).sum()
    measured = frame[frame["duration"] > 0]
    repeated = np.repeat(measured["duration"].to_numpy(), measured["weight"].to_numpy(dtype=int))
    for percent, latency in ((50, found.latency_p50), (90, found.latency_p90), (99, found.latency_p99)):
        assert latency == pytest.approx(np.percentile(repeated, percent) if len(repeated) else 0.0)
    assert found.estimated == bool((weight > 1).any())


def second_smallest(pairs: pd.Series[Any]) -> pd.Series[Any]:
    """Return the second smallest weight of each user who has more than one variant."""
    return pairs.sort_values().groupby("user").nth(1)


def check_exposures(found: Any, frame: pd.DataFrame) -> None:
    known = frame.dropna(subset="user")
    people = known.groupby("user")
    first = people.agg(variant=("variant", "first"), weight=("weight", "min"))
    assert found.users == first["weight"].sum()
    assert found.first_variant_users == first.groupby("variant")["weight"].sum().to_dict()
    second = second_smallest(known.groupby(["variant", "user"])["weight"].min())
    second.index = second.index.get_level_values("user")
    assert found.crossover_users == second.sum()
    returned = [user for user, variants in people["variant"] if returns(list(variants))]
    assert found.switch_back_users == second.loc[returned].sum()


def returns(variants: list[str]) -> bool:
    """Return whether a variant comes again after another."""
    changes = [one for before, one in zip([None, *variants], variants, strict=False) if one != before]
    return len(changes) > len(set(changes))


async def check_all(seed: int) -> None:
    random = Random(seed)
    events = random_events(random)
    frozen = [Freezer().freeze(event) for event in events]
    random.shuffle(frozen)
    aggregator = AnalyticsAggregator(EventsSource(lambda: frozen), clock=ManualClock(NOW).now)
    provider = random.choice([None, None, "flagd"])
    where = EventFilter(provider_name=provider)
    frame = frame_of(events, provider=provider)
    check_metrics(await aggregator.get_flag_metrics("flag", WINDOW, where=where), frame)
    exposures = await aggregator.get_exposures("flag", WINDOW, where=where)
    check_exposures(exposures, frame)
    versions = dict(list(frame.dropna(subset="user").groupby("version")))
    assert exposures.by_version.keys() == versions.keys()
    for version, of_version in versions.items():
        check_exposures(exposures.by_version[str(version)], of_version)
    group_by, column = random.choice([("variant", "variant"), ("reason", "reason"), ("context.plan", "plan")])
    groups = (await aggregator.get_metrics(["flag"], WINDOW, where=where, group_by=group_by))["flag"]
    assert groups.keys() == set(frame[column])
    for name, of_group in frame.groupby(column):
        check_metrics(groups[str(name)], of_group)
    series = await aggregator.get_time_series("flag", WINDOW, 100, where=where, group_by=group_by)
    totals = {name: sum(step.count for step in steps) for name, steps in series.items()}
    assert totals == frame.groupby(column)["weight"].sum().to_dict()
    steps = await aggregator.get_time_series("flag", WINDOW, 300, where=where)
    offset = (frame["time"] - (NOW - timedelta(seconds=WINDOW))).dt.total_seconds() // 300 if len(frame) else []
    for number, step in enumerate(steps):
        inside = frame[offset == number] if len(frame) else frame
        assert step.count == inside["weight"].sum()
        assert step.errors == inside["weight"][inside["error"]].sum()
        assert step.unique_users == inside.dropna(subset="user").groupby("user")["weight"].min().sum()
    assert [step.unfinished for step in steps] == [False, False, False, True]


@pytest.mark.parametrize("tens", range(20))
async def test_every_figure_is_that_of_pandas(tens: int) -> None:
    for seed in range(10 * tens, 10 * tens + 10):
        await check_all(seed)


@pytest.mark.chaos
@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("thousand", range(1, 11))
async def test_every_figure_of_ten_thousand_sets_is_that_of_pandas(thousand: int) -> None:
    for seed in range(1_000 * thousand, 1_000 * thousand + 1_000):
        await check_all(seed)
