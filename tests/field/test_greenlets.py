"""What is recorded under gevent and eventlet is stored, and greenlets go on as they do without analytics."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

pytestmark = [pytest.mark.field, pytest.mark.skipif(sys.platform == "win32", reason="gunicorn runs on POSIX only")]

WITH_EVENTLET = pytest.mark.skipif(sys.version_info >= (3, 13), reason="the field group has no eventlet for it")

GREENLETS = pytest.mark.parametrize(
    ("module", "patch"), [("gevent.monkey", "patch_all"), pytest.param("eventlet", "monkey_patch", marks=WITH_EVENTLET)]
)

APPLICATION = """
import asyncio, os, threading
from flag_analytics import FlagEvaluationEvent, open_pipeline

URLS = os.environ["FIELD_URLS"].split()
pipeline = open_pipeline({
    "collectors": {f"database/{at}": {"connection_string": url} for at, url in enumerate(URLS)},
    "delivery": {"exit_timeout_seconds": 30.0},
})

def record(user="u"):
    return pipeline.record_nowait(FlagEvaluationEvent.now("dark_mode", True, "STATIC", targeting_key=user))

async def answer():
    await asyncio.sleep(0)
    return b"ok"

def orm():
    import django
    from django.conf import settings
    if not settings.configured:
        settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}})
        django.setup()
    from django.db import connection
    with connection.cursor() as cursor:
        cursor.execute("SELECT 'ok'")
        return cursor.fetchone()[0].encode()

def wsgi(environ, start_response):
    from asgiref.sync import async_to_sync
    path = environ["PATH_INFO"]
    if path != "/":
        record()
    found = {"/run": lambda: asyncio.run(answer()), "/orm": orm, "/sync": lambda: async_to_sync(answer)()}
    body = found.get(path, lambda: b"ok")()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]
"""
SERVERS = {
    "postgresql": ("FLAG_ANALYTICS_TEST_POSTGRES", "postgresql+asyncpg://postgres@127.0.0.1:5432/postgres"),
    "asyncmy": ("FLAG_ANALYTICS_TEST_MYSQL", "mysql+asyncmy://root@127.0.0.1:3306/test"),
    "aiomysql": ("FLAG_ANALYTICS_TEST_MYSQL", "mysql+aiomysql://root@127.0.0.1:3306/test"),
}
GUNICORN = (sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "4", "-k", "gevent")
ONE_AT_A_TIME = ("/run", "/orm", "/sync")
"""Paths that ``asyncio`` refuses to serve beside each other: all greenlets of a process share its running loop."""


async def _run(url, statement):
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    try:
        async with asyncio.timeout(30), engine.connect() as connection:
            result = await connection.execute(text(statement))
            return result.scalar() if result.returns_rows else None
    finally:
        await engine.dispose()


@pytest.fixture
def database_url(request, tmp_path):
    """The URL of an empty database, on the server that the test is told of, or in a file."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path.as_posix()}/first.db"
        return
    variable, default = SERVERS[request.param]
    server = make_url(os.environ.get(variable) or default).set(drivername=make_url(default).drivername)
    name = f"fa_test_{uuid.uuid4().hex[:16]}"
    try:
        asyncio.run(_run(server, f"CREATE DATABASE {name}"))
    except OSError as error:
        if os.environ.get("FLAG_ANALYTICS_REQUIRE_SERVERS") == "1":
            raise
        pytest.skip(f"no server at {server.host}:{server.port}: {type(error).__name__}")
    yield server.set(database=name).render_as_string(hide_password=False)
    asyncio.run(_run(server, f"DROP DATABASE {name}{' WITH (FORCE)' if request.param == 'postgresql' else ''}"))


@pytest.fixture
def greenlets(field):
    (field.directory / "application.py").write_text(APPLICATION, "utf-8")
    return field


def stored(greenlets, url):
    """Return how many events are in the database, and in the file of the second sink."""
    return [asyncio.run(_run(url, "SELECT count(*) FROM analytics_events")), greenlets.stored("second.db")]


def both(greenlets, url):
    return f"{url} sqlite+aiosqlite:///{greenlets.directory.as_posix()}/second.db"


