"""A server that restarts, or ends the connections it finds idle: the next flush succeeds after one retry."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from flag_analytics.reports import DeliveryOptions
from flag_analytics_database import DatabaseAnalyticsCollector

pwd = pytest.importorskip("pwd", reason="servers are started as on POSIX")

QUICK = DeliveryOptions(retry_initial_seconds=0.005, retry_max_seconds=0.05)
END_OTHER_CONNECTIONS = {
    "postgresql": (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ),
    "mysql": "SELECT concat('KILL ', id) FROM information_schema.processlist WHERE db = database() "
    "AND id <> connection_id()",
}


@attrs.frozen
class Cluster:
    """A PostgreSQL server of the test's own, run by a user without rights: it refuses to be run by root."""

    binaries: Path
    directory: Path
    port: int
    user: str | None

    @property
    def connection_string(self) -> str:
        return f"postgresql+asyncpg://postgres@127.0.0.1:{self.port}/postgres"

    def create(self) -> None:
        self._run("initdb", "--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale")
        self.control("start")

    def control(self, action: str, mode: str = "fast") -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.directory} -c fsync=off"
        log = self.directory / "log"
        started = ["-o", options, "-l", str(log)] if action in {"start", "restart"} else []
        stopped = ["-m", mode] if action in {"stop", "restart"} else []
        self._run("pg_ctl", action, "--wait", *started, *stopped)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self.binaries / program, *arguments, "-D", self.directory / "data"],
            user=self.user, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def _binaries() -> Path | None:
    """Return where PostgreSQL's programs are: on the path, or where Debian puts them, the newest first."""
    places = [Path(found).resolve().parent] if (found := shutil.which("initdb")) else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -int(path.parent.name))
    return next((place for place in places if (place / "initdb").exists() and (place / "pg_ctl").exists()), None)


def _ordinary_user() -> str | None:
    """Return a user to become where this one is root; None: this one is no root."""
    if os.geteuid():
        return None
    names = {user.pw_name for user in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), None)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    binaries, user = _binaries(), _ordinary_user()
    if binaries is None:
        pytest.skip("no initdb and pg_ctl on this machine: no PostgreSQL server can be restarted")
    if user is None and not os.geteuid():
        pytest.skip("PostgreSQL does not run as root, and there is no other user")
    # Not below pytest's own directory: that one is closed to other users.
    with tempfile.TemporaryDirectory(prefix="flag-analytics-cluster-") as name:
        directory = Path(name)
        if user is not None:
            shutil.chown(directory, user)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        made = Cluster(binaries, directory, port, user)
        made.create()
        try:
            yield made
        finally:
            made.control("stop", "immediate")


async def store_one_more(collector: DatabaseAnalyticsCollector, event: Any) -> Any:
    """Return the sink's ledger after one more event was recorded and flushed."""
    await collector.record(event)
    assert await collector.flush(20.0)
    return collector.stats().sinks["database"]


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restarted_server_costs_the_next_flush_one_retry(cluster: Cluster, make_event: Any, mode: str) -> None:
    collector = await DatabaseAnalyticsCollector.create(
        cluster.connection_string, flush_interval_seconds=60.0, delivery=QUICK
    )
    assert (await store_one_more(collector, make_event())).retries == 0
    assert len(await collector.get_events()) == 1
    for turn in (1, 2):
        cluster.control("restart", mode)
        ledger = await store_one_more(collector, make_event(turn))
        assert ledger.retries == turn
        assert len(await collector.get_events()) == turn + 1
    assert (ledger.delivered, ledger.dead, ledger.dropped) == (3, 0, {})
    assert (await collector.close()).complete


async def test_connections_that_the_server_ends_cost_the_next_flush_one_retry(
    server_database: Any, make_event: Any
) -> None:
    collector = await DatabaseAnalyticsCollector.create(
        server_database.connection_string, flush_interval_seconds=60.0, delivery=QUICK
    )
    assert (await store_one_more(collector, make_event())).retries == 0
    for turn in (1, 2):
        ended = await server_database.run(END_OTHER_CONNECTIONS[server_database.family])
        assert ended
        for (statement,) in ended if server_database.family == "mysql" else []:
            await server_database.run(statement)
        ledger = await store_one_more(collector, make_event(turn))
        assert ledger.retries == turn
        assert len(await collector.get_events()) == turn + 1
    assert (ledger.delivered, ledger.dead, ledger.dropped) == (3, 0, {})
    assert (await collector.close()).complete
