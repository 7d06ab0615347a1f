"""A program that PyInstaller has built finds its plugins and drivers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.field

PROGRAM = """
from flag_analytics import FlagEvaluationEvent, open_pipeline

with open_pipeline({
    "collectors": {"database": {"connection_string": "sqlite+aiosqlite:///events.db"}, "memory": {}},
    "exporters": {"prometheus": {}},
}) as pipeline:
    for _ in range(20):
        pipeline.record_nowait(FlagEvaluationEvent.now("dark_mode", True, "STATIC", targeting_key="user-123"))
    assert pipeline.flush_sync().complete
"""


def environment_of_an_application(directory):
    """Return the interpreter of an environment with what such an application installs, and PyInstaller."""
    uv = shutil.which("uv")
    assert uv, "uv is needed to make the application's environment"
    place, root = directory / "environment", Path(__file__).parents[2]
    python = str(place / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python"))
    parts = ("core", "plugins/delivery", "plugins/memory", "plugins/database", "plugins/prometheus")
    editable = [argument for part in parts for argument in ("--editable", str(root / part))]
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(place)], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, "pyinstaller>=6.10", *editable], check=True)
    return python


@pytest.mark.timeout(600)
def test_a_program_built_by_pyinstaller_stores_its_events(field, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM, "utf-8")
    python = environment_of_an_application(tmp_path)
    subprocess.run(
        [python, "-m", "PyInstaller", "--onedir", "--log-level", "WARN", "program.py"],
        cwd=tmp_path,
        check=True,
        timeout=500.0,
        stdin=subprocess.DEVNULL,
    )
    # Without the environment it was built in.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    program = tmp_path / "dist" / "program" / ("program.exe" if sys.platform == "win32" else "program")
    done = subprocess.run(
        [str(program)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60.0, check=False
    )
    assert done.returncode == 0, done.stderr
    assert field.stored() == 20
