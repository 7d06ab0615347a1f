"""A server that is killed while it writes loses nothing and leaves nothing twice, in its rollups neither."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys

import pytest
from flag_analytics.errors import DeliveryError
from flag_analytics_clickhouse import ClickHouseOptions, ClickHouseStore

pytestmark = pytest.mark.clickhouse


class Server:
    """The front as a process that can be killed and started again."""

    def __init__(self, program, folder):
        self._command = [sys.executable, str(program), str(folder)]
        self.port = 0
        self._process = None

    def start(self):
        command = [*self._command, str(self.port)] if self.port else self._command
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.port = int(self._process.stdout.readline())

    def kill(self):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


async def run_kills(program, folder, engine, seed, kills):
    chance, server, made = random.Random(seed), Server(program, folder), 0
    await asyncio.to_thread(server.start)
    store = ClickHouseStore(ClickHouseOptions(url=f"http://127.0.0.1:{server.port}", connect_timeout_seconds=2))
    try:
        await store.open()
        for number in range(kills):
            batches = [engine.batch(engine.events(2_000, start=made + n * 2_000), id=f"{number}.{n}") for n in range(6)]
            made += 12_000
            killing = asyncio.create_task(asyncio.to_thread(killed_later, server, chance.random() * 0.4))
            waiting = [*batches]
            while waiting:
                try:
                    await store.write(waiting[0])
                except DeliveryError:
                    await killing
                else:
                    del waiting[0]
            await killing
        rows = await store.ask(f"SELECT count(), uniqExact(event_id) FROM {store.tables.events}")
        counted = await store.ask(f"SELECT sum(events) FROM {store.tables.counts}")
        sketched = await store.ask(f"SELECT sum(events) FROM {store.tables.sketches}")
        assert (rows, counted, sketched) == ([(made, made)], [(made,)], [(made,)])
    finally:
        await store.close()
        server.kill()


def killed_later(server, seconds):
    """Kill the server a moment later, and start it again."""
    try:
        server._process.wait(seconds)
    except subprocess.TimeoutExpired:
        server.kill()
        server.start()


@pytest.fixture
def program(request):
    return request.path.with_name("clickhouse_front.py")


async def test_a_server_that_is_killed_while_it_writes(program, tmp_path, engine):
    await run_kills(program, tmp_path, engine, 1, 2)


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(10, 14))
async def test_a_server_that_is_killed_again_and_again(program, tmp_path, engine, seed):
    await run_kills(program, tmp_path, engine, seed, 15)
