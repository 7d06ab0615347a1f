"""What is recorded in the children of multiprocessing and of Celery is stored when they end."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.field, pytest.mark.skipif(sys.platform == "win32", reason="written for POSIX start methods")]

VERSIONS = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"

MULTIPROCESSING = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
{imported_in_parent}

def work(number):
    import application
    for _ in range(20):
        application.record(f"user-{{number}}")
    return number

if __name__ == "__main__":
    context = multiprocessing.get_context("{method}")
    if "{pool}" == "Process":
        children = [context.Process(target=work, args=[number]) for number in range(4)]
        for child in children:
            child.start()
        for child in children:
            child.join()
    elif "{pool}" == "Pool":
        with context.Pool(2) as pool:
            pool.map(work, range(4))
            pool.close()
            pool.join()
    else:
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            list(pool.map(work, range(4)))
"""


@pytest.mark.parametrize("imported_in", ["parent", "child"])
@pytest.mark.parametrize("pool", ["Process", "Pool", "ProcessPoolExecutor"])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_every_event_of_a_child_of_multiprocessing_is_stored(field, method, pool, imported_in):
    code = MULTIPROCESSING.format(
        method=method, pool=pool, imported_in_parent="import application" if imported_in == "parent" else ""
    )
    done = field.python(code)
    assert done.returncode == 0, done.stderr
    assert field.stored() == 80, done.stderr


CELERY = """
from celery import Celery
{imported}
app = Celery("celery_app", broker="filesystem://")
app.conf.broker_transport_options = dict.fromkeys(["data_folder_in", "data_folder_out", "processed_folder"], "{folder}")
app.conf.broker_transport_options["control_folder"] = "{folder}"
app.conf.worker_hijack_root_logger = False

@app.task
def work(number):
    import application
    application.record(f"user-{{number}}")
"""


@pytest.mark.parametrize("imported_in", ["module", "task"])
@pytest.mark.parametrize("end", ["TERM", "QUIT", "max-tasks-per-child"])
def test_every_event_of_a_celery_worker_is_stored(field, end, imported_in):
    folder = field.directory / "broker"
    folder.mkdir()
    imported = "import application" if imported_in == "module" else ""
    (field.directory / "celery_app.py").write_text(CELERY.format(imported=imported, folder=folder), "utf-8")
    send = "from celery_app import work\nfor number in range(40): work.delay(number)"
    recycling = ["--max-tasks-per-child", "5"] if end == "max-tasks-per-child" else []
    worker = field.start(
        sys.executable, "-m", "celery", "-A", "celery_app", "worker", "--concurrency", "2", "-l", "INFO", *recycling
    )
    sent = field.python(send)
    assert sent.returncode == 0, sent.stderr
    deadline = time.monotonic() + 60.0
    while field.output.count("succeeded") < 40 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert field.output.count("succeeded") == 40, field.output
    field.stop(worker, signal.SIGQUIT if end == "QUIT" else signal.SIGTERM)
    deadline = time.monotonic() + 10.0
    while field.stored() < 40 and time.monotonic() < deadline:
        time.sleep(0.1)  # after SIGQUIT the worker does not wait for its pool
    assert field.stored() == 40, field.output


SHORT = """
import application
for _ in range(100):
    application.record()
"""


def interpreters():
    found = sorted(VERSIONS.glob("3.1[1-9].*/bin/python")) if VERSIONS.is_dir() else []
    return [Path(sys.executable), *(python for python in found if python.parts[-3][:4] != f"3.{sys.version_info[1]}")]


@pytest.mark.parametrize("python", interpreters(), ids=str)
def test_a_short_script_without_close_stores_all_before_its_first_connection(field, python, tmp_path_factory):
    """Python 3.12 starts no thread at the end of a process."""
    if python != Path(sys.executable):
        place = tmp_path_factory.mktemp("python")
        root = Path(__file__).parents[2]
        uv = shutil.which("uv")
        assert uv, "uv is needed for environments of other interpreters"
        subprocess.run([uv, "venv", "--quiet", "--python", str(python), str(place)], check=True)
        parts = ("core", "plugins/delivery", "plugins/database")
        packages = list(itertools.chain.from_iterable(("--editable", str(root / part)) for part in parts))
        subprocess.run([uv, "pip", "install", "--quiet", "--python", str(place / "bin/python"), *packages], check=True)
        python = place / "bin" / "python"
    done = field.python(SHORT, python=str(python))
    assert done.returncode == 0, done.stderr
    assert field.stored() == 100, done.stderr
