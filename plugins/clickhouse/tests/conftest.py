"""A database of its own for each test, in an engine behind HTTP, whose answers can be cut."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest
from flag_analytics.events import EvaluationReason, FlagEvaluationEvent
from flag_analytics.freezer import Freezer
from flag_analytics.frozen import FrozenEvent
from flag_analytics.protocols import Batch
from flag_analytics_clickhouse import ClickHouseOptions, ClickHouseStore

VARIABLE = "FLAG_ANALYTICS_TEST_CLICKHOUSE"
START = datetime(2026, 11, 1, tzinfo=UTC)
_freezer = Freezer()


@attrs.frozen
class Engine:
    """An empty database of one test."""

    url: str
    database: str
    stores: list[ClickHouseStore] = attrs.field(factory=list, repr=False)

    @property
    def is_front(self) -> bool:
        return not os.environ.get(VARIABLE)

    def options(self, **settings: Any) -> ClickHouseOptions:
        return ClickHouseOptions(**{"url": self.url, "database": self.database, **settings})

    def store(self, **settings: Any) -> ClickHouseStore:
        made = ClickHouseStore(self.options(**settings))
        self.stores.append(made)
        return made

    def cut(self, *, when: str | int, match: str = "INSERT INTO", times: int = 1) -> None:
        """Break the connection of the next writes, or answer them with an error."""
        # The client sends an insert again by itself, once, where the connection breaks.
        self._tell([{"when": when, "match": match, "times": times if isinstance(when, int) else 2 * times}])

    def mend(self) -> None:
        """Break nothing any more."""
        self._tell([])

    def _tell(self, cuts: list[dict[str, Any]]) -> None:
        if not self.is_front:
            pytest.skip("answers are cut by the front only, not by a server")
        request = urllib.request.Request(f"{self.url}/cut", msgspec.json.encode(cuts), method="POST")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10):
            pass

    @staticmethod
    def event(number: int = 0, **fields: Any) -> FlagEvaluationEvent:
        """Return an event; a further one for each number."""
        given: dict[str, Any] = {
            "timestamp": START + timedelta(seconds=number),
            "flag_key": "checkout",
            "value": number % 2 == 0,
            "reason": EvaluationReason.TARGETING_MATCH,
            "variant": "on" if number % 2 == 0 else "off",
            "targeting_key": f"user-{number % 10}",
            "context_attributes": {"environment": "production", "number": number},
            "evaluation_duration_ms": 0.5 + number % 7,
        }
        return FlagEvaluationEvent(**{**given, **fields})

    @staticmethod
    def now() -> datetime:
        return datetime.now(UTC)

    def events(self, count: int, start: int = 0, **fields: Any) -> tuple[FrozenEvent, ...]:
        """Return so many events, frozen."""
        return tuple(_freezer.freeze(self.event(number, **fields)) for number in range(start, start + count))

    @staticmethod
    def batch(events: Iterable[FrozenEvent | FlagEvaluationEvent], id: str | None = None) -> Batch:  # noqa: A002
        """Return a batch of events, with an id of its own unless it is given one."""
        frozen = [one if isinstance(one, FrozenEvent) else _freezer.freeze(one) for one in events]
        return Batch(id or uuid.uuid4().hex, tuple(frozen))

    async def close(self) -> None:
        for store in self.stores:
            await store.close()


@pytest.fixture(scope="session")
def clickhouse_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server, or of a front before an engine that is started here."""
    if os.environ.get(VARIABLE):
        yield os.environ[VARIABLE]
        return
    folder = tmp_path_factory.mktemp("engine")
    front = Path(__file__).with_name("clickhouse_front.py")
    with subprocess.Popen([sys.executable, str(front), str(folder)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


@pytest.fixture
async def engine(clickhouse_url: str) -> AsyncIterator[Engine]:
    made = Engine(clickhouse_url, f"test_{uuid.uuid4().hex}")
    yield made
    if made.is_front:
        made.mend()
    await made.store(database="default").command(f"DROP DATABASE IF EXISTS {made.database} SYNC", settle=False)
    await made.close()
