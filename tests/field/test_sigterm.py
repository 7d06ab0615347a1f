"""Answered requests are stored when a server is told to stop, and its exit status stays as it was."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

pytestmark = [pytest.mark.field, pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM ends a process there")]

PYTHON = sys.executable
UVICORN = (PYTHON, "-m", "uvicorn", "application:asgi", "--port", "{port}", "--log-level", "warning")
GUNICORN = (PYTHON, "-m", "gunicorn", "--bind", "127.0.0.1:{port}")
UWSGI = (
    *(str(Path(PYTHON).with_name("uwsgi")), "--http-socket", "127.0.0.1:{port}", "--module", "application:wsgi"),
    *("--master", "--processes", "2", "--die-on-term"),
)
WAITRESS = """
import waitress, application
from flag_analytics import install_signal_handlers

install_signal_handlers()
waitress.serve(application.wsgi, host="127.0.0.1", port={port})
"""
SERVERS = {
    "uvicorn": (UVICORN, -15),
    "uvicorn, 2 workers": ((*UVICORN, "--workers", "2"), 0),
    "uvicorn.run": (
        (PYTHON, "-c", "import uvicorn, application; uvicorn.run(application.asgi, port={port}, log_level='warning')"),
        -15,
    ),
    "gunicorn": ((*GUNICORN, "application:wsgi"), 0),
    "gunicorn, threads": ((*GUNICORN, "--threads", "4", "application:wsgi"), 0),
    "gunicorn, preload": ((*GUNICORN, "--preload", "--workers", "2", "application:wsgi"), 0),
    "gunicorn, UvicornWorker": ((*GUNICORN, "-k", "uvicorn.workers.UvicornWorker", "application:asgi"), 0),
    "granian, asgi": (
        (PYTHON, "-m", "granian", "--interface", "asgi", "--port", "{port}", "application:asgi"), 0),
    "granian, wsgi": (
        (PYTHON, "-m", "granian", "--interface", "wsgi", "--port", "{port}", "application:wsgi"), 0),
    "hypercorn": ((PYTHON, "-m", "hypercorn", "--bind", "127.0.0.1:{port}", "application:asgi"), 0),
    "uwsgi, --die-on-term": ((*UWSGI, "--enable-threads"), 0),
    "uwsgi, without threads": (UWSGI, 0),
    "uwsgi, threads": ((*UWSGI, "--threads", "4"), 0),
    # One process: uWSGI waits a minute for a second one that is still importing the application.
    "uwsgi, --lazy-apps": ((*UWSGI, "--enable-threads", "--lazy-apps", "--processes", "1"), 0),
    "waitress, one line more": (
        (PYTHON, "-c", WAITRESS), -15),
}  # fmt: skip


@pytest.mark.parametrize(("command", "status"), SERVERS.values(), ids=SERVERS.keys())
def test_every_answered_request_is_stored(field, command, status):
    server = field.serve(*command)
    for _ in range(50):
        field.get("/record")
    assert field.stop(server) == status, field.output
    assert field.stored() == 50, field.output


@pytest.mark.parametrize("name", ["uvicorn", "hypercorn"])
def test_events_out_of_a_thread_pool_are_stored(field, name):
    command, status = SERVERS[name]
    server = field.serve(*command)
    for _ in range(50):
        field.get("/thread")
    assert field.stop(server) == status, field.output
    assert field.stored() == 50, field.output


def test_a_slow_request_in_flight_is_answered_and_stored(field):
    command, status = SERVERS["uvicorn"]
    server = field.serve(*command)
    for _ in range(10):
        field.get("/record")
    slow = threading.Thread(target=field.get, args=["/slow"])
    slow.start()
    threading.Event().wait(0.4)  # the request is under way
    assert field.stop(server) == status, field.output
    slow.join(30.0)
    assert field.stored() == 11, field.output


@pytest.mark.parametrize("threads", [(), ("--enable-threads",)], ids=["", "--enable-threads"])
def test_an_event_recorded_in_the_master_of_uwsgi_hangs_no_worker_and_is_told_of(field, threads):
    """uWSGI runs none of Python's handlers around its forks, and none at the end of its master."""
    with (field.directory / "application.py").open("a", encoding="utf-8") as application:
        application.write("record()\n")
    server = field.serve(*UWSGI, *threads)
    for _ in range(50):
        field.get("/record")
    assert field.stop(server) == 0, field.output
    assert field.stored() == 50, field.output
    assert "recorded in uWSGI's master process" in field.output


def test_a_signal_is_not_touched_where_configuration_says_so(field):
    code = (field.directory / "application.py").read_text("utf-8")
    (field.directory / "application.py").write_text(
        code.replace('"exit_timeout_seconds"', '"sigterm": "off", "exit_timeout_seconds"'), "utf-8"
    )
    command, status = SERVERS["uvicorn"]
    server = field.serve(*command)
    for _ in range(50):
        field.get("/record")
    assert field.stop(server) == status, field.output
    assert field.stored() == 0, "the control: without it nothing is stored"
