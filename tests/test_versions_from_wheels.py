"""Hooks across versions, from wheels: a plugin with one of a newer core in an older core, and the reverse."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[1]
PLUGIN = """
    import attrs
    from flag_analytics import Backend, hookimpl
    from flag_analytics.metrics import EventsSource

    @attrs.frozen
    class Options:
        pass

    class Sink:
        async def write(self, batch):
            pass

    @hookimpl
    def flag_analytics_register_collectors():
        return [Backend("acme", Options, lambda options: Sink())]
"""
NEWER_HOOK = """
    @hookimpl{mark}
    def flag_analytics_register_sources():
        return [Backend("acme", Options, lambda options: EventsSource(list))]
"""
USE = """
    import asyncio, sys
    import flag_analytics
    from flag_analytics import FlagEvaluationEvent, open_pipeline
    assert sys.argv[1] in flag_analytics.__file__, flag_analytics.__file__
    with open_pipeline({"collectors": {"acme": {}}}) as pipeline:
        pipeline.record_nowait(FlagEvaluationEvent.now("a", True, "STATIC"))
        assert pipeline.flush_sync()
    if sys.argv[2:] == ["sources"]:
        config = {"collectors": {"memory": {}}, "sources": {"acme": {}}}
        with open_pipeline(config) as pipeline:
            assert asyncio.run(pipeline.aggregator_of("acme").list_flags(None)) == []
    print("used")
"""


def build(project: Path, place: Path) -> Path:
    """Build the wheel of a project, and unpack it into a directory of its own."""
    dist = place.with_name(f"{place.name}-dist")
    _run("uv", "build", "--quiet", "--wheel", "--out-dir", str(dist), str(project))
    (wheel,) = dist.glob("*.whl")
    _run("uv", "pip", "install", "--quiet", "--no-deps", "--target", str(place), str(wheel))
    return place


def _run(*command: str, **environ: str) -> str:
    done = subprocess.run(
        command, env={**os.environ, **environ}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def newer_core(tmp_path_factory) -> Path:
    return build(ROOT / "core", tmp_path_factory.mktemp("cores") / "newer")


@pytest.fixture(scope="module")
def older_core(tmp_path_factory) -> Path:
    """This core as it would be one version before it knew of sources: without the hook, and called 0.1.0a1."""
    place = tmp_path_factory.mktemp("cores")
    shutil.copytree(ROOT / "core", place / "core", ignore=shutil.ignore_patterns("tests", "__pycache__"))
    pyproject = place / "core" / "pyproject.toml"
    text = pyproject.read_text("utf-8")
    pyproject.write_text(re.sub(r'(?m)^version = ".*"$', 'version = "0.1.0a1"', text), "utf-8")
    hooks = place / "core" / "src" / "flag_analytics" / "hookspecs.py"
    without = re.sub(
        r"@hookspec\ndef flag_analytics_register_sources.*?(?=\n@hookspec)",
        "",
        hooks.read_text("utf-8"),
        flags=re.DOTALL,
    )
    assert "register_sources" not in without
    hooks.write_text(without, "utf-8")
    return build(place / "core", place / "older")


def plugin(tmp_path: Path, source: str, needs: str = "flag-analytics>=0.1.0a1,<1") -> Path:
    project = tmp_path / "acme"
    (project / "src" / "acme").mkdir(parents=True)
    (project / "src" / "acme" / "__init__.py").write_text(dedent(source), "utf-8")
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling>=1.26"]\nbuild-backend = "hatchling.build"\n\n'
        f'[project]\nname = "acme"\nversion = "3.0"\ndependencies = ["{needs}"]\n\n'
        '[project.entry-points.flag_analytics]\nacme = "acme"\n',
        "utf-8",
    )
    return build(project, tmp_path / "site")


def use(core: Path, site: Path, *arguments: str) -> str:
    path = os.pathsep.join([str(core), str(site)])
    return _run(sys.executable, "-c", dedent(USE), str(core), *arguments, PYTHONPATH=path)


def test_a_plugin_of_an_older_core_works_in_a_newer(newer_core, tmp_path):
    assert use(newer_core, plugin(tmp_path, PLUGIN)) == "used\n"


def test_an_optional_hook_of_a_newer_core_is_used_there_and_passed_over_in_an_older(newer_core, older_core, tmp_path):
    site = plugin(tmp_path, PLUGIN + NEWER_HOOK.format(mark="(optionalhook=True)"))
    assert use(newer_core, site, "sources") == "used\n"
    assert use(older_core, site) == "used\n"


def test_a_hook_that_an_older_core_does_not_know_is_refused_by_name(older_core, tmp_path):
    site = plugin(tmp_path, PLUGIN + NEWER_HOOK.format(mark=""))
    with pytest.raises(AssertionError, match="there is no hook flag_analytics_register_sources"):
        use(older_core, site)


def test_a_plugin_for_a_later_core_is_refused_before_its_import(older_core, tmp_path):
    site = plugin(tmp_path, "raise RuntimeError('imported')", needs="flag-analytics>=0.1,<1")
    with pytest.raises(
        AssertionError, match=r"plugin 'acme' of acme 3\.0 needs flag-analytics<1,>=0\.1, and has 0\.1\.0a1"
    ):
        use(older_core, site)
