"""Several workers under ``PROMETHEUS_MULTIPROC_DIR``: one scrape of any of them shows the counts of all."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.skipif(os.name != "posix", reason="gunicorn and its workers are POSIX only")
on_servers = pytest.mark.server

WORKERS = 4


class Gunicorn:
    """A real gunicorn with four workers on a port of its own."""

    def __init__(self, directory: Path, *options: str) -> None:
        command = [sys.executable, "-m", "gunicorn", "--workers", str(WORKERS), "--bind", "127.0.0.1:0", *options]
        command += ["--chdir", str(Path(__file__).parent), "multiprocess_application:application"]
        self.process = subprocess.Popen(
            command,
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory), "PYTHONDONTWRITEBYTECODE": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self._meetings = 0
        self.url = ""
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"Listening at: (http://[\d.:]+)", line):
                self.url = found[1]
                break
        # Without a reader the pipe fills up, and gunicorn waits.
        self._reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True)
        self._reader.start()
        assert self.url, "".join(self.log)

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=20) as response:
            return response.read().decode()

    def scrape(self) -> dict[tuple[str, ...], float]:
        families = text_string_to_metric_families(self.get("/metrics"))
        return {
            (sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples
        }

    def scrape_until(self, wanted) -> dict[tuple[str, ...], float]:
        """Scrape until ``wanted(samples)``: other workers' own reports come once a second."""
        deadline = time.monotonic() + 20
        while not wanted(samples := self.scrape()):
            assert time.monotonic() < deadline, samples
        return samples

    def get_from_each(self, paths: list[str]) -> list[str]:
        """Get four paths from four workers: each waits for the others, and so takes no second one."""
        self._meetings += 1
        paths = [f"{path}&meet={self._meetings}" for path in paths]
        with ThreadPoolExecutor(WORKERS) as threads:
            return list(threads.map(self.get, paths))

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self._reader.join(5)
        self.process.stderr.close()


@pytest.fixture(params=[(), ("--preload",)], ids=["workers import the application", "the master imports it"])
def gunicorn(request, tmp_path):
    server = Gunicorn(tmp_path, *request.param)
    yield server
    server.stop()


@on_servers
def test_any_worker_shows_the_counts_of_all_even_of_those_that_were_killed(gunicorn):
    # Neighbouring requests share half of their users: the union counts them once.
    paths = [f"/record?flag=checkout&first={number * 1000}&count=2000&errors=500" for number in range(3 * WORKERS)]
    for start in range(0, len(paths), WORKERS):
        pids = gunicorn.get_from_each(paths[start : start + WORKERS])
        assert len(set(pids)) == WORKERS
    total, users = 2_000 * len(paths), 1_000 * (len(paths) + 1)

    samples = gunicorn.scrape()
    errors, rest = (samples["feature_flag_evaluations_total", "checkout", reason, "a"] for reason in ("ERROR", "SPLIT"))
    assert (errors, rest) == (total / 4, total * 3 / 4)
    assert samples["feature_flag_evaluation_duration_seconds_count", "checkout"] == total
    assert samples["feature_flag_evaluation_duration_seconds_bucket", "checkout", "0.005"] == total
    assert samples["feature_flag_error_rate", "checkout"] == 0.25
    assert samples["feature_flag_unique_users", "checkout"] == pytest.approx(users, rel=0.03)
    seen_by_another = gunicorn.scrape()["feature_flag_unique_users", "checkout"]
    assert seen_by_another == samples["feature_flag_unique_users", "checkout"]
    gunicorn.scrape_until(lambda samples: samples["flag_analytics_events_recorded_total",] == total)

    os.kill(int(pids[0]), signal.SIGKILL)
    gunicorn.get("/record?flag=checkout&count=1")
    samples = gunicorn.scrape_until(lambda samples: samples["flag_analytics_events_recorded_total",] == total + 1)
    assert samples["feature_flag_evaluations_total", "checkout", "SPLIT", "a"] == total * 3 / 4 + 1
    assert samples["feature_flag_unique_users", "checkout"] == pytest.approx(users, rel=0.03)


