"""The JSON Schema of a configuration of the installed plugins, for editors and checkers of TOML."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Mapping
from types import NoneType
from typing import Any

import attrs

from ..errors import PluginError
from ..processors import BUILT_IN
from ..protocols import ProcessorFactory
from ..registry import Registry, Role, default_registry
from ..reports import DeliveryOptions
from .kinds import shape_of, types_of
from .options import limits_of, options_of
from .reading import NAME, PIPELINE_WIDE

__all__ = ["configuration_schema", "described"]

_FILE = {"type": "string", "pattern": r"\.py$"}
_SECTION = re.compile(r"^(?:Attributes|Args|Capabilities)\b.*:\n(?P<lines>(?:[ ]{4}.*\n|\n)+)", re.MULTILINE)
_ENTRY = re.compile(r"^(?P<names>\w+(?:, \w+)*):\s+(?P<text>.*?)(?=^\w+(?:, \w+)*:|\Z)", re.MULTILINE | re.DOTALL)


def configuration_schema(registry: Registry | None = None) -> tuple[dict[str, Any], tuple[PluginError, ...]]:
    """Return the schema (draft 7) of a configuration of the installed plugins, and the errors of those left out."""
    registry = registry or default_registry()
    problems: list[PluginError] = []
    definitions = {"variable": {"type": "string", "pattern": r"\$\{"}}
    sinks: dict[Role, dict[str, Any]] = {"collector": {}, "exporter": {}, "source": {}}
    processors = [_processor(factory) for factory in BUILT_IN.values()]
    for name in registry.installed():
        try:
            processors += [_processor(factory) for factory in registry.offered("processor", name)]
            for role, tables in sinks.items():
                if registry.offered(role, name):
                    table = _table_of(registry.backend(role, name).options)
                    if role != "source":
                        table["properties"]["delivery"] = _table_of(DeliveryOptions, PIPELINE_WIDE)
                        table["properties"]["processors"] = {"$ref": "#/properties/processors"}
                    definitions[f"{role}s.{name}"] = table
                    tables[name] = {"$ref": f"#/definitions/{role}s.{name}"}
        except PluginError as problem:
            problems.append(problem)
    properties = {
        **{f"{role}s": _sections(tables) for role, tables in sinks.items()},
        "processors": {"type": "array", "items": {"anyOf": processors}},
        "delivery": _table_of(DeliveryOptions),
        "plugins": {"type": "array", "items": {"anyOf": [{"enum": list(registry.installed())}, _FILE]}},
    }
    start = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "flag-analytics"}
    return {**start, **_object(properties), "definitions": definitions}, tuple(problems)


def described(cls: type[Any]) -> dict[str, str]:
    """Return the ``Attributes:`` section of a docstring, by attribute, each as one line."""
    section = _SECTION.search((inspect.getdoc(cls) or "") + "\n")
    lines = inspect.cleandoc(section["lines"]) + "\n" if section else ""
    return {
        name: " ".join(entry["text"].split()) for entry in _ENTRY.finditer(lines) for name in entry["names"].split(", ")
    }


def _sections(tables: Mapping[str, Any]) -> dict[str, Any]:
    return _object(tables, patternProperties={f"^{re.escape(name)}/{NAME}$": table for name, table in tables.items()})


def _object(properties: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False, **more}


def _processor(factory: ProcessorFactory[Any]) -> dict[str, Any]:
    table = _table_of(factory.options)
    table["properties"]["type"] = {"const": factory.name}
    return {**table, "required": ["type", *table["required"]]}


def _table_of(cls: type[Any], left_out: Collection[str] = ()) -> dict[str, Any]:
    kinds, texts, properties = types_of(cls), described(cls), {}
    fields = {name: field for name, field in options_of(cls).items() if name not in left_out}
    for name, field in fields.items():
        limits = {key: limit for key, limit in limits_of(field.validator).items() if isinstance(limit, int | float)}
        properties[name] = _of(kinds[field.name], limits)
        if isinstance(properties[name], dict) and field.name in texts:
            properties[name]["description"] = texts[field.name]
        if isinstance(properties[name], dict) and isinstance(field.default, bool | int | float | str):
            properties[name]["default"] = field.default
    return _object(properties, required=[name for name, field in fields.items() if field.default is attrs.NOTHING])


def _of(kind: Any, limits: Mapping[str, Any] = {}) -> Any:
    match shape_of(kind):
        case "scalar", scalar:
            return _or_variable({**scalar.schema, **limits})
        case "choice", choices:
            return _or_variable({"enum": list(choices)})
        case "union", members:
            return {"anyOf": [_of(member, limits) for member in members if member is not NoneType]}
        case "array", (_, kinds, True):
            return {"type": "array", "items": _of(kinds[0])}
        case "array", (_, kinds, _):
            items = [_of(item) for item in kinds]
            return {"type": "array", "items": items, "minItems": len(items), "maxItems": len(items)}
        case "table", value_kind:
            return {"type": "object", "additionalProperties": _of(value_kind)}
        case "options", cls:
            return _table_of(cls)
        case "any", _:
            return {}
    return False  # an object of the application, which no file can hold


def _or_variable(schema: dict[str, Any]) -> dict[str, Any]:
    return schema if schema == {"type": "string"} else {"anyOf": [schema, {"$ref": "#/definitions/variable"}]}
