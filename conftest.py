"""Settings of every test run, and the examples of the documentation and of every README as tests.

A run of whole directories is spread over all processors; a run of named files stays in one process. Hypothesis tries
few examples, the same ones each time; ``--hypothesis-profile=deep`` tries many, new ones each time.

- ``python`` blocks run in order, one namespace per document; ``await`` works at the top level, as in
  ``python -m asyncio``.
- ``toml`` blocks are read as a configuration, unless they are a ``pyproject.toml``.
- ``console`` blocks: each ``$ flag-analytics …`` line must end with exit code 0; lines below it must be in its output.
- a block below ``<!-- file: NAME -->`` is first written to that file, in the document's own empty directory.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flag_analytics import logs
from hypothesis import settings
from sybil import Document, Example, Region, Sybil
from sybil.parsers.markdown import CodeBlockParser, SkipParser
from xdist.scheduler import LoadScopeScheduling


@pytest.fixture(autouse=True)
def _forgotten_log_messages() -> None:
    """Let each test see the messages that an earlier one caused, too."""
    logs.forget()


settings.register_profile("suite", max_examples=30, stateful_step_count=20, deadline=None, derandomize=True)
settings.register_profile("deep", max_examples=1_000, stateful_step_count=50, deadline=None, print_blob=True)
settings.load_profile("suite")

CHAOS_TIMEOUT_SECONDS = 1_800


def pytest_configure() -> None:
    # A shell that starts the tests in the background has SIGINT ignored, and so would every child process.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    return 0 if all(Path(argument.partition("::")[0]).is_file() for argument in config.args) else None


class _Scheduler(LoadScopeScheduling):
    """Keeps the examples of a document together, which share a namespace, and the parameters of a test."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return path if path.endswith(".md") else nodeid.partition("[")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _Scheduler(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("chaos") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(CHAOS_TIMEOUT_SECONDS))


_FILE = re.compile(r"^<!-- file: (?P<name>\S+) -->\n+```\w*\n(?P<content>.*?)^```$", re.MULTILINE | re.DOTALL)


def _run_python(example: Example) -> None:
    source = "\n" * (example.line + example.parsed.line_offset) + example.parsed
    code = compile(source, example.path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    if code.co_flags & inspect.CO_COROUTINE:
        example.namespace["__runner__"].run(_awaited(code, example.namespace))
    else:
        exec(code, example.namespace)  # noqa: S102 - the documentation is ours


async def _awaited(code: Any, namespace: dict[str, Any]) -> None:
    await eval(code, namespace)  # noqa: S307 - the documentation is ours


def _read_toml(example: Example) -> None:
    from flag_analytics.config.reading import read_config

    table = tomllib.loads(example.parsed)
    if "project" not in table and "tool" not in table:
        read_config(table)


def _run_console(example: Example) -> None:
    for block in re.split(r"^\$ ", example.parsed, flags=re.MULTILINE)[1:]:
        command, _, expected = block.partition("\n")
        words = shlex.split(command)
        if words[0] != "flag-analytics":
            continue
        program = Path(sys.executable).with_name("flag-analytics")
        done = subprocess.run(  # noqa: S603 - the documentation is ours
            [program, *words[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            env={**os.environ, "NO_COLOR": "1", "COLUMNS": "120", "PYTHONIOENCODING": "utf-8"},
            check=False,
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
        for line in expected.splitlines():
            assert line.strip() in done.stdout, f"{line.strip()!r} is not in the output of {command!r}:\n{done.stdout}"


def _find_files(document: Document) -> Iterator[Region]:
    for match in _FILE.finditer(document.text):
        # The region ends before the block itself, which is an example of its own.
        yield Region(match.start(), match.start() + 1, (match["name"], match["content"]), _write_file)


def _write_file(example: Example) -> None:
    name, content = example.parsed
    Path(name).write_text(content, "utf-8")


def _enter(namespace: dict[str, Any]) -> None:
    namespace["__name__"] = "__main__"
    namespace["__runner__"] = asyncio.Runner()
    namespace["__came_from__"] = Path.cwd()
    namespace["__directory__"] = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    os.chdir(namespace["__directory__"].name)


def _leave(namespace: dict[str, Any]) -> None:
    namespace["__runner__"].close()
    if "openfeature.api" in sys.modules:
        # What an example adds to the SDK is there for the whole process.
        api = sys.modules["openfeature.api"]
        api.clear_hooks()
        api.clear_providers()
    os.chdir(namespace["__came_from__"])
    namespace["__directory__"].cleanup()


pytest_collect_file = Sybil(
    parsers=[
        SkipParser(),
        _find_files,
        CodeBlockParser(language="python", evaluator=_run_python),
        CodeBlockParser(language="toml", evaluator=_read_toml),
        CodeBlockParser(language="console", evaluator=_run_console),
    ],
    patterns=["README.md", "core/README.md", "plugins/*/README.md", "docs/**/*.md", "docs/*.md"],
    setup=_enter,
    teardown=_leave,
).pytest()
