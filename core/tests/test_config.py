"""Configuration: one structure from three places, checked as a whole, silent about secrets."""

from __future__ import annotations

import logging
import pickle
import re
import string
import tomllib
import traceback
from pathlib import Path

import attrs
import pytest
from flag_analytics.config.plan import Plan
from flag_analytics.config.reading import read_config
from flag_analytics.errors import ConfigError, PluginError
from flag_analytics.pipeline import open_pipeline
from flag_analytics.processors import Redact, Sample
from flag_analytics.pseudonyms import HashTargetingKey
from flag_analytics.reports import DeliveryOptions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

STORE = """
    from pathlib import Path
    from typing import Any, Literal

    import attrs
    from flag_analytics import Backend, ProcessorFactory, hookimpl

    @attrs.frozen(kw_only=True)
    class Options:
        size: int = attrs.field(default=10, validator=attrs.validators.ge(1))
        ratio: float = attrs.field(default=0.5, validator=attrs.validators.le(1))
        echo: bool = False
        prefix: str = ""
        path: Path = Path("events")
        mode: Literal["append", "replace"] = "append"
        buckets: tuple[float, ...] = (0.1, 1.0)
        tags: list[str] = attrs.field(factory=list)
        limit: int | None = None
        arguments: dict[str, Any] = attrs.field(factory=dict)
        url: str = attrs.field(default="", repr=False, metadata={"secret": True})
        password: str = attrs.field(default="", repr=False, metadata={"secret": True})
        kind: Any = None

    class Sink:
        def __init__(self, options): self.options = options
        async def write(self, batch): pass
        async def close(self): pass

    @attrs.frozen
    class Strict:
        name: str
        low: int = attrs.field(default=0)
        high: int = attrs.field(default=9)

        @high.validator
        def _above(self, attribute, value):
            if value < self.low:
                raise ValueError("high is below low")

    @attrs.frozen
    class NoOptions: pass

    @hookimpl
    def flag_analytics_register_collectors():
        return [Backend("store", Options, Sink)]

    @hookimpl
    def flag_analytics_register_exporters():
        return [Backend("strict", Strict, Sink), Backend("none", NoOptions, Sink)]

    @hookimpl
    def flag_analytics_register_processors():
        return [ProcessorFactory("upper", NoOptions, lambda options: lambda event: event)]
"""
CANARY = "xK9-canary_pw"


@pytest.fixture
def store(site):
    site.add(
        "acme-store",
        points={"store": "acme_store", "strict": "acme_store", "none": "acme_store"},
        modules={"acme_store": STORE},
    )
    return site.registry()


def options_of(registry, table, environ=None):
    plan = read_config({"collectors": {"store": table}}, environ=environ or {}, registry=registry)
    return plan.sinks[0].options


def problems_of(registry, source, environ=None):
    with pytest.raises(ConfigError) as caught:
        read_config(source, environ=environ or {}, registry=registry)
    return {problem.path: problem.message for problem in caught.value.problems}


# --- where it comes from


TOML = """
[collectors.store]
size = 60_000
[collectors."store/warehouse"]
url = "${ANALYTICS_URL}"
[collectors."store/warehouse".delivery]
batch_size = 7
[exporters.none]
[[processors]]
type = "hash_targeting_key"
unkeyed = true
[[processors]]
type = "redact"
attributes = ["email"]
[delivery]
max_events = 100
"""


def check_plan(plan):
    assert [(sink.role, sink.name) for sink in plan.sinks] == [
        ("collector", "store"),
        ("collector", "store/warehouse"),
        ("exporter", "none"),
    ]
    assert plan.sinks[0].options.size == 60_000
    assert plan.sinks[0].options.ratio == 0.5
    assert plan.sinks[1].options.url == "sqlite:///a"
    assert plan.sinks[1].delivery == {"batch_size": 7}
    assert [processor.options for processor in plan.processors] == [
        HashTargetingKey(unkeyed=True),
        Redact(attributes=("email",)),
    ]
    assert plan.delivery_options() == DeliveryOptions(max_events=100)
    assert plan.plugins == ("store", "none")


def test_the_same_structure_comes_from_a_mapping_a_file_and_pyproject(store, tmp_path):
    environ = {"ANALYTICS_URL": "sqlite:///a"}
    own, pyproject = tmp_path / "flags.toml", tmp_path / "pyproject.toml"
    own.write_text(TOML)
    ours = re.sub(r"^(\[+)", r"\1tool.flag-analytics.", TOML, flags=re.MULTILINE)
    pyproject.write_text(f"[project]\nname = 'x'\n{ours}")
    for source in (tomllib.loads(TOML), own, str(own), pyproject):
        check_plan(read_config(source, environ=environ, registry=store))


