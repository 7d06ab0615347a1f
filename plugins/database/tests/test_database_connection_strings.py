"""Connection strings as hosting services and tools hand them out: what each comes to for its driver."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from flag_analytics import AnalyticsAggregator, read_config
from flag_analytics.errors import ConfigError, SinkUnavailable
from flag_analytics.pipeline import open_pipeline
from flag_analytics.reports import DeliveryOptions
from flag_analytics_database import DatabaseAnalyticsCollector, DatabaseOptions
from flag_analytics_database.engine import from_options
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from .local_servers import Certificates, Cluster, make_certificates, mariadb_server, postgresql_cluster

QUICK = DeliveryOptions(retry_initial_seconds=0.005, retry_max_seconds=0.05)


class StoppedError(Exception):
    """Raised in place of connecting."""


async def arguments_for(url: str, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> dict[str, Any]:
    """Return what the driver's ``connect`` is called with."""
    maker = from_options(DatabaseOptions(connection_string=url, **settings))
    received: dict[str, Any] = {}

    def connect(*args: Any, **arguments: Any) -> Any:
        received.update(arguments, args=args)
        raise StoppedError

    driver = maker.url.get_driver_name()
    with monkeypatch.context() as patched:
        patched.setattr(f"{driver}.connect", connect)
        with pytest.raises(StoppedError):
            await maker.for_writing().connect()
    return received


# --- accepted, with the arguments that the driver gets

SERVER = {"user": "u", "password": "p", "host": "h.example", "database": "db"}
POSTGRESQL = [
    ("postgresql://u:p@h.example:5432/db", {**SERVER, "port": 5432}),
    ("postgres://u:p@h.example/db", SERVER),
    ("postgresql://u:p@h.example/db?gssencmode=disable", SERVER),
    ("postgresql://u:p@h.example/db?client_encoding=utf8", SERVER),
    ("postgresql://u:p@h.example/db?client_encoding=UTF-8", SERVER),
    ("postgresql://u:p@h.example/db?keepalives=1&keepalives_idle=30&tcp_user_timeout=1000", SERVER),
    (
        "postgresql://u:p@h.example:6543/db?pgbouncer=true&connection_limit=1",
        {**SERVER, "port": 6543, "statement_cache_size": 0},
    ),
    (
        "postgresql://u:p@h1:5432,h2:5433/db?target_session_attrs=read-write",
        {**SERVER, "host": ["h1", "h2"], "port": [5432, 5433], "target_session_attrs": "read-write"},
    ),
    (
        "postgresql://u:p@/db?host=h1:5432&host=h2:5433&target_session_attrs=read-write",
        {**SERVER, "host": ["h1", "h2"], "port": [5432, 5433], "target_session_attrs": "read-write"},
    ),
    ("postgresql://u:p@/db?host=h1,h2&port=5432,5433", {**SERVER, "host": ["h1", "h2"], "port": [5432, 5433]}),
    ("postgresql://u:p@h1,h2/db", {**SERVER, "host": ["h1", "h2"], "port": [5432, 5432]}),
    ("postgresql://u:p@[::1]:5433,h2/db", {**SERVER, "host": ["::1", "h2"], "port": [5433, 5432]}),
    ("postgresql://u:p@h.example/db?load_balance_hosts=random", SERVER),
    (
        "postgresql://u:p@h.example/db?options=-csearch_path%3Dapp",
        {**SERVER, "server_settings": {"options": "-csearch_path=app"}},
    ),
    ("postgresql://u:p@/db?host=/var/run/postgresql", {**SERVER, "host": ["/var/run/postgresql"], "port": [5432]}),
    (
        "postgresql://us%40er%25x:p%40%25%3A%2F%23%24%7BX%7D@h.example/d%25b",
        {"user": "us@er%x", "password": "p@%:/#${X}", "host": "h.example", "database": "d%b"},
    ),
    ("postgresql://u:p@h.example/db?connect_timeout=3&application_name=a", {**SERVER, "timeout": 3}),
    ("postgresql://u:p@h.example/db?sslmode=disable", {**SERVER, "ssl": "disable"}),
    ("postgresql://u:p@h.example/db?sslmode=prefer", {**SERVER, "ssl": "prefer"}),
]
MYSQL = [
    ("mysql://u:p@h.example/db?charset=utf8mb4", {"user": "u", "db": "db", "charset": "utf8mb4"}),
    ("mariadb://u:p@h.example/d%25b?connect_timeout=3", {"db": "d%b", "connect_timeout": 3}),
    ("mysql://u:p@/db?unix_socket=/run/mysqld/mysqld.sock", {"unix_socket": "/run/mysqld/mysqld.sock"}),
]


