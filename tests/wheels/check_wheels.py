"""Uses the wheels, and nothing else, as a user would: core with one backend at a time, then a third party's.

Run by ``nox -s build`` with the directory of the wheels; needs uv and the package index, and nothing of the repository
on the path.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
EXAMPLE = ROOT / "examples" / "third_party_jsonl"
WITHOUT_BACKENDS = {"api", "privacy"}
"""Plugins that offer something else than a collector or an exporter."""


def main(dist: Path) -> None:
    plugins = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
    for project in [ROOT / "core", *plugins, EXAMPLE]:
        step(f"contents of {project.name}", lambda project=project: check_contents(dist, project))
    step("a second build is the same", lambda: built_twice(dist))
    with tempfile.TemporaryDirectory(prefix="flag-analytics-") as name:
        home = Path(name)
        step("core alone", lambda: core_alone(dist, home))
        for project in plugins:
            backends = entry_points(project)
            for backend in sorted(set(backends) - WITHOUT_BACKENDS):
                step(f"core and {backend}", lambda backend=backend: one_backend(dist, home, backend))
        step("core and openfeature", lambda: openfeature(dist, home))
        step("the page and the API", lambda: one_page(dist, home))
        step("the command", lambda: command(dist, home))
        step("a third party's backend", lambda: third_party(dist, home))
        for kind in ("collector", "exporter", "processor", "source", "command"):
            step(f"a new {kind}", lambda kind=kind: new_plugin(dist, home, kind))


def step(what: str, check) -> None:
    started = time.monotonic()
    check()
    print(f"ok: {what} ({time.monotonic() - started:.1f} s)", flush=True)


def check_contents(dist: Path, project: Path) -> None:
    """Look into the wheel and the source distribution for what both must hold, and must not."""
    metadata = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    (package,) = (child.name for child in (project / "src").iterdir() if (child / "__init__.py").exists())
    with zipfile.ZipFile(wheel(dist, metadata["name"])) as archive:
        names = archive.namelist()
        about = archive.read(next(name for name in names if name.endswith(".dist-info/METADATA"))).decode()
    assert f"{package}/py.typed" in names
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {package}, names
    assert "\nLicense-Expression: MIT\n" in about
    (source,) = dist.glob(f"{metadata['name'].replace('-', '_')}-*.tar.gz")
    with tarfile.open(source) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "pyproject.toml", f"src/{package}/py.typed"} <= inside, inside
    if project != EXAMPLE:
        assert any(".dist-info/licenses/LICENSE" in name for name in names), names
        assert "LICENSE" in inside, inside


def built_twice(dist: Path) -> None:
    """Build everything again and compare each file byte by byte."""
    with tempfile.TemporaryDirectory(prefix="flag-analytics-") as name:
        run("uv", "build", "--quiet", "--all-packages", f"--out-dir={name}", cwd=ROOT)
        again = {path.name: path.read_bytes() for path in Path(name).glob("flag_analytics*")}
    assert again
    assert [name for name in again if (dist / name).read_bytes() != again[name]] == []


def core_alone(dist: Path, home: Path) -> None:
    python = environment(home, "core", wheel(dist, "flag-analytics"))
    run(python, HERE / "core_alone.py", cwd=home)


def one_backend(dist: Path, home: Path, backend: str) -> None:
    python = environment(home, backend, *wheels(dist, f"flag-analytics-{backend}"))
    run(python, HERE / "one_event.py", backend, cwd=working_directory(home, backend))


def openfeature(dist: Path, home: Path) -> None:
    python = environment(home, "openfeature", *wheels(dist, "flag-analytics-memory", "flag-analytics-openfeature"))
    run(python, HERE / "one_evaluation.py", cwd=working_directory(home, "openfeature"))


def one_page(dist: Path, home: Path) -> None:
    python = environment(home, "page", *wheels(dist, "flag-analytics-memory", "flag-analytics-dashboard"))
    run(python, HERE / "one_page.py", cwd=working_directory(home, "page"))


def command(dist: Path, home: Path) -> None:
    """Install everything, as ``pip install flag-analytics[all]`` would, and run the command."""
    everything = sorted(str(path) for path in dist.glob("flag_analytics*.whl"))
    python = environment(home, "command", *everything)
    program = python.with_name("flag-analytics")
    directory = working_directory(home, "command")
    run(program, "--help", cwd=directory)
    run(program, "plugins", cwd=directory)
    run(program, "demo", "--once", "--events", "200", cwd=directory)


def third_party(dist: Path, home: Path) -> None:
    """Install the example beside core, choose it by a TOML file alone, and run its own test against the kit."""
    core = f"flag-analytics[testing] @ {Path(wheel(dist, 'flag-analytics')).as_uri()}"
    delivery = wheel(dist, "flag-analytics-delivery")
    python = environment(home, "third-party", core, delivery, wheel(dist, "third-party-jsonl"))
    directory = working_directory(home, "third-party")
    (directory / "flag-analytics.toml").write_text('[collectors.jsonl]\npath = "events.jsonl"\n', "utf-8")
    run(python, HERE / "chosen_by_toml.py", cwd=directory)
    shutil.copytree(EXAMPLE / "tests", directory / "tests")
    (directory / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n", "utf-8")
    run(python, "-m", "pytest", "-q", "tests", cwd=directory)


def new_plugin(dist: Path, home: Path, kind: str) -> None:
    """Have the command write the project of a new plugin, and run its tests where its wheel is installed."""
    core = f"flag-analytics[testing] @ {Path(wheel(dist, 'flag-analytics')).as_uri()}"
    needed = wheels(dist, "flag-analytics-memory", "flag-analytics-delivery", "flag-analytics-cli")
    python = environment(home, f"new-{kind}", core, *(each for each in needed if each != wheel(dist, "flag-analytics")))
    directory = working_directory(home, f"new-{kind}")
    run(python.with_name("flag-analytics"), "new-plugin", "acme", "--kind", kind, "--directory", "acme", cwd=directory)
    run("uv", "build", "--quiet", "--wheel", "--out-dir", directory, directory / "acme", cwd=directory)
    (built,) = directory.glob("*.whl")
    run("uv", "pip", "install", "--quiet", "--python", python, built, cwd=directory)
    run(python, "-m", "pytest", "-q", directory / "acme" / "tests", cwd=directory / "acme")


def entry_points(project: Path) -> list[str]:
    metadata = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    return sorted(metadata.get("entry-points", {}).get("flag_analytics", {}))


def wheel(dist: Path, name: str) -> str:
    (path,) = dist.glob(f"{name.replace('-', '_')}-[0-9]*.whl")
    return str(path)


def wheels(dist: Path, *names: str) -> list[str]:
    """Return the wheels of distributions and of those of this project that they require."""
    wanted = dict.fromkeys(names)
    for name in wanted.copy():
        project = ROOT / "plugins" / name.removeprefix("flag-analytics-") / "pyproject.toml"
        required = tomllib.loads(project.read_text("utf-8"))["project"]["dependencies"]
        wanted |= dict.fromkeys(re.match(r"[\w-]+", each)[0] for each in required if each.startswith("flag-analytics"))
    return [wheel(dist, name) for name in wanted]


def environment(home: Path, name: str, *requirements: str) -> Path:
    """Make a virtual environment of its own with the requirements, and return its Python.

    Wheels are given as files: the index could answer a name alone with another project's package.
    """
    directory = home / "environments" / name
    run("uv", "venv", "--quiet", "--python", sys.executable, directory, cwd=home)
    python = directory / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    run("uv", "pip", "install", "--quiet", "--python", python, *requirements, cwd=home)
    return python


def working_directory(home: Path, name: str) -> Path:
    directory = home / "work" / name
    directory.mkdir(parents=True)
    return directory


def run(*command: object, cwd: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**clean, "NO_COLOR": "1", "PYTHONWARNINGS": "error::ResourceWarning"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"failed ({done.returncode}): {' '.join(str(part) for part in command)}\n{done.stdout}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
