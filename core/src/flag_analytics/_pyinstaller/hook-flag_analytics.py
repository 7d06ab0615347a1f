"""Collects the core and every plugin that is installed, with the metadata that entry points are found in."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec

hooks = import_module("PyInstaller.utils.hooks")  # it runs this file: nothing here depends on it

packages = {"flag_analytics"}
datas = hooks.copy_metadata("flag-analytics")
for point in entry_points(group="flag_analytics"):
    packages.add(point.module.partition(".")[0])
    if point.dist is not None:
        datas += hooks.copy_metadata(point.dist.name)
if find_spec("flag_analytics_openfeature") is not None:  # ``from flag_analytics import AnalyticsHook``
    packages.add("flag_analytics_openfeature")

hiddenimports: list[str] = []
for package in sorted(packages):
    # Without modules for tests and for the command, which import packages that an application may not have.
    hiddenimports += hooks.collect_submodules(
        package, filter=lambda module: not {"testing", "cli"} & set(module.split("."))
    )
    datas += hooks.collect_data_files(package)
