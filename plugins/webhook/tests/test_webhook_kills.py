"""A sender that is killed at any moment loses no event that was durable, and the receiver stores none twice."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from flag_analytics import Delivery, DeliveryOptions
from flag_analytics_webhook import WebhookOptions, WebhookSink

SENDER = Path(__file__).with_name("killed_sender.py")


def send_until_killed(url: str, directory: Path, first: int, lines: int) -> int:
    """Kill a sender after it has printed so many lines; return the number of the first event that was not durable."""
    command = [sys.executable, str(SENDER), url, str(directory), str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sender:
        said = [sender.stdout.readline() for _ in range(lines)]
        sender.kill()
        said += sender.stdout.read().splitlines(keepends=True)
    return int([line for line in said if line.endswith("\n")][-1])


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.chaos)])
def test_kills_lose_nothing_and_store_nothing_twice(receiver, tmp_path, kills):
    rng = random.Random(kills)
    durable = []
    for number in range(kills):
        first = number * 1_000_000
        durable += range(first, send_until_killed(receiver.url, tmp_path, first, rng.randrange(1, 12)))
    options = DeliveryOptions(durability="spool", spool_directory=tmp_path, flush_interval_seconds=0.0)
    rest = Delivery({"webhook": WebhookSink(WebhookOptions(url=receiver.url))}, options)
    assert rest.flush_sync(30.0)
    rest.close_sync()
    found = Counter(int(event["flag_key"]) for event in receiver.stored.values())
    assert not set(durable) - found.keys(), "lost"
    assert set(found.values()) == {1}, "stored twice"