def test_without_a_source_the_current_directory_is_searched(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool.flag-analytics.collectors.store]\nsize = 2\n")
    assert read_config(None, environ={}, registry=store).sinks[0].options.size == 2
    (tmp_path / "flag-analytics.toml").write_text("[collectors.store]\nsize = 3\n")
    plan = read_config(None, environ={}, registry=store)
    assert (plan.sinks[0].options.size, plan.label) == (3, "flag-analytics.toml")


def test_without_any_file_the_environment_alone_configures(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\ndependencies = ['flag-analytics']\n")
    environ = {"FLAG_ANALYTICS__COLLECTORS__STORE__SIZE": "4"}
    assert read_config(None, environ=environ, registry=store).sinks[0].options.size == 4


@pytest.mark.parametrize("source", [{}, {"collectors": {}, "exporters": {}}, {"delivery": {"batch_size": 5}}])
def test_a_configuration_without_a_sink_is_a_problem(store, source):
    assert problems_of(store, source)[""].startswith("nothing would receive events: no collector and no exporter")


def test_no_configuration_at_all_is_a_problem(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "nothing would receive events" in problems_of(store, None)[""]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.toml", b"[collectors.store\n", "is not valid TOML: look at line 1"),
        ("a.toml", b"size = '\xff'", "is not UTF-8"),
        ("a.toml", b"a = " + b"[" * 5_000, "is not valid TOML"),
        ("pyproject.toml", b"[project]\nname = 'x'", "has no table [tool.flag-analytics]"),
        ("pyproject.toml", b"[tool]\nflag-analytics = 5", "has no table [tool.flag-analytics]"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(store, tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    assert expected in problems_of(store, tmp_path / name)[""]


def test_a_file_that_is_missing_or_a_directory_is_named(store, tmp_path):
    assert "cannot read" in problems_of(store, tmp_path / "missing.toml")[""]
    assert "cannot read" in problems_of(store, tmp_path)[""]


def test_a_byte_order_mark_is_skipped(store, tmp_path):
    (tmp_path / "a.toml").write_text("[collectors.store]\n", encoding="utf-8-sig")
    assert read_config(tmp_path / "a.toml", environ={}, registry=store).sinks[0].name == "store"


# --- ${VAR}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${A}", "one"),
        ("x-${A}-${B:-two}", "x-one-two"),
        ("${EMPTY:-two}", "two"),
        ("${EMPTY}", ""),
        ("${MISSING:-}", ""),
        ("$$A $$ ${A} $A 5$", "$A $ one $A 5$"),
        ("$${A}", "${A}"),
        ("${DOLLAR}", "${A}"),
    ],
)
def test_variables_are_filled_in_once(store, text, expected):
    environ = {"A": "one", "EMPTY": "", "DOLLAR": "${A}"}
    assert options_of(store, {"prefix": text}, environ).prefix == expected


def test_a_variable_may_fill_in_any_type_and_a_default_too(store):
    options = options_of(
        store,
        {
            "size": "${SIZE}",
            "ratio": "${RATIO:-0.25}",
            "echo": "${ECHO}",
            "limit": "${LIMIT}",
            "buckets": ["${LOW}", 2],
            "arguments": {"port": "${SIZE}"},
        },
        {"SIZE": "60_000", "ECHO": "True", "LIMIT": "5", "LOW": "0.5"},
    )
    assert (options.size, options.ratio, options.echo, options.limit) == (60_000, 0.25, True, 5)
    assert (options.buckets, options.arguments) == ((0.5, 2.0), {"port": "60_000"})


def test_an_unset_variable_and_a_broken_one_are_problems(store):
    problems = problems_of(store, {"collectors": {"store": {"prefix": "${NOPE}", "url": "${a b}", "tags": ["${}"]}}})
    assert "environment variable NOPE is not set" in problems["collectors.store.prefix"]
    assert "${NOPE:-default}" in problems["collectors.store.prefix"]
    assert "$$" in problems["collectors.store.url"]
    assert "$$" in problems["collectors.store.tags[0]"]


def test_an_unset_variable_is_the_only_problem_of_its_option(site):
    site.add("acme-url", points={"url": "acme_url"}, modules={"acme_url": STRICT_URL})
    with pytest.raises(ConfigError) as caught:
        read_config({"collectors": {"url": {"url": "${NOPE}"}}}, environ={}, registry=site.registry())
    assert [problem.path for problem in caught.value.problems] == ["collectors.url.url"]
    assert "NOPE is not set" in caught.value.problems[0].message


STRICT_URL = """
    import attrs
    from flag_analytics import Backend, hookimpl

    def usable(_, __, url):
        if not url:
            raise ValueError("is no URL")

    @attrs.frozen
    class Options:
        url: str = attrs.field(validator=usable, metadata={"discreet_validator": True})

    @hookimpl
    def flag_analytics_register_collectors():
        return [Backend("url", Options, print)]
"""


@pytest.mark.parametrize("source", [3, [1], object()])
def test_a_source_of_another_type_is_a_type_error(store, source):
    with pytest.raises(TypeError, match="expected a mapping, the path of a file, or None"):
        open_pipeline(source, registry=store)


def test_a_sinks_delivery_table_does_not_offer_settings_of_the_pipeline(store):
    message = problems_of(store, {"collectors": {"store": {"delivery": {"batchsize": 5}}}})
    assert "batch_size" in message["collectors.store.delivery.batchsize"]
    assert "spool" not in message["collectors.store.delivery.batchsize"]


# --- the environment overlay


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("SIZE", "60_000", {"size": 60_000}),
        ("size", "7", {"size": 7}),
        ("RATIO", "1", {"ratio": 1.0}),
        ("ECHO", "true", {"echo": True}),
        ("ECHO", "1", {"echo": True}),
        ("ECHO", "FALSE", {"echo": False}),
        ("PREFIX", "123", {"prefix": "123"}),
        ("PREFIX", "true", {"prefix": "true"}),
        ("PREFIX", '"quoted"', {"prefix": '"quoted"'}),
        ("PREFIX", "pa$$word ${X}", {"prefix": "pa$$word ${X}"}),
        ("PREFIX", "", {"prefix": ""}),
        ("PREFIX", "a\nsize = 5", {"prefix": "a\nsize = 5"}),
        ("PATH", "/var/x", {"path": Path("/var/x")}),
        ("MODE", "replace", {"mode": "replace"}),
        ("BUCKETS", "[1, 2.5]", {"buckets": (1.0, 2.5)}),
        ("BUCKETS", "1, 2.5", {"buckets": (1.0, 2.5)}),
        ("TAGS", "a,b , 3", {"tags": ["a", "b", "3"]}),
        ("LIMIT", "9", {"limit": 9}),
        ("TAGS", '["a", "b"]', {"tags": ["a", "b"]}),
        ("ARGUMENTS__POOL_SIZE", "5", {"arguments": {"pool_size": 5}}),
        ("ARGUMENTS__SSL", "require", {"arguments": {"ssl": "require"}}),
        ("KIND", "5", {"kind": 5}),
        ("KIND", "five", {"kind": "five"}),
    ],
)
def test_an_environment_variable_sets_one_value_of_the_type_the_option_has(store, variable, text, expected):
    options = options_of(store, {}, {f"FLAG_ANALYTICS__COLLECTORS__STORE__{variable}": text})
    assert options == attrs.evolve(options_of(store, {}), **expected)


def test_the_environment_overlays_the_file(store):
    environ = {"FLAG_ANALYTICS__COLLECTORS__STORE__SIZE": "5", "FLAG_ANALYTICS__DELIVERY__POLICY": "drop_oldest"}
    source = {"collectors": {"store": {"size": 1, "prefix": "kept"}}, "delivery": {"policy": "block", "batch_size": 2}}
    plan = read_config(source, environ=environ, registry=store)
    assert (plan.sinks[0].options.size, plan.sinks[0].options.prefix) == (5, "kept")
    assert plan.delivery == {"policy": "drop_oldest", "batch_size": 2}
    assert source["collectors"]["store"]["size"] == 1


def test_the_environment_reaches_a_second_backend_of_a_type_its_delivery_and_processors(store):
    source = {"collectors": {"store/ware-house": {}}, "processors": [{"type": "sample", "rate": 1.0}]}
    environ = {
        "FLAG_ANALYTICS__COLLECTORS__STORE_WARE_HOUSE__SIZE": "5",
        "FLAG_ANALYTICS__COLLECTORS__STORE_WARE_HOUSE__DELIVERY__BATCH_SIZE": "6",
        "FLAG_ANALYTICS__COLLECTORS__STORE_NEW__SIZE": "7",
        "FLAG_ANALYTICS__COLLECTORS__STORE": "true",
        "FLAG_ANALYTICS__PROCESSORS__0__RATE": "0.5",
        "FLAG_ANALYTICS__PROCESSORS__1__TYPE": "hash_targeting_key",
        "FLAG_ANALYTICS__PROCESSORS__1__KEY": "pepper-and-salt-0",
    }
    plan = read_config(source, environ=environ, registry=store)
    assert {sink.name: sink.options.size for sink in plan.sinks} == {"store/ware-house": 5, "store": 10, "store/new": 7}
    assert plan.sinks[0].delivery == {"batch_size": 6}
    assert [processor.options for processor in plan.processors] == [
        Sample(rate=0.5),
        HashTargetingKey(key="pepper-and-salt-0"),
    ]


def test_ten_processors_from_the_environment_come_in_the_order_of_their_numbers(store):
    environ = {f"FLAG_ANALYTICS__PROCESSORS__{i}__TYPE": "sample" for i in range(12)}
    environ |= {f"FLAG_ANALYTICS__PROCESSORS__{i}__RATE": str((i + 1) / 100) for i in range(12)}
    plan = read_config({"collectors": {"store": {}}}, environ=environ, registry=store)
    assert [processor.options.rate for processor in plan.processors] == [(i + 1) / 100 for i in range(12)]


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("FLAG_ANALYTICS__COLECTORS__STORE__SIZE", "1", "with a section of collectors, exporters"),
        ("FLAG_ANALYTICS__COLLECTORS", "store", "expected FLAG_ANALYTICS__SECTION__NAME__OPTION"),
        ("FLAG_ANALYTICS__COLLECTORS____SIZE", "1", "expected FLAG_ANALYTICS__SECTION__NAME__OPTION"),
        ("FLAG_ANALYTICS__PLUGINS__A", "1", "expected FLAG_ANALYTICS__SECTION__NAME__OPTION"),
        ("FLAG_ANALYTICS__COLLECTORS__STORE", "big", "expected true, to add this backend with its defaults"),
        ("FLAG_ANALYTICS__COLLECTORS__STORE_SIZE", "5", "expected true, to add this backend with its defaults"),
        ("FLAG_ANALYTICS__COLLECTORS_STORE_SIZE", "5", "expected FLAG_ANALYTICS__SECTION__NAME__OPTION"),
        ("FLAG_ANALYTICS__PROCESSORS__5__TYPE", "sample", "expected a number from 0 to 0 in place of 5"),
        ("FLAG_ANALYTICS__COLLECTORS__STORE__SIZE__DEEPER", "1", "there is no table to set deeper in"),
    ],
)
def test_a_variable_that_fits_no_place_is_a_problem(store, variable, text, expected):
    source = {"collectors": {"store": {"size": 5}, "store/a-b": {}, "store/a_b": {}}}
    assert expected in problems_of(store, source, {variable: text})[variable]