@pytest.mark.parametrize(("url", "expected"), POSTGRESQL + MYSQL)
async def test_a_connection_string_becomes_arguments_of_the_driver(
    url: str, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    received = await arguments_for(url, monkeypatch)
    assert {name: received.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("parameters", "settings"), [("?pgbouncer=true", {}), ("?pgbouncer=1", {}), ("", {"pooler": True})]
)
async def test_behind_a_pooler_no_statement_is_kept_under_a_name(
    parameters: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    received = await arguments_for(f"postgresql://u:p@h.example/db{parameters}", monkeypatch, **settings)
    assert received["statement_cache_size"] == 0
    maker = from_options(DatabaseOptions(connection_string=f"postgresql://h/db{parameters}", **settings))
    _, arguments = maker.for_reading().dialect.create_connect_args(maker.url)
    assert "pgbouncer" not in received
    assert arguments is not None


async def test_a_pooler_can_be_set_in_a_file_and_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "flag-analytics.toml"
    file.write_text('[collectors.database]\nconnection_string = "postgresql://h/db"\npooler = true\n')
    plans = [read_config(file, environ={})]
    file.write_text('[collectors.database]\nconnection_string = "postgresql://h/db"\n')
    plans.append(read_config(file, environ={"FLAG_ANALYTICS__COLLECTORS__DATABASE__POOLER": "true"}))
    assert [sink.options.pooler for plan in plans for sink in plan.sinks] == [True, True]


async def test_hosts_are_tried_in_random_order_where_the_load_is_to_be_balanced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = "postgresql://u:p@h1:1,h2:2,h3:3/db?load_balance_hosts=random"
    seen = [await arguments_for(url, monkeypatch) for _ in range(40)]
    assert {tuple(sorted(zip(each["host"], each["port"], strict=True))) for each in seen} == {
        (("h1", 1), ("h2", 2), ("h3", 3))
    }
    assert len({tuple(each["host"]) for each in seen}) > 1


async def test_after_a_failure_the_next_host_is_tried_first(monkeypatch: pytest.MonkeyPatch) -> None:
    maker = from_options(DatabaseOptions(connection_string="postgresql://h1,h2,h3/db"))
    seen = []

    def connect(**arguments: Any) -> Any:
        seen.append(arguments["host"])
        raise StoppedError

    monkeypatch.setattr("asyncpg.connect", connect)
    for engine in (maker.for_writing(), maker.for_reading(), maker.for_writing()):
        with pytest.raises(StoppedError):
            await engine.connect()
    assert seen == [["h1", "h2", "h3"], ["h2", "h3", "h1"], ["h3", "h1", "h2"]]


# --- refused before anything is opened, by `flag-analytics check` as well

READ_ONLY = "opens the file for reading only, and a configured collector writes"
REFUSED = [
    (
        "postgresql://u:p@h.example/db?sslmode=bogus",
        "'sslmode': expected one of disable, allow, prefer, require, verify-ca, verify-full",
    ),
    ("postgresql://u:p@h.example/db?bogus=1", "'bogus', which is not known: known are application_name, "),
    ("postgresql://u:p@h.example/db?ssl_mode=require", "did you mean 'sslmode'?"),
    ("postgresql://u:p@h.example/db?targetsessionattrs=any", "did you mean 'target_session_attrs'?"),
    ("postgresql://u:p@h.example/db?client_encoding=latin1", "'client_encoding': expected utf8, since events"),
    ("postgresql://u:p@h.example/db?gssencmode=require", "'gssencmode': asyncpg has no GSS encryption"),
    ("postgresql://u:p@h.example/db?target_session_attrs=any-one", "'target_session_attrs': expected one of any, "),
    ("postgresql://u:p@h.example/db?keepalives_idle=soon", "'keepalives_idle': expected a number"),
    ("postgresql://u:p@h.example/db?pgbouncer=perhaps", "'pgbouncer': expected true or false"),
    ("postgresql://u:p@/db?host=h1,h2&port=1,2,3", "'port': expected one port, or one for each host"),
    ("postgresql://u:p@h1:one,h2:2/db", "'host': expected names as host or host:port"),
    ("mysql://u:p@h.example/db?bogus=1", "'bogus', which is not known: known are charset, "),
    ("mysql://u:p@h.example/db?sslca=/ca.pem", "did you mean 'ssl_ca'?"),
    ("mysql://u:p@h.example/db?ssl-mode=SOMETIMES", "'ssl_mode': expected one of disable, prefer, require, "),
    ("mysql://u:p@h.example/db?charset=latin1", "'charset': expected utf8mb4, since events"),
    ("sqlite:///x.db?bogus=1", "'bogus', which is not known: known are cached_statements, "),
    ("sqlite:///x.db?mode=rw", "'mode', which needs uri=true beside it"),
    ("sqlite:///file:x.db?mode=ro&uri=true", READ_ONLY),
    ("sqlite:///file:x.db?immutable=1&uri=true", READ_ONLY),
]


@pytest.mark.parametrize(("url", "problem"), REFUSED)
async def test_a_parameter_that_cannot_work_is_refused_with_a_hint(url: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)):
        read_config({"collectors": {"database": {"connection_string": url}}}, environ={})
    if problem != READ_ONLY:  # a collector in code can be asked, and is not healthy
        with pytest.raises(ValueError, match=re.escape(problem)):
            await DatabaseAnalyticsCollector.create(url)


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("postgresql://127.0.0.1:1/x", "asyncpg"),
        ("mysql://127.0.0.1:1/x", "asyncmy"),
        ("mysql+aiomysql://127.0.0.1:1/x", "aiomysql"),
        ("sqlite:///x.db", "aiosqlite"),
    ],
)
def test_an_argument_that_the_driver_does_not_know_is_a_problem_of_the_configuration(url: str, driver: str) -> None:
    config = {"collectors": {"database": {"connection_string": url, "engine": {"connect_args": {"bogus": 1}}}}}
    with pytest.raises(ConfigError, match=f"{driver} does not know the connect_args 'bogus'"):
        open_pipeline(config)


