"""The processors against events that say the same twice."""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import Any

import pytest
from flag_analytics import ConfigError, open_pipeline, read_config, repeats
from flag_analytics.freezer import Freezer
from flag_analytics.repeats import DeduplicateExposures, OnlyProviders, deduplicate_exposures, only_providers
from flag_analytics.testing.samples import plain_event
from hypothesis import given
from hypothesis import strategies as st

exposure = partial(
    plain_event,
    flag_key="checkout",
    value=True,
    variant="on",
    targeting_key="user-1",
    flag_version="3",
    kind="exposure",
)


class Clock:
    """A monotonic clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(repeats, "time", clock)
    return clock


def kept(process: Any, *events: Any) -> list[bool]:
    return [process(event) is event for event in events]


# --- deduplicate_exposures


def test_of_equal_exposures_the_first_is_kept():
    process = deduplicate_exposures(DeduplicateExposures())
    assert kept(process, exposure(), exposure(value=False), exposure()) == [True, False, False]


@pytest.mark.parametrize(
    "other",
    [
        {"flag_key": "search"},
        {"flag_version": "4"},
        {"flag_set_id": "shop"},
        {"variant": "off"},
        {"targeting_key": "u"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_an_exposure_that_differs_in_its_key_is_kept(other):
    process = deduplicate_exposures(DeduplicateExposures())
    assert kept(process, exposure(), exposure(**other), exposure(**other)) == [True, True, False]


def test_the_parts_of_a_key_do_not_run_into_one_another():
    process = deduplicate_exposures(DeduplicateExposures())
    assert kept(process, exposure(flag_version="1", variant="2a"), exposure(flag_version="12", variant="a")) == [
        True,
        True,
    ]


def test_chosen_attributes_are_part_of_the_key():
    process = deduplicate_exposures(DeduplicateExposures(attributes=("page", "missing")))
    contexts: list[Any] = [{"page": "home"}, {"page": "home", "n": 2}, {"page": ["home"]}, {}, None]
    assert kept(process, *(exposure(context_attributes=context) for context in contexts)) == [
        True,
        False,
        True,
        True,
        False,
    ]


def test_after_its_time_an_equal_exposure_is_kept_again(clock):
    process = deduplicate_exposures(DeduplicateExposures(seconds=60))
    assert kept(process, exposure()) == [True]
    clock.now += 59.9
    assert kept(process, exposure()) == [False]
    clock.now += 0.1  # counted from the one that was kept: one that comes again and again is not silenced for good
    assert kept(process, exposure(), exposure()) == [True, False]


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "evaluation"},
        {"kind": "outcome"},
        {"targeting_key": None},
        {"targeting_key": ""},
        {"reason": "ERROR"},
        {"error_type": "GENERAL"},
    ],
    ids=str,
)
def test_what_is_no_known_user_s_exposure_always_passes(fields):
    process = deduplicate_exposures(DeduplicateExposures())
    assert kept(process, exposure(**fields), exposure(**fields)) == [True, True]


def test_evaluations_are_deduplicated_where_asked_for():
    process = deduplicate_exposures(DeduplicateExposures(kinds=("evaluation",)))
    evaluation = exposure(kind="evaluation")
    assert kept(process, evaluation, evaluation, exposure(), exposure()) == [True, False, True, True]


def test_when_it_is_full_the_oldest_are_forgotten_one_by_one_and_the_log_says_so(clock, caplog):
    process = deduplicate_exposures(DeduplicateExposures(max_keys=3))
    events = [exposure(targeting_key=f"user-{number}") for number in range(4)]
    assert kept(process, *events) == [True] * 4
    assert kept(process, *events[1:]) == [False] * 3  # never all at once
    assert kept(process, events[0]) == [True]
    assert [record.getMessage().split(":")[1] for record in caplog.records] == [
        " raise max_keys (now 3), or lower seconds"
    ]
    assert "user-" not in caplog.text


def test_what_is_forgotten_after_its_time_is_no_reason_to_warn(clock, caplog):
    process = deduplicate_exposures(DeduplicateExposures(max_keys=1, seconds=1))
    for number in range(3):
        assert kept(process, exposure(targeting_key=f"user-{number}")) == [True]
        clock.now += 1
    assert not caplog.records


keys = st.none() | st.text(max_size=3) | st.integers(0, 2) | st.booleans() | st.binary(max_size=2)


@given(keys, keys, keys, keys)
def test_exposures_that_are_stored_with_equal_keys_are_equal_and_others_are_not(one, other, variant, other_variant):
    process = deduplicate_exposures(DeduplicateExposures())
    first = exposure(targeting_key=one, variant=variant)
    second = exposure(targeting_key=other, variant=other_variant)
    stored, again = (Freezer().freeze(event) for event in (first, second))
    alike = (stored.targeting_key, stored.variant or "") == (again.targeting_key, again.variant or "")
    assert kept(process, first, second) == [True, not (alike and stored.targeting_key)]


def test_of_equal_exposures_in_many_threads_one_is_kept():
    process = deduplicate_exposures(DeduplicateExposures())
    events = [exposure(targeting_key=f"user-{number}") for number in range(300)]
    passed: list[bool] = []
    threads = [threading.Thread(target=lambda: passed.extend(kept(process, *events))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(passed) == 300


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_fork_while_an_exposure_is_looked_up_blocks_no_child():
    process: Any = deduplicate_exposures(DeduplicateExposures())
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with process._lock:
            held.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    child = os.fork()
    if child == 0:
        os._exit(0 if kept(process, exposure(), exposure()) == [True, False] else 1)
    _, status = os.waitpid(child, 0)
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize(
    "options",
    [{"seconds": 0}, {"seconds": -1}, {"max_keys": 0}, {"kinds": []}, {"kinds": ["outcome"]}, {"attributes": "page"}],
    ids=str,
)
def test_options_without_a_meaning_are_refused(options):
    with pytest.raises(ConfigError, match=r"processors\[0\]"):
        read_config({"collectors": {"memory": {}}, "processors": [{"type": "deduplicate_exposures", **options}]})


async def test_a_configured_pipeline_keeps_users_and_counts_what_it_leaves_out():
    processor = {"type": "deduplicate_exposures", "seconds": 3_600}
    async with open_pipeline({"collectors": {"memory": {}}, "processors": [processor]}) as pipeline:
        for user in ("ada", "bob", "ada", "ada"):
            await pipeline.record(exposure(targeting_key=user))
        metrics = await pipeline.aggregator.get_flag_metrics("checkout")
    assert metrics.variant_users == {"on": 2}
    assert metrics.total_evaluations == 2
    assert pipeline.stats().refused["filtered"] == 2


# --- only_providers


async def test_of_two_sdks_over_one_another_the_named_one_counts():
    processor = {"type": "only_providers", "provider_names": ["LaunchDarkly"]}
    async with open_pipeline({"collectors": {"memory": {}}, "processors": [processor]}) as pipeline:
        for provider in ("LaunchDarkly", "openfeature-launchdarkly", None):
            await pipeline.record(exposure(provider_name=provider))
        events = await pipeline.collectors["memory"].get_events()
    assert [event.provider_name for event in events] == ["LaunchDarkly"]
    assert pipeline.stats().refused["filtered"] == 2


def test_an_empty_text_stands_for_events_without_a_provider():
    process = only_providers(OnlyProviders(provider_names=("",)))
    assert kept(process, exposure(provider_name=None), exposure(provider_name=""), exposure(provider_name="x")) == [
        True,
        True,
        False,
    ]


def test_providers_must_be_named():
    with pytest.raises(ConfigError, match="provider_names"):
        read_config({"collectors": {"memory": {}}, "processors": [{"type": "only_providers", "provider_names": []}]})