def test_variables_of_other_names_are_ignored(store):
    names = (
        *("FLAG_ANALYTICS_CONFIG", "FLAG_ANALYTICS_TEST_POSTGRES", "FLAG_ANALYTICS_REQUIRE_SERVERS"),
        *("FLAG_ANALYTICS_BENCH_FULL", "FLAG_ANALYTICS_PLUGINSDIR", "flag_analytics__collectors", "XFLAG_ANALYTICS__A"),
    )
    environ = dict.fromkeys(names, "x")
    assert read_config({"collectors": {"store": {}}}, environ=environ, registry=store)


@pytest.mark.parametrize(
    ("variable", "text", "path", "expected"),
    [
        (
            "FLAG_ANALYTICS__COLLECTORS__STORE__SISE",
            "1",
            "collectors.store.sise",
            "unknown option (did you mean 'size'",
        ),
        ("FLAG_ANALYTICS__COLLECTORS__STOR__SIZE", "1", "collectors.stor", "did you mean 'store'?"),
        ("FLAG_ANALYTICS__EXPORTERS__STRICTT", "true", "exporters.strictt", "did you mean 'strict'?"),
        ("FLAG_ANALYTICS__DELIVERY__BATCH_SISE", "1", "delivery.batch_sise", "did you mean 'batch_size'?"),
        (
            "FLAG_ANALYTICS__COLLECTORS__STORE__DELIVERY__BATCH",
            "1",
            "collectors.store.delivery.batch",
            "unknown option",
        ),
        ("FLAG_ANALYTICS__PLUGINS", "gone", "plugins", "offers a plugin 'gone'"),
        ("FLAG_ANALYTICS__PROCESSORS__0__TYPE", "sampel", "processors[0].type", "did you mean 'sample'?"),
        ("FLAG_ANALYTICS__PROCESSORS__0__RATE", "1", "processors[0]", "expected a table with a type"),
        ("FLAG_ANALYTICS__COLLECTORS__STORE__SIZE", "0", "collectors.store.size", "expected an integer of at least 1"),
    ],
)
def test_a_problem_with_the_environment_names_the_variable(store, variable, text, path, expected):
    message = problems_of(store, {"collectors": {"store": {}}}, {variable: text})[path]
    assert expected in message
    assert message.endswith(f" (from {variable})")


