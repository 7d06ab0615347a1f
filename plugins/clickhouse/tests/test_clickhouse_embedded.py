"""The embedded engine: for one process, with clear errors in every other one."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time

import pytest
from flag_analytics.errors import FatalConfiguration, SinkUnavailable
from flag_analytics_clickhouse import ClickHouseAnalyticsCollector, ClickHouseOptions, ClickHouseStore

pytestmark = pytest.mark.clickhouse


@pytest.fixture
async def embedded(tmp_path):
    store = ClickHouseStore(ClickHouseOptions(url=f"chdb://{tmp_path}/flags"))
    yield store
    await store.close()


@pytest.fixture
def make_batch(request):
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("clickhouse_conftest", request.path.with_name("conftest.py"))
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    engine = module.Engine("chdb://memory", "default")
    return lambda count, start=0: engine.batch(engine.events(count, start=start))


def said_by(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def wait_for(child):
    os.waitpid(child, 0)


async def test_events_outlive_the_process_and_are_found_by_the_next(embedded, make_batch, tmp_path):
    batch = make_batch(30)
    await embedded.write(batch)
    await embedded.write(batch)
    assert await embedded.ask(f"SELECT count() FROM {embedded.tables.events}") == [(30,)]
    await embedded.close()
    code = (
        "import asyncio\n"
        "from flag_analytics_clickhouse import ClickHouseOptions, ClickHouseStore\n"
        "async def main():\n"
        f"    store = ClickHouseStore(ClickHouseOptions(url='chdb://{tmp_path}/flags'))\n"
        "    print(await store.ask(f'SELECT count(), sum(events) FROM {store.tables.counts}'))\n"
        "    await store.close()\n"
        "asyncio.run(main())\n"
    )
    assert said_by(code).strip() == "[(2, 30)]"


async def test_a_second_process_is_told_that_it_cannot_open_the_folder(embedded, make_batch, tmp_path):
    await embedded.write(make_batch(1))
    code = (
        "import asyncio\n"
        "from flag_analytics.errors import SinkUnavailable\n"
        "from flag_analytics_clickhouse import ClickHouseOptions, ClickHouseStore\n"
        f"store = ClickHouseStore(ClickHouseOptions(url='chdb://{tmp_path}/flags'))\n"
        "try:\n"
        "    asyncio.run(store.open())\n"
        "except SinkUnavailable as error:\n"
        "    print(error.code, error)\n"
    )
    assert said_by(code).startswith("chdb_locked chDB cannot open the folder of chdb://: another process has it open")


async def test_a_second_folder_in_one_process_is_an_error(embedded, make_batch, tmp_path):
    await embedded.write(make_batch(1))
    second = ClickHouseStore(ClickHouseOptions(url=f"chdb://{tmp_path}/others"))
    with pytest.raises(SinkUnavailable, match="another folder") as raised:
        await second.write(make_batch(1))
    assert raised.value.code == "chdb_folder"


async def test_a_forked_child_gets_an_error_within_a_second(embedded, make_batch):
    batch = make_batch(1)
    await embedded.write(batch)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        told = []
        thread = threading.Thread(target=tell, args=(embedded, batch, told))
        began = time.monotonic()
        thread.start()
        thread.join(5)
        told.append(str(time.monotonic() - began < 1.0))
        os.write(writing, " ".join(told).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == "forked forked True"
    wait_for(child)
    assert await embedded.ask(f"SELECT count() FROM {embedded.tables.events}") == [(1,)]


def tell(store, batch, told):
    for work in (store.write(batch), store.ask("SELECT 1")):
        try:
            asyncio.run(work)
        except FatalConfiguration as error:
            told.append(error.code)


async def test_a_collector_keeps_events_in_memory(tmp_path):
    async with await ClickHouseAnalyticsCollector.create("chdb://memory", flush_interval_seconds=0.05) as collector:
        assert await collector.health_check()
