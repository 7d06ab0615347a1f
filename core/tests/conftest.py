"""Distributions written to disk as a package installer leaves them, for tests of everything that plugins do."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import dedent

import pytest
from flag_analytics.registry import Registry


class Site:
    """A directory of installed distributions, on ``sys.path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(
        self,
        distribution: str,
        *,
        points: Mapping[str, str],
        modules: Mapping[str, str] | None = None,
        version: str = "1.2",
        requires: tuple[str, ...] = (),
    ) -> None:
        """Install a distribution with entry points (name to module) and modules (name to source)."""
        info = self.path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n{needs}")
        lines = "".join(f"{name} = {module}\n" for name, module in points.items())
        (info / "entry_points.txt").write_text(f"[flag_analytics]\n{lines}\n[console_scripts]\nx = y:z\n")
        for name, source in (modules or {}).items():
            (self.path / f"{name}.py").write_text(dedent(source))

    def registry(self, **options: float) -> Registry:
        return Registry([str(self.path)], **options)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An empty site; modules that are imported from it are forgotten afterwards."""
    directory = tmp_path / "site"
    directory.mkdir()
    monkeypatch.syspath_prepend(str(directory))
    before = set(sys.modules)
    yield Site(directory)
    for name in set(sys.modules) - before:
        if str(directory) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