async def test_a_driver_that_refuses_how_to_connect_is_said_once_and_loudly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make_event: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "s3cr3t"

    def connect(*_: Any, **__: Any) -> Any:
        raise TypeError(f"connect() got an unexpected keyword argument 'colour' {secret}")

    url = f"sqlite:///{tmp_path / 'events.db'}"
    collector = await DatabaseAnalyticsCollector.create(url, create_tables=False, delivery=QUICK)
    monkeypatch.setattr("aiosqlite.connect", connect)
    await collector.record(make_event())
    assert not await collector.flush(0.3)
    assert collector.stats().sinks["database"].breaker == "halted"
    with pytest.raises(ConfigError, match="does not know 'colour'"):
        await DatabaseAnalyticsCollector.create(url)
    await collector.close(0.1)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert line == (
        "no event can be stored until the configuration is corrected: the driver does not accept how to connect "
        "(it does not know 'colour'): check connection_string and engine"
    )
    assert secret not in caplog.text


async def test_a_file_that_is_opened_for_reading_only_answers_questions(sqlite: Any, make_event: Any) -> None:
    async with await DatabaseAnalyticsCollector.create(sqlite.connection_string) as collector:
        await collector.record(make_event())
    engine = create_async_engine(f"sqlite+aiosqlite:///file:{sqlite.url.database}?mode=ro&uri=true")
    assert (await AnalyticsAggregator(engine).get_flag_metrics("checkout", 1e9)).total_evaluations == 1
    await engine.dispose()
    store = sqlite.store(connection_string=f"sqlite:///file:{sqlite.url.database}?mode=ro&uri=true")
    assert len(await store.get_events()) == 1


# --- TLS


def context_of(received: dict[str, Any]) -> tuple[bool, ssl.VerifyMode]:
    assert isinstance(received["ssl"], ssl.SSLContext), received["ssl"]
    return received["ssl"].check_hostname, received["ssl"].verify_mode


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


