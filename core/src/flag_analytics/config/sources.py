"""Where configuration comes from: a mapping, a TOML file, the environment; out comes one tree of tables.

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
SECTIONS = ("collectors", "exporters", "processors", "delivery", "plugins")

_FILE_NAME = "flag-analytics.toml"
_PYPROJECT = "pyproject.toml"
_MAX_DEPTH = 32
_VARIABLE = re.compile(r"\$\$|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}|\$\{")
_NEAR_MISS = re.compile(rf"FLAG_ANALYTICS_(?P<section>{'|'.join(SECTIONS).upper()})(?P<rest>_.*)?\Z", re.DOTALL)
"""One underscore where two belong; other names with this prefix are none of configuration's."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@attrs.frozen(repr=False)
class EnvText:
    """Text out of an environment variable: the option that takes it says what to read it as, and it is never shown."""

    text: str
    variable: str

    def __repr__(self) -> str:
        return f"EnvText(from {self.variable})"


class EnvTable(dict[str, Any]):
    """A table that the configuration does not have and an environment variable made."""

    def __init__(self, variable: str) -> None:
        super().__init__()
        self.variable = variable


@attrs.frozen
class Tables:
    """A configuration before it is checked: nested dicts and lists, with ``EnvText`` where the environment spoke."""

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
        path = _search() if source is None else Path(source)
        asked_for = source is not None
        tree, label = ({}, "the environment") if path is None else (_read_file(path, problems, asked_for), str(path))
    expanded = _expand(tree, environ, "", problems, _MAX_DEPTH)
    overlay = _Overlay(expanded, plugin_names, problems)
    for variable in sorted(environ, key=_natural):
        if variable.startswith(PREFIX):
            overlay.set(variable, environ[variable])
        elif _NEAR_MISS.match(variable):
            overlay.refuse_near_miss(variable)
    return Tables(expanded, label, tuple(problems))


def join_path(path: str, key: object) -> str:
    """Return the path of a key in a table, written as TOML would: ``collectors."database/warehouse".echo``."""
    text = str(key)
    part = text if _BARE_KEY.fullmatch(text) else json.dumps(text)
    return f"{path}.{part}" if path else part


