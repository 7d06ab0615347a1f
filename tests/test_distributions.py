"""Every distribution declares the same metadata in the same way."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECTS = {
    path.parent.name: tomllib.loads(path.read_text("utf-8"))["project"]
    for path in (ROOT / "core" / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml")))
}
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]


@pytest.mark.parametrize("name", PROJECTS)
def test_a_distribution_declares_authors_keywords_and_addresses(name):
    project = PROJECTS[name]
    assert project["authors"] == PROJECTS["core"]["authors"]
    assert {"feature flags", "analytics"} <= set(project["keywords"])
    assert project["urls"] == PROJECTS["core"]["urls"]
    assert set(project["urls"]) == {"Documentation", "Source", "Issues", "Changelog"}


@pytest.mark.parametrize("name", PROJECTS)
def test_a_distribution_declares_its_licence_as_pep_639_has_it(name):
    assert PROJECTS[name]["license"] == "MIT"
    assert PROJECTS[name]["license-files"] == ["LICENSE"]
    assert not any(classifier.startswith("License ::") for classifier in PROJECTS[name]["classifiers"])


@pytest.mark.parametrize("name", PROJECTS)
def test_a_distribution_names_every_supported_python(name):
    prefix = "Programming Language :: Python :: "
    named = [text.removeprefix(prefix) for text in PROJECTS[name]["classifiers"] if text.startswith(prefix)]
    assert named == ["3", *PYTHONS]
    assert PROJECTS[name]["requires-python"] == f">={PYTHONS[0]}"


@pytest.mark.parametrize("name", PROJECTS)
def test_the_licence_is_the_same_text_everywhere(name):
    directory = ROOT / "core" if name == "core" else ROOT / "plugins" / name
    assert (directory / "LICENSE").read_text("utf-8") == (ROOT / "LICENSE").read_text("utf-8")