def test_a_problem_with_the_file_names_no_variable(store):
    environ = {"FLAG_ANALYTICS__COLLECTORS__STORE__SIZE": "1"}
    assert "(from" not in problems_of(store, {"collectors": {"store": {"sise": 5}}}, environ)["collectors.store.sise"]


@pytest.mark.parametrize(
    "variable",
    [
        "FLAG_ANALYTICS_COLLECTORS__STORE__SIZE",
        "FLAG_ANALYTICS_COLLECTORS_STORE_SIZE",
        "FLAG_ANALYTICS_DELIVERY_BATCH_SIZE",
        "FLAG_ANALYTICS_PLUGINS",
    ],
)
def test_a_variable_with_one_underscore_for_two_is_a_problem(store, variable):
    message = problems_of(store, {"collectors": {"store": {}}}, {variable: CANARY})[variable]
    assert message.startswith("is not read, since two underscores stand between the names: expected FLAG_ANALYTICS__")


# --- checks


@pytest.mark.parametrize(
    ("table", "path", "expected"),
    [
        ({"size": "abc"}, "size", "expected an integer, got 'abc'"),
        ({"size": True}, "size", "expected an integer, got true"),
        ({"size": 1.5}, "size", "expected an integer, got 1.5"),
        ({"size": 0}, "size", "expected an integer of at least 1, got 0"),
        ({"size": [1]}, "size", "expected an integer, got an array"),
        ({"ratio": "half"}, "ratio", "expected a number, got 'half'"),
        ({"echo": 1}, "echo", "expected true or false, got 1"),
        ({"echo": "true"}, "echo", "expected true or false, got 'true'"),
        ({"prefix": 5}, "prefix", "expected text, got 5"),
        ({"path": 5}, "path", "expected a path, got 5"),
        ({"mode": "apend"}, "mode", "expected one of 'append', 'replace', got 'apend' (did you mean 'append'?)"),
        ({"buckets": [1, "x"]}, "buckets[1]", "expected a number, got 'x'"),
        ({"buckets": "0.1"}, "buckets", "expected an array of items: a number, got '0.1'"),
        ({"arguments": "a=b"}, "arguments", "expected a table, got 'a=b'"),
        ({"limit": "x"}, "limit", "expected an integer, got 'x'"),
        ({"prefix": {"a": 1}}, "prefix", "expected text, got a table"),
        ({"sise": 5}, "sise", "unknown option (did you mean 'size'?); known are arguments, buckets, echo"),
        ({5: 5}, "5", "unknown option"),
        ({"a b\x00": 5}, '"a b\\u0000"', "unknown option"),
        ({"delivery": {"batch_sizes": 5}}, "delivery.batch_sizes", "(did you mean 'batch_size'?)"),
        ({"delivery": {"batch_size": 0}}, "delivery.batch_size", "expected an integer of at least 1, got 0"),
        ({"delivery": {"durability": "spool"}}, "delivery.durability", "belongs to the whole pipeline"),
        ({"delivery": 5}, "delivery", "expected a table"),
        ({"prefix": "x" * 1_000, "size": "y" * 1_000}, "size", "…"),
    ],
)
def test_a_wrong_option_is_a_problem_with_its_path(store, table, path, expected):
    message = problems_of(store, {"collectors": {"store": table}})[f"collectors.store.{path}"]
    assert expected in message
    assert len(message) < 400


