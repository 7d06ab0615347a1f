"""A process may end in any way: what was recorded is delivered or durable, quickly, and nobody prints a traceback."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time

import pytest
from flag_analytics.delivery import Delivery, DeliveryOptions
from flag_analytics.testing.faults import ScriptedSink

HEAD = """
import asyncio, logging, os, signal, sys, time
logging.getLogger("flag_analytics").addHandler(logging.NullHandler())
logging.getLogger("flag_analytics").propagate = False
from flag_analytics.delivery import Delivery, DeliveryOptions
from flag_analytics.delivery.exit import install_signal_handlers
from flag_analytics.errors import SinkUnavailable
from flag_analytics.testing.samples import plain_events

class Up:
    async def write(self, batch):
        with open(sys.argv[2], "a") as file:
            file.write("".join(event.event_id + chr(10) for event in batch))
    async def close(self):
        pass

class Down(Up):
    async def write(self, batch):
        raise SinkUnavailable(code="DOWN")

class Hanging(Up):
    async def write(self, batch):
        await asyncio.sleep(3_600)

class Blocking(Up):
    async def write(self, batch):
        time.sleep(3_600)

def begin(sink, durability):
    global delivery
    options = DeliveryOptions(durability=durability, spool_directory=sys.argv[1], flush_interval_seconds=60.0)
    delivery = Delivery({"sink": sink()}, options)
    for event in plain_events(200):
        delivery.record_nowait(event)
"""

ENDS = {
    "return": ("", 0),
    "exception": ("raise ValueError", 1),
    "sys.exit": ("sys.exit(3)", 3),
    "SIGINT": ("os.kill(os.getpid(), signal.SIGINT); time.sleep(5)", None),
}


def end(tmp_path, sink, durability, ending, limit=20.0):
    code = f"{HEAD}\nbegin({sink}, {durability!r})\n{ending}\n"
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "spool"), str(tmp_path / "stored")],
        capture_output=True, text=True, timeout=limit, check=False,
    )  # fmt: skip
    return done, time.monotonic() - started


def stored(tmp_path):
    path = tmp_path / "stored"
    return path.read_text().split() if path.exists() else []


def recovered(tmp_path):
    """Return how many events the next process finds in the spool."""
    sink = ScriptedSink()
    options = DeliveryOptions(durability="spool", spool_directory=tmp_path / "spool", flush_interval_seconds=0.01)
    delivery = Delivery({"sink": sink}, options)
    assert delivery.flush_sync(10.0)
    delivery.close_sync()
    return len(sink.stored)


def starting_up():
    """Return how long a process takes that only begins, in seconds."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", HEAD], check=True)
    return time.monotonic() - started


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ there")
@pytest.mark.parametrize("how", ENDS)
def test_every_orderly_end_delivers_what_was_recorded(tmp_path, how):
    ending, code = ENDS[how]
    done, _ = end(tmp_path, "Up", "memory", ending)
    assert len(set(stored(tmp_path))) == 200
    assert code is None or done.returncode == code
    assert done.stderr.count("Traceback") == (how in {"exception", "SIGINT"})
    assert "flag_analytics" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ there")
@pytest.mark.parametrize("sink", ["Down", "Hanging", "Blocking"])
@pytest.mark.parametrize("how", ["return", "sys.exit"])
def test_an_end_with_a_backend_in_trouble_is_quick_and_leaves_everything_in_the_spool(tmp_path, sink, how):
    began = starting_up()
    done, took = end(tmp_path, sink, "spool", ENDS[how][0])
    assert done.stderr == ""
    assert took - began < 2.5  # the exit itself is held for one second, and 0.5 for the rest
    assert recovered(tmp_path) == 200


def test_a_process_that_is_killed_loses_nothing_that_was_durable(tmp_path):
    for turn in range(5):
        done, _ = end(tmp_path, "Down", "spool", "print(delivery.persist(), flush=True); os._exit(9)")
        assert (turn, done.stdout.strip()) == (turn, "True")
    assert recovered(tmp_path) == 5 * 200


def test_a_process_that_is_killed_with_events_in_memory_starts_clean_again(tmp_path):
    end(tmp_path, "Up", "memory", "os._exit(9)")
    assert stored(tmp_path) == []
    end(tmp_path, "Up", "memory", "")
    assert len(stored(tmp_path)) == 200


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ there")
@pytest.mark.parametrize("times", [1, 2])
def test_sigterm_drains_where_that_was_asked_for(tmp_path, times):
    kill = "; ".join(["os.kill(os.getpid(), signal.SIGTERM)"] * times)
    done, _ = end(tmp_path, "Up", "memory", f"install_signal_handlers(); {kill}; time.sleep(5)")
    assert len(set(stored(tmp_path))) == 200
    assert done.returncode in {-15, 143}


@pytest.mark.chaos
def test_sixty_kills_lose_nothing_that_was_durable(tmp_path):
    for _ in range(60):
        end(tmp_path, "Down", "spool", "delivery.persist(); os._exit(9)")
    assert recovered(tmp_path) == 60 * 200
