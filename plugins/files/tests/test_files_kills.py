"""A process that is killed at any moment loses no event that was durable, and none is in the files twice."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
from flag_analytics import Delivery, DeliveryOptions
from flag_analytics_files import FilesOptions, FilesSink

WRITER = Path(__file__).with_name("killed_writer.py")


def write_until_killed(options: dict, spools: Path, first: int, lines: int) -> int:
    """Kill a writer after it has printed so many lines; return the number of the first event that was not durable."""
    command = [sys.executable, str(WRITER), json.dumps(options), str(spools), str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        said = [writer.stdout.readline() for _ in range(lines)]
        writer.kill()
        said += writer.stdout.read().splitlines(keepends=True)
    return int([line for line in said if line.endswith("\n")][-1])


def kill_often(options: dict, spools: Path, kills: int) -> set[int]:
    """Kill writers, then let one deliver the rest; return the numbers of the events that were durable."""
    rng = random.Random(kills)
    durable: set[int] = set()
    for number in range(kills):
        first = number * 1_000_000
        durable |= set(range(first, write_until_killed(options, spools, first, rng.randrange(1, 25))))
    settings = DeliveryOptions(durability="spool", spool_directory=spools, batch_size=5, flush_interval_seconds=0.0)
    rest = Delivery({"files": FilesSink(FilesOptions(**{**options, "max_file_age": timedelta(seconds=60)}))}, settings)
    assert rest.flush_sync(60.0)
    rest.close_sync(30.0)
    return durable


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.chaos)])
def test_kills_lose_nothing_and_store_nothing_twice(tmp_path, kills):
    # An age of 50 ms has files merged while the process is killed.
    events = tmp_path / "events"
    durable = kill_often({"location": str(events), "max_file_age": 0.05}, tmp_path / "spools", kills)
    lines = [line for file in events.glob("date=*/*.jsonl") for line in file.read_text("utf-8").splitlines()]
    found = Counter(int(json.loads(line)["flag_key"]) for line in lines)
    assert not durable - found.keys(), "lost"
    assert set(found.values()) == {1}, "stored twice"
