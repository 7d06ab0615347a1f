"""Random faults under load: every event ends in the table once, or is counted as dropped or dead."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import attrs
import msgspec
import pytest
from flag_analytics.freezer import Freezer
from flag_analytics.protocols import RecordResult
from flag_analytics.reports import DeliveryOptions
from flag_analytics.testing.faults import FaultProxy
from flag_analytics_database import DatabaseAnalyticsCollector, DatabaseOptions, DatabaseStore
from flag_analytics_database.counting import DAY_TOTALS
from flag_analytics_delivery import Delivery

logger = logging.getLogger(__name__)

THREADS = 3
POISON_SHARE = 0.0005
PATIENT = DeliveryOptions(max_events=200_000, max_bytes=256 * 2**20, retry_initial_seconds=0.005, retry_max_seconds=0.1)
LAST_OF_A_BATCH = {"postgresql": b"c\x00\x00\x00\x04", "mysql": b"ON DUPLICATE KEY UPDATE"}
"""What a batch ends with on the wire: once the server has it, the batch is committed."""
COMMIT = {"postgresql": b"__asyncpg_stmt", "mysql": b"\x03COMMIT"}
"""What a batch with its counts ends with: a small one is one prepared statement on PostgreSQL."""
SHORT = [pytest.param(5.0, 1, rollups, id=f"short{'-counted' * rollups}") for rollups in (False, True)]
LONG = [
    pytest.param(60.0, seed, rollups, id=f"long-{seed}{'-counted' * rollups}", marks=pytest.mark.chaos)
    for rollups in (False, True)
    for seed in range(1, 6)
]


@attrs.define
class Chaos:
    """Breaks a proxy's connections at random until told to stop; the seed decides what happens and for how long."""

    proxy: FaultProxy
    last_of_a_batch: bytes
    randomness: random.Random
    commit_cuts: int = 0

    def go_on_until(self, end: float) -> None:
        pause = threading.Event()
        while time.monotonic() < end:
            fault = self.randomness.choice(["commit_cut", "commit_cut", "cut", "refuse", "blackhole", "delay"])
            if fault == "commit_cut":
                before = self.proxy.cuts
                self.proxy.cut_after(self.last_of_a_batch)
                until = time.monotonic() + 1.0
                while self.proxy.cuts == before and time.monotonic() < until:
                    pause.wait(0.005)
            elif fault == "cut":
                self.proxy.cut()
            elif fault == "refuse":
                self.proxy.refuse()
                pause.wait(self.randomness.uniform(0.01, 0.3))
            elif fault == "blackhole":
                self.proxy.blackhole()
                pause.wait(self.randomness.uniform(0.01, 0.6))
            else:
                self.proxy.delay(self.randomness.uniform(0.001, 0.02))
                pause.wait(self.randomness.uniform(0.01, 0.2))
            self.proxy.heal()
            pause.wait(self.randomness.uniform(0.01, 0.2))
        self.commit_cuts = self.proxy.cuts


@attrs.define
class Load:
    """What one thread records, and how long each call took in seconds."""

    seed: int
    sent: int = 0
    poison: int = 0
    refused: int = 0
    took: list[float] = attrs.field(factory=list)

    def go_on_until(self, end: float, collector: DatabaseAnalyticsCollector, make_event: Any) -> None:
        randomness = random.Random(self.seed)
        pause = threading.Event()
        while time.monotonic() < end:
            for _ in range(20):
                poisonous = randomness.random() < POISON_SHARE or (self.seed == 0 and self.sent == 50)
                event = make_event(self.sent, targeting_key="poison" if poisonous else f"user-{self.sent}")
                started = time.perf_counter()
                outcome = collector.record_nowait(event)
                self.took.append(time.perf_counter() - started)
                self.sent += 1
                if outcome is RecordResult.ACCEPTED:
                    self.poison += poisonous
                else:
                    self.refused += 1
            pause.wait(0.02)


@pytest.fixture
def fault_proxy(server_database: Any) -> Iterator[FaultProxy]:
    with FaultProxy((server_database.url.host, server_database.url.port)) as proxy:
        yield proxy