@on_servers
def test_the_caps_hold_for_all_workers_together_and_set_gauges_are_the_latest(tmp_path):
    gunicorn = Gunicorn(tmp_path)
    try:
        gunicorn.get_from_each(["/set?flag=known-to-all&users=10"] * WORKERS)
        for start in range(0, 12, WORKERS):
            gunicorn.get_from_each([f"/record?flag=flag-{start + number:02}&count=5" for number in range(WORKERS)])
        for users in (20, 30):
            gunicorn.get(f"/set?flag=known-to-all&users={users}")
        samples = gunicorn.scrape()
        counts = {key: value for key, value in samples.items() if key[0] == "feature_flag_evaluations_total"}
        assert sum(counts.values()) == 5 * 12
        assert len({key[1] for key in counts} - {"__other__"}) == 3
        durations = {key[1] for key in samples if key[0] == "feature_flag_evaluation_duration_seconds_count"}
        assert durations == {key[1] for key in counts}
        assert samples["feature_flag_unique_users", "__other__"] == 5
        assert samples["feature_flag_unique_users", "known-to-all"] == 30
        assert samples["feature_flag_error_rate", "known-to-all"] == 0.5
    finally:
        gunicorn.stop()


PRELUDE = """
import os, random, shutil, sys, time
from pathlib import Path
from types import SimpleNamespace
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from flag_analytics_prometheus import LabelCaps, PrometheusExporter, metrics_registry

DIRECTORY = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
REGISTRY = CollectorRegistry()
ORDERS = Counter("shop_orders", "Orders.", ["kind"], registry=REGISTRY)
SECONDS = Histogram("shop_seconds", "Seconds.", buckets=(1.0, 2.0), registry=REGISTRY)
WORKERS = Gauge("shop_workers", "Workers.", multiprocess_mode="all", registry=REGISTRY)

def record(exporter, first, count, flag="f"):
    for number in range(first, first + count):
        event = SimpleNamespace(flag_key=flag, reason="SPLIT", variant="a", targeting_key=f"u{number}",
                                evaluation_duration_ms=1.0)
        assert exporter.record_nowait(event)

def value(registry, name, **labels):
    return registry.get_sample_value(name, labels)

def total(registry, flag="f"):
    return value(registry, "feature_flag_evaluations_total", flag_key=flag, reason="SPLIT", variant="a")

def users(exporter):
    return value(metrics_registry(exporter), "feature_flag_unique_users", flag_key="f")

def die_after(work):
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(type(error), error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

def work(exporter, number):
    def run():
        record(exporter, number, 10)
        ORDERS.labels("book").inc(2)
        SECONDS.observe(1.5)
        WORKERS.set(1)
    return run
"""


def run(directory, code, status=0):
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory)}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PRELUDE + code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == status, result.stderr
    assert not result.stderr, result.stderr
    return result.stdout


def test_processes_one_after_the_other_add_up_and_the_library_s_own_collector_agrees(tmp_path):
    assert run(tmp_path, "e = PrometheusExporter(CollectorRegistry()); record(e, 0, 700); print(users(e))") == "700.0\n"
    code = """
e = PrometheusExporter(CollectorRegistry()); record(e, 200, 800); print(users(e))
r = CollectorRegistry(); MultiProcessCollector(r)
print(total(r), value(r, "feature_flag_evaluation_duration_seconds_count", flag_key="f"))
for name in ("count", "sum"):
    full = "feature_flag_evaluation_duration_seconds_" + name
    assert abs(value(r, full, flag_key="f") - value(metrics_registry(e), full, flag_key="f")) < 1e-9
"""
    assert run(tmp_path, code) == "1000.0\n1500.0 1500.0\n"


