"""Select the files of one release: ``release.py TAG DIST OUT`` copies them to OUT and prints ``distribution=NAME``.

A tag is ``NAME-vX.Y.Z``: the name of a distribution of this repository and the version in its pyproject.toml.
"""

from __future__ import annotations

import shutil
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main(tag: str, dist: str, out: str) -> None:
    name, _, version = tag.rpartition("-v")
    versions = dict(map(read, [ROOT / "core", *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]))
    if versions.get(name) != version:
        known = ", ".join(f"{each}-v{of}" for each, of in versions.items())
        sys.exit(f"The tag {tag} names no distribution and version of this repository: expected one of {known}")
    stem = f"{name.replace('-', '_')}-{version}"
    Path(out).mkdir()
    for file in (f"{stem}-py3-none-any.whl", f"{stem}.tar.gz"):
        shutil.copy2(Path(dist) / file, out)
    print(f"distribution={name}")  # noqa: T201 - an output of the workflow's step


def read(project: Path) -> tuple[str, str]:
    """Return name and version of a distribution."""
    metadata = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    return metadata["name"], metadata["version"]


if __name__ == "__main__":
    main(*sys.argv[1:])
