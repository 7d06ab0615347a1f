"""The workflows of the repository's host run what noxfile.py and the distributions declare."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = {path.name: path.read_text("utf-8") for path in sorted(ROOT.glob(".github/workflows/*.yml"))}
TESTS, PUBLISH = (yaml.safe_load(WORKFLOWS[name]) for name in ("tests.yml", "publish.yml"))
NOXFILE = ast.parse((ROOT / "noxfile.py").read_text("utf-8"))
CORE = tomllib.loads((ROOT / "core" / "pyproject.toml").read_text("utf-8"))["project"]


def nox_value(target):
    """Return the value that noxfile.py assigns to a name or an attribute of ``nox``."""
    (value,) = (
        node.value for node in NOXFILE.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == target
    )
    return ast.literal_eval(value)


def nox_sessions():
    """Return the name of every session, with each Python version where it has several."""
    for function in NOXFILE.body:
        for decorator in getattr(function, "decorator_list", ()):
            if ast.unparse(decorator).startswith("nox.session"):
                options = {option.arg: option.value for option in getattr(decorator, "keywords", ())}
                name = ast.literal_eval(options["name"]) if "name" in options else function.name
                yield name
                if "python" in options and ast.unparse(options["python"]) == "PYTHONS":
                    yield from (f"{name}-{python}" for python in nox_value("PYTHONS"))


def used_sessions():
    """Return the sessions that the workflows run, with the values of each matrix put in."""
    for workflow in (TESTS, PUBLISH):
        for job in workflow["jobs"].values():
            matrix = job.get("strategy", {}).get("matrix", {})
            for step in job["steps"]:
                for session in re.findall(r"nox --session (\S+)", step.get("run", "")):
                    names = [session.strip('"')]
                    for key, values in matrix.items():
                        variable = f"${{MATRIX_{key.upper()}}}"
                        names = [name.replace(variable, value) for name in names for value in values]
                    yield from names


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_action_is_pinned_by_hash_with_its_version(name):
    used = re.findall(r"uses: (.*)", WORKFLOWS[name])
    assert used
    assert not [line for line in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", line)]


def test_an_action_has_one_version_in_all_workflows():
    pins = set(re.findall(r"uses: ([\w/-]+)@(.*)", "\n".join(WORKFLOWS.values())))
    assert len(pins) == len(dict(pins))


def test_workflows_run_sessions_that_exist():
    assert set(used_sessions()) <= set(nox_sessions())


def test_workflows_run_every_default_session_and_the_oldest_dependencies():
    assert {*nox_value("nox.options.sessions"), "tests-lowest"} <= set(used_sessions())


def test_the_gate_runs_every_default_session():
    gate = (ROOT / ".ci" / "run").read_text("utf-8")
    assert not [name for name in nox_value("nox.options.sessions") if not re.search(rf"\b{name}\b", gate)]


def test_tests_run_on_three_systems_and_every_supported_python():
    matrix = TESTS["jobs"]["tests"]["strategy"]["matrix"]
    assert {system.partition("-")[0] for system in matrix["system"]} == {"ubuntu", "macos", "windows"}
    supported = [text.rpartition(" ")[2] for text in CORE["classifiers"] if "Python :: 3." in text]
    assert matrix["python"] == supported
    assert set(supported) <= set(nox_value("PYTHONS"))


def test_only_the_upload_may_ask_for_an_identity():
    jobs = {name: job.get("permissions", {}) for workflow in (TESTS, PUBLISH) for name, job in workflow["jobs"].items()}
    assert TESTS["permissions"] == PUBLISH["permissions"] == {}
    assert {name for name, permissions in jobs.items() if "id-token" in permissions} == {"publish"}
    assert {name for name, permissions in jobs.items() if "write" in permissions.values()} == {"publish", "announce"}


def test_a_release_is_uploaded_without_a_secret_from_the_environment_of_its_distribution():
    job = PUBLISH["jobs"]["publish"]
    assert job["environment"] == "${{ needs.build.outputs.distribution }}"
    *_, upload = job["steps"]
    assert upload["uses"].startswith("pypa/gh-action-pypi-publish@")
    assert "with" not in upload
    assert "secrets." not in WORKFLOWS["publish.yml"]


def release(tag, dist, out):
    command = [sys.executable, ROOT / ".ci" / "release.py", tag, dist, out]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def dist(tmp_path):
    directory = tmp_path / "dist"
    directory.mkdir()
    for name in ("flag_analytics", "flag_analytics_memory"):
        for ending in ("-py3-none-any.whl", ".tar.gz"):
            (directory / f"{name}-{CORE['version']}{ending}").touch()
    return directory


@pytest.mark.parametrize("name", ["flag-analytics", "flag-analytics-memory"])
def test_a_tag_selects_the_two_files_of_its_distribution(name, dist, tmp_path):
    done = release(f"{name}-v{CORE['version']}", dist, tmp_path / "out")
    assert done.stdout == f"distribution={name}\n"
    stem = f"{name.replace('-', '_')}-{CORE['version']}"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{stem}-py3-none-any.whl", f"{stem}.tar.gz"}


@pytest.mark.parametrize("tag", ["flag-analytics-v9.9.9", "another-v0.1.0", "v0.1.0", "flag-analytics"])
def test_a_tag_of_another_name_or_version_is_refused(tag, dist, tmp_path):
    done = release(tag, dist, tmp_path / "out")
    assert done.returncode == 1
    assert f"flag-analytics-v{CORE['version']}" in done.stderr
    assert not (tmp_path / "out").exists()
