"""A delivery with a spool is closed and started again, at any moment and whatever its sinks do: nothing comes twice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
from flag_analytics.errors import BadBatch, SinkUnavailable
from flag_analytics.reports import DeliveryOptions
from flag_analytics.testing.samples import plain_event, plain_events
from flag_analytics_delivery import Delivery


class MoodySink:
    """Stores good events, and is down, refuses some writes or stores parts of them while its mood says so."""

    def __init__(self, stored: Counter[str], dead: Counter[str], chance: random.Random) -> None:
        self.stored = stored
        self.dead = dead
        self.mood = "good"
        self._chance = chance

    def change(self):
        self.mood = self._chance.choice(["good", "good", "bad", "partly", "down"])

    async def write(self, batch):
        luck = self._chance.random()
        if self.mood == "down" or (self.mood == "bad" and luck < 0.3):
            raise SinkUnavailable
        if self.mood == "bad" and luck < 0.4:
            raise RuntimeError
        bad = [event.event_id for event in batch if event.variant == "bad"]
        if self.mood == "partly":
            good = [event.event_id for event in batch if event.variant != "bad" and self._chance.random() < 0.7]
            self.stored.update(good)
            raise BadBatch(refused=dict.fromkeys(bad, "bad"), stored=good)
        if bad:
            raise BadBatch(code="bad")
        if luck > 0.8:
            await asyncio.sleep(0.002)
        self.stored.update(event.event_id for event in batch)

    async def ping(self):
        if self.mood == "down":
            raise SinkUnavailable

    async def write_dead_letters(self, letters):
        self.dead.update(letter.event.event_id for letter in letters)


def run(seed, directory):
    chance = random.Random(seed)
    stored = {name: Counter() for name in "abc"[: chance.choice([1, 2, 3])]}
    dead = {name: Counter() for name in stored}
    accepted, bad, lost, unknown = set(), set(), Counter(), Counter()
    for _ in range(6):
        sinks = {name: MoodySink(stored[name], dead[name], chance) for name in stored}
        options = DeliveryOptions(
            durability="spool",
            spool_directory=directory,
            spool_interval_seconds=chance.choice([0.002, 0.02, 0.05]),
            batch_size=chance.choice([5, 50, 500]),
            max_events=5_000,
            flush_interval_seconds=0.005,
            retry_initial_seconds=0.002,
            retry_max_seconds=0.01,
        )
        for sink in sinks.values():
            sink.change()
        delivery = Delivery(sinks, options)
        for _ in range(chance.choice([10, 100, 600])):
            event = plain_event(variant="bad" if chance.random() < 0.01 else "good")
            assert delivery.record_nowait(event)
            (bad if event.variant == "bad" else accepted).add(event.event_id)
            if chance.random() < 0.02:
                chance.choice(list(sinks.values())).change()
        if chance.random() < 0.3:
            delivery.persist()
        assert delivery.stats().balanced()
        report = delivery.close_sync(chance.choice([0.0, 0.02, 0.2]))
        for name, sink in report.sinks.items():
            lost[name] += sum(sink.dropped.values())
            unknown[name] += sink.commit_unknown
    delivery = Delivery({name: MoodySink(stored[name], dead[name], chance) for name in stored}, options)
    for event in plain_events(100):  # good ones, that prove the last bad ones to be bad
        assert delivery.record_nowait(event)
        accepted.add(event.event_id)
    delivery.flush_sync(30.0)
    assert not any(sink.pending for sink in delivery.stats().sinks.values())
    delivery.close_sync()
    for name, times in stored.items():
        missing = len(accepted - times.keys())
        assert missing <= lost[name], "an event is missing, and was not counted as dropped"
        assert not dead[name].keys() - bad, "a good event was given up"
        assert unknown[name] or max(times.values()) == 1, "an event came twice, and no answer had been lost"


@pytest.mark.parametrize("seed", range(6))
def test_what_was_delivered_before_a_restart_does_not_come_again(seed, tmp_path):
    run(seed, tmp_path)


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(1_000, 1_150))
def test_what_was_delivered_before_a_restart_does_not_come_again_for_long(seed, tmp_path):
    run(seed, tmp_path)