FULL, CA_ONLY, ENCRYPTED = (True, ssl.CERT_REQUIRED), (False, ssl.CERT_REQUIRED), (False, ssl.CERT_NONE)


@pytest.mark.parametrize(
    ("parameters", "checked"),
    [
        ("sslmode=require&channel_binding=require", ENCRYPTED),
        ("sslmode=require", ENCRYPTED),
        ("sslmode=require&sslrootcert={ca}", CA_ONLY),
        ("sslmode=verify-ca&sslcert={cert}&sslkey={key}&sslrootcert={ca}", CA_ONLY),
        ("sslmode=verify-full&sslrootcert={ca}", FULL),
        ("sslmode=verify-full", FULL),
        ("sslrootcert=system", FULL),
        ("sslrootcert={ca}", FULL),
        ("channel_binding=require", ENCRYPTED),
    ],
)
async def test_postgresql_is_encrypted_and_verified_as_its_parameters_say(
    parameters: str, checked: Any, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, key = certificates.client
    given = parameters.format(ca=certificates.ca, cert=cert, key=key)
    received = await arguments_for(f"postgresql://u:p@h.example/db?{given}", monkeypatch)
    assert context_of(received) == checked


@pytest.mark.parametrize("driver", ["asyncmy", "aiomysql"])
@pytest.mark.parametrize(
    ("parameters", "checked"),
    [
        ("ssl_ca={ca}", FULL),
        ("ssl_ca={ca}&ssl_check_hostname=false", CA_ONLY),
        ("ssl-mode=REQUIRED", ENCRYPTED),
        ("ssl-mode=REQUIRED&ssl-ca={ca}", CA_ONLY),
        ("ssl_mode=VERIFY_CA&ssl_ca={ca}", CA_ONLY),
        ("ssl_mode=VERIFY_IDENTITY", FULL),
    ],
)
async def test_mysql_is_encrypted_and_verified_as_its_parameters_say(
    driver: str, parameters: str, checked: Any, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"mysql+{driver}://u:p@h.example/db?{parameters.format(ca=certificates.ca)}"
    assert context_of(await arguments_for(url, monkeypatch)) == checked


@pytest.mark.parametrize("url", ["postgresql://u:p@h/db", "mysql://u:p@h/db"])
async def test_the_options_of_a_file_say_it_as_well(
    url: str, certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, key = certificates.client
    file = tmp_path / "flag-analytics.toml"
    file.write_text(
        f'[collectors.database]\nconnection_string = "{url}"\ntls_mode = "verify-full"\n'
        f'tls_ca_file = "{certificates.ca}"\ntls_cert_file = "{cert}"\ntls_key_file = "{key}"\n'
    )
    (sink,) = read_config(file, environ={}).sinks
    settings = attrs.asdict(sink.options, recurse=False)
    received = await arguments_for(settings.pop("connection_string"), monkeypatch, **settings)
    assert context_of(received) == FULL


def test_an_unknown_mode_in_a_file_is_a_problem_of_the_configuration() -> None:
    config = {"collectors": {"database": {"connection_string": "postgresql://h/db", "tls_mode": "bogus"}}}
    with pytest.raises(ConfigError, match=r"tls_mode: .*verify-full"):
        read_config(config, environ={})


async def test_a_channel_that_the_driver_cannot_bind_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    url = "postgresql://u:p@127.0.0.1:1/db?sslmode=require&channel_binding=require"
    collector = await DatabaseAnalyticsCollector.create(url, create_tables=False)
    await collector.close(0.0)
    (line,) = [line for line in caplog.messages if "channel_binding" in line]
    assert line.startswith("channel_binding=require: asyncpg cannot bind the channel; TLS is required")


async def test_a_file_that_is_not_there_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    missing = tmp_path / "missing.pem"
    url = f"postgresql://u:p@127.0.0.1:1/db?sslmode=verify-full&sslrootcert={missing}"
    with pytest.raises(ConfigError, match=re.escape(str(missing))):
        await DatabaseAnalyticsCollector.create(url)
    with pytest.raises(SinkUnavailable, match="a file for TLS cannot be used"):
        await DatabaseAnalyticsCollector.create(url, require_database=True)


# --- real servers


@pytest.fixture(scope="module")
def encrypted_postgresql(certificates: Certificates) -> Iterator[Cluster]:
    """Run a server that wants a certificate of ``tester`` and a password of ``us@er%x``."""
    access = (
        "hostssl all tester 127.0.0.1/32 cert\nhostnossl all tester 127.0.0.1/32 reject\n"
        'host all "us@er%x" 127.0.0.1/32 scram-sha-256\n'
    )
    settings = (
        "ssl = on", "ssl_cert_file = '{directory}/server.pem'", "ssl_key_file = '{directory}/server.key'",
        "ssl_ca_file = '{directory}/ca.pem'",
    )  # fmt: skip
    with postgresql_cluster(*settings, access=access, files=(*certificates.server, certificates.ca)) as made:
        yield made


async def stores_and_answers(url: str, make_event: Any, **settings: Any) -> None:
    settings.setdefault("table", f"events_{free_name()}")
    async with await DatabaseAnalyticsCollector.create(url, delivery=QUICK, **settings) as collector:
        await collector.record(make_event())
        assert await collector.flush(20.0), collector.health()
        assert len(await collector.get_events()) == 1


def free_name() -> str:
    import uuid

    return uuid.uuid4().hex[:12]


async def refusal(url: str, **settings: Any) -> str:
    with pytest.raises(SinkUnavailable) as caught:
        await DatabaseAnalyticsCollector.create(url, require_database=True, **settings)
    return str(caught.value)


async def sql(cluster: Cluster, *statements: str) -> list[Any]:
    engine = create_async_engine(cluster.connection_string, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    async with engine.connect() as connection:
        for statement in statements:
            result = await connection.exec_driver_sql(statement)
    await engine.dispose()
    return [tuple(row) for row in result] if result.returns_rows else []


@pytest.mark.server
async def test_a_real_postgresql_is_verified(
    encrypted_postgresql: Cluster, certificates: Certificates, make_event: Any
) -> None:
    port, (cert, key) = encrypted_postgresql.port, certificates.client
    await sql(encrypted_postgresql, "DROP ROLE IF EXISTS tester", "CREATE ROLE tester LOGIN SUPERUSER")
    by_name, by_address = (f"postgresql://postgres@{host}:{port}/postgres" for host in ("localhost", "127.0.0.1"))
    await stores_and_answers(f"{by_name}?sslmode=verify-full&sslrootcert={certificates.ca}", make_event)
    await stores_and_answers(f"{by_address}?sslmode=verify-ca&sslrootcert={certificates.ca}", make_event)
    await stores_and_answers(f"{by_address}?sslmode=require&channel_binding=require", make_event)
    distrusted = "certificate: the server's certificate is not trusted, or is for another host name"
    for wrong in (
        f"{by_address}?sslmode=verify-full&sslrootcert={certificates.ca}",
        f"{by_name}?sslmode=verify-full&sslrootcert={certificates.other_ca}",
        f"{by_name}?sslmode=require&sslrootcert={certificates.other_ca}",
        f"{by_name}?sslmode=verify-full",
    ):
        assert distrusted in await refusal(wrong)
    with_certificate = (
        f"postgresql://tester@127.0.0.1:{port}/postgres"
        f"?sslmode=verify-ca&sslcert={cert}&sslkey={key}&sslrootcert={certificates.ca}"
    )
    await stores_and_answers(with_certificate, make_event)
    assert "28000" in await refusal(f"postgresql://tester@127.0.0.1:{port}/postgres?sslmode=require")


@pytest.mark.server
async def test_a_postgresql_without_tls_is_refused_where_tls_is_required(
    encrypted_postgresql: Cluster, make_event: Any
) -> None:
    url = f"postgresql://postgres@127.0.0.1:{encrypted_postgresql.port}/postgres"
    await sql(encrypted_postgresql, "ALTER SYSTEM SET ssl = off", "SELECT pg_reload_conf()")
    try:
        async with asyncio.timeout(10.0):
            while await sql(encrypted_postgresql, "SHOW ssl") != [("off",)]:  # noqa: ASYNC110 - the server reloads
                await asyncio.sleep(0.01)
        for mode in ("require", "verify-full"):
            assert "the server offers no TLS" in await refusal(f"{url}?sslmode={mode}")
            assert "the server offers no TLS" in await refusal(url, tls_mode=mode)
        await stores_and_answers(f"{url}?sslmode=prefer", make_event)
    finally:
        await sql(encrypted_postgresql, "ALTER SYSTEM RESET ssl", "SELECT pg_reload_conf()")


@pytest.mark.server
async def test_hostile_characters_in_user_password_and_database_work_and_are_never_shown(
    encrypted_postgresql: Cluster,
    tmp_path: Path,
    make_event: Any,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    await sql(
        encrypted_postgresql,
        'DROP DATABASE IF EXISTS "d%b"', 'DROP ROLE IF EXISTS "us@er%x"',
        "CREATE ROLE \"us@er%x\" LOGIN PASSWORD 'p@%:/#${X}'",
        'CREATE DATABASE "d%b" OWNER "us@er%x"',
    )  # fmt: skip
    caplog.set_level(logging.DEBUG)
    url = f"postgresql://us%40er%25x:p%40%25%3A%2F%23%24%7BX%7D@127.0.0.1:{encrypted_postgresql.port}/d%25b"
    file = tmp_path / "flag-analytics.toml"
    texts = []
    for written, environment in (
        (url, {}),
        ("${ANALYTICS_URL}", {"ANALYTICS_URL": url}),
        ("sqlite://", {"FLAG_ANALYTICS__COLLECTORS__DATABASE__CONNECTION_STRING": url}),
    ):
        file.write_text(f'[collectors.database]\nconnection_string = "{written}"\nflush_interval_seconds = 0.01\n')
        async with open_pipeline(file, environ=environment) as pipeline:
            pipeline.record_nowait(make_event())
            assert await pipeline.flush(20.0)
            texts += [repr(pipeline), repr(pipeline.collectors), str(pipeline.health())]
    await stores_and_answers(url, make_event)
    from flag_analytics_database.plugin import flag_analytics_cli

    cyclopts = pytest.importorskip("cyclopts")
    app = cyclopts.App(result_action="return_value")
    flag_analytics_cli(app, read_config)
    assert await asyncio.to_thread(app, ["db", "upgrade", "--url", url], exit_on_error=False) == 0
    shown = capfd.readouterr()
    texts += [caplog.text, shown.out, shown.err]
    assert not [text for text in texts if "p@%" in text or "p%40" in text or "us@er" in text or "us%40er" in text]


@pytest.mark.server
async def test_a_socket_of_the_machine_is_a_host(encrypted_postgresql: Cluster, make_event: Any) -> None:
    place = f"host={encrypted_postgresql.directory}&port={encrypted_postgresql.port}"
    await stores_and_answers(f"postgresql://postgres@/postgres?{place}", make_event)


@pytest.mark.server
async def test_options_for_the_session_are_applied(postgresql: Any, make_event: Any) -> None:
    await postgresql.run("CREATE SCHEMA app")
    url = f"{postgresql.connection_string}?options=-csearch_path%3Dapp"
    await stores_and_answers(url, make_event, table="analytics_events")
    assert await postgresql.count("app.analytics_events") == 1


@pytest.mark.server
async def test_keepalives_are_set_on_the_socket(postgresql: Any) -> None:
    url = f"{postgresql.connection_string}?keepalives=1&keepalives_idle=30&tcp_user_timeout=1000"
    engine = from_options(DatabaseOptions(connection_string=url)).for_writing()
    async with engine.connect() as connection:
        raw: Any = (await connection.get_raw_connection()).driver_connection
        found = raw._transport.get_extra_info("socket")
        assert found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_USER_TIMEOUT", 1000)):
            if hasattr(socket, name):
                assert found.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value
    await engine.dispose()


@pytest.mark.server
async def test_the_writable_host_is_found_also_after_a_failover(
    postgresql: Any, encrypted_postgresql: Cluster, make_event: Any
) -> None:
    name, main = postgresql.url.database, postgresql.url
    await sql(encrypted_postgresql, f"DROP DATABASE IF EXISTS {name}", f"CREATE DATABASE {name}")
    other = attrs.evolve(
        postgresql, url=main.set(host="127.0.0.1", port=encrypted_postgresql.port, username="postgres", password=None)
    )

    async def demote(old: Any, new: Any) -> None:
        await new.run(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await old.run(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await old.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid()"
        )

    for database in (postgresql, other):
        await database.store().open()
    await demote(postgresql, other)
    hosts = f"{main.host}:{main.port or 5432},127.0.0.1:{encrypted_postgresql.port}"
    login = f"{main.username}{f':{main.password}' if main.password else ''}"
    url = f"postgresql://{login}@{hosts}/{name}?target_session_attrs=read-write"
    collector = await DatabaseAnalyticsCollector.create(url, delivery=QUICK, flush_interval_seconds=0.01)
    await collector.record(make_event(1))
    assert await collector.flush(20.0)
    assert await other.count() == 1
    async with asyncio.timeout(20.0):
        await demote_back(demote, other, postgresql)
    await collector.record(make_event(2))
    assert await collector.flush(20.0), collector.health()
    await collector.close()
    assert await postgresql.count() == 1


async def demote_back(demote: Any, old: Any, new: Any) -> None:
    """Turn the roles round; a database that is read-only by default can still be told otherwise."""
    engine = create_async_engine(new.url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.exec_driver_sql("SET default_transaction_read_only = off")
        await connection.exec_driver_sql(f"ALTER DATABASE {new.url.database} RESET default_transaction_read_only")
    await engine.dispose()
    await demote(old, new)


@pytest.fixture(scope="module")
def encrypted_mariadb(certificates: Certificates) -> Iterator[int]:
    options = (
        "--ssl-ca={directory}/ca.pem", "--ssl-cert={directory}/server.pem", "--ssl-key={directory}/server.key",
        "--init-file={directory}/init.sql",
    )  # fmt: skip
    init = certificates.directory / "init.sql"
    init.write_text("CREATE DATABASE IF NOT EXISTS shop;\n")
    with mariadb_server(*options, files=(*certificates.server, certificates.ca, init)) as port:
        yield port


# A handshake that fails leaves aiomysql's socket to the garbage collector.
LEAKS = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.server
@pytest.mark.parametrize("driver", ["asyncmy", pytest.param("aiomysql", marks=LEAKS)])
async def test_a_real_mariadb_is_verified(
    encrypted_mariadb: int, certificates: Certificates, make_event: Any, driver: str
) -> None:
    by_name, by_address = (
        f"mysql+{driver}://root@{host}:{encrypted_mariadb}/shop" for host in ("localhost", "127.0.0.1")
    )
    await stores_and_answers(f"{by_name}?ssl_ca={certificates.ca}", make_event)
    await stores_and_answers(f"{by_name}?ssl_mode=VERIFY_IDENTITY&ssl_ca={certificates.ca}", make_event)
    await stores_and_answers(f"{by_address}?ssl-mode=REQUIRED", make_event)
    await stores_and_answers(f"{by_address}?ssl-mode=PREFERRED", make_event)
    await stores_and_answers(by_address, make_event, tls_mode="verify-ca", tls_ca_file=certificates.ca)
    distrusted = "certificate: the server's certificate is not trusted, or is for another host name"
    for wrong in (
        f"{by_address}?ssl_ca={certificates.ca}",
        f"{by_name}?ssl_ca={certificates.other_ca}",
        f"{by_name}?ssl_mode=VERIFY_IDENTITY",
    ):
        assert distrusted in await refusal(wrong)


@pytest.mark.server
@pytest.mark.parametrize("driver", ["asyncmy", "aiomysql"])
async def test_a_mariadb_without_tls_is_refused_where_tls_is_required(mysql: Any, make_event: Any, driver: str) -> None:
    with mariadb_server("--skip-ssl") as port:
        url = f"mysql+{driver}://root@127.0.0.1:{port}/mysql"
        for mode in ("REQUIRED", "VERIFY_IDENTITY"):
            assert "the server offers no TLS" in await refusal(f"{url}?ssl-mode={mode}")
        await stores_and_answers(f"{url}?ssl-mode=PREFERRED", make_event)
