"""The conformance kit passes good backends and fails each broken one, for the right reason."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import textwrap
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

HERE = Path(__file__).parent
MUTANTS_FILE = HERE / "kit_mutants.py"


def _load_mutants() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kit_mutants", MUTANTS_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mutants = _load_mutants()
needs_fork = {"TestDeadlocksAfterFork", "TestInheritsTheBuffer"}


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Return the names of the failed tests by class, from one run in a plugin author's bare project."""
    project = tmp_path_factory.mktemp("project")
    (project / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n", "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=no", "-rfEp", "-c", "pytest.ini"]
    run = subprocess.run(
        [*command, "--rootdir", str(project), str(MUTANTS_FILE)],
        cwd=project,
        env={**os.environ, "PYTEST_ADDOPTS": "", "COLUMNS": "500"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    found: dict[str, set[str]] = {}
    for line in run.stdout.splitlines():
        outcome, _, test = line.partition(" ")
        if outcome in {"FAILED", "ERROR", "PASSED"} and "::" in test:
            _, name, function = test.split(" ")[0].split("::")
            found.setdefault(name, set()).update({function} if outcome != "PASSED" else set())
    assert found, run.stdout + run.stderr
    return found


@pytest.mark.parametrize("name", mutants.GOOD)
def test_a_good_backend_passes_the_kit(failures: dict[str, set[str]], name: str) -> None:
    assert failures[name] == set()


@pytest.mark.parametrize("name", sorted(mutants.MUTANTS))
def test_a_broken_backend_fails_the_kit_where_it_is_broken(failures: dict[str, set[str]], name: str) -> None:
    if name in needs_fork and not hasattr(os, "fork"):
        pytest.skip("no fork")
    assert any(mutants.MUTANTS[name] in test for test in failures[name]), failures[name]


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
    run = _python("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "TestJsonLines", cwd=tmp_path)
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