def fold(name: str) -> str:
    """Return a name as an environment variable would spell it, in small letters."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower())


def _search() -> Path | None:
    return next((path for path in (Path(_FILE_NAME), Path(_PYPROJECT)) if path.is_file()), None)


def _read_file(path: Path, problems: list[ConfigProblem], asked_for: bool) -> Mapping[str, Any]:
    import tomllib

    try:
        tree = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        problems.append(ConfigProblem("", f"cannot read {path}: {error.strerror or type(error).__name__}"))
    except UnicodeDecodeError:
        problems.append(ConfigProblem("", f"{path} is not UTF-8: save it in that encoding"))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        problems.append(ConfigProblem("", f"{path} is not valid TOML: {_toml_complaint(error)}"))
    else:
        return _own_table(tree, problems, asked_for) if path.name == _PYPROJECT else tree
    return {}


def _toml_complaint(error: Exception) -> str:
    # The parser's words may quote a key or a value: the position is what is needed.
    where = re.search(r"\(at [^()]*\)\s*$", str(error))
    return f"look {where[0].strip('() ')}" if where else "it is nested too deeply"


def _own_table(tree: Mapping[str, Any], problems: list[ConfigProblem], asked_for: bool) -> Mapping[str, Any]:
    tools = tree.get("tool", {})
    own = tools.get("flag-analytics") if isinstance(tools, dict) else None
    if isinstance(own, dict):
        return own
    # Found in the directory it may well say nothing of us.
    if own is not None or asked_for:
        problems.append(ConfigProblem("", f"{_PYPROJECT} has no table [tool.flag-analytics]: add it"))
    return {}


def _expand(value: Any, environ: Mapping[str, str], path: str, problems: list[ConfigProblem], depth: int) -> Any:
    """Return a copy of ``value`` with every ``${VAR}`` filled in."""
    if isinstance(value, Mapping | list | tuple) and depth == 0:
        problems.append(ConfigProblem(path, f"nested deeper than {_MAX_DEPTH} tables"))
        return None
    if isinstance(value, Mapping):
        return {key: _expand(item, environ, join_path(path, key), problems, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_expand(item, environ, f"{path}[{i}]", problems, depth - 1) for i, item in enumerate(value)]
    if isinstance(value, str) and "$" in value:
        return _fill_in(value, environ, path, problems)
    return value


def _fill_in(text: str, environ: Mapping[str, str], path: str, problems: list[ConfigProblem]) -> str | EnvText:
    variables: list[str] = []

    def replace(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        name, default = match["name"], match["default"]
        if name is None:
            problems.append(
                ConfigProblem(path, "has a ${ without a name and }: write ${NAME}, or $$ for a dollar sign")
            )
            return ""
        found = environ.get(name)
        if found or (found is not None and default is None):
            variables.append(name)
            return found
        if default is None:
            problems.append(
                ConfigProblem(path, f"environment variable {name} is not set: set it, or write ${{{name}:-default}}")
            )
            return ""
        return default

    filled = _VARIABLE.sub(replace, text)
    if filled == text:
        return text
    # A default is written in the configuration and no secret, but is to be read as the variable would be.
    return EnvText(filled, ", ".join(variables)) if variables or "${" in text else filled


class _Overlay:
    """Sets single values of a tree from environment variables."""

    def __init__(self, tree: dict[str, Any], plugin_names: Collection[str], problems: list[ConfigProblem]) -> None:
        self._tree = tree
        # The longest first: DATABASE_WAREHOUSE is a plugin of that name before it is a second `database`.
        self._plugin_names = sorted(plugin_names, key=len, reverse=True)
        self._problems = problems

    def set(self, variable: str, text: str) -> None:
        """Put the text of one variable where its name says."""
        section, *steps = variable[len(PREFIX) :].split("__")
        name = section.lower()
        if name not in SECTIONS or not all((section, *steps)) or bool(steps) is (name == "plugins"):
            meant = self._one_underscore_too_few(section)
            self._complain(
                variable,
                f"expected {PREFIX}SECTION__NAME__OPTION; sections are {', '.join(SECTIONS)}"
                + (f" (did you mean {PREFIX}{'__'.join([*meant, *steps])}?)" if meant else ""),
            )
            return
        value: Any = EnvText(text, variable)
        if name in {"collectors", "exporters"} and len(steps) == 1:
            if text.strip().lower() not in {"", "true"}:
                meant = self._first_step(section, steps[0])
                self._complain(
                    variable,
                    "expected true, to add this backend with its defaults, or a further __OPTION"
                    + (f" (did you mean {PREFIX}{'__'.join([section, *meant])}?)" if len(meant) > 1 else ""),
                )
                return
            value = EnvTable(variable)
        node: Any = self._tree
        for depth, step in enumerate((name, *steps)):
            key = self._key(node, step, variable, is_sink=depth == 1 and name in {"collectors", "exporters"})
            if key is None:
                return
            if depth == len(steps):
                if value != {} or not isinstance(node.get(key), dict):
                    node[key] = value
                return
            if isinstance(node, dict):
                node.setdefault(key, [] if key == "processors" and depth == 0 else EnvTable(variable))
            node = node[key]

    def _one_underscore_too_few(self, section: str) -> list[str]:
        """Return the parts of ``COLLECTORS_MEMORY_MAX_SIZE``, or nothing where it does not begin with a section."""
        for known in ("COLLECTORS", "EXPORTERS", "PROCESSORS"):
            if section.upper().startswith(f"{known}_"):
                return [known, *self._first_step(known, section[len(known) + 1 :])]
        return []

    def refuse_near_miss(self, variable: str) -> None:
        """Complain of a variable with one underscore where two belong, and say how it is spelt."""
        match = _NEAR_MISS.match(variable)
        assert match is not None
        section, rest = match["section"], (match["rest"] or "").strip("_")
        steps = [step.strip("_") for step in rest.split("__")] if rest else []
        if steps and section in {"COLLECTORS", "EXPORTERS", "PROCESSORS"}:
            steps = [*self._first_step(section, steps[0]), *steps[1:]]
        meant = PREFIX + "__".join([section, *steps])
        self._complain(variable, f"is not read: two underscores stand between the names, {meant}")

    def _first_step(self, section: str, step: str) -> list[str]:
        """Return the name of a backend, or the number of a processor, and what follows it."""
        if section == "PROCESSORS":
            number, _, option = step.partition("_")
            return [number, option] if option else [number]
        node = self._tree.get(section.lower())
        configured = [name for name in node if isinstance(name, str)] if isinstance(node, dict) else []
        for name in sorted({*configured, *self._plugin_names}, key=len, reverse=True):
            spelt = fold(name).upper()
            if step.upper().startswith(spelt + "_"):
                return [step[: len(spelt)], step[len(spelt) + 1 :]]
        return [step]

    def _key(self, node: Any, step: str, variable: str, *, is_sink: bool) -> Any:
        if isinstance(node, list):
            return self._index(node, step, variable)
        if not isinstance(node, dict):
            self._complain(variable, f"there is no table to set {step.lower()} in")
            return None
        alike = [key for key in node if isinstance(key, str) and fold(key) == fold(step)]
        if len(alike) > 1:
            self._complain(variable, f"{step} means each of {', '.join(map(repr, alike))}: rename all but one")
            return None
        if alike:
            return alike[0]
        return self._sink_name(fold(step)) if is_sink else step.lower()

    def _index(self, node: list[Any], step: str, variable: str) -> int | None:
        if not step.isdecimal() or int(step) > len(node):
            self._complain(variable, f"expected a number from 0 to {len(node)} in place of {step}")
            return None
        if int(step) == len(node):
            node.append(EnvTable(variable))
        return int(step)

    def _sink_name(self, step: str) -> str:
        for name in self._plugin_names:
            if step == fold(name):
                return name
            if step.startswith(fold(name) + "_"):
                return f"{name}/{step[len(name) + 1 :]}"
        return step

    def _complain(self, variable: str, message: str) -> None:
        self._problems.append(ConfigProblem(variable, message))


def _natural(variable: str) -> tuple[Any, ...]:
    """Return a key that sorts PROCESSORS__10 behind PROCESSORS__9."""
    return tuple((part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in variable.split("__"))
