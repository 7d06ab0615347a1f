"""A process may end in any way: what was recorded is delivered or durable, quickly, and no traceback is printed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from flag_analytics.reports import DeliveryOptions
from flag_analytics.testing.faults import ScriptedSink
from flag_analytics_delivery import Delivery

HEAD = """
import asyncio, logging, os, signal, sys, time
logging.getLogger("flag_analytics").addHandler(logging.NullHandler())
logging.getLogger("flag_analytics").propagate = False
from flag_analytics import Delivery, DeliveryOptions
from flag_analytics import install_signal_handlers
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

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is started with it ignored

def leave():
    print(time.monotonic(), flush=True)  # from here on it is the interpreter that ends

def begin(sink, durability):
    global delivery
    options = DeliveryOptions(durability=durability, spool_directory=sys.argv[1], flush_interval_seconds=60.0)
    delivery = Delivery({"sink": sink()}, options)
    for event in plain_events(200):
        delivery.record_nowait(event)
"""

ENDS = {
    "return": ("leave()", 0),
    "exception": ("leave(); raise ValueError", 1),
    "sys.exit": ("leave(); sys.exit(3)", 3),
    "SIGINT": ("leave(); os.kill(os.getpid(), signal.SIGINT); time.sleep(5)", None),
}
EXIT_SECONDS = 1.5


def end(tmp_path, sink, durability, ending, python=sys.executable):
    """Run a program to its end; return what came of it, and how long its interpreter took to end, in seconds."""
    code = f"{HEAD}\nbegin({sink}, {durability!r})\n{ending}\n"
    done = subprocess.run(
        [python, "-c", textwrap.dedent(code), str(tmp_path / "spool"), str(tmp_path / "stored")],
        capture_output=True, text=True, timeout=20.0, check=False,
    )  # fmt: skip
    ended = time.monotonic()
    return done, ended - float(done.stdout) if "leave()" in ending and done.stdout else 0.0


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


def check_end(tmp_path, sink, how, python=sys.executable):
    """A process with a spool that ends in some way, while its sink is in some state, is quick, quiet and loses nothing.

    The best of a few ends counts: on a busy machine a process may have to wait for its turn.
    """
    ending, code = ENDS[how]
    took = []
    expected = 0
    while not took or (took[-1] > EXIT_SECONDS and len(took) < 4):
        done, seconds = end(tmp_path, sink, "spool", ending, python)
        took.append(seconds)
        expected += 200
        assert code is None or done.returncode == code, done.stderr
        own = {"exception": "ValueError", "SIGINT": "KeyboardInterrupt"}.get(how)
        if own is None:
            assert done.stderr == ""
        else:  # the traceback of the application's own end, and no other
            assert done.stderr.count("Traceback") == 1, done.stderr
            assert done.stderr.splitlines()[-1] == own, done.stderr
            assert "flag_analytics" not in done.stderr
    assert min(took) <= EXIT_SECONDS
    delivered = stored(tmp_path)
    assert len(delivered) == len(set(delivered))
    assert sink == "Up" or not delivered
    # CPython 3.12 starts no thread any more while it ends: a sink that had none yet finds its events in the spool.
    assert len(delivered) + recovered(tmp_path) == expected


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ there")
@pytest.mark.parametrize("how", ENDS)
def test_every_orderly_end_delivers_what_was_recorded(tmp_path, how):
    ending, code = ENDS[how]
    done, _ = end(tmp_path, "Up", "memory", ending)
    assert len(set(stored(tmp_path))) == 200
    assert code is None or done.returncode == code
    assert done.stderr.count("Traceback") == (how in {"exception", "SIGINT"})
    assert "flag_analytics" not in done.stderr


SINKS = ["Up", "Down", "Hanging", "Blocking"]
"""Half of the ends of each are in ``chaos``, in turn."""


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ there")
@pytest.mark.parametrize(
    ("how", "sink"),
    [
        pytest.param(how, sink, marks=[] if number % 2 == len(sink) % 2 else pytest.mark.chaos)
        for number, how in enumerate(ENDS)
        for sink in SINKS
    ],
)
def test_an_end_is_quick_and_quiet_and_loses_nothing_whatever_the_backend_does(tmp_path, sink, how):
    check_end(tmp_path, sink, how)


def other_interpreters():
    """Return the CPythons from 3.11 up on this machine, but for the one that runs, by their names."""
    found = {f"3.{minor}": shutil.which(f"python3.{minor}") for minor in range(11, 20)}
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for python in sorted(pyenv.glob("3.1[1-9].*/bin/python")):  # pyenv's commands answer for the selected one only
        found[python.parent.parent.name.rpartition(".")[0]] = str(python)
    found.pop("{}.{}".format(*sys.version_info), None)
    return {name: path for name, path in found.items() if path}


@pytest.fixture(scope="session", params=other_interpreters())
def other_python(request, tmp_path_factory):
    """Another CPython, in an environment of its own that has the core and what its test kit needs."""
    directory = tmp_path_factory.mktemp("environment")
    made = subprocess.run(
        [other_interpreters()[request.param], "-m", "venv", directory], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"Python {request.param} makes no environment: {made.stderr.strip()[-200:]}")
    python = directory / "bin" / "python"
    root = Path(__file__).parents[3]
    needed = [f"{root / 'core'}[testing]", root / "plugins" / "delivery"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *needed], check=True)
    return python


@pytest.mark.chaos
@pytest.mark.skipif(sys.platform == "win32", reason="signals differ there")
@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("how", ENDS)
def test_an_end_is_the_same_with_every_other_interpreter(tmp_path, other_python, sink, how):
    check_end(tmp_path, sink, how, other_python)


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
