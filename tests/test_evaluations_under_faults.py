"""What an application notices of its flags' evaluations while the database is silent, down or slow: nothing.

Times are compared within one run, in rounds that take turns, and the best round of each side counts: a busy machine
spoils some rounds of both, a fault that reaches the caller spoils all rounds of one.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from flag_analytics import open_pipeline
from flag_analytics.testing.faults import FaultProxy
from flag_analytics_openfeature import AnalyticsHook
from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider

_spec = importlib.util.spec_from_file_location(
    "databases", Path(__file__).parents[1] / "plugins" / "database" / "tests" / "conftest.py"
)
_databases = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_databases)
server_database = _databases.server_database

ROUNDS = 12
MOST_ROUNDS = 60
EVALUATIONS = 300
USER = EvaluationContext("user-1", {"plan": "premium", "country": "GB"})


@pytest.fixture
def proxy(server_database):
    with FaultProxy((server_database.url.host, server_database.url.port)) as made:
        yield made


@pytest.fixture(autouse=True)
def _openfeature():
    yield
    api.clear_providers()
    api.clear_hooks()


class Application:
    """A pipeline into the database at a URL, and a client whose evaluations it records."""

    def __init__(self, url):
        self.evaluated = 0
        name = f"application-{id(self)}"
        api.set_provider(InMemoryProvider({"checkout": InMemoryFlag("on", {"on": True, "off": False})}), name)
        self.client = api.get_client(name)
        started = time.perf_counter()
        collector = {"connection_string": url, "flush_interval_seconds": 0.05}
        self.pipeline = open_pipeline({"collectors": {"database": collector}})
        self.client.add_hooks([AnalyticsHook(self.pipeline)])
        self.evaluate(1)
        self.started_in = time.perf_counter() - started

    def evaluate(self, times=EVALUATIONS):
        """Return the 99th percentile of what an evaluation takes, in seconds."""
        took = []
        for _ in range(times):
            started = time.perf_counter()
            assert self.client.get_boolean_value("checkout", False, USER) is True
            took.append(time.perf_counter() - started)
        self.evaluated += times
        return sorted(took)[int(times * 0.99)]

    async def close(self, timeout):
        """Close and return how long that took, in seconds; every evaluation must be in the report."""
        started = time.monotonic()
        report = await self.pipeline.close(timeout)
        took = time.monotonic() - started
        assert report.stored + sum(report.dropped.values()) == self.evaluated
        assert report.dropped.keys() <= {"closed"}
        assert (report.pending, report.spooled, report.dead) == (0, 0, 0)
        self.report = report
        return took


def is_no_slower(application, healthy, allowed):
    """Return whether an application's best 99th percentile is allowed beside that of a healthy one, in seconds."""
    best = usual = float("inf")
    for turn in range(MOST_ROUNDS):
        usual = min(usual, healthy.evaluate())
        best = min(best, application.evaluate())
        if turn >= ROUNDS and best <= allowed(usual):
            return True
    return False


def twice(usual):
    return 2 * usual


@pytest.mark.parametrize("fault", ["blackhole", "refuse"])
async def test_a_database_that_is_not_there_delays_no_start_and_no_evaluation(server_database, proxy, fault):
    healthy = Application(server_database.connection_string)
    getattr(proxy, fault)()
    starts = [application := Application(server_database.at(*proxy.address))]
    while application.started_in > 0.2 and len(starts) < 5:
        await application.close(0.0)
        starts.append(application := Application(server_database.at(*proxy.address)))
    assert application.started_in <= 0.2
    assert is_no_slower(application, healthy, twice)
    assert await application.close(2.0) <= 2.5
    assert application.report.stored == 0
    assert await healthy.close(10.0) < 12.0
    assert await server_database.count() == healthy.report.stored == healthy.evaluated


async def test_a_database_that_falls_silent_slows_no_evaluation_and_holds_close_no_longer_than_asked(
    server_database, proxy
):
    healthy = Application(server_database.connection_string)
    application = Application(server_database.at(*proxy.address))
    assert await application.pipeline.flush(10.0)
    proxy.blackhole()
    assert is_no_slower(application, healthy, twice)
    assert await application.close(2.0) <= 2.5
    assert application.report.stored == 1
    await healthy.close(10.0)
    assert await server_database.count() == healthy.evaluated + 1


async def test_a_database_that_falls_silent_at_close_is_not_waited_for_longer_than_asked(server_database, proxy):
    took = []
    stored = unknown = 0
    for _ in range(3):
        application = Application(server_database.at(*proxy.address))
        assert await application.pipeline.flush(10.0)
        application.evaluate(1_000)
        proxy.blackhole()
        took.append(await application.close(2.0))
        stored += application.report.stored
        unknown += application.report.sinks["database"].commit_unknown
        proxy.cut()
        if took[-1] <= 2.5:
            break
    assert min(took) <= 2.5
    # A batch whose answer the silence swallowed is in the table, which cannot be known: it is counted as unknown.
    assert stored <= await server_database.count() <= stored + 100 * unknown