def broken_files(directory: Path) -> int:
    """Put files of every broken kind there, and return how many."""
    secret = directory.parent / "secret"
    secret.write_bytes(b"secret")
    good = bytearray(8) + b"\x04\0\0\0nope    " + bytes(16)
    good[:4] = len(good).to_bytes(4, "little")
    contents = {
        "counter_1.db": b"",
        "histogram_1.db": b"\xff" * 70_000,
        "counter_2.db": b"abc",
        "counter_3.db": (1_000_000).to_bytes(4, "little") + bytes(100),
        "counter_4.db": bytes(good),
        "gauge_5.db": bytes(100),
        "x.db": bytes(100),
        "flag_analytics_users_1-aaaaaaaa-0000.sketch": b"",
        "flag_analytics_users_2-bbbbbbbb-0000.sketch": b"\xff" * 66_048,
        "flag_analytics_users_3-cccccccc-0000.sketch": b"FAx1\xff\xff" + b"x" * 40_000,
        "flag_analytics_report_4-dddddddd-0000.json": b"{",
        "flag_analytics_report_x.json": b"[]",
        "flag_analytics_journal.json": b"{",
    }
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    (directory / "directory.db").mkdir()
    (directory / "counter_6.db").symlink_to(secret)
    (directory / "counter_7.db").symlink_to(directory / "nowhere")
    os.mkfifo(directory / "counter_8.db")
    return len(contents) + 3  # a link to nowhere counts as a file that was deleted


def test_broken_and_foreign_files_are_skipped_and_counted_and_everything_else_is_shown(tmp_path):
    directory = tmp_path / "shared"
    directory.mkdir()
    run(directory, "e = PrometheusExporter(CollectorRegistry()); record(e, 0, 50); ORDERS.labels('book').inc()")
    broken = broken_files(directory)
    code = """
e = PrometheusExporter(CollectorRegistry()); record(e, 50, 10)
r = metrics_registry(e)
print(total(r), users(e), value(r, "shop_orders_total", kind="book"))
print(value(r, "flag_analytics_scrape_files_skipped_total"), value(r, "flag_analytics_scrape_files_skipped_total"))
"""
    figures, skipped = run(directory, code).splitlines()
    assert figures == "60.0 60.0 1.0"
    first, second = map(float, skipped.split())
    assert first >= broken
    assert second > first
    assert (tmp_path / "secret").read_bytes() == b"secret"


def test_a_directory_that_is_removed_leaves_each_process_its_own_figures(tmp_path):
    code = """
from flag_analytics.pipeline import open_pipeline
early, late = (open_pipeline({"exporters": {"prometheus": {"prefix": name}}}) for name in ("early", "late"))
record(early, 0, 5)
shutil.rmtree(DIRECTORY)
record(early, 5, 5, "another")
record(late, 0, 5)
for name, flags in (("early", ("f", "another")), ("late", ("f",))):
    pipeline = early if name == "early" else late
    r = metrics_registry(pipeline.exporters["prometheus"])
    for flag in flags:
        print(name, value(r, f"{name}_feature_flag_evaluations_total", flag_key=flag, reason="SPLIT", variant="a"),
              value(r, f"{name}_feature_flag_unique_users", flag_key=flag))
    print(value(r, f"{name}_flag_analytics_prometheus_sanitised_total", kind="not_shared") > 0)
    pipeline.close_sync()
"""
    directory = tmp_path / "gone"
    directory.mkdir()
    assert run(directory, code).splitlines() == ["early 5.0 5.0", "early 5.0 5.0", "True", "late 5.0 5.0", "True"]


def test_a_directory_that_is_not_there_is_a_clear_error(tmp_path):
    code = """
try:
    PrometheusExporter(CollectorRegistry())
except ValueError as error:
    print(error)
"""
    directory = tmp_path / "nowhere"
    directory.mkdir()
    out = run(directory, "shutil.rmtree(DIRECTORY)" + code)
    assert out.startswith("PROMETHEUS_MULTIPROC_DIR is not a directory: make it, empty")


FIGURES = """
def figures(e):
    r = metrics_registry(e)
    theirs = CollectorRegistry(); MultiProcessCollector(theirs)
    names = ("feature_flag_evaluation_duration_seconds_count", "feature_flag_evaluation_duration_seconds_bucket")
    assert total(r) == total(theirs) == value(r, names[0], flag_key="f") == value(r, names[1], flag_key="f", le="0.001")
    assert value(r, "shop_orders_total", kind="book") == value(theirs, "shop_orders_total", kind="book")
    assert value(r, "shop_seconds_bucket", le="2.0") == value(theirs, "shop_seconds_bucket", le="2.0")
    assert value(r, "shop_seconds_bucket", le="1.0") == 0.0
    reported = value(r, "flag_analytics_events_recorded_total")
    return total(r), users(e), value(r, "shop_orders_total", kind="book"), value(r, "shop_seconds_count"), reported
"""


