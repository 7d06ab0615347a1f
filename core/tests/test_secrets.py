"""Secrets are kept out of messages."""

from __future__ import annotations

import time

import pytest
from flag_analytics.config.secrets import MASK, looks_secret, mask, masked_cause, message_of, place
from flag_analytics.errors import PluginError
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://app:pw@db/x", "postgresql://***@db/x"),
        ("postgresql+asyncpg://app:p@ss/w:rd@db:5432/x", "postgresql+asyncpg://***@db:5432/x"),
        ("see https://token@host/a and b", "see https://***@host/a and b"),
        ("cannot open 'mysql://u:p@h/d': refused", "cannot open 'mysql://***@h/d': refused"),
        ("https://h/?user=a&password=pw&sslmode=require", "https://h/?user=a&password=***&sslmode=require"),
        ("https://h/?API_KEY=pw;x=1", "https://h/?API_KEY=***;x=1"),
        ("sqlite:///events.db", "sqlite:///events.db"),
        ("user@example.org", "user@example.org"),
    ],
)
def test_secret_parts_of_urls_are_masked(text, expected):
    assert mask(text) == expected


@given(st.text(min_size=4), st.text(), st.text())
def test_a_masked_text_holds_no_secret(secret, before, after):
    masked = mask(before + secret + after, [secret])
    assert secret not in masked.replace(MASK, "") or secret in MASK


def test_a_text_too_short_to_be_a_secret_does_not_cut_words_apart():
    assert mask("pin 12 of 1234", ["12"]) == "pin 12 of 1234"


def test_of_two_secrets_the_longer_one_goes_first():
    assert mask("abcdef", ["abcd", "abcdef"]) == MASK


@pytest.mark.parametrize(
    "name", ["password", "PGPASSWORD", "api_key", "apikey", "auth_token", "client_secret", "salt", "dsn"]
)
def test_names_of_secret_options_are_recognised(name):
    assert looks_secret(name)


@pytest.mark.parametrize("name", ["prefix", "max_size", "flag_key", "path", "registry"])
def test_other_names_are_not(name):
    assert not looks_secret(name)


def test_a_message_is_one_masked_line_of_bounded_length():
    words = message_of(ValueError("first\n  second pw1234 " + "x " * 10_000), ["pw1234"])
    assert words.startswith("ValueError: first second *** x x")
    assert len(words) < 520


def test_half_a_secret_is_not_left_where_a_message_is_cut():
    secret = "s" * 3_000
    for padding in range(900, 1_100, 7):
        assert "ssss" not in message_of(ValueError("p" * padding + " " + secret), [secret])


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("left of right"), "ValueError"),
        (PluginError("port 5 is in use"), "port 5 is in use"),
        (PluginError("no answer from https://u:p@h"), "no answer from https://***@h"),
        (PluginError(), "PluginError"),
    ],
)
def test_the_words_of_other_exceptions_than_our_own_can_be_left_out(error, expected):
    assert message_of(error, quote="own") == expected
    assert message_of(error, quote="nothing") == type(error).__name__


def test_an_exception_that_cannot_be_shown_is_named():
    class Shy(Exception):  # noqa: N818 - it is about an exception of any name
        def __str__(self) -> str:
            raise RuntimeError

    assert message_of(Shy()) == "Shy"
    assert message_of(KeyError()) == "KeyError"


def test_a_hostile_message_is_masked_in_linear_time():
    started = time.perf_counter()
    message_of(ValueError("?" + "pass" * 1_000_000))
    message_of(ValueError("a://" * 1_000_000))
    assert time.perf_counter() - started < 5


def raise_chain(words):
    try:
        try:
            raise KeyError(words)
        except KeyError as error:
            raise ValueError(words) from error
    except ValueError:
        raise RuntimeError(words)  # noqa: B904 - its context is what is tested


def test_a_masked_chain_keeps_classes_and_places_but_no_secret():
    with pytest.raises(RuntimeError) as caught:
        raise_chain("pw1234")
    found, error = [], masked_cause(caught.value, ["pw1234"])
    while error is not None:
        found.append(str(error))
        assert place(error).rpartition(":")[0].endswith("test_secrets.py")
        error = error.__cause__
    assert found == ["RuntimeError: ***", "ValueError: ***", "KeyError: '***'"]


def test_a_chain_without_an_end_ends():
    error = ValueError("a")
    error.__context__ = other = ValueError("b")
    other.__context__ = error
    stand_in, links = masked_cause(error), 0
    while stand_in is not None:
        stand_in, links = stand_in.__cause__, links + 1
    assert links == 6
