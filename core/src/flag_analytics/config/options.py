"""Reads one table of configuration as an attrs class, and collects every problem with it."""

from __future__ import annotations

import contextlib
import difflib
import tomllib
import types
from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from enum import Enum
from typing import Any

import attrs

from ..errors import ConfigProblem
from .kinds import describe, shape_of, types_of
from .secrets import looks_secret, mask, place
from .sources import EnvTable, EnvText, join_path

__all__ = ["OptionsReader", "Refused", "did_you_mean", "limits_of", "options_of", "origin_of"]

_MAX_SHOWN_CHARS = 60
_COMPARISONS = {">=": "minimum", ">": "exclusiveMinimum", "<=": "maximum", "<": "exclusiveMaximum"}
_WORDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minLength": "at least {} in length",
    "maxLength": "at most {} in length",
}


class Refused(Exception):  # noqa: N818 — the error is the ConfigError that holds all problems
    """A value is wrong; the problem is in the list."""


class OptionsReader:
    """Reads the tables of one sink or processor. A secret option is never shown, nor are words about it.

    An option is secret if its field's metadata has ``secret``, or if its name looks like it.

    Attributes:
        problems: The list that new problems are added to.
        secrets: Texts that no message may show: secret options, and values from the environment.
        has_secret_option: Whether a secret option was set.
    """

    def __init__(self, problems: list[ConfigProblem]) -> None:
        self.problems = problems
        self.secrets: set[str] = set()
        self.has_secret_option = False

    def build(
        self, cls: type[Any], values: Mapping[str, Any], table: Mapping[Any, Any], path: str, *, secret: bool = False
    ) -> Any:
        """Return the options object of the values of a table.

        Raises:
            Refused: the table has problems.
            PluginError: the types of the class cannot be read.
        """
        fields, kinds = options_of(cls), types_of(cls)
        required = [name for name, field in fields.items() if field.default is attrs.NOTHING]
        missing = [name for name in required if name not in values and name not in table]
        for name in missing:
            self._complain(join_path(path, name), f"is required: expected {describe(kinds[fields[name].name])}")
        if missing or len(values) < len(table):
            raise Refused
        try:
            return cls(**values)
        except Exception as error:
            problem = error
        discreet = not secret and all(_is_discreet(fields[name]) for name in values)
        words = self._words(problem) if discreet else f"{type(problem).__name__} at {place(problem)}"
        raise self._complain(path, f"is refused: {words}")

    def values(
        self,
        cls: type[Any],
        table: Mapping[Any, Any],
        path: str,
        *,
        secret: bool = False,
        refused: AbstractSet[str] = frozenset(),
    ) -> dict[str, Any]:
        """Return the values that a table sets, by their names in ``cls(…)``, without those that are wrong.

        ``refused`` are options that cannot be set at this place.

        Raises:
            PluginError: the types of the class cannot be read.
        """
        fields, kinds = options_of(cls), types_of(cls)
        values: dict[str, Any] = {}
        for key, raw in table.items():
            if key not in fields:
                known = ", ".join(sorted(fields.keys() - refused)) or "none, it takes no options"
                problem = f"unknown option{did_you_mean(key, fields)}; known are {known}"
                self._complain(join_path(path, key), problem, raw)
                continue
            field, where = fields[key], join_path(path, key)
            hidden = secret or _is_secret(field)
            try:
                values[key] = value = self.read(raw, kinds[field.name], where, hidden)
                self._check(field, value, raw, kinds[field.name], where, hidden)
            except Refused:
                values.pop(key, None)
        return values

    def read(self, raw: Any, kind: Any, path: str, secret: bool) -> Any:
        """Return a raw value as one of the given type.

        Raises:
            Refused: it is of another type.
        """
        text = raw.text if isinstance(raw, EnvText) else raw if secret and isinstance(raw, str) else ""
        if text:
            self.secrets.add(text)
            self.has_secret_option |= secret
        try:
            match shape_of(kind):
                case "any", _:
                    return _plain(raw)
                case "union", members:
                    return self._first_of(raw, members, path, secret)
                case "array" | "table" as form, parts:
                    return self._container(form, parts, raw, path, secret)
                case "options", cls if not isinstance(raw, cls):
                    table = _table(raw)
                    values = self.values(cls, table, path, secret=secret)
                    return self.build(cls, values, table, path, secret=secret)
                case "options" | "object", cls if isinstance(raw, cls):
                    return raw
                case "choice", choices:
                    return _chosen(raw, choices)
                case "scalar", scalar:
                    return scalar.read_text(raw.text) if isinstance(raw, EnvText) else scalar.read(raw)
        except (TypeError, ValueError, LookupError, OverflowError):
            pass
        raise self._unexpected(raw, kind, path, secret)

    def _container(self, form: str, parts: Any, raw: Any, path: str, secret: bool) -> Any:
        if form == "table":
            found = _table(raw)
            items = [(item, parts, join_path(path, key)) for key, item in found.items()]
            return dict(zip(map(str, found), self._each(items, secret), strict=True))
        array, (container, kinds, repeats) = _array(raw), parts
        kinds = kinds * len(array) if repeats else kinds
        paths = (f"{path}[{index}]" for index in range(len(kinds)))
        return container(self._each(zip(array, kinds, paths, strict=True), secret))

    def _each(self, items: Iterable[tuple[Any, Any, str]], secret: bool) -> list[Any]:
        """Return each item as one of its type; all are read before the first that is wrong is refused."""
        results, known = [], len(self.problems)
        for raw, kind, path in items:
            with contextlib.suppress(Refused):
                results.append(self.read(raw, kind, path, secret))
        if len(self.problems) > known:
            raise Refused
        return results

    def _first_of(self, raw: Any, members: tuple[Any, ...], path: str, secret: bool) -> Any:
        others = [member for member in members if member is not types.NoneType]
        if raw is None and len(others) < len(members):
            return None
        if len(others) == 1:
            return self.read(raw, others[0], path, secret)
        known = len(self.problems)
        for member in others:
            try:
                return self.read(raw, member, path, secret)
            except Refused:
                del self.problems[known:]
        raise TypeError

    def _check(self, field: attrs.Attribute[Any], value: Any, raw: Any, kind: Any, path: str, secret: bool) -> None:
        """Ask the field's own validator; with a converter, only the class itself can tell."""
        if field.validator is None or field.converter is not None:
            return
        try:
            field.validator(None, field, value)
        except AttributeError:
            return  # it looks at other fields: the class itself checks
        except Exception as error:
            problem = error
        else:
            return
        limits = limits_of(field.validator)
        if limits:
            words = " and ".join(_WORDS[name].format(limit) for name, limit in limits.items())
            raise self._unexpected(raw, kind, path, secret, f" of {words}" if words.startswith("at ") else f" {words}")
        quote = not secret or bool(field.metadata.get("discreet_validator"))
        raise self._complain(path, self._words(problem) if quote else "its value is refused", raw)

    def _unexpected(self, raw: Any, kind: Any, path: str, secret: bool, limits: str = "") -> Refused:
        shown = secret or isinstance(raw, EnvText) or (isinstance(raw, str) and "://" in raw)
        got = "" if shown else f", got {_shown(raw)}"
        choices = [part for part in (kind, *getattr(kind, "__args__", ())) if shape_of(part)[0] == "choice"]
        meant = did_you_mean(raw, shape_of(choices[0])[1]) if choices and not shown else ""
        return self._complain(path, f"expected {describe(kind)}{limits}{got}{meant}", raw)

    def _words(self, error: Exception) -> str:
        words = error.args[0] if error.args and isinstance(error.args[0], str) else type(error).__name__
        return mask(" ".join(words.split()), self.secrets)

    def _complain(self, path: str, message: str, raw: object = None) -> Refused:
        self.problems.append(ConfigProblem(path, message + origin_of(raw)))
        return Refused()


