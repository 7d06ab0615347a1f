"""Unique users: exact while they are few, within the stated error when they are many, in fixed memory, mergeable."""

from __future__ import annotations

import sys
from itertools import count

import pytest
from flag_analytics_prometheus.unique_users import (
    EXACT_USERS,
    REGISTERS,
    STANDARD_ERROR,
    UniqueUsers,
    _larger_of_each,
    keyed_hash,
)
from hypothesis import given, settings
from hypothesis import strategies as st

hash_key = keyed_hash(b"always the same")


def users_of(keys, place=None):
    users = UniqueUsers(hash_key, None, place)
    users.add_all(keys)
    return users


@settings(deadline=None)
@given(st.lists(st.text(st.characters(), max_size=8), max_size=60))
def test_few_users_are_counted_exactly(keys):
    users = users_of(keys)
    assert users.exact
    assert users.count() == len(set(keys))


def test_the_count_is_exact_up_to_the_threshold_and_stays_close_beyond_it():
    users = UniqueUsers(hash_key)
    for number in range(EXACT_USERS):
        users.add(f"user-{number}")
        users.add("user-0")
    assert (users.exact, users.count()) == (True, EXACT_USERS)
    users.add("one more")
    assert not users.exact
    assert users.count() == pytest.approx(EXACT_USERS + 1, rel=0.01)


@pytest.mark.parametrize("size", [3_000, 30_000, 300_000])
def test_many_users_are_estimated_within_three_standard_errors(size):
    assert users_of(f"user-{number}" for number in range(size)).count() == pytest.approx(size, rel=3 * STANDARD_ERROR)


def test_estimates_are_not_biased():
    serial = count()
    errors = [users_of(f"user-{next(serial)}" for _ in range(5_000)).count() / 5_000 - 1 for _ in range(20)]
    assert abs(sum(errors) / len(errors)) < 3 * STANDARD_ERROR / len(errors) ** 0.5


def test_a_count_takes_less_than_16_kib_in_either_form():
    for size in (EXACT_USERS, 50_000):
        users = users_of(f"user-{number}" for number in range(size))
        parts = [users, users._table, users._registers, users._levels]
        assert sum(sys.getsizeof(part) for part in parts if part is not None) <= 16 * 1024


sizes = st.sampled_from([0, 1, 400, 700, 1_500])


@settings(deadline=None, max_examples=25)
@given(sizes, sizes, st.integers(0, 500))
def test_merging_counts_the_union_in_either_order(left_size, right_size, shift):
    left_keys = [f"user-{number}" for number in range(left_size)]
    right_keys = [f"user-{number + shift}" for number in range(right_size)]
    one, other = users_of(left_keys), users_of(right_keys)
    one.merge(users_of(right_keys))
    other.merge(users_of(left_keys))
    union = len({*left_keys, *right_keys})
    assert one.count() == other.count()
    assert one.count() == users_of([*left_keys, *right_keys]).count()
    assert one.count() == pytest.approx(union, rel=0 if union <= EXACT_USERS and one.exact else 4 * STANDARD_ERROR)


def test_merging_is_associative_and_merging_twice_changes_nothing():
    parts = [[f"user-{number}" for number in range(start, start + 1_200)] for start in (0, 900, 5_000)]
    left, right = users_of(parts[0]), users_of(parts[1])
    left.merge(users_of(parts[1]))
    left.merge(users_of(parts[2]))
    right.merge(users_of(parts[2]))
    whole = users_of(parts[0])
    whole.merge(right)
    assert left.count() == whole.count()
    before = whole.count()
    whole.merge(right)
    assert whole.count() == before


def test_a_million_users_of_four_workers_merge_within_three_per_cent():
    workers = [UniqueUsers(hash_key) for _ in range(4)]
    for first, worker in enumerate(workers):
        worker.add_all(f"user-{number}" for number in range(first, 1_000_000, 4))
    merged = UniqueUsers(hash_key)
    for worker in workers:
        merged.merge(worker)
    assert merged.count() == pytest.approx(1_000_000, rel=0.03)


@given(st.binary(min_size=4, max_size=4), st.binary(min_size=4, max_size=4))
def test_the_larger_of_each_byte_is_taken(left, right):
    left, right = (bytes(byte & 0x7F for byte in some) for some in (left, right))
    padding = bytes(REGISTERS - 4)
    largest = _larger_of_each(left + padding, right + padding)
    assert largest[:4] == bytes(map(max, left, right))
    assert not any(largest[4:])


def test_keys_hash_differently_under_another_secret():
    assert keyed_hash(b"one")("ann") != keyed_hash(b"two")("ann")