@pytest.mark.parametrize(
    ("source", "path", "expected"),
    [
        ({"colectors": {}}, "colectors", "unknown option (did you mean 'collectors'?); known are collectors, delivery"),
        ({"collectors": []}, "collectors", "expected a table, got an array"),
        ({"collectors": {"store": 5}}, "collectors.store", "expected a table"),
        ({"collectors": {"a b": {}}}, 'collectors."a b"', "expected a name of letters"),
        ({"collectors": {"store/": {}}}, 'collectors."store/"', "expected a name of letters"),
        ({"collectors": {"x\nfake log line": {}}}, 'collectors."x\\nfake log line"', "expected a name of letters"),
        ({"collectors": {5: {}}}, "collectors.5", "offers a plugin '5'"),
        ({"collectors": {"stor": {}}}, "collectors.stor", "did you mean 'store'?"),
        ({"exporters": {"store": {}}}, "exporters.store", "offers the exporters 'strict', 'none' and none named"),
        ({"collectors": {"memory": {}}}, "collectors.memory", "run `pip install flag-analytics-memory`"),
        ({"exporters": {"strict": {}}}, "exporters.strict.name", "is required: expected text"),
        ({"exporters": {"strict": {"name": "a", "low": 5, "high": 1}}}, "exporters.strict", "high is below low"),
        ({"exporters": {"none": {"a": 1}}}, "exporters.none.a", "known are none, it takes no options"),
        ({"processors": {}}, "processors", "expected an array, got a table"),
        (
            {"processors": [{}]},
            "processors[0]",
            "built in are hash_targeting_key, deduplicate_exposures, only_providers, redact, sample",
        ),
        ({"processors": [5]}, "processors[0]", "expected a table with a type"),
        (
            {"processors": [{"type": "sampel"}]},
            "processors[0].type",
            "unknown processor 'sampel' (did you mean 'sample'?)",
        ),
        ({"processors": [{"type": "sample"}]}, "processors[0].rate", "is required: expected a number"),
        (
            {"processors": [{"type": "sample", "rate": 0}]},
            "processors[0].rate",
            "expected a number above 0 and at most 1, got 0",
        ),
        ({"processors": [{"type": "sample", "rate": 2}]}, "processors[0].rate", "above 0 and at most 1, got 2"),
        ({"processors": [{"type": "hash_targeting_key"}]}, "processors[0]", "a key is required: make one with"),
        (
            {"processors": [{"type": "hash_targeting_key", "key": "${UNSET:-}"}]},
            "processors[0].key",
            "expected a key of at least 16 characters: make one with",
        ),
        ({"processors": [{"type": "redact"}]}, "processors[0]", "it would remove nothing: expected attributes"),
        ({"processors": [{"type": "nothing_like_it"}]}, "processors[0].type", "offers a plugin 'nothing_like_it'"),
        ({"delivery": {"policy": "drop"}}, "delivery.policy", "expected one of 'drop_newest', 'drop_oldest', 'block'"),
        ({"delivery": []}, "delivery", "expected a table, got an array"),
        ({"plugins": {"gone": True}}, "plugins", "expected an array of items: text, got a table"),
        ({"plugins": ["gone"]}, "plugins", "offers a plugin 'gone'"),
    ],
)
def test_a_wrong_table_is_a_problem_with_its_path(store, source, path, expected):
    assert expected in problems_of(store, source)[path]


