"""A plugin that is one file, and sources that are no collectors: named in configuration, found by what they declare."""

from __future__ import annotations

import sys
from textwrap import dedent

import pytest
from flag_analytics import AnalyticsAggregator, ConfigError, PluginError, SourceError, open_pipeline, read_config
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.metrics import EventsSource
from flag_analytics.registry import Registry

PLUGIN = """
    import attrs
    from flag_analytics import Backend, hookimpl
    from flag_analytics.metrics import EventsSource

    from flag_analytics.testing import plain_events

    stored = []

    @attrs.frozen
    class Options:
        count: int = 3

    @attrs.frozen
    class Sink:
        options: Options
        async def write(self, batch):
            stored.extend(batch)

    class Source(EventsSource):
        closed = 0
        async def close(self):
            type(self).closed += 1

    @hookimpl
    def flag_analytics_register_collectors():
        return [Backend("acme_store", Options, Sink)]

    @hookimpl
    def flag_analytics_register_sources():
        return [Backend("acme_past", Options, lambda options: Source(lambda: plain_events(options.count)))]

    @hookimpl
    def flag_analytics_event_source(source):
        return Source(lambda: plain_events(2)) if isinstance(source, str) else None

    @hookimpl
    def flag_analytics_pipeline_started(pipeline):
        stored.append("started")
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_plugin.py"
    path.write_text(dedent(PLUGIN), "utf-8")
    yield path
    for name in [name for name in sys.modules if name.startswith("flag_analytics_file_")]:
        del sys.modules[name]


def event():
    return FlagEvaluationEvent.now("dark_mode", value=True, reason="STATIC")


def test_a_file_is_a_plugin_under_its_own_name_and_those_of_its_backends(file):
    for name in ("acme_store", "my_plugin"):
        registry = Registry()
        config = {"plugins": [str(file)], "collectors": {name: {}}}
        with open_pipeline(config, registry=registry) as pipeline:
            pipeline.record_nowait(event())
            assert pipeline.flush_sync()
            started, stored = registry.load("my_plugin").stored
        assert started == "started"
        assert stored.flag_key == "dark_mode"


def test_the_path_of_a_file_is_relative_to_the_configuration(file, tmp_path):
    (tmp_path / "flag-analytics.toml").write_text('plugins = ["./my_plugin.py"]\n[collectors.acme_store]\n', "utf-8")
    registry = Registry()
    plan = read_config(tmp_path / "flag-analytics.toml", environ={}, registry=registry)
    assert [sink.name for sink in plan.sinks] == ["acme_store"]
    assert str(file) in plan.sinks[0].plugin
    assert {"my_plugin", "acme_store", "acme_past"} <= registry.installed().keys()


def test_a_file_that_is_not_there_or_broken_is_named(file, tmp_path):
    def problem(path):
        with pytest.raises(ConfigError) as caught:
            read_config({"plugins": [str(path)], "collectors": {"memory": {}}}, environ={}, registry=Registry())
        return str(caught.value)

    assert "there is no file" in problem(tmp_path / "nothing.py")
    file.write_text("import no_such_module", "utf-8")
    assert "the module 'no_such_module' is missing" in problem(file)
    file.write_text("x = 1", "utf-8")
    assert "has no function marked with @hookimpl" in problem(file)


def test_a_file_does_not_take_the_name_of_an_installed_plugin(file):
    taken = file.rename(file.with_name("memory.py"))
    with pytest.raises(PluginError, match=r"plugin 'memory' is offered by flag-analytics-memory .*rename the file"):
        Registry().load_file(taken)


async def test_a_source_is_asked_first_and_closed_at_the_end(file):
    registry = Registry()
    config = {"plugins": [str(file)], "collectors": {"memory": {}}, "sources": {"acme_past": {"count": 5}}}
    async with open_pipeline(config, registry=registry) as pipeline:
        assert pipeline.aggregator.source_name == "acme_past"
        assert len(await pipeline.aggregator.list_flags(None)) == 5
        assert await pipeline.aggregator_of("memory").list_flags(None) == []
    assert registry.load("my_plugin").Source.closed == 1
    open_pipeline(config, registry=registry).close_sync()
    assert registry.load("my_plugin").Source.closed == 2


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"sources": {"acme_past": {"count": 1, "delivery": {}}}}, "sources.acme_past.delivery: unknown option"),
        ({"sources": {"prometheus": {}}}, "is an exporter, not a source: use [exporters.prometheus]"),
        ({"sources": {"memory": {}}}, "a collector or exporter has this name too"),
    ],
)
def test_a_source_that_is_wrong_is_said_to_be(file, tables, says):
    with pytest.raises(ConfigError) as caught:
        read_config({"plugins": [str(file)], "collectors": {"memory": {}}, **tables}, environ={}, registry=Registry())
    assert says in str(caught.value)


def test_a_source_that_answers_no_questions_is_refused_at_the_start(file):
    file.write_text(dedent(PLUGIN).replace("lambda options: Source(", "lambda options: str("), "utf-8")
    config = {"plugins": [str(file)], "collectors": {"memory": {}}, "sources": {"acme_past": {}}}
    with pytest.raises(PluginError, match="returned str, expected an EventSource"):
        open_pipeline(config, registry=Registry())


def test_only_a_plugin_that_declares_a_suffix_or_scheme_is_asked_about_a_path(site, tmp_path):
    broken = "raise RuntimeError('asked')"
    site.add("acme-read", points={"acme": "acme_read"}, modules={"acme_read": PLUGIN})
    site.add("acme-other", points={"other": "acme_other"}, modules={"acme_other": broken})
    info = next(site.path.glob("acme_read-*"))
    with (info / "entry_points.txt").open("a") as file:
        file.write("[flag_analytics_reads]\nacme = acme_read\nlog.acme = acme_read\nacmes = acme_read\nxyz = other\n")
    registry = site.registry()
    assert registry.installed()["acme"][0].reads == {"acme", "log.acme", "acmes"}
    for path in ("events.acme", "EVENTS.ACME", "a/b.log.acme", "acmes://bucket/x"):
        assert type(registry.event_source_for(path)).__name__ == "Source"
    for path in ("events.xyz", "events", "acme", "other://x", str(tmp_path)):
        with pytest.raises(SourceError):
            registry.event_source_for(path)


def test_an_aggregator_says_what_it_reads():
    assert AnalyticsAggregator(EventsSource(list)).source_name == "EventsSource"
    assert AnalyticsAggregator(EventsSource(list), name="archive").source_name == "archive"
