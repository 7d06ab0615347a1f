"""Several workers under ``PROMETHEUS_MULTIPROC_DIR``: one scrape of any of them shows what all have counted."""

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
        # Somebody must go on reading, or the pipe fills up and gunicorn waits.
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


def test_any_worker_shows_what_all_have_counted_even_those_that_were_killed(gunicorn):
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


def run(directory, code):
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


PRELUDE = """
from types import SimpleNamespace
from prometheus_client import CollectorRegistry, generate_latest
from flag_analytics_prometheus import PrometheusExporter, metrics_registry
def record(exporter, first, count):
    for number in range(first, first + count):
        exporter.record_nowait(SimpleNamespace(flag_key="f", reason="SPLIT", variant="a", targeting_key=f"u{number}",
                                               evaluation_duration_ms=1.0))
def users(exporter):
    return metrics_registry(exporter).get_sample_value("feature_flag_unique_users", {"flag_key": "f"})
"""


def test_processes_one_after_the_other_add_up_and_the_library_s_own_collector_agrees(tmp_path):
    first = run(tmp_path, PRELUDE + "e = PrometheusExporter(CollectorRegistry()); record(e, 0, 700); print(users(e))")
    assert (first.stdout, first.returncode) == ("700.0\n", 0), first.stderr
    code = """
from prometheus_client.multiprocess import MultiProcessCollector
e = PrometheusExporter(CollectorRegistry()); record(e, 200, 800); print(users(e))
r = CollectorRegistry(); MultiProcessCollector(r)
print(r.get_sample_value("feature_flag_evaluations_total", {"flag_key": "f", "reason": "SPLIT", "variant": "a"}))
"""
    second = run(tmp_path, PRELUDE + code)
    assert (second.stdout, second.returncode) == ("1000.0\n1500.0\n", 0), second.stderr


def test_damaged_files_of_ours_hide_nothing_but_themselves(tmp_path):
    run(tmp_path, PRELUDE + "e = PrometheusExporter(CollectorRegistry()); record(e, 0, 50)")
    for name, content in (
        ("flag_analytics_users_1_aa.sketch", b""),
        ("flag_analytics_users_2_bb.sketch", b"\xff" * 70_000),
        ("flag_analytics_users_3_cc.sketch", b"FAx1\xff\xff" + b"x" * 40_000),
        ("flag_analytics_report_4_dd.json", b"{"),
        ("flag_analytics_report_x_ee.json", b"{}"),
    ):
        (tmp_path / name).write_bytes(content)
    code = "e = PrometheusExporter(CollectorRegistry()); record(e, 50, 10); generate_latest(metrics_registry(e))"
    result = run(tmp_path, PRELUDE + code + "; print(users(e))")
    assert (result.stdout, result.returncode) == ("60.0\n", 0), result.stderr


def test_a_directory_that_vanishes_is_an_error_that_the_pipeline_counts_and_nobody_is_stopped(tmp_path):
    code = """
import shutil, os
from flag_analytics.pipeline import open_pipeline
pipeline = open_pipeline({"exporters": {"prometheus": {}}})
shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"])
record(pipeline, 0, 5)
print(dict(pipeline.stats().refused or pipeline.stats().sinks["prometheus"].dropped))
"""
    directory = tmp_path / "gone"
    directory.mkdir()
    result = run(directory, PRELUDE + code)
    assert (result.stdout, result.returncode) == ("{'error': 5}\n", 0), result.stderr


def test_a_directory_that_is_not_there_is_a_clear_error(tmp_path):
    result = run(tmp_path / "nowhere", PRELUDE + "PrometheusExporter(CollectorRegistry())")
    assert "PROMETHEUS_MULTIPROC_DIR is not a directory: make it, empty" in result.stderr