def test_all_problems_are_raised_together_before_anything_is_created(store):
    source = {
        "collectors": {"store": {"size": "a", "sise": 1, "echo": 5}, "stroe": {}},
        "exporters": {"strict": {}},
        "processors": [{"type": "sample"}],
        "delivery": {"batch_size": "x"},
        "extra": {},
    }
    with pytest.raises(ConfigError) as caught:
        open_pipeline(source, environ={"FLAG_ANALYTICS__NOPE__A": "1"}, registry=store)
    assert [problem.path for problem in caught.value.problems] == [
        "FLAG_ANALYTICS__NOPE__A",
        "extra",
        "collectors.store.size",
        "collectors.store.sise",
        "collectors.store.echo",
        "collectors.stroe",
        "exporters.strict.name",
        "delivery.batch_size",
        "processors[0].rate",
    ]
    assert str(caught.value).startswith("9 problems in configuration:\n  - FLAG_ANALYTICS__NOPE__A: ")
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems


def test_one_name_for_a_collector_and_an_exporter_is_a_problem(site):
    module = STORE.replace('Backend("none"', 'Backend("store"')
    site.add("acme-store", points={"store": "acme_store"}, modules={"acme_store": module})
    problems = problems_of(site.registry(), {"collectors": {"store": {}}, "exporters": {"store": {}}})
    assert "a collector has this name too: call one of them store/other" in problems["exporters.store"]


def test_a_broken_plugin_is_the_cause_of_the_error(site):
    site.add("acme-bad", points={"bad": "acme_bad"}, modules={"acme_bad": "1 / 0"})
    with pytest.raises(ConfigError, match=r"collectors\.bad: plugin 'bad' of acme-bad 1\.2") as caught:
        read_config({"collectors": {"bad": {}}}, environ={}, registry=site.registry())
    assert isinstance(caught.value.__cause__, PluginError)


def test_an_options_class_whose_types_cannot_be_read_is_the_plugins_problem(site):
    module = """
        from __future__ import annotations
        import attrs
        from flag_analytics import Backend, hookimpl

        @attrs.frozen
        class Options:
            size: Missing = 5

        @hookimpl
        def flag_analytics_register_collectors(): return [Backend("odd", Options, print)]
    """
    site.add("acme-odd", points={"odd": "acme_odd"}, modules={"acme_odd": module})
    problems = problems_of(site.registry(), {"collectors": {"odd": {"size": 1}}})
    assert "the types of acme_odd.Options cannot be read" in problems["collectors.odd"]


