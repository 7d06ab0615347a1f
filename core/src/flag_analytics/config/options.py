"""Turns one table of configuration into the values of an attrs class, naming everything that is wrong with it."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import attrs
import msgspec

from ..errors import ConfigProblem, PluginError
from .demands import demands_of
from .secrets import looks_secret, mask, message_of, secret_parts
from .sources import EnvTable, EnvText, fold, join_path

__all__ = ["build", "did_you_mean", "origin_of", "read_values"]

_MAX_SHOWN_CHARS = 60
_NAMES: Mapping[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    Path: "a path",
    bytes: "base64 text",
    Any: "anything",
}

_PLURALS: Mapping[Any, str] = {int: "integers", float: "numbers", Path: "paths"}


def read_values(
    options: type[Any],
    table: Mapping[Any, Any],
    path: str,
    problems: list[ConfigProblem],
    secrets: set[str],
    refused: AbstractSet[str] = frozenset(),
) -> dict[str, Any]:
    """Return the values that ``table`` sets, checked against the fields of ``options``, by the fields' init names.

    What is wrong is added to ``problems``, and every text that must never be shown to ``secrets``. A field whose
    metadata has ``secret`` is never shown, nor are its validator's words unless ``discreet_validator`` says that they
    quote nothing of the value. ``refused`` are fields that cannot be set at this place.

    Raises:
        PluginError: the types of the class itself cannot be read.
    """
    fields = {field.alias or field.name: field for field in attrs.fields(options) if field.init}
    annotations = _annotations_of(options)
    values: dict[str, Any] = {}
    for key, raw in table.items():
        name = _known_name(key, raw, fields)
        if name is None:
            known = ", ".join(sorted(fields.keys() - refused)) or "none, it takes no options"
            problem = f"unknown option{did_you_mean(key, fields)}; known are {known}{origin_of(raw)}"
            problems.append(ConfigProblem(join_path(path, key), problem))
            continue
        field = fields[name]
        secret = bool(field.metadata.get("secret"))
        for text in _texts_of(raw, all_of_them=secret):
            secrets.update(secret_parts(text))
        where = join_path(path, name)
        try:
            values[name] = _converted(raw, annotations[field.name])
        except (msgspec.ValidationError, ValueError, TypeError, OverflowError) as error:
            step, wrong = _innermost(raw, str(error))
            problem = f"expected {_describe(annotations[field.name])}{_got(name, wrong, secret=secret)}"
            problem += _choice_meant(raw, annotations[field.name]) if not secret else ""
            problems.append(ConfigProblem(where + step, problem + origin_of(wrong)))
            continue
        refusal = _refusal(field, values[name], annotations[field.name], hidden=secret or _hidden(name, raw))
        if refusal is not None:
            del values[name]
            problems.append(ConfigProblem(where, refusal + origin_of(raw)))
    return values


def build(
    options: type[Any],
    values: Mapping[str, Any],
    path: str,
    problems: list[ConfigProblem],
    secrets: Collection[str],
    found: Collection[Any] = (),
) -> Any:
    """Return the options object of these values, defaults first; None, and a problem, if it cannot be made.

    ``found`` are the keys that the table had: one that was there and wrong is not reported as missing.
    """
    missing = [
        field.alias or field.name
        for field in attrs.fields(options)
        if field.init and field.default is attrs.NOTHING and (field.alias or field.name) not in {*values, *found}
    ]
    problems += [ConfigProblem(join_path(path, name), f"is required{_expected(options, name)}") for name in missing]
    if missing or len(values) < len(found):
        return None
    try:
        return options(**values)
    except Exception as error:
        words = message_of(error, secrets).removeprefix("ValueError: ")
    problems.append(ConfigProblem(path, f"is refused: {words}"))
    return None


def did_you_mean(name: object, known: Collection[str]) -> str:
    """Return `` (did you mean 'max_size'?)``, or nothing if no known name is close."""
    import difflib

    close = difflib.get_close_matches(str(name), known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _annotations_of(options: type[Any]) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(options)
    except Exception as error:
        problem = message_of(error)
    raise PluginError(
        f"the types of {options.__module__}.{options.__qualname__} cannot be read ({problem}): "
        "what they name must be imported at run time too"
    )


def _known_name(key: Any, raw: Any, fields: Collection[str]) -> str | None:
    if not isinstance(key, str):
        return None
    if key in fields:
        return key
    if isinstance(raw, EnvText):  # the environment cannot spell every name
        return next((name for name in fields if fold(name) == fold(key)), None)
    return None


def _converted(raw: Any, annotation: Any) -> Any:
    value = _plain(raw)
    if not any(True for _ in _texts_of(raw)):
        return _convert(value, annotation, strict=True)
    if isinstance(raw, EnvText):
        for reading in _readings(raw.text, annotation):
            try:
                return _convert(reading, annotation, strict=True)
            except (msgspec.ValidationError, ValueError, TypeError):
                continue
    return _convert(value, annotation, strict=False)


def _readings(text: str, annotation: Any) -> Iterator[Any]:
    """Yield what text from the environment may stand for: a TOML value, a list with commas, itself."""
    import tomllib

    try:
        value = tomllib.loads(f"value = {text}\n")
    except (tomllib.TOMLDecodeError, RecursionError, ValueError):
        value = {}
    # One value and nothing else; TOML text stays as it is, quotes and all, as nobody quotes it in an environment.
    if value.keys() == {"value"} and not isinstance(value["value"], str):
        yield value["value"]
    yield text
    if _is_array(annotation):
        parts = [part.strip() for part in text.split(",") if part.strip()]
        yield parts
        yield [_number(part) for part in parts]


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _convert(value: Any, annotation: Any, *, strict: bool) -> Any:
    def accept(kind: Any, item: Any) -> Any:
        if kind is Path and isinstance(item, str):
            return Path(item)
        accepted = get_origin(kind) or kind
        if isinstance(accepted, type) and isinstance(item, accepted):
            return item  # an object of the application's own, out of a configuration in Python
        raise TypeError

    return msgspec.convert(value, annotation, strict=strict, dec_hook=accept)


def _plain(raw: Any) -> Any:
    if isinstance(raw, EnvText):
        return raw.text
    if isinstance(raw, dict):
        return {key: _plain(item) for key, item in raw.items()}
    if isinstance(raw, list):
        return [_plain(item) for item in raw]
    return raw


def _texts_of(raw: Any, *, all_of_them: bool = False) -> Iterator[str]:
    """Yield the texts that came from the environment; or every text."""
    if isinstance(raw, EnvText):
        yield raw.text
    elif isinstance(raw, str) and all_of_them:
        yield raw
    elif isinstance(raw, dict | list):
        for item in raw.values() if isinstance(raw, dict) else raw:
            yield from _texts_of(item, all_of_them=all_of_them)


def _refusal(field: attrs.Attribute[Any], value: Any, annotation: Any, *, hidden: bool) -> str | None:
    """Return what a field's own validator has against a value; with a converter only the class itself can tell."""
    if field.validator is None or field.converter is not None:
        return None
    try:
        field.validator(None, field, value)
    except AttributeError:
        return None  # it looks at other fields too, so it is left to the class itself
    except Exception as error:
        demands = demands_of(field.validator)
        if demands is not None:
            return f"expected {_describe(annotation)}{demands}{_got(field.name, value, secret=hidden)}"
        words = error.args[0] if error.args and isinstance(error.args[0], str) else type(error).__name__
        if field.metadata.get("discreet_validator"):
            return words
        return "its value is refused" if hidden else mask(words)
    return None