async def test_a_slow_database_makes_no_evaluation_slower(server_database, proxy):
    healthy = Application(server_database.connection_string)
    application = Application(server_database.at(*proxy.address))
    assert await application.pipeline.flush(10.0)
    proxy.delay(0.25)
    assert is_no_slower(application, healthy, lambda usual: usual + 0.0001)
    proxy.heal()
    await application.close(10.0)
    await healthy.close(10.0)
    assert application.report.complete
    assert await server_database.count() == healthy.evaluated + application.evaluated


OUTAGE = """
import json, logging, sys, threading, time
from flag_analytics import open_pipeline
from flag_analytics_openfeature import AnalyticsHook
from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider

url, port, seconds, max_bytes = sys.argv[1], *map(int, sys.argv[2:])
lines, attempts = [], []

class Lines(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())

logging.getLogger().addHandler(Lines())
sys.addaudithook(lambda event, args: attempts.append(args[1]) if event == "socket.connect" else None)

def writer_seconds():
    workers = [thread for thread in threading.enumerate() if thread.name.startswith("flag-analytics")]
    return sum(time.clock_gettime(time.pthread_getcpuclockid(thread.ident)) for thread in workers)

def memory():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

def say(**what):
    print(json.dumps(what), flush=True)
    sys.stdin.readline()

api.set_provider(InMemoryProvider({"checkout": InMemoryFlag("on", {"on": True})}))
client = api.get_client()
user = EvaluationContext("user-1", {"plan": "premium", "words": "x" * 400})
collector = {"connection_string": url, "flush_interval_seconds": 0.05, "delivery": {"max_bytes": max_bytes}}
pipeline = open_pipeline({"collectors": {"database": collector}})
client.add_hooks([AnalyticsHook(pipeline)])

def evaluate_at(rate, seconds):
    began = time.monotonic()
    done = 0
    while done < rate * seconds:
        for _ in range(20):
            assert client.get_boolean_value("checkout", False, user)
        done += 20
        time.sleep(max(0.0, began + done / rate - time.monotonic()))
    return done

evaluated = evaluate_at(2_000, 1)
assert pipeline.flush_sync(30.0)
say()
del attempts[:], lines[:]
before, cpu = memory(), writer_seconds()
down = evaluate_at(2_000, seconds)
ledger = pipeline.stats().sinks["database"]
say(
    attempts=sum(address[1] == port for address in attempts), lines=lines, grown=memory() - before,
    writer=writer_seconds() - cpu, down=down, refused=pipeline.stats().refused, backlog_bytes=ledger.backlog_bytes,
)
healed = time.monotonic()
pipeline.flush_sync(60.0)
client.get_boolean_value("checkout", False, user)
alive = pipeline.flush_sync(10.0).pending == 0
stats = pipeline.stats()
assert stats.balanced()
report = pipeline.close_sync(10.0)
say(evaluated=evaluated + down + 1, stored=report.stored, recorded=stats.recorded, alive=alive, dropped=report.dropped,
    drained=time.monotonic() - healed)
"""


def evaluate_through_an_outage(url, proxy, seconds, max_bytes):
    """Return what a program of its own measured during an outage, and how it ended."""
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OUTAGE), url, str(proxy.address[1]),
         str(seconds), str(max_bytes)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def hear():
        line = program.stdout.readline()
        return json.loads(line) if line else {}

    def go_on():
        program.stdin.write("\n")
        program.stdin.flush()

    with program:
        hear()
        proxy.refuse()
        go_on()
        outage = hear()
        proxy.heal()
        go_on()
        end = hear()
        go_on()
    assert program.returncode == 0
    return outage, end


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads a thread's CPU time and /proc")
@pytest.mark.parametrize(
    ("seconds", "max_bytes"),
    [pytest.param(6, 4 * 2**20, id="short"), pytest.param(60, 32 * 2**20, id="long", marks=pytest.mark.chaos)],
)
async def test_an_outage_under_load_costs_few_attempts_little_log_and_bounded_memory(
    server_database, proxy, seconds, max_bytes
):
    url = server_database.at(*proxy.address)
    outage, end = evaluate_through_an_outage(url, proxy, seconds, max_bytes)
    assert 2 <= outage["attempts"] <= 20, outage
    assert 1 <= len(outage["lines"]) <= 3, outage
    assert outage["backlog_bytes"] > 0.9 * max_bytes, outage  # the bound was reached
    assert outage["grown"] <= 1.5 * max_bytes, outage
    assert outage["writer"] <= 0.05 * seconds, outage
    assert end["alive"]
    assert end["dropped"] == {} or end["dropped"].keys() == {"overflow"}, end
    lost = sum(end["dropped"].values())
    assert end["recorded"] == end["evaluated"], end
    assert end["stored"] == end["evaluated"] - lost == await server_database.count(), end