def test_options_may_be_objects_in_a_mapping(site):
    module = """
        from collections.abc import Callable
        from threading import Event
        import attrs
        from flag_analytics import Backend, hookimpl

        @attrs.frozen
        class Options:
            registry: Event | None = None
            mapper: Callable[[str], str] | None = None

        @hookimpl
        def flag_analytics_register_collectors(): return [Backend("odd", Options, print)]
    """
    from threading import Event

    site.add("acme-odd", points={"odd": "acme_odd"}, modules={"acme_odd": module})
    registry, event = site.registry(), Event()
    table = {"registry": event, "mapper": str.upper}
    options = read_config({"collectors": {"odd": table}}, environ={}, registry=registry).sinks[0].options
    assert options.registry is event
    assert options.mapper("a") == "A"
    problems = problems_of(registry, {"collectors": {"odd": {"registry": 5, "mapper": 5}}})
    assert "expected Event, got 5" in problems["collectors.odd.registry"]


def test_plugins_that_only_listen_are_named_by_themselves(store):
    source = {"collectors": {"store": {}}, "plugins": ["strict"]}
    assert read_config(source, environ={}, registry=store).plugins == ("strict", "store")
    for text in ("strict, none", '["strict", "none"]'):
        plan = read_config(source, environ={"FLAG_ANALYTICS__PLUGINS": text}, registry=store)
        assert plan.plugins == ("strict", "none", "store")


def test_a_processor_comes_from_a_plugin_that_is_already_named(store):
    source = {"collectors": {"store": {}}, "processors": [{"type": "upper"}]}
    assert read_config(source, environ={}, registry=store).processors[0].backend.name == "upper"


# --- precedence of delivery settings


def test_a_sinks_own_delivery_table_overrides_the_general_one_and_that_its_defaults(store):
    source = {
        "collectors": {"store": {"delivery": {"batch_size": 3}}},
        "delivery": {"batch_size": 2, "max_events": 20},
    }
    plan = read_config(source, environ={}, registry=store)
    defaults = DeliveryOptions(batch_size=1, max_events=10, max_bytes=1_000)
    assert plan.sink_options(plan.sinks[0], defaults) == DeliveryOptions(batch_size=3, max_events=20, max_bytes=1_000)


def test_an_option_of_the_backend_itself_is_more_specific_than_the_general_table(site):
    module = STORE.replace("size: int", "batch_size: int")
    site.add("acme-store", points={"store": "acme_store"}, modules={"acme_store": module})
    registry = site.registry()
    source = {"collectors": {"store": {"batch_size": 500}, "store/other": {}}, "delivery": {"batch_size": 2}}
    first, second = (plan := read_config(source, environ={}, registry=registry)).sinks
    assert plan.sink_options(first, DeliveryOptions(batch_size=500)).batch_size == 500
    assert plan.sink_options(second, DeliveryOptions(batch_size=10)).batch_size == 2


def test_an_option_that_is_an_engine_setting_under_another_name_is_more_specific_too(site):
    field = 'attrs.field(default=1.0, metadata={"delivery": "flush_interval_seconds"})'
    module = STORE.replace("size: int", f"flush_interval: float = {field}\n        size: int")
    site.add("acme-store", points={"store": "acme_store"}, modules={"acme_store": module})
    source = {"collectors": {"store": {"flush_interval": 7.0}}, "delivery": {"flush_interval_seconds": 2.0}}
    plan = read_config(source, environ={}, registry=site.registry())
    defaults = DeliveryOptions(flush_interval_seconds=7.0)
    assert plan.sink_options(plan.sinks[0], defaults).flush_interval_seconds == 7.0


# --- secrets


def every_word_of(error):
    """Return everything that a log, a pickle or a traceback shows of an error and its chain."""
    words = ["".join(traceback.format_exception(error))]
    while error is not None:
        words += [str(error), repr(error), repr(vars(error)), pickle.dumps(error).decode("latin-1")]
        assert error.__context__ is None or error.__cause__ is not None or not error.__suppress_context__
        error = error.__cause__ or error.__context__
    return "\n".join(words)


@pytest.mark.parametrize(
    ("table", "environ"),
    [
        ({"password": [CANARY]}, {}),
        ({"password": CANARY, "size": "x"}, {}),
        ({"url": {"a": CANARY}}, {}),
        ({"size": "${PW}"}, {"PW": CANARY}),
        ({"mode": "${PW}"}, {"PW": CANARY}),
        ({"mode": "x${PW}"}, {"PW": CANARY}),
        ({"buckets": ["${PW}"]}, {"PW": CANARY}),
        ({"size": f"postgresql://u:{CANARY}@h/d"}, {}),
        ({"size": f"https://h/?password={CANARY}"}, {}),
        ({"echo": {"password": CANARY}}, {}),
        ({"pasword": CANARY}, {}),
        ({}, {"FLAG_ANALYTICS__COLLECTORS__STORE__SIZE": CANARY}),
        ({}, {"FLAG_ANALYTICS__COLLECTORS__STORE__PASSWORT": CANARY}),
        ({}, {"FLAG_ANALYTICS__COLLECTORS__STORE": CANARY}),
        ({}, {"FLAG_ANALYTICS__COLLECTOR": CANARY}),
        ({}, {"FLAG_ANALYTICS__PROCESSORS__0": CANARY}),
    ],
)
def test_an_error_shows_no_secret(store, table, environ, caplog, capfd):
    with caplog.at_level(logging.DEBUG), pytest.raises(ConfigError) as caught:
        read_config({"collectors": {"store": table}}, environ=environ, registry=store)
    assert CANARY not in every_word_of(caught.value)
    assert CANARY not in caplog.text + "".join(capfd.readouterr())


