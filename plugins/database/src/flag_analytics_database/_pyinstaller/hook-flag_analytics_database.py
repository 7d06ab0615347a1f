"""Collects the drivers that are installed, and the migrations, which Alembic runs as files."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

hooks = import_module("PyInstaller.utils.hooks")  # it runs this file: nothing here depends on it

hiddenimports: list[str] = []
for driver in ("aiosqlite", "asyncpg", "asyncmy", "aiomysql"):
    if find_spec(driver) is not None:
        hiddenimports += hooks.collect_submodules(driver)
datas = hooks.collect_data_files(
    "flag_analytics_database", include_py_files=True, subdir="migrations", excludes=["**/__pycache__"]
)
