"""The conformance kit passes good backends and fails each broken one, for the right reason."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import flag_analytics.testing
import pytest
from flag_analytics.errors import CommitUnknown, SinkUnavailable
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.freezer import Freezer
from flag_analytics.protocols import AnalyticsCollector, Batch
from flag_analytics.testing import FailingSink, LostAnswer, ManualClock, RecordingCollector

pytest_plugins = ["pytester"]

HERE = Path(__file__).parent
MUTANTS_FILE = HERE / "kit_mutants.py"
NEEDS_FORK = re.compile("Fork|InheritsTheBuffer|WrittenBy|NeverFlushed")


def _load_mutants() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kit_mutants", MUTANTS_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mutants = _load_mutants()
# The good ones are tests of this module as they are.
globals().update({name: getattr(mutants, name) for name in mutants.GOOD})


class Outcome:
    """Runs the tests whose names hold a text; which of them failed, and what they said."""

    def __init__(self, wanted: str) -> None:
        self.wanted = wanted
        self.failed: dict[str, str] = {}
        self.passed = 0

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if self.wanted in item.name]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            name = report.nodeid.partition("::")[2].partition("::")[2]
            self.failed[name] = self.failed.get(name, "") + report.longreprtext
        self.passed += report.passed and report.when == "call"


@pytest.fixture
def run_kit(pytester: pytest.Pytester) -> Callable[..., Outcome]:
    """Run the kit on a class of tests, in a plugin author's bare project; all of its tests, or one."""
    settings = pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:playwright", "-c", settings, f"--confcutdir={HERE}"]

    def run(name: str, test: str = "") -> Outcome:
        outcome = Outcome(test)
        pytester.inline_run(*options, f"{MUTANTS_FILE}::{name}", plugins=[outcome])
        return outcome

    return run


def _notices(outcome: Outcome, test: str, says: str) -> bool:
    return any(test in name and re.search(says, text) for name, text in outcome.failed.items())


TAKES_SECONDS = {"TestFileThatResistsCancellation"}


def _kind(name: str) -> str:
    """Return the test of the kit that must notice a broken backend, whatever its parameter."""
    return mutants.BROKEN[name][0].partition("[")[0]


def _one_of_each_kind() -> list[str]:
    """Return, for each test of the kit that notices a fault, the first broken backend that it must notice."""
    return sorted({_kind(name): name for name in sorted(mutants.BROKEN.keys() - TAKES_SECONDS, reverse=True)}.values())


QUICK = _one_of_each_kind()
SLOW = [pytest.param(name, marks=pytest.mark.chaos) for name in sorted(set(mutants.BROKEN) - set(QUICK))]


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_a_broken_backend_fails_where_it_is_broken_and_says_why(run_kit, name: str) -> None:
    if NEEDS_FORK.search(name) and not hasattr(os, "fork"):
        pytest.skip("no fork")
    test, says = mutants.BROKEN[name]
    outcome = run_kit(name, test)
    assert _notices(outcome, test, says), outcome.failed or f"{outcome.passed} tests passed"


@pytest.mark.chaos
@pytest.mark.parametrize("name", sorted(mutants.BROKEN))
def test_the_whole_kit_ends_within_a_minute_and_fails_alike_each_time(run_kit, name: str) -> None:
    test, says = mutants.BROKEN[name]
    for _ in range(2):
        started = time.monotonic()
        outcome = run_kit(name)
        assert time.monotonic() - started < 60
        assert _notices(outcome, test, says), outcome.failed


def test_a_test_of_the_contract_may_be_overridden_where_the_reason_is_said(run_kit) -> None:
    outcome = run_kit("TestOverridesATestWithAReason", "no_test_of_the_contract_is_overridden")
    assert (outcome.passed, outcome.failed) == (1, {})


def test_each_test_that_notices_a_fault_is_tried_in_every_run() -> None:
    assert set(map(_kind, QUICK)) == set(map(_kind, mutants.BROKEN))
    assert len(QUICK) < len(mutants.BROKEN) / 2


def test_there_are_sixty_broken_backends_and_more() -> None:
    assert len(mutants.BROKEN) >= 60


def test_the_tutorials_plugin_passes_the_kit_as_printed(tmp_path: Path) -> None:
    blocks = textwrap.dedent(re.sub(r"(?m)^\S.*$", "", flag_analytics.testing.__doc__ or "")).split("\n\n\n\n")
    plugin, test = (block for block in blocks if "class " in block)
    package = tmp_path / "flag_analytics_jsonl"
    package.mkdir()
    preamble = "import json\nfrom typing import Any\n\nimport attrs\nfrom flag_analytics import Batch\n\n"
    options = "@attrs.frozen\nclass Options:\n    path: Any\n\n\n"
    (package / "plugin.py").write_text(preamble + options + plugin, "utf-8")
    (tmp_path / "test_conformance.py").write_text(test, "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n", "utf-8")
    run = _python("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "closing or second or keeps", cwd=tmp_path)
    assert run.returncode == 0, run.stdout
    assert " passed" in run.stdout


def test_the_package_is_imported_without_pytest() -> None:
    run = _python("-c", "import flag_analytics, flag_analytics.protocols, sys; print('pytest' in sys.modules)")
    assert run.stdout.strip() == "False", run.stderr


def test_the_kit_says_what_to_install_where_pytest_is_missing() -> None:
    run = _python("-c", "import sys; sys.modules['pytest'] = None; import flag_analytics.testing")
    assert "ImportError: flag_analytics.testing needs pytest: run `pip install 'flag-analytics[testing]'`" in run.stderr


async def test_a_failing_sink_does_what_its_script_says() -> None:
    batch = Batch("b", (Freezer().freeze(FlagEvaluationEvent(datetime.now(UTC), "a", 1, "STATIC")),))
    sink = FailingSink([SinkUnavailable("down"), LostAnswer(), None])
    with pytest.raises(SinkUnavailable, match="down"):
        await sink.write(batch)
    assert not sink.stored
    with pytest.raises(CommitUnknown):
        await sink.write(batch)
    assert list(sink.stored.values()) == list(batch)
    await sink.write(batch)
    await sink.write(batch)
    assert (len(sink.batches), len(sink.stored), sink.resent) == (4, 1, 2)


async def test_a_recording_collector_keeps_what_it_is_given() -> None:
    collector = RecordingCollector()
    assert isinstance(collector, AnalyticsCollector)
    await collector.record("one")
    collector.record_nowait("two")
    await collector.flush()
    await collector.close()
    assert (collector.events, collector.flushes, collector.closes) == (["one", "two"], 1, 1)


def test_a_manual_clock_stands_still_until_it_is_advanced() -> None:
    clock = ManualClock(datetime(2026, 1, 31, 12, tzinfo=UTC))
    assert clock.now() == clock.now() == datetime(2026, 1, 31, 12, tzinfo=UTC)
    clock.advance(90)
    assert clock.now() == datetime(2026, 1, 31, 12, 1, 30, tzinfo=UTC)
    assert clock.time() == clock.now().timestamp()
    assert clock.monotonic() == 90.0


def test_a_manual_clock_steps_back_only_on_the_wall() -> None:
    clock = ManualClock()
    clock.advance(5)
    clock.set(datetime(2025, 1, 1, tzinfo=UTC))
    assert clock.now() == datetime(2025, 1, 1, tzinfo=UTC)
    assert clock.monotonic() == 5.0
    with pytest.raises(ValueError, match="use set"):
        clock.advance(-1)


def _python(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