@pytest.mark.parametrize(
    ("database_url", "preload"),
    [
        ("sqlite", ()),
        ("sqlite", ("--preload",)),
        ("postgresql", ()),
        ("postgresql", ("--preload",)),
        ("asyncmy", ("--preload",)),
        ("aiomysql", ()),
    ],
    indirect=["database_url"],
)
def test_every_answered_request_of_gevent_workers_is_stored_in_two_databases(greenlets, database_url, preload):
    urls = both(greenlets, database_url)
    server = greenlets.serve(*GUNICORN, *preload, "application:wsgi", FIELD_URLS=urls)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(greenlets.get, ["/record"] * 340))
    for path in ONE_AT_A_TIME * 20:
        greenlets.get(path)
    assert greenlets.stop(server) == 0, greenlets.output
    assert stored(greenlets, database_url) == [400, 400], greenlets.output


ENGINE = """
from gevent import monkey
monkey.patch_all()
import asyncio
from flag_analytics_database import DatabaseAnalyticsCollector
from sqlalchemy.ext.asyncio import create_async_engine

engine = create_async_engine("sqlite+aiosqlite:///events.db")
try:
    asyncio.run(DatabaseAnalyticsCollector.from_engine(engine))
except ValueError as error:
    print(error)
"""


def test_a_copy_of_an_engine_on_aiosqlite_is_refused_before_the_first_event(greenlets):
    done = greenlets.python(ENGINE)
    assert "monkey-patched" in done.stdout, done.stderr
    assert "pass the URL" in done.stdout


WITHOUT_SERVER = """
import {module}
{module}.{patch}()
import asyncio, threading, time
from flag_analytics import FlagEvaluationEvent, open_pipeline

URL = "sqlite+aiosqlite:///events.db"
OPTIONS = {{"durability": "spool", "spool_directory": "spool", "policy": "block", "max_events": 50,
           "batch_size": 20, "spool_interval_seconds": 0.01}}

def record(number):
    for _ in range(100):
        event = FlagEvaluationEvent.now("dark_mode", True, "STATIC", targeting_key=f"user-{{number}}")
        assert pipeline.record_nowait(event)
        time.sleep(0)

pipeline = open_pipeline({{"collectors": {{"database": {{"connection_string": URL}}}}, "delivery": OPTIONS}})
threads = [threading.Thread(target=record, args=[number]) for number in range(20)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert pipeline.flush_sync(30.0).complete

async def ask():
    return await pipeline.aggregator.get_flag_metrics("dark_mode")

metrics = asyncio.run(ask())
assert (metrics.total_evaluations, metrics.unique_users) == (2000, 20), metrics
assert asyncio.run(pipeline.close()).complete
"""


@GREENLETS
def test_spool_block_questions_and_close_work_from_greenlets(greenlets, module, patch):
    done = greenlets.python(WITHOUT_SERVER.format(module=module, patch=patch))
    assert done.returncode == 0, done.stderr
    assert greenlets.stored() == 2000, done.stderr


def test_an_event_recorded_before_the_fork_of_preloaded_gevent_workers_hangs_none(greenlets, tmp_path):
    with (greenlets.directory / "application.py").open("a", encoding="utf-8") as application:
        application.write("assert record()\nassert pipeline.flush_sync().complete\nrecord()\n")
    url = f"sqlite+aiosqlite:///{tmp_path.as_posix()}/first.db"
    server = greenlets.serve(*GUNICORN, "--preload", "application:wsgi", FIELD_URLS=both(greenlets, url))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(greenlets.get, ["/record"] * 198))
    assert greenlets.stop(server) == 0, greenlets.output
    assert stored(greenlets, url) == [200, 200], greenlets.output


SCRAPED = """
import {module}
{module}.{patch}()
import re, threading, urllib.request
from flag_analytics import FlagEvaluationEvent, open_pipeline

pipeline = open_pipeline({{
    "collectors": {{"database": {{"connection_string": "sqlite+aiosqlite:///events.db"}}}},
    "exporters": {{"prometheus": {{"port": 0, "gauges": "aggregator"}}}},
}})
for number in range(50):
    pipeline.record_nowait(FlagEvaluationEvent.now("dark_mode", True, "STATIC", targeting_key=f"user-{{number}}"))
assert pipeline.flush_sync().complete
answers = []

def scrape():
    with urllib.request.urlopen(pipeline.exporters["prometheus"].server.url, timeout=30.0) as answer:
        answers.append(answer.read().decode())

threads = [threading.Thread(target=scrape) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(answers) == 8
for answer in answers:
    assert re.search('feature_flag_evaluations_total.* 50.0', answer), answer
    assert re.search('feature_flag_unique_users.* 50.0', answer), answer
assert pipeline.close_sync().complete
"""


