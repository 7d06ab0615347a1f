"""A delivery that has accepted an event delivers it without a further call, in every order of calls."""

from __future__ import annotations

import asyncio
import random
import threading

import pytest
from flag_analytics.errors import CommitUnknown, SinkUnavailable
from flag_analytics.reports import DeliveryOptions
from flag_analytics.testing.faults import wait_until
from flag_analytics.testing.samples import plain_events
from flag_analytics_delivery import Delivery


class FaultySink:
    """Keeps each id once, and fails, lies or dawdles at random until it is healed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.ids: set[str] = set()
        self.healed = False

    async def write(self, batch) -> None:
        fate = 1.0 if self.healed else self._random.random()
        if fate < 0.1:
            raise SinkUnavailable
        if fate < 0.2:
            await asyncio.sleep(0.03)
        self.ids.update(event.event_id for event in batch)
        if 0.2 < fate < 0.25:
            raise CommitUnknown

    async def close(self) -> None:
        pass


def random_options(chosen: random.Random, directory) -> DeliveryOptions:
    return DeliveryOptions(
        durability=chosen.choice(["memory", "spool"]),
        spool_directory=directory,
        spool_interval_seconds=chosen.choice([0.002, 0.02]),
        batch_size=chosen.choice([1, 3, 50, 500]),
        flush_interval_seconds=chosen.choice([0.0, 0.005, 0.05]),
        retry_initial_seconds=0.005,
        retry_max_seconds=0.05,
    )


def record(delivery: Delivery, count: int, recorded: set[str]) -> None:
    for event in plain_events(count):
        assert delivery.record_nowait(event)
        recorded.add(event.event_id)


def do_something(chosen: random.Random, delivery: Delivery, recorded: set[str]) -> None:
    what = chosen.choices(["record", "rest", "flush", "persist", "look", "threads"], [60, 15, 7, 6, 6, 6])[0]
    if what == "record":
        record(delivery, chosen.choice([1, 1, 2, 10, 300]), recorded)
    elif what == "rest":  # so that workers fall asleep, in no fixed order
        threading.Event().wait(chosen.choice([0.001, 0.01, 0.06]))
    elif what == "flush":
        delivery.flush_sync(chosen.choice([0.0, 0.01, 5.0]))
    elif what == "persist":
        delivery.persist()
    elif what == "look":
        assert delivery.stats().balanced()
    else:
        threads = [threading.Thread(target=record, args=(delivery, 50, recorded)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def live(seed: int, directory) -> None:
    chosen = random.Random(seed)
    sinks = {f"sink_{number}": FaultySink(seed * 10 + number) for number in range(chosen.choice([1, 2, 3]))}
    delivery = Delivery(sinks, random_options(chosen, directory))
    recorded: set[str] = set()
    try:
        for _ in range(chosen.randrange(3, 25)):
            do_something(chosen, delivery, recorded)
        for sink in sinks.values():
            sink.healed = True
        record(delivery, chosen.choice([0, 1]), recorded)
        assert wait_until(lambda: all(sink.ids == recorded for sink in sinks.values())), seed
    finally:
        delivery.close_sync(1.0)


@pytest.mark.parametrize("seed", range(15))
def test_everything_arrives_without_being_asked_for(tmp_path, seed):
    live(seed, tmp_path)


@pytest.mark.chaos
def test_everything_arrives_without_being_asked_for_in_five_hundred_lives(tmp_path):
    for seed in range(1_000, 1_500):
        live(seed, tmp_path / str(seed))
