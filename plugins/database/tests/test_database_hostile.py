"""Content that no row can hold makes its own event a dead letter, and no other."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from flag_analytics.errors import BadBatch
from flag_analytics.freezer import Freezer
from flag_analytics.frozen import FrozenEvent
from flag_analytics.protocols import Batch
from flag_analytics_delivery import Delivery


class Proxy:
    """Passes for text, as werkzeug's LocalProxy and ``Mock(spec=str)`` do."""

    def __init__(self, target: Any) -> None:
        self._target = target

    @property
    def __class__(self) -> Any:
        return type(self._target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


class Trap:
    """Raises whatever is asked of it."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("secret words of a value")


class Planting(Freezer):
    """Lets objects past the canonical form that it would have made plain."""

    planted: dict[str, Any] | None = None

    def freeze(self, event: Any) -> FrozenEvent:
        frozen = super().freeze(event)
        return frozen if self.planted is None else msgspec.structs.replace(frozen, **self.planted)


FIELDS = (
    "flag_key", "reason", "variant", "targeting_key", "error_type", "error_message", "flag_version", "flag_set_id",
    "provider_name", "kind",
)  # fmt: skip
PLANTED = [
    *({field: Proxy("text")} for field in FIELDS),
    *({field: Trap()} for field in FIELDS),
    *({field: value} for field in ("evaluation_duration_ms", "sample_rate") for value in (Proxy(1.0), "1", None, 1j)),
    {"value_json": b"\xff"}, {"value_json": "1"}, {"context_json": None},
    {"timestamp": "2026-01-01"}, {"timestamp": Proxy(1)}, {"received_at": float("nan")}, {"received_at": None},
    {"kind": "unknown"}, {"event_id": "not-a-uuid"}, {"event_id": "00"},
]  # fmt: skip


def named(planted: dict[str, Any]) -> str:
    ((name, value),) = planted.items()
    return f"{name}-{object.__getattribute__(value, '__class__').__name__}"


@pytest.mark.parametrize("planted", PLANTED, ids=named)
async def test_the_event_alone_is_refused_by_name_before_anything_is_stored(
    database: Any, make_event: Any, batch_of: Any, planted: dict[str, Any]
) -> None:
    store = database.store()
    good = batch_of(*(make_event(number) for number in range(20))).events
    bad = msgspec.structs.replace(batch_of(make_event(20)).events[0], **planted)
    with pytest.raises(BadBatch) as caught:
        await store.write(Batch("b", (*good[:10], bad, *good[10:])))
    assert list(caught.value.refused) == [bad.event_id]
    assert "secret" not in repr(caught.value.refused)
    await store.write(Batch("b", good))
    assert len(await store.get_events()) == 20


@pytest.mark.parametrize(
    "planted", [{"targeting_key": Proxy("u")}, {"variant": Trap()}, {"value_json": b"\xff"}], ids=named
)
async def test_one_such_event_among_a_thousand_is_dead_and_the_rest_stored(
    database: Any, make_event: Any, planted: dict[str, Any]
) -> None:
    store = database.store()
    await store.upgrade()
    freezer = Planting()
    options = store.delivery.evolve(retry_initial_seconds=0.005, retry_max_seconds=0.05, flush_interval_seconds=0.05)
    delivery = Delivery({"database": store}, options, freezer=freezer)
    for number in range(1_000):
        freezer.planted = planted if number == 437 else None
        delivery.record_nowait(make_event(number))
    await delivery.flush(60.0)
    ledger = delivery.stats().sinks["database"]
    await delivery.close()
    assert (ledger.delivered, ledger.dead, ledger.pending) == (999, 1, 0)
    assert await database.count() == 999
