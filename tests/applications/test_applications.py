"""Every application of the recipes starts, answers, and stores each evaluation when it is told to end."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

EXAMPLES = Path(__file__).parents[2] / "examples" / "applications"
USERS = [f"user-{number:02}" for number in range(50)]
UVICORN = ("uvicorn", "--host", "127.0.0.1", "--port", "{port}")
GUNICORN = ("gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "2")
SERVERS = {
    "FastAPI on uvicorn": (*UVICORN, "fastapi_app:app"),
    "FastAPI on uvicorn with two workers": (*UVICORN, "--workers", "2", "fastapi_app:app"),
    "Starlette on uvicorn": (*UVICORN, "starlette_app:app"),
    "Litestar on uvicorn": (*UVICORN, "litestar_app:app"),
    "Flask on gunicorn": (*GUNICORN, "flask_app:app"),
    "Flask on gunicorn, loaded before the fork": (*GUNICORN, "--preload", "flask_app:app"),
    "Flask on gunicorn with threads": (*GUNICORN, "--worker-class", "gthread", "--threads", "4", "flask_app:app"),
    "Django on gunicorn": (*GUNICORN, "django_app:app"),
}

pytestmark = [
    pytest.mark.application,
    pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM ends a process at once on Windows"),
]


@pytest.mark.parametrize("name", SERVERS)
def test_every_evaluation_is_stored_when_the_server_ends(name, site):
    process = site.serve(*SERVERS[name])
    answers = [json.loads(site.ask(f"/checkout?user={user}")) for user in USERS]
    site.end(process)
    assert answers == [{"redesign": True}] * len(USERS), site.output
    assert site.stored() == USERS, site.output


class Relay(BaseHTTPRequestHandler):
    """Answers as an OFREP server does: the flag is on for everyone."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        key = self.path.rpartition("/")[2]
        body = json.dumps({"key": key, "value": True, "variant": "on", "reason": "STATIC", "metadata": {}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def relay():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Relay)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("script", ["provider_flagd", "provider_goff", "client_unleash", "client_litestar_flags"])
def test_every_evaluation_of_a_flag_service_is_stored(script, site, relay):
    shutil.copy(EXAMPLES / "flags.json", site.directory)
    assert site.start(script, RELAY_PROXY=relay).wait(timeout=120.0) == 0, site.output
    assert site.stored() == ["user-1", "user-2", "user-3"], site.output


@pytest.mark.parametrize("pool", [["--concurrency", "2"], ["--concurrency", "2", "--max-tasks-per-child", "5"]])
def test_every_evaluation_is_stored_when_the_celery_worker_ends(pool, site):
    queue = site.directory / "queue"
    queue.mkdir()
    transport = {"data_folder_in": str(queue), "data_folder_out": str(queue), "control_folder": str(queue / "control")}
    transport["polling_interval"] = 0.05
    (site.directory / "celeryconfig.py").write_text(
        f"broker_url = 'filesystem://'\nbroker_transport_options = {transport!r}\nworker_hijack_root_logger = False\n"
    )
    send = "from celery_app import app, checkout; app.config_from_object('celeryconfig'); "
    send += f"[checkout.delay(user) for user in {USERS!r}]"
    (site.directory / "send.py").write_text(send)
    (site.directory / "worker.py").write_text(
        "from celery_app import app\napp.config_from_object('celeryconfig')\n"
        f"app.worker_main(['worker', '--loglevel', 'INFO', *{pool!r}])\n"
    )
    assert site.start("send").wait(timeout=60.0) == 0, site.output
    worker = site.start("worker")
    site.wait_until(lambda: site.output.count("succeeded in") == len(USERS))
    site.end(worker)
    assert site.stored() == USERS, site.output


def test_a_pod_is_given_longer_than_the_server_and_the_pipeline_need():
    (pod,) = yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text("utf-8"))
    spec = pod["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    settings = {each["name"]: each["value"] for each in container["env"]}
    server = float(container["command"][container["command"].index("--timeout-graceful-shutdown") + 1])
    pipeline = float(settings["FLAG_ANALYTICS__DELIVERY__CLOSE_TIMEOUT_SECONDS"])
    assert spec["terminationGracePeriodSeconds"] > server + pipeline


def test_the_settings_of_the_pod_are_a_configuration(monkeypatch):
    from flag_analytics import read_config

    (pod,) = yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text("utf-8"))
    (container,) = pod["spec"]["template"]["spec"]["containers"]
    for each in container["env"]:
        monkeypatch.setenv(each["name"], each["value"])
    plan = read_config(tomllib.loads((EXAMPLES / "flag-analytics.toml").read_text("utf-8")))
    assert plan.delivery["durability"] == "spool"
    assert plan.delivery["close_timeout_seconds"] == 10.0
