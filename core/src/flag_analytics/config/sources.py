"""The sources of a configuration: a mapping, a TOML file and the environment, read into one tree of tables.

Environment variables overlay single values. ``FLAG_ANALYTICS__EXPORTERS__PROMETHEUS__PREFIX=app`` sets
``exporters.prometheus.prefix``: two underscores are a dot, letter case does not matter, and ``_`` stands for any
character an environment variable's name cannot have, so ``FLAG_ANALYTICS__COLLECTORS__DATABASE_WAREHOUSE__ECHO`` is
``collectors."database/warehouse".echo``. ``FLAG_ANALYTICS__COLLECTORS__MEMORY=true`` adds a backend with its defaults,
and ``FLAG_ANALYTICS__PROCESSORS__0__SALT`` reaches into the first of the processors.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import attrs

from ..errors import ConfigProblem

__all__ = ["EnvTable", "EnvText", "Tables", "join_path", "read_tables"]

PREFIX = "FLAG_ANALYTICS__"
SECTIONS = ("collectors", "exporters", "sources", "processors", "delivery", "plugins")

_FILE_NAME = "flag-analytics.toml"
_PYPROJECT = "pyproject.toml"
_VARIABLE = re.compile(r"\$\$|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|\$\{")
_NEAR_MISS = re.compile(rf"FLAG_ANALYTICS_({'|'.join(SECTIONS).upper()})(_.*)?", re.DOTALL)
"""One underscore where two belong; other variables with this prefix are not about configuration."""
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_ENV_FORM = f"expected {PREFIX}SECTION__NAME__OPTION with a section of {', '.join(SECTIONS)}"


@attrs.frozen(repr=False)
class EnvText:
    """Text out of an environment variable, which is never shown; the option says what to read it as.

    ``quoted`` is set where a file has ``"${VARIABLE}"``: an option of any type takes it as text.
    """

    text: str
    variable: str
    quoted: bool = False

    def __repr__(self) -> str:
        return f"EnvText(from {self.variable})"


class EnvTable(dict[str, Any]):
    """A table that an environment variable added."""

    def __init__(self, variable: str) -> None:
        super().__init__()
        self.variable = variable


@attrs.frozen
class Tables:
    """A configuration before it is checked: nested dicts and lists, with ``EnvText`` for values of the environment."""

    tree: dict[str, Any] = attrs.field(repr=False)
    label: str
    problems: tuple[ConfigProblem, ...] = ()


def read_tables(
    source: Mapping[str, Any] | str | os.PathLike[str] | None,
    environ: Mapping[str, str],
    plugin_names: Collection[str],
) -> Tables:
    """Return the tables of a mapping or a TOML file, with ``${VAR}`` filled in and the environment laid over them.

    Without a source: ``flag-analytics.toml``, else ``[tool.flag-analytics]`` of ``pyproject.toml``, both in the current
    directory, else the environment alone.

    Raises:
        TypeError: the source is neither a mapping nor a path.
    """
    problems: list[ConfigProblem] = []
    if isinstance(source, Mapping):
        tree, label = source, "configuration"
    elif source is not None and not isinstance(source, str | os.PathLike):
        raise TypeError(f"source is of type {type(source).__name__}: expected a mapping, the path of a file, or None")
    else:
        found = (path for path in (Path(_FILE_NAME), Path(_PYPROJECT)) if path.is_file())
        path = next(found, None) if source is None else Path(source)
        asked_for = source is not None
        tree, label = ({}, "the environment") if path is None else (_read_file(path, problems, asked_for), str(path))
    expanded = _expand(tree, environ, "", problems)
    # Numbers are padded, so that PROCESSORS__10 comes after PROCESSORS__9.
    for variable in sorted(environ, key=lambda name: re.sub(r"[0-9]+", lambda number: number[0].zfill(9), name)):
        try:
            if variable.startswith(PREFIX):
                _overlay(expanded, variable, environ[variable], plugin_names)
            elif _NEAR_MISS.fullmatch(variable):
                raise ValueError(f"is not read, since two underscores stand between the names: {_ENV_FORM}")
        except ValueError as error:
            problems.append(ConfigProblem(variable, str(error)))
    return Tables(expanded, label, tuple(problems))


def join_path(path: str, key: object) -> str:
    """Return the path of a key in a table, written as TOML would: ``collectors."database/warehouse".echo``."""
    text = str(key)
    part = text if _BARE_KEY.fullmatch(text) else json.dumps(text)
    return f"{path}.{part}" if path else part


def fold(name: str) -> str:
    """Return a name as an environment variable would spell it, in small letters."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower())


