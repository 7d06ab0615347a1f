"""``ExporterContract``: what a backend promises that passes events on to a monitoring system."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
import pytest_asyncio

from .life_cycle import LifeCycleContract
from .samples import HARD_SAMPLES, plain_event
from .subjects import Subject

__all__ = ["ExporterContract"]

CARRIED = (
    "flag_key",
    "variant",
    "reason",
    "value",
    "targeting_key",
    "timestamp",
    "evaluation_duration_ms",
)
_TEXTS = ("control characters", "long keys", "texts of every plane")
_FAR = ("times before 1970", "times after 2038", "large values")


class ExporterContract(LifeCycleContract):
    """Inherit it, return your backend from the fixture ``exporter``, and say in ``exported`` and ``arrived`` what came.

    The monitoring system, or its double, must be told of every evaluation of up to 50 flags. An empty text counts as
    none: monitoring systems make no difference. ``LifeCycleContract`` and ``WritingContract`` have more.

    Capabilities:
        carries: The fields of an event that reach the other side: some of ``flag_key``, ``variant``, ``reason``,
            ``value``, ``targeting_key``, ``timestamp`` (aware) and ``evaluation_duration_ms`` (milliseconds).
        without_variant: What arrives as the variant of an event that has none.
        keeps_texts: Keys and variants arrive as they are, whatever their characters and up to 190 of them.
    """

    carries: ClassVar[frozenset[str]] = frozenset(CARRIED)
    without_variant: ClassVar[str | None] = None
    keeps_texts: ClassVar[bool] = True

    @pytest.fixture
    def exporter(self) -> Any:
        """Return a new backend that has exported nothing."""
        pytest.fail(f"{type(self).__name__} needs a fixture `exporter` that returns a new backend")

    async def exported(self, exporter: Any) -> Mapping[str, int]:
        """Return how many evaluations of each flag the monitoring system has been told of."""
        pytest.fail(f"{type(self).__name__} needs a method `exported`, to see what {type(exporter).__name__} has done")

    async def arrived(self, exporter: Any) -> Iterable[Mapping[str, Any]] | None:
        """Return what the monitoring system got: for each evaluation the fields that ``carries`` names.

        A system that only counts returns one mapping for each group, with the number as ``count``.
        """
        del exporter
        return None

    @pytest_asyncio.fixture
    async def subject(self, exporter: Any) -> AsyncIterator[Subject]:
        subject = Subject(exporter, behind_engine=not self.takes_events_directly)
        yield subject
        await subject.close()

    async def known(self, subject: Subject) -> Counter[str]:
        """Return how many evaluations of each flag were exported."""
        return Counter({key: count for key, count in (await self.exported(subject.backend)).items() if count})

    @pytest.mark.asyncio
    async def test_events_that_differ_in_every_way_are_all_counted(self, subject: Subject) -> None:
        for reason in ("ERROR", "SPLIT", "MY_OWN_REASON"):
            for variant in (None, "", "default", "on"):
                for value in (None, False, {"a": [1]}):
                    await subject.record(plain_event(reason=reason, variant=variant, value=value))
        await subject.flush()
        assert await self.known(subject) == Counter({"flag-0": 36})

    @pytest.mark.asyncio
    @pytest.mark.parametrize("size", [1, 499, 500, 501, 2_000])
    async def test_a_batch_is_exported_whole_whatever_its_size(self, subject: Subject, size: int) -> None:
        await subject.store(*(plain_event(number, flag_key=f"flag-{number % 40}") for number in range(size)))
        assert await self.known(subject) == Counter(f"flag-{number % 40}" for number in range(size))

    @pytest.mark.asyncio
    async def test_what_arrives_says_what_happened(self, subject: Subject) -> None:
        moment = datetime.now(UTC).replace(microsecond=123_457) - timedelta(minutes=1)
        await self._check_arrival(
            subject,
            plain_event(0, timestamp=moment, evaluation_duration_ms=1.5),
            plain_event(1, timestamp=moment, value=True, reason="ERROR", variant="on", evaluation_duration_ms=0.25),
            plain_event(2, timestamp=moment, value={"a": [1]}, reason="DEFAULT", evaluation_duration_ms=120.0),
            plain_event(3, timestamp=moment, value=0, variant=None, targeting_key=None),
        )

    @pytest.mark.asyncio
    @pytest.mark.parametrize("sample", sorted(set(HARD_SAMPLES) - {*_FAR, "sample rates", "long messages"}))
    async def test_it_passes_on(self, subject: Subject, sample: str) -> None:
        if sample in _TEXTS and not self.keeps_texts:
            pytest.skip("texts do not arrive as they are")
        await self._check_arrival(
            subject, *(plain_event(number, **fields) for number, fields in enumerate(HARD_SAMPLES[sample]))
        )

    async def _check_arrival(self, subject: Subject, *events: Any) -> None:
        batch = await subject.store(*events)
        found = await self.arrived(subject.backend)
        if found is None:
            pytest.skip("override `arrived`, to have what reaches the other side looked at")
        wanted: Counter[str] = Counter()
        for event in batch:
            fields = {name: getattr(event.thaw(), name) for name in self.carries}
            if "variant" in fields:
                fields["variant"] = fields["variant"] or self.without_variant
            wanted[_shown(fields)] += 1
        arrived: Counter[str] = Counter()
        for row in found:
            arrived[_shown({name: value for name, value in row.items() if name != "count"})] += row.get("count", 1)
        assert arrived == wanted


def _shown(fields: Mapping[str, Any]) -> str:
    """Return fields in a form in which equal means the same: 1, 1.0 and true differ."""
    texts: dict[str, Any] = {name: value if name == "value" or value != "" else None for name, value in fields.items()}
    moment = texts.get("timestamp")
    if isinstance(moment, datetime):
        assert moment.tzinfo is not None, "a time arrives without its zone: return it as UTC"
        texts["timestamp"] = moment.astimezone(UTC).isoformat()
    if texts.get("reason") is not None:
        texts["reason"] = str(texts["reason"])
    return repr(sorted(texts.items()))