def options_of(cls: type[Any]) -> Mapping[str, attrs.Attribute[Any]]:
    """Return the fields of a class of options, by their names in ``cls(…)`` and in configuration."""
    return {field.alias or field.name: field for field in attrs.fields(cls) if field.init}


def did_you_mean(name: object, known: Collection[Any]) -> str:
    """Return `` (did you mean 'max_size'?)``, or nothing if no known name is close."""
    close = difflib.get_close_matches(str(name), map(str, known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def origin_of(raw: Any) -> str:
    """Return `` (from VARIABLE)`` for a value from the environment, else nothing."""
    return f" (from {raw.variable})" if isinstance(raw, EnvText | EnvTable) and raw.variable else ""


def limits_of(validator: Any) -> dict[str, Any]:
    """Return the limits that attrs' own validators set, as keywords of JSON Schema; nothing for another validator."""
    # By their attributes: attrs has functions that make its validators, and no public names for their classes.
    parts = getattr(validator, "_validators", None)
    if parts is not None:
        found = [limits_of(part) for part in parts]
        return {name: limit for limits in found for name, limit in limits.items()} if all(found) else {}
    if hasattr(validator, "compare_op"):
        return {_COMPARISONS[validator.compare_op]: validator.bound}
    if hasattr(validator, "min_length"):
        return {"minLength": validator.min_length}
    if hasattr(validator, "max_length"):
        return {"maxLength": validator.max_length}
    return limits_of(validator.validator) if hasattr(validator, "validator") else {}


def _is_secret(field: attrs.Attribute[Any]) -> bool:
    return bool(field.metadata.get("secret", looks_secret(field.name)))


def _is_discreet(field: attrs.Attribute[Any]) -> bool:
    return not _is_secret(field) or bool(field.metadata.get("discreet_validator"))


def _chosen(raw: Any, choices: Mapping[Any, Any]) -> Any:
    if isinstance(raw, EnvText):
        return {str(choice): value for choice, value in choices.items()}[raw.text]
    return raw if isinstance(raw, Enum) and raw in choices.values() else choices[raw]


def _plain(raw: Any) -> Any:
    if isinstance(raw, EnvText):
        return raw.text if raw.quoted else _toml(raw.text)
    if isinstance(raw, dict):
        return {key: _plain(item) for key, item in raw.items()}
    return [_plain(item) for item in raw] if isinstance(raw, list) else raw


def _array(raw: Any) -> Collection[Any]:
    if isinstance(raw, EnvText):  # as TOML has it, or with commas alone
        parts = (part.strip(" \t\n\"'") for part in raw.text.strip().strip("[]").split(","))
        return [EnvText(part, raw.variable) for part in parts if part]
    if not isinstance(raw, list | AbstractSet):
        raise TypeError
    return raw


def _table(raw: Any) -> dict[Any, Any]:
    if not isinstance(raw, dict):
        raise TypeError
    return raw


def _toml(text: str) -> Any:
    """Return the TOML value that the text of an environment variable is, else the text."""
    try:
        document = tomllib.loads(f"value = {text}\n")
    except (tomllib.TOMLDecodeError, RecursionError, ValueError):
        return text
    # One value and nothing else; quotes around text stay, since in an environment they belong to it.
    return document["value"] if document.keys() == {"value"} and not isinstance(document["value"], str) else text


def _shown(raw: Any) -> str:
    if isinstance(raw, dict):
        return "a table"
    if isinstance(raw, list):
        return "an array"
    if isinstance(raw, bool):
        return str(raw).lower()
    if not isinstance(raw, str | int | float):
        return type(raw).__name__
    shown = repr(raw)
    return shown if len(shown) <= _MAX_SHOWN_CHARS else f"{shown[:_MAX_SHOWN_CHARS]}…"
