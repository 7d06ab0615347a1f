"""The gate, one session each; `nox` alone runs what every change must pass.

Sessions need a Python, pip and the package index, and nothing else.
"""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.needs_version = ">=2026.10.20"
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["servers", "applications", "browser", "clickhouse", "lint", "typing", "docs", "build"]

ROOT = Path(__file__).parent
CORE = "core"
PLUGINS = [path.parent.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("plugins/*/pyproject.toml"))]
DISTRIBUTIONS = [CORE, *PLUGINS]
EXAMPLE = "examples/third_party_jsonl"
PYTHONS = ["3.11", "3.12", "3.13", "3.14", "3.15"]
"""Tried in turn; those that are not on this machine are skipped."""
HOST_FILES = {
    "vendor.github-workflows": ".github/workflows/*.yml",
    "custom.github-workflows-require-timeout": ".github/workflows/*.yml",
    "vendor.dependabot": ".github/dependabot.yml",
    "vendor.github-issue-forms": ".github/ISSUE_TEMPLATE/[!c]*.yml",
    "vendor.github-issue-config": ".github/ISSUE_TEMPLATE/config.yml",
    "vendor.readthedocs": ".readthedocs.yaml",
}
"""The schema of each kind of file that the repository's host or Read the Docs reads."""
PEERS = ["launchdarkly-server-sdk", "litestar-flags[database,prometheus]", "opentelemetry-sdk", "posthog"]
SDKS: dict[str, list[str]] = tomllib.loads((ROOT / "plugins/sdks/pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]
"""What each extra for a flag SDK needs."""
LARGE_EXTRAS = {"chdb"}
"""Extras of hundreds of megabytes, which only a session of their own installs."""
SDK_TEST_TOOLS = ["hypothesis", "pytest", "pytest-asyncio", "pytest-timeout", "pytest-xdist", "sybil"]

_PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
if _PYENV.is_dir():
    # pyenv's commands answer for the selected versions only, unless told of the others.
    _selected = os.environ.get("PYENV_VERSION", "").split(":")
    _versions = sorted(path.name for path in _PYENV.iterdir() if re.fullmatch(r"3\.1[1-9]\.\d+", path.name))
    os.environ["PYENV_VERSION"] = ":".join(dict.fromkeys(filter(None, [*_selected, *_versions])))


def _sync(session: nox.Session, *groups: str) -> None:
    """Install the workspace, editable, and some dependency groups into the session's own environment."""
    session.run_install(
        "uv",
        "sync",
        "--quiet",
        "--no-default-groups",
        *(f"--group={group}" for group in groups),
        f"--python={session.virtualenv.location}",
        env={"UV_PROJECT_ENVIRONMENT": session.virtualenv.location},
    )


def _pytest(session: nox.Session, *arguments: str) -> None:
    """Run tests; those that fail beside all others on a busy machine run once more, alone."""
    try:
        session.run("pytest", *arguments, *session.posargs)
    except CommandFailed:
        session.run("pytest", *arguments, *session.posargs, "--last-failed", "--last-failed-no-failures=none", "-n0")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run every test on each CPython there is."""
    _sync(session, "test")
    session.run("pytest", *session.posargs)


@nox.session
def servers(session: nox.Session) -> None:
    """Run the tests that start a server or talk to one."""
    _sync(session, "test")
    _pytest(session, "-m", "server and not chaos")


@nox.session
def field(session: nox.Session) -> None:
    """Run under the servers and pools that applications run under."""
    _sync(session, "field")
    _pytest(session, "-m", "field", "tests/field")


@nox.session
def applications(session: nox.Session) -> None:
    """Start the applications of the documentation's recipes, each under the servers that it names."""
    _sync(session, "applications")
    _pytest(session, "-m", "application", "tests/applications")


@nox.session
def browser(session: nox.Session) -> None:
    """Drive the page in Chromium, where it is installed, and try the API with what its description allows."""
    _sync(session, "browser")
    _pytest(session, "-m", "browser", "-n0", "tests/browser")


@nox.session
def clickhouse(session: nox.Session) -> None:
    """Run the tests that talk to ClickHouse, its embedded engine or a server; `-- -m "clickhouse and chaos"`: long."""
    _sync(session, "clickhouse")
    _pytest(session, "-m", "clickhouse and not chaos", "plugins/clickhouse")


@nox.session
@nox.parametrize("bound", ["lowest", "newest"])
@nox.parametrize("sdk", list(SDKS))
def sdks(session: nox.Session, sdk: str, bound: str) -> None:
    """Run the adapter of each flag SDK with the lowest and the newest version, each in an environment of its own."""
    needs = [text if bound == "newest" else _lowest(text) for text in SDKS[sdk]]
    distributions = [argument for path in ("core", "plugins/memory", "plugins/sdks") for argument in ("-e", path)]
    session.install("--quiet", *distributions, *needs, *SDK_TEST_TOOLS)
    session.run("pytest", "-q", f"plugins/sdks/tests/test_sdk_{sdk.replace('-', '_')}.py", *session.posargs)


@nox.session(name="tests-lowest", python=PYTHONS[0])
def tests_lowest(session: nox.Session) -> None:
    """Run every test on the oldest releases that the bounds of each pyproject.toml allow."""
    session.install(
        "--resolution=lowest-direct",
        "--group=test",
        *(argument for path in DISTRIBUTIONS for argument in ("--editable", f"./{path}[{_extras(path)}]")),
    )
    session.run("pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format, and the workflows of the repository's host."""
    session.run_install(
        "uv",
        "sync",
        "--quiet",
        "--only-group=lint",
        "--only-group=workflows",
        env={"UV_PROJECT_ENVIRONMENT": session.virtualenv.location},
    )
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("zizmor", "--offline", "--quiet", "--persona=auditor", ".")
    for schema, pattern in HOST_FILES.items():
        session.run("check-jsonschema", f"--builtin-schema={schema}", *sorted(map(str, ROOT.glob(pattern))))


@nox.session
def typing(session: nox.Session) -> None:
    """Check types with mypy and pyright, and the public surface as users' checkers see it."""
    _sync(session, "typing")
    sources = [f"{path}/src" for path in DISTRIBUTIONS]
    session.run("mypy", *sources)
    session.run("mypy", "tests/typing_tests")
    session.run("pyright")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation, every warning an error, and run each of its examples."""
    _sync(session, "docs")
    session.run("sphinx-build", "-q", "-W", "--keep-going", "-n", "-b", "html", "docs", "site")
    session.run("pytest", "-q", "README.md", "docs", "tests/test_docs.py")


@nox.session
def build(session: nox.Session) -> None:
    """Build every distribution, and use core with one backend at a time from the wheels alone; `-- DIR` keeps them."""
    dist = Path(session.posargs[0]) if session.posargs else Path(session.create_tmp()) / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    session.run_install("uv", "build", "--quiet", "--all-packages", f"--out-dir={dist}")
    session.run_install("uv", "build", "--quiet", EXAMPLE, f"--out-dir={dist}")
    session.run("python", "tests/wheels/check_wheels.py", str(dist))


@nox.session
def bench(session: nox.Session) -> None:
    """Measure side by side with the peers as they come from the package index; `-- NAME …` for some tables only."""
    _sync(session, "test")
    session.install(*PEERS)
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def chaos(session: nox.Session) -> None:
    """Run the long fault schedules, and try the laws with many examples."""
    _sync(session, "test")
    session.run("pytest", "-m", "chaos and not clickhouse", *session.posargs)
    session.run(
        "pytest",
        "-m",
        "hypothesis and not chaos and not server and not clickhouse",
        "--hypothesis-profile=deep",
        "--timeout=1800",
        *session.posargs,
    )


@nox.session
def changelog(session: nox.Session) -> None:
    """Show what the fragments in changelog.d/ say; `-- --version X.Y.Z` without `--draft` writes CHANGELOG.md."""
    session.install("towncrier>=25.8")
    session.run("towncrier", "build", *(session.posargs or ["--draft", "--version", "next"]))


def _lowest(requirement: str) -> str:
    """Return the requirement with its lower bound as the version to use."""
    return re.sub(r">=([\w.]+)[^;]*", r"==\1", requirement)


def _extras(path: str) -> str:
    """Return the names of a distribution's extras that tests use, but for those that name our own distributions."""
    project = tomllib.loads((ROOT / path / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project.get("optional-dependencies", {})
    return ",".join(
        name
        for name, needs in extras.items()
        if name not in LARGE_EXTRAS and not any("flag-analytics" in need for need in needs)
    )