def test_a_syntax_error_shows_no_secret(store, tmp_path):
    for line in (f'password = "{CANARY}', f'"{CANARY}" = 1\n"{CANARY}" = 2', f"password = {CANARY}"):
        (tmp_path / "a.toml").write_text(f"[collectors.store]\n{line}\n")
        with pytest.raises(ConfigError) as caught:
            read_config(tmp_path / "a.toml", environ={}, registry=store)
        assert CANARY not in every_word_of(caught.value)


def test_the_repr_of_a_plan_shows_no_secret(store):
    source = {
        "collectors": {"store": {"url": f"postgresql://u:{CANARY}@h/d", "prefix": "${PW}"}},
        "processors": [{"type": "hash_targeting_key", "key": f"{CANARY}-long"}],
    }
    plan = read_config(source, environ={"PW": CANARY}, registry=store)
    assert isinstance(plan, Plan)
    assert CANARY not in repr(plan) + str(plan) + repr(plan.processors[0].options) + repr(plan.sinks)


@pytest.mark.parametrize(
    "create",
    [
        "raise ValueError(f'cannot parse {options.url}')",
        "raise ValueError(options.url.split(':')[2].split('@')[0])",
        "raise SystemExit(options.password)",
        "raise RuntimeError(repr(options.password)) from KeyError(options.prefix)",
        "raise type('OddError', (Exception,), {'__str__': lambda self: options.url, 'dsn': options.url})()",
    ],
)
def test_a_create_that_fails_shows_no_secret(site, create, caplog, capfd):
    module = STORE.replace("self.options = options", create)
    site.add("acme-store", points={"store": "acme_store"}, modules={"acme_store": module})
    table = {"url": f"postgresql://user:{CANARY}@host/db", "password": "${PW}", "prefix": "${PW}"}
    with caplog.at_level(logging.DEBUG), pytest.raises(PluginError) as caught:
        open_pipeline({"collectors": {"store": table}}, environ={"PW": CANARY}, registry=site.registry())
    assert "create of collectors.store failed: " in str(caught.value)
    assert "acme_store.py:" in str(caught.value)
    assert CANARY not in every_word_of(caught.value) + caplog.text + "".join(capfd.readouterr())


def test_a_create_that_fails_shows_no_piece_of_a_secret_url(site):
    module = STORE.replace("self.options = options", "int(options.url.rpartition(':')[2])")
    site.add("acme-store", points={"store": "acme_store"}, modules={"acme_store": module})
    with pytest.raises(PluginError) as caught:
        open_pipeline(
            {"collectors": {"store": {"url": f"sqlite://user:{CANARY}"}}}, environ={}, registry=site.registry()
        )
    assert "create of collectors.store failed: ValueError (" in str(caught.value)
    assert CANARY not in every_word_of(caught.value)


# --- any input


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.sampled_from(["${X}", "$$"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=10,
)
known_keys = st.sampled_from(
    ["collectors", "exporters", "processors", "delivery", "plugins", "store", "store/a", "size", "ratio", "echo",
     "prefix", "mode", "buckets", "tags", "limit", "arguments", "kind", "path", "type", "batch_size"]
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    source=st.recursive(
        st.dictionaries(known_keys, values, max_size=4),
        lambda inner: st.dictionaries(known_keys, inner | st.lists(inner, max_size=2), max_size=4),
        max_leaves=20,
    ),
    environ=st.dictionaries(
        st.text("ABCDEFG_0123", max_size=10).map(lambda name: "FLAG_ANALYTICS__" + name)
        | st.sampled_from(["FLAG_ANALYTICS__COLLECTORS__STORE__SIZE", "FLAG_ANALYTICS__DELIVERY__BATCH_SIZE", "X"]),
        st.text(string.printable, max_size=10),
        max_size=4,
    ),
)
def test_any_configuration_gives_a_plan_or_one_error_with_problems(store, source, environ):
    try:
        plan = read_config(source, environ=environ, registry=store)
    except ConfigError as error:
        problems, plan = error.problems, None
    if plan is None:
        assert problems
        assert all(problem.message and "\n" not in problem.path for problem in problems)
    else:
        assert plan.sinks
