"""``new-plugin`` writes a whole project of each kind, which passes its own tests from its wheel as it is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from flag_analytics_cli.main import main

ROOT = Path(__file__).parents[3]
KINDS = ["collector", "exporter", "processor", "source", "command"]
each_kind = pytest.mark.parametrize("kind", KINDS)


def project(tmp_path: Path, kind: str, name: str = "my-own") -> Path:
    place = tmp_path / "project"
    assert main(["new-plugin", name, "--kind", kind, "--directory", str(place)]) == 0
    return place


def run(*command: str, cwd: Path, **environ: str) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PYTEST_ADDOPTS": "", **environ},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def installed_from_source(place: Path, site: Path) -> None:
    """Make the project known as an installer would, without building it."""
    metadata = tomllib.loads((place / "pyproject.toml").read_text("utf-8"))["project"]
    info = site / f"{metadata['name'].replace('-', '_')}-0.1.0.dist-info"
    info.mkdir(parents=True)
    needs = "".join(f"Requires-Dist: {need}\n" for need in metadata["dependencies"])
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {metadata['name']}\nVersion: 0.1.0\n{needs}")
    points = "".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in table.items())
        for group, table in metadata["entry-points"].items()
    )
    (info / "entry_points.txt").write_text(points)


@each_kind
def test_a_new_project_is_whole(tmp_path, kind):
    place = project(tmp_path, kind)
    found = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    assert {
        "pyproject.toml", "README.md", "LICENSE", ".gitignore", ".github/workflows/tests.yml",
        ".github/workflows/publish.yml", "src/flag_analytics_my_own/__init__.py", "src/flag_analytics_my_own/plugin.py",
        "src/flag_analytics_my_own/py.typed", "tests/test_flag_analytics_my_own.py",
    } <= found  # fmt: skip
    texts = {name: (place / name).read_text("utf-8") for name in found}
    left = re.compile(r"__(dist|package|plugin|Class|description|dependencies|reads|configuration)__")
    assert not [name for name, text in texts.items() if left.search(text) or left.search(name)]
    metadata = tomllib.loads(texts["pyproject.toml"])["project"]
    assert metadata["name"] == "flag-analytics-my-own"
    assert metadata["entry-points"]["flag_analytics"] == {"my-own": "flag_analytics_my_own.plugin"}
    bounds = [need for need in metadata["dependencies"] if need.startswith("flag-analytics")]
    assert bounds
    assert all(re.search(r">=0\.1,<1$", need) for need in bounds)


@each_kind
def test_a_new_project_passes_its_tests(tmp_path, kind):
    place, site = project(tmp_path, kind), tmp_path / "site"
    installed_from_source(place, site)
    path = os.pathsep.join([str(place / "src"), str(site)])
    quick = "alone or whole or prefix or prints or option or window_holds or it_keeps or returns"
    said = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", quick, cwd=place, PYTHONPATH=path)
    assert re.search(r"\d+ passed", said)
    assert "failed" not in said


@pytest.mark.chaos
@each_kind
def test_a_new_project_passes_all_of_its_tests_from_its_wheel(tmp_path, kind):
    place, site = project(tmp_path, kind), tmp_path / "site"
    run("uv", "build", "--quiet", "--wheel", "--out-dir", str(tmp_path), cwd=place)
    (wheel,) = tmp_path.glob("*.whl")
    run("uv", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel), cwd=tmp_path)
    said = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=place, PYTHONPATH=str(site))
    assert re.search(r"\d+ passed", said)
    assert "xfailed" not in said


def test_the_workflows_of_a_new_project_use_what_this_projects_own_do(tmp_path):
    place = project(tmp_path, "collector")
    own = "".join(path.read_text("utf-8") for path in (ROOT / ".github" / "workflows").glob("*.yml"))
    for path in (place / ".github" / "workflows").glob("*.yml"):
        text = path.read_text("utf-8")
        assert yaml.safe_load(text)["permissions"] == {}
        used = re.findall(r"uses: (\S+@[0-9a-f]{40})", text)
        assert used
        assert len(used) == text.count("uses:")
        assert not [action for action in used if action not in own]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("My Store", "is no name of a plugin"),
        ("../x", "is no name of a plugin"),
        ("1store", "is no name of a plugin"),
        ("a" * 41, "at most 40"),
        ("memory", "flag-analytics-memory 0.1.0 has a plugin 'memory' already"),
        ("flag-analytics-memory", "has a plugin 'memory' already"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused(tmp_path, monkeypatch, capsys, name, says):
    monkeypatch.chdir(tmp_path)
    assert main(["new-plugin", name]) == 2
    assert says in capsys.readouterr().err.replace("\n", " ")
    assert not list(tmp_path.iterdir())


def test_a_directory_that_is_in_use_is_left_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["new-plugin", "store"]) == 0
    before = (tmp_path / "flag-analytics-store" / "pyproject.toml").read_text("utf-8")
    assert main(["new-plugin", "store", "--kind", "source"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "flag-analytics-store" / "pyproject.toml").read_text("utf-8") == before