@GREENLETS
def test_greenlets_scrape_prometheus_metrics_and_gauges_of_a_database(greenlets, module, patch):
    done = greenlets.python(SCRAPED.format(module=module, patch=patch))
    assert done.returncode == 0, done.stderr


ENCRYPTED = """
from gevent import monkey
monkey.patch_all()
import asyncio
from flag_analytics import FlagEvaluationEvent, open_pipeline

pipeline = open_pipeline({{"collectors": {{"database": {{"connection_string": "{url}"}}}}}})
for number in range(50):
    pipeline.record_nowait(FlagEvaluationEvent.now("dark_mode", True, "STATIC", targeting_key=f"user-{{number}}"))
assert pipeline.flush_sync().complete

async def ask():
    return await pipeline.aggregator.get_unique_users("dark_mode")

assert asyncio.run(ask()) == 50
assert pipeline.close_sync().complete
"""


@pytest.fixture(scope="module")
def local_servers():
    """The module that starts servers for the database's own tests."""
    path = Path(__file__).parents[2] / "plugins" / "database" / "tests" / "local_servers.py"
    spec = importlib.util.spec_from_file_location("local_servers", path)
    module = sys.modules["local_servers"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["local_servers"]


@pytest.mark.parametrize("driver", ["asyncpg", "asyncmy", "aiomysql"])
def test_encrypted_connections_work_beside_greenlets(greenlets, local_servers, driver, tmp_path_factory):
    made = local_servers.make_certificates(tmp_path_factory.mktemp("certificates"))
    files = (*made.server, made.ca)
    if driver == "asyncpg":
        settings = ("ssl = on", "ssl_cert_file = '{directory}/server.pem'", "ssl_key_file = '{directory}/server.key'")
        with local_servers.postgresql_cluster(*settings, files=files) as cluster:
            done = greenlets.python(
                ENCRYPTED.format(url=f"{cluster.connection_string}?sslmode=verify-ca&sslrootcert={made.ca}")
            )
    else:
        options = [f"--ssl-{part}={{directory}}/{name}" for part, name in
                   (("ca", "ca.pem"), ("cert", "server.pem"), ("key", "server.key"))]  # fmt: skip
        with local_servers.mariadb_server(*options, files=files) as port:
            url = f"mysql+{driver}://root@127.0.0.1:{port}/mysql?ssl-mode=VERIFY_CA&ssl-ca={made.ca}"
            done = greenlets.python(ENCRYPTED.format(url=url))
    assert done.returncode == 0, done.stderr


CELERY = """
from celery import Celery
app = Celery("celery_app", broker="filesystem://")
app.conf.broker_transport_options = dict.fromkeys(["data_folder_in", "data_folder_out", "processed_folder"], "{folder}")
app.conf.broker_transport_options["control_folder"] = "{folder}"
app.conf.worker_hijack_root_logger = False

@app.task
def work(number):
    import application
    application.record(f"user-{{number}}")
"""


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql", "asyncmy"], indirect=True)
@pytest.mark.parametrize("pool", ["gevent", pytest.param("eventlet", marks=WITH_EVENTLET)])
def test_every_task_of_a_celery_worker_with_greenlets_is_stored_in_two_databases(greenlets, database_url, pool):
    folder = greenlets.directory / "broker"
    folder.mkdir()
    (greenlets.directory / "celery_app.py").write_text(CELERY.format(folder=folder), "utf-8")
    worker = greenlets.start(
        *(sys.executable, "-m", "celery", "-A", "celery_app", "worker", "-P", pool, "--concurrency", "20"),
        *("--loglevel", "INFO"),
        FIELD_URLS=both(greenlets, database_url),
    )
    sent = greenlets.python("from celery_app import work\nfor number in range(200): work.delay(number)")
    assert sent.returncode == 0, sent.stderr
    deadline = time.monotonic() + 60.0
    while greenlets.output.count("succeeded") < 200 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert greenlets.output.count("succeeded") == 200, greenlets.output
    greenlets.stop(worker)
    assert stored(greenlets, database_url) == [200, 200], greenlets.output
