"""Options and URLs: what is taken, what is refused, and that no secret is shown."""

from __future__ import annotations

import pytest
from flag_analytics.config.reading import read_config
from flag_analytics.errors import PluginError
from flag_analytics_clickhouse import ClickHouseAnalyticsCollector, ClickHouseOptions, ClickHouseStore, Tables
from flag_analytics_clickhouse.urls import MEMORY, parse_url


def options(url="http://127.0.0.1:8123", **settings):
    return ClickHouseOptions(url=url, **settings)


@pytest.mark.parametrize(
    ("url", "shown", "database"),
    [
        ("https://host", "https://host:8443", ""),
        ("http://host", "http://host:8123", ""),
        ("clickhouse://host:9/flags", "http://host:9", "flags"),
        ("CLICKHOUSES://host/flags/", "https://host:8443", "flags"),
        ("http://[::1]:8123", "http://[::1]:8123", ""),
        ("chdb:///var/lib/flags", "chdb:///var/lib/flags", ""),
        ("chdb://flags", "chdb://flags", ""),
        ("chdb://./flags/a", "chdb://./flags/a", ""),
        ("chdb://memory", "chdb://memory", ""),
    ],
)
def test_a_url_names_a_server_or_a_folder(url, shown, database):
    address = parse_url(url)
    assert (str(address), address.database) == (shown, database)


def test_memory_is_a_path_of_its_own():
    assert parse_url("chdb://memory").path == MEMORY
    assert parse_url("chdb:///memory").path == "/memory"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("host:8123", "begins with"),
        ("tcp://host", "begins with"),
        ("http://", "name of a host"),
        ("http://host:x", "number"),
        ("http://host:99999", "number"),
        ("http://host/a/b", "at most a database"),
        ("http://host/a?secure=1", "without ?"),
        ("http://host/a-b", "plain name"),
        ("chdb://", "a folder"),
        ("chdb:///", "a folder"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_being_quoted(url, words):
    with pytest.raises(ValueError, match=words) as raised:
        options(url=url.replace("http://host", "http://user:kanarienvogel@host"))
    assert "kanarienvogel" not in str(raised.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"table": "a`b"},
        {"table": "x" * 64},
        {"database": "a.b"},
        {"cluster": "a`b"},
        {"cluster": ""},
        {"settings": {"insert quorum": "1"}},
        {"retention_days": 0},
        {"retention_days": 40_000},
        {"batch_size": 0},
        {"deduplication_window": 0},
    ],
)
def test_a_setting_that_cannot_be_used_is_refused(settings):
    with pytest.raises(ValueError):
        options(**settings)


def test_user_password_and_database_of_the_url_come_first():
    address = options("https://anna:p%40ss@host/flags", username="bert", password="other", database="mine").address
    assert (address.username, address.password, address.database) == ("anna", "p@ss", "flags")
    address = options("https://host", username="bert", password="other", database="mine").address
    assert (address.username, address.password, address.database) == ("bert", "other", "mine")


def test_batches_are_large_and_few():
    delivery = options().delivery()
    assert (delivery.batch_size, delivery.flush_interval_seconds) == (20_000, 2.0)
    assert delivery.max_events >= 3 * delivery.batch_size
    assert delivery.attempt_timeout_seconds == 35.0


async def test_nothing_shows_a_secret_and_creating_opens_nothing():
    made = options("https://anna:kanarienvogel@192.0.2.1:1", password="kanarienvogel")
    collector = await ClickHouseAnalyticsCollector.create(
        "https://anna:kanarienvogel@192.0.2.1:1", password="kanarienvogel", retention_days=9
    )
    store = ClickHouseStore(made)
    for shown in (made, made.address, store, collector, collector.event_source.options):
        assert "kanarienvogel" not in repr(shown)
        assert "kanarienvogel" not in str(shown)
    assert repr(store) == "ClickHouseStore(https://192.0.2.1:1, table='flag_evaluation_events')"
    assert collector.event_source.options.retention_days == 9
    await collector.close()


def test_a_configuration_is_read():
    table = {"url": "https://host/flags", "retention_days": 90, "cluster": "main", "max_batch_bytes": "8 MiB"}
    plan = read_config({"plugins": ["clickhouse"], "collectors": {"clickhouse": table}})
    (sink,) = plan.sinks
    assert sink.options == options("https://host/flags", retention_days=90, cluster="main", max_batch_bytes=2**23)


def test_one_server_has_plain_tables_and_a_cluster_replicated_ones():
    plain = "\n".join(Tables.of(options()).migrations()[0])
    assert "ENGINE = MergeTree()" in plain
    assert "Replicated" not in plain
    assert "ON CLUSTER" not in plain
    assert plain.count("non_replicated_deduplication_window = 10000") == 4
    tables = Tables.of(options(cluster="main"))
    spread = "\n".join([*tables.create_state(), *tables.migrations()[0]])
    assert spread.count(" ON CLUSTER `main`") == 5 + 5 + 2
    assert spread.count("ENGINE = Distributed(`main`, `default`, ") == 5
    assert spread.count(" replicated_deduplication_window = 10000") == 5
    assert "ENGINE = ReplicatedAggregatingMergeTree()" in spread
    assert "TO `default`.`flag_evaluation_events_counts_local`" in spread
    assert "FROM `default`.`flag_evaluation_events_local` AS e" in spread
    assert tables.events == "`default`.`flag_evaluation_events`"
    assert tables.keep("", 30).startswith(
        "ALTER TABLE `default`.`flag_evaluation_events_local` ON CLUSTER `main` MODIFY TTL"
    )


def test_without_the_engine_an_embedded_store_says_what_to_install(monkeypatch):
    monkeypatch.setattr("flag_analytics_clickhouse.connecting.find_spec", lambda _: None)
    with pytest.raises(PluginError, match=r"pip install 'flag-analytics-clickhouse\[chdb\]'"):
        ClickHouseStore(options("chdb://memory"))