def _read_file(path: Path, problems: list[ConfigProblem], asked_for: bool) -> Mapping[str, Any]:
    import tomllib

    try:
        tree = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        problem = f"cannot read {path}: {error.strerror or type(error).__name__}"
    except UnicodeDecodeError:
        problem = f"{path} is not UTF-8: save it in that encoding"
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        # The parser's words may quote a key or a value; the position is enough.
        where = re.search(r"\(at ([^()]*)\)\s*$", str(error))
        problem = f"{path} is not valid TOML: {f'look at {where[1]}' if where else 'it is nested too deeply'}"
    else:
        if path.name != _PYPROJECT:
            return tree
        tool = tree.get("tool")
        own = tool.get("flag-analytics") if isinstance(tool, dict) else None
        if isinstance(own, dict):
            return own
        if own is None and not asked_for:
            return {}  # a pyproject.toml that is only in the same directory need not mention flag-analytics
        problem = f"{path} has no table [tool.flag-analytics]: add it"
    problems.append(ConfigProblem("", problem))
    return {}


def _expand(value: Any, environ: Mapping[str, str], path: str, problems: list[ConfigProblem]) -> Any:
    """Return a copy of ``value`` with every ``${VAR}`` filled in."""
    if isinstance(value, Mapping):
        return {key: _expand(item, environ, join_path(path, key), problems) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_expand(item, environ, f"{path}[{i}]", problems) for i, item in enumerate(value)]
    return _fill_in(value, environ, path, problems) if isinstance(value, str) and "$" in value else value


def _fill_in(text: str, environ: Mapping[str, str], path: str, problems: list[ConfigProblem]) -> str | EnvText:
    variables: list[str] = []

    def replace(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        found = environ.get(name) if name else None
        if match[0] == "$$":
            return "$"
        if found or (found is not None and default is None):
            variables.append(name)
            return found
        if name is None:
            problem = "has a ${ without a name and }: write ${NAME}, or $$ for a dollar sign"
        elif default is None:
            problem = f"environment variable {name} is not set: set it, or write ${{{name}:-default}}"
        else:
            return default
        problems.append(ConfigProblem(path, problem))
        return ""

    filled = _VARIABLE.sub(replace, text)
    # A default is no secret, but is read as the variable would be.
    return EnvText(filled, ", ".join(variables), quoted=True) if variables or "${" in text else filled


def _overlay(tree: dict[str, Any], variable: str, text: str, plugin_names: Collection[str]) -> None:
    """Set the value that an environment variable names.

    Raises:
        ValueError: its name fits no place.
    """
    section, *steps = variable[len(PREFIX) :].lower().split("__")
    is_sink = section in {"collectors", "exporters", "sources"}
    if section not in SECTIONS or not all(steps) or bool(steps) is (section == "plugins"):
        raise ValueError(_ENV_FORM)
    value: Any = EnvText(text, variable)
    if is_sink and len(steps) == 1:
        if text.strip().lower() not in {"", "true"}:
            raise ValueError("expected true, to add this backend with its defaults, or a further __OPTION")
        value = EnvTable(variable)
    node: Any = tree
    for depth, step in enumerate((section, *steps)):
        key = _key(node, step, variable)
        if is_sink and depth == 1 and key not in node:
            key = _sink_name(step, plugin_names)
        if depth == len(steps):
            if value != {} or not isinstance(node.get(key), dict):
                node[key] = value
        elif isinstance(node, dict):
            node = node.setdefault(key, [] if key == "processors" and depth == 0 else EnvTable(variable))
        else:
            node = node[key]


def _key(node: Any, step: str, variable: str) -> Any:
    if isinstance(node, list):
        if not step.isdecimal() or int(step) > len(node):
            raise ValueError(f"expected a number from 0 to {len(node)} in place of {step}")
        if int(step) == len(node):
            node.append(EnvTable(variable))
        return int(step)
    if not isinstance(node, dict):
        raise ValueError(f"there is no table to set {step} in")  # noqa: TRY004 — the variable's name is wrong
    return next((key for key in node if isinstance(key, str) and fold(key) == fold(step)), step)


def _sink_name(step: str, plugin_names: Collection[str]) -> str:
    """Return the name in configuration for DATABASE_WAREHOUSE: a plugin of that name before a second `database`."""
    for name in sorted(plugin_names, key=len, reverse=True):
        if step == fold(name):
            return name
        if step.startswith(fold(name) + "_"):
            return f"{name}/{step[len(name) + 1 :]}"
    return step
