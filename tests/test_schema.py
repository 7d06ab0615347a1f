"""The JSON Schema of a configuration accepts the examples of the documentation, and refuses mistakes."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from flag_analytics.config.reading import read_config
from flag_analytics.config.schema import configuration_schema
from flag_analytics.errors import ConfigError
from jsonschema import Draft7Validator

ROOT = Path(__file__).parents[1]
SCHEMA, PROBLEMS = configuration_schema()
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("plugins/*/README.md"), *ROOT.glob("docs/**/*.md")]


def shown_configurations():
    for page in sorted(PAGES):
        for block in re.findall(
            r"(?<!<!-- skip: next -->\n)^```toml\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL
        ):
            table = tomllib.loads(block)
            table = table.get("tool", {}).get("flag-analytics", table)
            if table.keys() <= SCHEMA["properties"].keys():
                yield pytest.param(table, id=f"{page.relative_to(ROOT)}-{len(block)}")


def errors_of(table):
    return [f"{error.json_path}: {error.message}" for error in Draft7Validator(SCHEMA).iter_errors(table)]


def test_it_is_a_schema_of_every_installed_plugin():
    Draft7Validator.check_schema(SCHEMA)
    assert PROBLEMS == ()
    assert {"memory", "database"} <= SCHEMA["properties"]["collectors"]["properties"].keys()
    assert {"prometheus", "otel"} <= SCHEMA["properties"]["exporters"]["properties"].keys()
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


@pytest.mark.parametrize("table", list(shown_configurations()))
def test_what_the_documentation_shows_is_valid(table):
    assert errors_of(table) == []


@pytest.mark.parametrize(
    "table",
    [
        {"collectors": {"memory": {}, "memory/second": {"max_size": 5}}},
        {"collectors": {"memory": {"max_size": "${SIZE}", "delivery": {"policy": "block"}}}},
        {"exporters": {"prometheus": {"duration_buckets": [0.1, 1, "${TOP:-5}"], "port": 9100}}},
        {
            "collectors": {"memory": {}},
            "processors": [{"type": "sample", "rate": 0.5}, {"type": "redact", "value": True}],
        },
        {"collectors": {"memory": {}}, "plugins": ["prometheus"], "delivery": {"durability": "spool"}},
    ],
)
def test_what_is_read_is_valid(table):
    assert read_config(table, environ={"SIZE": "5"})
    assert errors_of(table) == []


@pytest.mark.parametrize(
    "table",
    [
        {"colectors": {}},
        {"collectors": {"memry": {}}},
        {"collectors": {"memory/": {}}},
        {"collectors": {"memory": {"max_sice": 5}}},
        {"collectors": {"memory": {"max_size": "many"}}},
        {"collectors": {"memory": {"delivery": {"durability": "spool"}}}},
        {"collectors": {"memory": {"delivery": {"batch_size": 0}}}},
        {"collectors": {"database": {}}},
        {"collectors": {"memory": {}}, "exporters": {"prometheus": {"port": 70_000}}},
        {"collectors": {"memory": {}}, "exporters": {"otel": {"semconv": "newest"}}},
        {"collectors": {"memory": {}}, "processors": [{"type": "sampel"}]},
        {"collectors": {"memory": {}}, "processors": [{"type": "sample"}]},
        {"collectors": {"memory": {}}, "processors": [{"type": "sample", "rate": 1.5}]},
        {"collectors": {"memory": {}}, "processors": {}},
        {"collectors": {"memory": {}}, "delivery": {"policy": "drop"}},
        {"collectors": {"memory": {}}, "plugins": ["gone"]},
    ],
)
def test_a_mistake_that_is_refused_is_not_valid(table):
    with pytest.raises(ConfigError):
        read_config(table, environ={})
    assert errors_of(table)


def test_an_option_that_only_python_can_set_is_not_valid_in_a_file():
    assert errors_of({"exporters": {"otel": {"attribute_mapper": "module.function"}}})
    assert SCHEMA["definitions"]["exporters.otel"]["properties"]["attribute_mapper"] == {
        "anyOf": [False],
        "description": "Called with each event for further attributes of its span and log record.",
    }


def test_options_carry_their_descriptions_and_defaults():
    option = SCHEMA["definitions"]["collectors.memory"]["properties"]["max_size"]
    assert option["description"] == "The most events kept; the oldest are forgotten first."
    assert option["default"] == 10_000