def test_the_files_of_dead_workers_are_folded_and_nothing_of_them_is_lost(tmp_path):
    code = """
from flag_analytics.pipeline import open_pipeline
p = open_pipeline({"exporters": {"prometheus": {}}})
e = p.exporters["prometheus"]
def worker(number):
    def run():
        work(p, number)()
        if number == 3:
            e.update_from_metrics("f", {"unique_users": 77, "error_rate": 50.0})
        e.exposition.publish()
    return run
for number in range(30):
    die_after(worker(number))
r = metrics_registry(e)
print(total(r), value(r, "feature_flag_unique_users", flag_key="f"), value(r, "feature_flag_error_rate", flag_key="f"))
print(*figures(e)[2:], len(list(DIRECTORY.glob("*.alive"))), len(list(DIRECTORY.iterdir())))
for number in range(30, 40):
    die_after(worker(number))
print(total(metrics_registry(e)), *figures(e)[2:], len(list(DIRECTORY.iterdir())))
skipped = value(metrics_registry(e), "flag_analytics_scrape_files_skipped_total")
print(len(list(DIRECTORY.glob("gauge_all_*.db"))), skipped)
"""
    lines = [line.split() for line in run(tmp_path, FIGURES + code).splitlines()]
    assert lines[0] == ["300.0", "77.0", "0.5"]
    orders, seconds, reported, alive, files = lines[1]
    assert (orders, seconds, reported, alive) == ("60.0", "30.0", "300", "1")
    assert int(files) < 30 + 15
    assert lines[2][:4] == ["400.0", "80.0", "40.0", "400"]
    assert int(lines[2][4]) == int(files) + 10
    assert lines[3] == ["41", "0"]  # the library's own gauges of each process stay


@pytest.mark.chaos  # it takes 150 processes
def test_a_scrape_after_150_dead_workers_takes_at_most_three_times_as_long_as_after_two(tmp_path):
    code = """
e = PrometheusExporter(CollectorRegistry())
record(e, 0, 10)
def scrape():
    started = time.thread_time()  # of the processor: other processes on the machine do not count
    generate_latest(metrics_registry(e))
    return time.thread_time() - started
def work_with_many_series(number):
    def run():
        for flag in range(8):
            record(e, number, 10, f"flag-{flag}")
        ORDERS.labels("book").inc()
    return run
for number in range(2):
    die_after(work_with_many_series(number))
few = min(scrape() for _ in range(10))
for number in range(2, 150):
    die_after(work_with_many_series(number))
many = min(scrape() for _ in range(10))
print(many / few, value(metrics_registry(e), "shop_orders_total", kind="book"))
print(total(metrics_registry(e), "flag-7"))
"""
    ratio, orders, evaluations = run(tmp_path, code).split()
    assert (orders, evaluations) == ("150.0", "1500.0")
    assert float(ratio) <= 3


def test_a_process_that_is_killed_at_any_step_of_folding_loses_and_doubles_nothing(tmp_path):
    code = """
e = PrometheusExporter(CollectorRegistry())
steps = 0
def fault_at(last):
    def guarded(function):
        def call(*args, **kwargs):
            global steps
            steps += 1
            if steps == last:
                os._exit(9)
            return function(*args, **kwargs)
        return call
    for name in ("rename", "replace", "unlink", "write_bytes"):
        setattr(Path, name, guarded(getattr(Path, name)))
    os.link = guarded(os.link)

recorded, last, done = 0, 0, False
while not done:
    last += 1
    for number in range(2):
        die_after(work(e, recorded + number))
        recorded += 1
    child = os.fork()
    if child == 0:
        metrics_registry(e)
        fault_at(last)
        generate_latest(metrics_registry(e))
        os._exit(0)
    done = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for _ in range(2):
        r = metrics_registry(e)
        found = total(r), value(r, "shop_orders_total", kind="book"), value(r, "shop_seconds_count")
        assert found == (10 * recorded, 2 * recorded, recorded), (last, found, recorded)
    assert not list(DIRECTORY.glob("*.folding")), last
print(last > 10, len([path for path in DIRECTORY.glob("*.db") if "gauge_all" not in path.name]) < 10)
"""
    assert run(tmp_path, code) == "True True\n"


