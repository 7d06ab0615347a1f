"""Writes the project of a new plugin out of the templates beside this module: whole, and with tests that pass."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from flag_analytics.registry import default_registry

from .choices import PluginKind
from .parameters import UsageError

__all__ = ["write_project"]

_NAME = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
_MAX_CHARS = 40
_PREFIX = "flag-analytics-"

_COMMON = {
    "pyproject.toml.txt": "pyproject.toml",
    "README.md.txt": "README.md",
    "LICENSE.txt": "LICENSE",
    "gitignore.txt": ".gitignore",
    "tests.yml.txt": ".github/workflows/tests.yml",
    "publish.yml.txt": ".github/workflows/publish.yml",
}
_OF_KIND = {
    "plugin.py.txt": "src/__package__/plugin.py",
    "flags.py.txt": "src/__package__/flags.py",
    "test.py.txt": "tests/test___package__.py",
}
_DELIVERY = ("flag-analytics[delivery]>=0.1,<1", "msgspec>=0.19")
_DEPENDENCIES: Mapping[PluginKind, tuple[str, ...]] = {
    "collector": _DELIVERY,
    "exporter": _DELIVERY,
    "processor": ("flag-analytics>=0.1,<1",),
    "source": ("flag-analytics>=0.1,<1",),
    "command": ("flag-analytics[cli,delivery]>=0.1,<1",),
}
_IN_TESTS: Mapping[PluginKind, str] = {
    "processor": "testing,memory",
    "source": "testing,memory",
    "command": "testing,memory",
}
_DESCRIPTIONS: Mapping[PluginKind, str] = {
    "collector": "A collector for flag-analytics that keeps events in an SQLite file",
    "exporter": "An exporter for flag-analytics that appends events to a log file",
    "processor": "A processor for flag-analytics that puts a prefix before the key of each flag",
    "source": "A source for flag-analytics that answers questions about a log file of events",
    "command": "A command for flag-analytics that prints the flags that were evaluated",
}
_CONFIGURATIONS: Mapping[PluginKind, str] = {
    "collector": '[collectors.__plugin__]\npath = "events.db"\n',
    "exporter": '[exporters.__plugin__]\npath = "events.log"\n',
    "processor": '[[processors]]\ntype = "__plugin__"\nprefix = "shop."\n',
    "source": '[sources.__plugin__]\npath = "events.log"\n',
    "command": 'plugins = ["__plugin__"]              # then: flag-analytics __plugin__\n',
}
_READS = '\n[project.entry-points.flag_analytics_reads]\n__plugin__ = "__package__.plugin"\n'


def write_project(name: str, kind: PluginKind, directory: Path | None) -> tuple[Path, list[str]]:
    """Write the project, and return its directory and the paths of its files.

    Raises:
        UsageError: the name is not one of a plugin, or taken, or there is something in the directory.
    """
    name = name.removeprefix(_PREFIX)
    _check_name(name)
    place = directory or Path(_PREFIX + name)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UsageError(f"{place} is there already: expected a new directory, or an empty one")
    words = _words(name, kind)
    contents = {target: _template("common", source) for source, target in _COMMON.items()}
    contents |= {target: text for source, target in _OF_KIND.items() if (text := _template(kind, source))}
    contents["src/__package__/__init__.py"] = '"""__description__."""\n'
    contents["src/__package__/py.typed"] = ""
    written = sorted(_filled(target, words) for target in contents)
    for target, text in contents.items():
        path = place / _filled(target, words)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_filled(text, words), "utf-8")
    return place, written


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > _MAX_CHARS:
        raise UsageError(
            f"{name!r} is no name of a plugin: expected small letters, digits and single - or _, "
            f"a letter first, at most {_MAX_CHARS} of them"
        )
    owners = default_registry().installed().get(name)
    if owners:
        raise UsageError(f"{owners[0].origin} has a plugin {name!r} already: choose another name")


def _words(name: str, kind: PluginKind) -> dict[str, str]:
    """Return what stands in the templates, by what it is replaced with."""
    words = {
        "__dependencies__": "".join(f'    "{need}",\n' for need in _DEPENDENCIES[kind]),
        "__reads__": _READS if kind == "source" else "",
        "__configuration__": _CONFIGURATIONS[kind],
        "__description__": _DESCRIPTIONS[kind],
        "[testing]>=": f"[{_IN_TESTS.get(kind, 'testing')}]>=",
    }
    last = {
        "__dist__": _PREFIX + name,
        "__package__": (_PREFIX + name).replace("-", "_"),
        "__plugin__": name,
        "__Class__": "".join(part.capitalize() for part in re.split("[-_]", name)),
    }
    return {**words, **last}  # the latter stand in the former


def _filled(text: str, words: Mapping[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def _template(kind: str, name: str) -> str:
    template = files("flag_analytics_cli") / "templates" / kind / name
    return template.read_text("utf-8") if template.is_file() else ""