@pytest.mark.parametrize(("seconds", "seed", "rollups"), [*SHORT, *LONG])
async def test_whatever_befalls_the_connection_each_event_is_stored_once_or_counted(
    server_database: Any, fault_proxy: FaultProxy, make_event: Any, seconds: float, seed: int, rollups: bool
) -> None:
    await (operator := server_database.store()).upgrade()
    await operator.close()
    await server_database.run("ALTER TABLE analytics_events ADD CHECK (targeting_key <> 'poison')")
    collector = await DatabaseAnalyticsCollector.create(
        server_database.at(*fault_proxy.address), flush_interval_seconds=0.02, delivery=PATIENT,
        statement_timeout_seconds=0.5, connect_timeout_seconds=0.5, rollups=rollups,
    )  # fmt: skip
    last_of_a_batch = (COMMIT if rollups else LAST_OF_A_BATCH)[server_database.family]
    loads = [Load(seed * THREADS + thread - THREADS) for thread in range(THREADS)]
    chaos = Chaos(fault_proxy, last_of_a_batch, random.Random(seed))
    end = time.monotonic() + seconds
    await asyncio.gather(
        asyncio.to_thread(chaos.go_on_until, end),
        *(asyncio.to_thread(load.go_on_until, end, collector, make_event) for load in loads),
    )
    healed = time.monotonic()
    report = await collector.flush(5.0)
    drained = time.monotonic() - healed
    stats = collector.stats()
    ledger = stats.sinks["database"]
    await collector.record(make_event(10_000_000, flag_key="alive"))
    alive = await collector.flush(5.0)
    await collector.close()
    took = sorted(second for load in loads for second in load.took)
    measured = {
        "recorded": stats.recorded,
        "commit_cuts": chaos.commit_cuts,
        "commit_unknown": ledger.commit_unknown,
        "dead": ledger.dead,
        "drain_seconds": round(drained, 2),
        "record_us": [round(took[int(len(took) * share)] * 1e6, 1) for share in (0.5, 0.99)] + [round(took[-1] * 1e6)],
    }
    logger.info("%s", measured)
    ((rows, distinct),) = await server_database.run(
        "SELECT count(*), count(DISTINCT event_id) FROM analytics_events WHERE flag_key <> 'alive'"
    )
    sent, poison = sum(load.sent for load in loads), sum(load.poison for load in loads)
    refused = sum(load.refused for load in loads)
    dropped = sum(ledger.dropped.values())
    assert stats.recorded == sent, measured
    assert (refused, dropped) == (sum(stats.refused.values()), 0), measured
    assert report.pending == 0, (measured, report)
    assert drained <= 5.0, measured
    assert rows == distinct == sent - refused - dropped - ledger.dead, measured
    assert ledger.dead == poison > 0, measured
    assert chaos.commit_cuts >= (20 if seconds >= 60.0 else 1), measured
    assert alive
    hours = f"FROM analytics_events_counts WHERE hour < {DAY_TOTALS // 2}"
    counted = f"SELECT coalesce(sum(events), 0) {hours} AND flag_key <> 'alive'"
    assert await server_database.run(counted) == [(rows if rollups else 0,)], measured
    await (operator := server_database.store()).open()
    if rollups:
        assert await operator.rebuild_counts() == 0, measured


async def test_the_same_faults_make_litestar_flags_lose_or_repeat_events(postgresql: Any, make_event: Any) -> None:
    """The control: faults that any collector survives would show nothing. Its tables cannot be made on MySQL."""
    theirs = pytest.importorskip("litestar_flags.analytics.collectors.database", exc_type=ImportError)
    models = pytest.importorskip("litestar_flags.analytics.models", exc_type=ImportError)
    with FaultProxy((postgresql.url.host, postgresql.url.port)) as proxy:
        collector = await theirs.DatabaseAnalyticsCollector.create(
            postgresql.at(*proxy.address), batch_size=100, flush_interval_seconds=0.05
        )
        event_class = models.FlagEvaluationEvent
        sent = rows = distinct = 0

        async def send_while(breaking: asyncio.Future[None]) -> None:
            nonlocal sent
            while not breaking.done():
                for _ in range(20):
                    ours = make_event(sent)
                    sent += 1
                    with contextlib.suppress(Exception):
                        async with asyncio.timeout(1.0):
                            await collector.record(
                                event_class(
                                    timestamp=ours.timestamp, flag_key=ours.flag_key, value=True, reason=ours.reason,
                                    variant=ours.variant, targeting_key=ours.targeting_key,
                                )
                            )  # fmt: skip
                await asyncio.sleep(0.02)
            await breaking

        async def within_five_seconds(work: Any) -> None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(5.0):
                    await work()

        for seed in range(1, 6):  # three seconds of faults are enough, unless they are lucky ones
            chaos = Chaos(proxy, b"COMMIT", random.Random(seed))
            await send_while(asyncio.ensure_future(asyncio.to_thread(chaos.go_on_until, time.monotonic() + 3.0)))
            await within_five_seconds(collector.flush)
            counts = "SELECT count(*), count(DISTINCT targeting_key) FROM analytics_events"
            ((rows, distinct),) = await postgresql.run(counts)
            if not rows == distinct == sent:
                break
        await within_five_seconds(collector.close)
    assert not (rows == distinct == sent), (rows, distinct, sent)


async def test_an_event_larger_than_the_server_takes_is_found_and_its_neighbours_stored(
    mysql: Any, make_event: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The server says so and hangs up. Whether a client still hears it is a matter of luck: here it never does."""
    ((limit,),) = await mysql.run("SELECT @@max_allowed_packet")
    assert limit <= 16 * 2**20, "the event below must not fit"
    huge = b'"' + b"x" * (20 * 2**20) + b'"'
    with FaultProxy((mysql.url.host, mysql.url.port)) as proxy:
        proxy.cut_after(b"x" * 10_000, times=100_000)
        options = DatabaseOptions(connection_string=mysql.at(*proxy.address), batch_size=64)
        store = DatabaseStore(options)
        delivery = Delivery(
            {"database": store},
            store.delivery.evolve(
                max_bytes=256 * 2**20, max_batch_bytes=64 * 2**20, flush_interval_seconds=0.5,
                retry_initial_seconds=0.005, retry_max_seconds=0.05,
            ),
            freezer=(freezer := Unlimited()),
        )  # fmt: skip
        for number in range(64):
            freezer.payload = huge if number == 37 else None
            delivery.record_nowait(make_event(number))
        while (ledger := delivery.stats().sinks["database"]).delivered < 63 or not ledger.set_aside:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await delivery.close(0.1)
    assert (ledger.delivered, ledger.dead, ledger.set_aside) == (63, 0, 1)
    assert await mysql.count() == 63
    # Three times the whole batch, then six halvings; the event that stands alone is set aside.
    assert ledger.attempts >= 3 + 2 * 6
    assert caplog.text.count("the backend answers a ping") == 1


class Unlimited(Freezer):
    """Lets an event past the limit that spares databases such events: only so does one reach the server."""

    payload: bytes | None = None

    def freeze(self, event: Any) -> Any:
        frozen = super().freeze(event)
        if self.payload is None:
            return frozen
        return msgspec.structs.replace(frozen, value_json=self.payload, size=len(self.payload))