def test_sums_never_fall_while_workers_die_and_several_processes_scrape_at_once(tmp_path):
    code = """
e = PrometheusExporter(CollectorRegistry())
def scrape_until_told():
    last = (0, 0)
    while not (DIRECTORY / "stop").exists():
        r = metrics_registry(e)
        now = total(r) or 0, value(r, "shop_orders_total", kind="book") or 0
        assert now >= last and now[1] >= last[1], (last, now)
        last = now
scrapers = []
for _ in range(3):
    child = os.fork()
    if child == 0:
        try:
            scrape_until_told()
        except BaseException as error:
            print(type(error), error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    scrapers.append(child)
for number in range(60):
    die_after(work(e, number))
(DIRECTORY / "stop").touch()
assert [os.waitpid(child, 0)[1] for child in scrapers] == [0, 0, 0]
r = metrics_registry(e)
print(total(r), value(r, "shop_orders_total", kind="book"))
"""
    assert run(tmp_path, code) == "600.0 120.0\n"


def test_files_that_an_application_names_by_another_rule_than_the_process_id_stay_as_they_are(tmp_path):
    code = """
import prometheus_client.values as values
from prometheus_client import metrics
metrics.values.ValueClass = values.ValueClass = values.MultiProcessValue(lambda: "worker_1")
by_worker = Counter("named", "Named.", registry=CollectorRegistry())
e = PrometheusExporter(CollectorRegistry())
def count():
    record(e, 0, 10)
    by_worker.inc()
die_after(count)
(DIRECTORY / f"counter_{os.getpid()}.db").exists() and sys.exit(1)
r = metrics_registry(e)
print(total(r), (DIRECTORY / "counter_worker_1.db").exists(), value(r, "named_total"))
"""
    assert run(tmp_path, code) == "10.0 True 1.0\n"


def test_a_file_whose_process_id_lives_again_is_given_back(tmp_path):
    code = """
from flag_analytics_prometheus import shared_directory
directory = shared_directory.shared_directory()
name = f"counter_{os.getpid()}.db"
ORDERS.labels("book").inc()
owner = shared_directory.Owner(os.getpid(), "0" * 8)
assert directory.claim(name, "counter", owner) is None and (DIRECTORY / name).exists()
ORDERS.labels("book").inc()
e = PrometheusExporter(CollectorRegistry())
print(value(metrics_registry(e), "shop_orders_total", kind="book"))
"""
    assert run(tmp_path, code) == "2.0\n"


def test_the_caps_hold_for_the_folded_figures_of_any_number_of_workers(tmp_path):
    code = """
e = PrometheusExporter(CollectorRegistry(), caps=LabelCaps(max_flag_keys=3, max_variants=2, max_series=4))
for number in range(10):
    die_after(lambda: [record(e, number, 2, f"flag-{number}-{one}") for one in range(3)])
    samples = [s for m in metrics_registry(e).collect() if m.name == "feature_flag_evaluations" for s in m.samples]
    assert sum(s.value for s in samples) == 6 * (number + 1)
    assert len({s.labels["flag_key"] for s in samples} - {"__other__"}) <= 3
counter, = DIRECTORY.glob("counter_flag-analytics-folded-*.db")
sketch, = DIRECTORY.glob("*users_folded-*.sketch")
print(counter.stat().st_size < 4000, sketch.stat().st_size <= 4 * 33_024)
print(value(metrics_registry(e), "feature_flag_unique_users", flag_key="__other__"))
"""
    assert run(tmp_path, code) == "True True\n10.0\n"
