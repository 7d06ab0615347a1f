"""``hash_targeting_key``: pseudonyms that count users, and name the key they were made with."""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from functools import partial

import msgspec
import pytest
from flag_analytics.config.reading import read_config
from flag_analytics.errors import ConfigError
from flag_analytics.freezer import Freezer
from flag_analytics.pseudonyms import HashTargetingKey, hash_targeting_key
from flag_analytics.testing.samples import plain_event
from hypothesis import given
from hypothesis import strategies as st

KEY, OLD, OLDER = (
    "a-key-of-thirty-two-characters-00",
    "an-older-key-of-enough-characters",
    "the-oldest-key-of-enough-characters",
)

event = partial(plain_event, timestamp=datetime(2026, 1, 31, 12, tzinfo=UTC), targeting_key="user-1")


def hashed(targeting_key, key=KEY, **options):
    return hash_targeting_key(HashTargetingKey(key=key, **options))(event(targeting_key=targeting_key)).targeting_key


def test_a_pseudonym_is_the_keys_name_and_the_hmac_of_the_targeting_key():
    expected = hmac.new(KEY.encode(), b"user-1", "sha256").hexdigest()
    assert hashed("user-1", key_id="2026-11", length=64) == f"2026-11:{expected}"


def test_nothing_but_the_targeting_key_changes():
    before = event()
    after = hash_targeting_key(HashTargetingKey(key=KEY))(before)
    assert msgspec.structs.replace(after, targeting_key="user-1") == before


def test_another_key_makes_another_hash():
    keys = (KEY, "b" * 16, "x" * 64, "x" * 65, "x" * 66, "\ud800" * 16)
    assert len({hashed("user-1", key) for key in keys}) == len(keys)


@pytest.mark.parametrize("options", [{}, {"key": ""}, {"key": "a" * 15}, {"key": "", "unkeyed": True}])
def test_a_key_that_could_be_guessed_is_refused_with_how_to_make_one(options):
    with pytest.raises(ValueError, match=r"key.*secrets\.token_urlsafe"):
        HashTargetingKey(**options)


def test_a_hash_without_a_key_must_be_asked_for():
    expected = hashlib.sha256(b"user-1").hexdigest()[:32]
    assert hashed("user-1", None, unkeyed=True) == expected
    assert hash_targeting_key(HashTargetingKey(unkeyed=True)).forms("user-1") == (expected,)
    with pytest.raises(ValueError, match="not both"):
        HashTargetingKey(key=KEY, unkeyed=True)


@pytest.mark.parametrize("length", [16, 17, 32, 64])
def test_a_shorter_pseudonym_is_the_beginning_of_the_whole(length):
    assert hashed("user-1", length=length) == hashed("user-1", length=64)[: len("1:") + length]


@pytest.mark.parametrize("length", [0, 15, 65])
def test_a_hash_too_short_to_tell_users_apart_or_too_long_is_refused(length):
    with pytest.raises(ValueError, match="length"):
        HashTargetingKey(key=KEY, length=length)


@pytest.mark.parametrize("key", [None, ""])
def test_an_event_without_a_targeting_key_stays_without(key):
    assert hashed(key) == key
    assert hash_targeting_key(HashTargetingKey(key=KEY)).forms("") == ()


def test_after_rotations_a_person_is_found_under_every_key_there_was():
    once = hash_targeting_key(HashTargetingKey(key=OLDER, key_id="1"))
    twice = hash_targeting_key(HashTargetingKey(key=OLD, key_id="2", previous_keys={"1": OLDER}))
    now = hash_targeting_key(HashTargetingKey(key=KEY, key_id="3", previous_keys={"2": OLD, "1": OLDER}))
    assert now.forms("user-1") == tuple(each(event()).targeting_key for each in (now, twice, once))
    assert now.forms("user-2") != now.forms("user-1")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"key": "short"}, "at least 16 characters"),
        ({"key": KEY, "key_id": "no spaces"}, "letters, digits"),
        ({"key": KEY, "key_id": "1", "previous_keys": {"1": OLD}}, "a new key needs a new name"),
        ({"key": KEY, "key_id": "2", "previous_keys": {"1": "short"}}, "at least 16 characters"),
        ({"key": KEY, "key_id": "2", "previous_keys": {"a:b": OLD}}, "letters, digits"),
        ({"key": KEY, "key_id": "2", "previous_keys": OLD}, "previous_keys"),
        ({"key_id": "1"}, "key is required"),
    ],
)
def test_a_bad_key_is_a_problem_of_the_configuration_that_does_not_show_it(table, words):
    config = {"collectors": {"memory": {}}, "processors": [{"type": "hash_targeting_key", **table}]}
    with pytest.raises(ConfigError) as raised:
        read_config(config)
    assert words in str(raised.value)
    assert KEY not in str(raised.value)
    assert OLD not in str(raised.value)


def test_the_options_do_not_show_the_keys():
    options = repr(HashTargetingKey(key=KEY, key_id="2", previous_keys={"1": OLD}))
    assert KEY not in options
    assert OLD not in options


@given(st.text(min_size=1, max_size=400), st.text(min_size=1, max_size=400))
def test_keys_that_are_stored_alike_hash_alike_and_others_do_not(one, other):
    stored = [Freezer().freeze(event(targeting_key=key)).targeting_key for key in (one, other)]
    assert (hashed(one) == hashed(other)) is (stored[0] == stored[1])


def test_a_key_of_another_type_is_hashed_as_it_would_be_stored():
    assert hashed(5) == hashed("5")


class Equal(str):
    __slots__ = ()

    def __eq__(self, other):
        return True

    __hash__ = str.__hash__


def test_a_targeting_key_of_a_lying_class_is_hashed():
    assert hashed(Equal("user-1")) == hashed("user-1")