def _describe(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in {Union, types.UnionType}:
        return " or ".join(_describe(part) for part in arguments if part is not types.NoneType)
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in arguments)
    if _is_array(annotation):
        return f"an array of {_PLURALS.get(arguments[0]) or _describe(arguments[0])}" if arguments else "an array"
    if origin is dict or annotation is dict or origin is typing.get_origin(Mapping[str, Any]):
        return "a table"
    return _NAMES.get(annotation) or str(getattr(annotation, "__name__", annotation))


def _is_array(annotation: Any) -> bool:
    if get_origin(annotation) in {Union, types.UnionType}:
        return any(_is_array(part) for part in get_args(annotation))
    return (get_origin(annotation) or annotation) in {list, tuple, set, frozenset, typing.get_origin(Sequence[str])}


def _innermost(raw: Any, complaint: str) -> tuple[str, Any]:
    """Return which member of an array msgspec complains about, as ``[2]``, and the member; else the whole value."""
    steps = ""
    found = re.search(r"at `\$((?:\[\d+\])+)", complaint)
    for index in re.findall(r"\d+", found[1]) if found else ():
        if not isinstance(raw, list) or int(index) >= len(raw):
            break
        steps, raw = f"{steps}[{index}]", raw[int(index)]
    return steps, raw


def _expected(options: type[Any], name: str) -> str:
    for field in attrs.fields(options):
        if (field.alias or field.name) == name:
            return f": expected {_describe(_annotations_of(options)[field.name])}"
    return ""


def _got(name: str, raw: Any, *, secret: bool) -> str:
    if isinstance(raw, dict):
        return ", got a table"
    if isinstance(raw, list):
        return ", got an array"
    if secret or _hidden(name, raw):
        return ""
    if isinstance(raw, bool):
        return f", got {str(raw).lower()}"
    if isinstance(raw, str | int | float):
        shown = repr(raw)
        return f", got {shown if len(shown) <= _MAX_SHOWN_CHARS else shown[:_MAX_SHOWN_CHARS] + '…'}"
    return f", got {type(raw).__name__}"


def _hidden(name: str, raw: Any) -> bool:
    return isinstance(raw, EnvText) or looks_secret(name) or (isinstance(raw, str) and "://" in raw)


def _choice_meant(raw: Any, annotation: Any) -> str:
    choices = [choice for choice in get_args(annotation) if isinstance(choice, str)]
    return did_you_mean(raw, choices) if isinstance(raw, str) and get_origin(annotation) is Literal else ""


def origin_of(raw: Any) -> str:
    """Return `` (from VARIABLE)`` for what the environment set, else nothing."""
    return f" (from {raw.variable})" if isinstance(raw, EnvText | EnvTable) and raw.variable else ""
