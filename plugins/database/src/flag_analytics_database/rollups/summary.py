"""``WindowSummary``: the events of one flag in one window of time, as a value that merges.

To merge is associative and commutative, and the empty summary changes nothing: so the summary of a month is that of its
days, in any order.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import attrs
import msgspec
from flag_analytics.metrics import DEFAULT_VARIANT, MILLION, as_count
from flag_analytics.sources import EXACT, OTHER_GROUP, Accuracy, FlagActivity, FlagSummary, Grouping

from ..rows import from_micros
from .durations import DURATION_ERROR, Durations
from .users import Users

__all__ = ["Cell", "Figures", "WindowSummary", "pack_cells", "unpack_cells"]

Cell = tuple[str, str, str]
"""A variant, empty where there is none, a reason and an environment."""


class Figures(NamedTuple):
    """Counts of some events, at least one; weights in millionths, times in microseconds."""

    events: int
    weight: int
    errors: int
    error_weight: int
    first: int
    last: int

    def plus(self, other: Figures) -> Figures:
        """Return both together."""
        return Figures(
            self.events + other.events,
            self.weight + other.weight,
            self.errors + other.errors,
            self.error_weight + other.error_weight,
            min(self.first, other.first),
            max(self.last, other.last),
        )


@attrs.frozen
class WindowSummary:
    """Counts by cell, users and durations; those that were not read, or never kept, are None.

    Attributes:
        cells: The counts.
        users: The people.
        durations: How long evaluations took.
        variant_users: The people by variant, of a declared experiment.
    """

    cells: Mapping[Cell, Figures] = attrs.field(factory=dict[Cell, Figures])
    users: Users | None = attrs.field(factory=Users)
    durations: Durations | None = attrs.field(factory=Durations)
    variant_users: Mapping[str, Users] | None = attrs.field(factory=dict[str, Users])

    @classmethod
    def merged(cls, some: Iterable[WindowSummary]) -> WindowSummary:
        """Return all of them together; what one of them lacks, the whole lacks."""
        parts = list(some)
        cells = _added([part.cells for part in parts])
        users = [part.users for part in parts if part.users is not None]
        durations = [part.durations for part in parts if part.durations is not None]
        of_variants = [part.variant_users for part in parts if part.variant_users is not None]
        by_variant: defaultdict[str, list[Users]] = defaultdict(list)
        for one in of_variants:
            for variant, people in one.items():
                by_variant[variant].append(people)
        return cls(
            cells,
            Users.merged(users) if len(users) == len(parts) else None,
            Durations.merged(durations) if len(durations) == len(parts) else None,
            {variant: Users.merged(people) for variant, people in by_variant.items()}
            if len(of_variants) == len(parts)
            else None,
        )

    @property
    def whole(self) -> Figures:
        """The figures of all cells, of which there is at least one."""
        return _total(self.cells.values())

    @property
    def events(self) -> int:
        """The number of events, sampled ones as one each."""
        return sum(figures.events for figures in self.cells.values())

    def with_late(self, expected: int, stored: int) -> WindowSummary:
        """Return it without durations unless as many events were ``stored`` as were ``expected`` to be late.

        Otherwise it is of a day whose events are just being removed, and the summary of that day has some of those that
        are there still. Nothing tells which: users are the same then, but durations would count twice.
        """
        return self if expected == stored else attrs.evolve(self, durations=None)

    def only(self, wanted: Callable[[Cell], bool]) -> WindowSummary:
        """Return the counts of the cells that are wanted, and no other part."""
        return WindowSummary({cell: figures for cell, figures in self.cells.items() if wanted(cell)}, None, None, None)

    def activity(self, flag_key: str, accuracy: Accuracy = EXACT) -> FlagActivity:
        """Return how many events there are, the first and the last; there is at least one."""
        whole = self.whole
        estimated = whole.weight != whole.events * MILLION
        first, last = from_micros(whole.first), from_micros(whole.last)
        return FlagActivity(flag_key, round(whole.weight / MILLION), first, last, estimated, accuracy)

    def summary(self, parts: Collection[str], percentiles: Sequence[float], complete: Accuracy = EXACT) -> FlagSummary:
        """Return these parts as a source answers them, and how exact they are; there is at least one event."""
        whole = self.whole
        variants: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        for (variant, reason, _), figures in self.cells.items():
            variants[variant or DEFAULT_VARIANT] += figures.weight
            reasons[reason] += figures.weight
        bounds: dict[str, float] = {}
        missing: set[str] = set()
        people = 0.0
        variant_users: dict[str, float] = {}
        if "users" in parts or "variant_users" in parts:
            people = self._count_users(bounds, missing)
        if "variant_users" in parts:
            variant_users = self._count_variant_users(bounds, missing, tuple(variants), people)
        measured: dict[float, float] = {}
        if "latency" in parts and percentiles:
            if self.durations is None:
                missing.add("latency")
            elif self.durations.buckets:
                measured, bounds["latency"] = self.durations.percentiles(percentiles), DURATION_ERROR
        return FlagSummary(
            total=as_count(whole.weight),
            errors=as_count(whole.error_weight) if "errors" in parts else 0,
            unique_users=people,
            variants=_counts(variants) if "variants" in parts else {},
            reasons=_counts(reasons) if "reasons" in parts else {},
            percentiles=measured,
            first_seen=from_micros(whole.first),
            variant_users=variant_users,
            estimated=whole.weight != whole.events * MILLION,
            accuracy=attrs.evolve(complete, bounds=bounds, missing=frozenset(missing)),
        )

    def _count_users(self, bounds: dict[str, float], missing: set[str]) -> float:
        if self.users is None:
            missing.add("users")
            return 0.0
        people, error = self.users.count()
        if error:
            bounds["users"] = error
        return people / MILLION

    def _count_variant_users(
        self, bounds: dict[str, float], missing: set[str], variants: tuple[str, ...], people: float
    ) -> dict[str, float]:
        if len(variants) == 1 and self.users is not None:  # it has everybody
            if "users" in bounds:
                bounds["variant_users"] = bounds["users"]
            return {variants[0]: people} if people else {}
        missing.add("crossover_users")
        if self.variant_users is None:
            missing.add("variant_users")
            return {}
        counted = {variant: users.count() for variant, users in self.variant_users.items()}
        bounds["variant_users"] = max((error for _, error in counted.values()), default=0.0)
        return {variant: people / MILLION for variant, (people, _) in counted.items() if people}

    def grouped(self, grouping: Grouping) -> dict[str, WindowSummary]:
        """Return the counts by group, the largest groups under their names and the others together."""
        place = ("variant", "reason", "environment").index(grouping.by)
        sizes: Counter[str] = Counter()
        for cell, figures in self.cells.items():
            sizes[_name(cell[place], place)] += figures.events
        kept = set(heapq.nsmallest(grouping.most, sizes, key=lambda name: (-sizes[name], name)))
        cells: defaultdict[str, dict[Cell, Figures]] = defaultdict(dict)
        for cell, figures in self.cells.items():
            name = _name(cell[place], place)
            cells[name if name in kept else OTHER_GROUP][cell] = figures
        return {name: WindowSummary(of_group, None, None, None) for name, of_group in cells.items()}


def _name(text: str, place: int) -> str:
    if place == 0:
        return text or DEFAULT_VARIANT
    return text


def _added(parts: Sequence[Mapping[Cell, Figures]]) -> Mapping[Cell, Figures]:
    """Return the cells of all parts; in place, since a page adds up tens of thousands."""
    if len(parts) == 1:
        return parts[0]
    sums: dict[Cell, list[int]] = {}
    for part in parts:
        for cell, (events, weight, errors, error_weight, first, last) in part.items():
            known = sums.get(cell)
            if known is None:
                sums[cell] = [events, weight, errors, error_weight, first, last]
                continue
            known[0] += events
            known[1] += weight
            known[2] += errors
            known[3] += error_weight
            known[4] = min(first, known[4])
            known[5] = max(last, known[5])
    return {cell: Figures(*figures) for cell, figures in sums.items()}


def _total(figures: Iterable[Figures]) -> Figures:
    first, *others = figures
    for other in others:
        first = first.plus(other)
    return first


def _counts(weights: Mapping[str, int]) -> dict[str, float]:
    return {name: as_count(weight) for name, weight in weights.items()}


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[str, str, str, Figures]]).decode


def pack_cells(cells: Mapping[Cell, Figures]) -> bytes:
    """Return counts by cell as bytes."""
    return _encode([(*cell, figures) for cell, figures in cells.items()])


def unpack_cells(packed: bytes) -> dict[Cell, Figures]:
    """Return what ``pack_cells`` gave."""
    return {(variant, reason, environment): figures for variant, reason, environment, figures in _decode(packed)}
