"""The log against a model that keeps a plain list for each sink: bounds, order, conservation and memory."""

from __future__ import annotations

import itertools
import random
from collections import deque

import pytest
from flag_analytics.canonical import OVERHEAD_BYTES
from flag_analytics.frozen import FrozenEvent
from flag_analytics.reports import DeliveryOptions
from flag_analytics.testing.samples import frozen_event
from flag_analytics_delivery.log import MOST_WASTED_BYTES, NEVER, Log
from hypothesis import given
from hypothesis import strategies as st


class Model:
    """One sink as a list: the events that wait, those in flight, and what was lost."""

    def __init__(self, options: DeliveryOptions) -> None:
        self.options = options
        self.waiting: deque[FrozenEvent] = deque()
        self.flying: list[FrozenEvent] = []
        self.overflow = 0
        self.full = False

    def holds(self, events):
        return len(events), sum(event.size for event in events)

    def admits(self, size: int) -> bool:
        forgets = self.options.policy == "drop_oldest"
        count, total = self.holds(self.flying if forgets else [*self.waiting, *self.flying])
        room = self.options.max_bytes - total
        fits = count < self.options.max_events and size <= room
        # Once next to nothing fits, nothing is taken until something is settled.
        self.full |= not fits and not forgets and room < min(MOST_WASTED_BYTES, self.options.max_bytes // 2)
        return fits and not self.full

    def add(self, event: FrozenEvent, *, taken: bool) -> None:
        if not taken:
            self.overflow += 1
            return
        self.waiting.append(event)
        while self.waiting:
            count, total = self.holds([*self.waiting, *self.flying])
            if count <= self.options.max_events and total <= self.options.max_bytes:
                return
            self.waiting.popleft()
            self.overflow += 1


def run_against_the_model(seed: int, steps: int) -> None:  # noqa: C901 - one straight schedule
    draw = random.Random(seed)
    log = Log()
    cursors, models, pieces = [], [], []
    for number in range(draw.choice([1, 1, 2, 4])):
        options = DeliveryOptions(
            max_events=draw.choice([1, 3, 10, 50, 2_000]),
            max_bytes=draw.choice([2_000, 20_000, 1_000_000]),
            policy=draw.choice(["drop_newest", "drop_oldest", "block"]),
            batch_size=draw.choice([1, 5, 100]),
        )
        cursors.append(log.add_cursor(str(number), options))
        models.append(Model(options))
        pieces.append([])
    recorded = accepted = 0
    for _ in range(steps):
        which = draw.randrange(len(cursors))
        cursor, model, flying = cursors[which], models[which], pieces[which]
        action = draw.random()
        if action < 0.6:
            for _ in range(draw.choice([1, 1, 3, 30])):
                recorded += 1
                size = OVERHEAD_BYTES + draw.choice([0, 0, 0, 300, 5_000])
                event = frozen_event(recorded, size=size)
                takers = [each.admits(size) for each in models]
                assert log.append(event) == any(takers)
                accepted += any(takers)
                for each, takes in zip(models, takers, strict=True):
                    each.add(event, taken=takes)
        elif action < 0.8:
            log.catch_up()
            limit, most = draw.choice([1, 4, 100]), draw.choice([700, 5_000, NEVER])
            piece = cursor.take(limit, most)
            expected = []
            while model.waiting and len(expected) < limit:
                if expected and sum(event.size for event in expected) + model.waiting[0].size > most:
                    break
                expected.append(model.waiting.popleft())
            assert list(piece.events) == expected
            model.flying += expected
            if piece.events:
                flying.append(piece)
        elif flying:
            piece = flying.pop(draw.randrange(len(flying)))
            if len(piece) > 1 and draw.random() < 0.5:
                first, rest = piece.split(draw.randrange(1, len(piece)))
                flying.append(rest)
                piece = first
            cursor.settle(piece)
            cursor.ledger.delivered += len(piece)
            model.flying = [event for event in model.flying if event not in piece.events]
            model.full = False
        log.catch_up()
        for cursor, model in zip(cursors, models, strict=True):
            assert cursor.pending == len(model.waiting) + len(model.flying)
            assert cursor.in_flight == len(model.flying)
            assert cursor.pending_bytes == sum(event.size for event in [*model.waiting, *model.flying])
            assert cursor.overflow == model.overflow
            assert cursor.accepted == cursor.ledger.delivered + cursor.pending + cursor.overflow
            assert cursor.place.position <= cursor.place.taken or cursor.pending == 0
    assert log.end == accepted
    assert log.refused == recorded - accepted
    bound = sum(cursor.waiting + 2 * 256 for cursor in cursors)
    assert sum(len(segment.events or ()) for segment in log._segments) <= bound
    for cursor, flying in zip(cursors, pieces, strict=True):
        for piece in flying:
            cursor.settle(piece)
        while (piece := cursor.take(100, NEVER)).events:
            cursor.settle(piece)
        assert cursor.place.position == log.end
        assert cursor.lag == cursor.pending == 0
        assert not cursor.place.gaps
    assert not log._segments[-1].events
    assert len(log._segments) == 1


@pytest.mark.parametrize("seed", range(40))
def test_the_log_does_what_a_list_for_each_sink_would(seed):
    run_against_the_model(seed, 400)


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(1_000, 1_400))
def test_the_log_does_what_a_list_for_each_sink_would_for_long(seed):
    run_against_the_model(seed, 3_000)


def test_events_that_are_forgotten_behind_a_batch_in_flight_leave_memory():
    log = Log()
    cursor = log.add_cursor("sink", DeliveryOptions(max_events=100, policy="drop_oldest"))
    log.append(frozen_event(0))
    piece = cursor.take(1, NEVER)
    for number in range(1, 10_000):
        log.append(frozen_event(number))
    log.catch_up()
    assert sum(len(segment.events or ()) for segment in log._segments) <= 100 + 25
    cursor.settle(piece)
    assert cursor.pending == 99


def pairs(positions):
    return {position for first, end in positions for position in range(first, end)}


some_ranges = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 8)), max_size=8)


@given(some_ranges, some_ranges, st.integers(0, 45), st.integers(0, 20))
def test_ranges_are_sets_of_positions(some, others, first, length):
    from flag_analytics_delivery import ranges

    def build(parts):
        built: ranges.Ranges = ()
        for start, count in parts:
            built = ranges.add(built, start, start + count)
        return built

    left, right, end = build(some), build(others), first + length
    assert all(one[1] < two[0] for one, two in itertools.pairwise(left))
    assert ranges.count(left) == len(pairs(left))
    assert pairs(ranges.gaps_of(left, first, end)) == set(range(first, end)) - pairs(left)
    assert pairs(ranges.cut(left, first, end)) == set(range(first, end)) & pairs(left)
    assert pairs(ranges.common(left, right)) == pairs(left) & pairs(right)
    assert ranges.holds(left, first, end) == (set(range(first, end)) <= pairs(left))
    before, rest = ranges.split(left, length)
    assert pairs(before) == set(sorted(pairs(left))[:length])
    assert pairs(rest) == pairs(left) - pairs(before)
