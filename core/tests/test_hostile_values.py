"""Every kind of hostile value in every field of an event: never an error, bounded work, one canonical form."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from flag_analytics.errors import EventError
from flag_analytics.freezer import Freezer
from flag_analytics.testing.hostile import CANARY, HOSTILE_KINDS, PLACES, check_canonical, hostile_event

MOST_CALLS = 30_000
"""Calls of functions, in Python and C, that one event may take: 70,000 integers or texts take more, looked at once."""


def calls_of(function: Any, argument: Any) -> tuple[Any, int]:
    """Return what a function returns, and how many functions were called for that."""
    count = 0

    def profile(_frame: Any, what: str, _argument: Any) -> None:
        nonlocal count
        count += what in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        result = function(argument)
    finally:
        sys.setprofile(before)
    return result, count


@pytest.mark.parametrize("kind", HOSTILE_KINDS)
def test_a_hostile_value_in_any_field_takes_a_canonical_form_with_bounded_work(kind):
    for place in PLACES:
        freezer = Freezer()
        frozen, calls = calls_of(freezer.freeze, hostile_event(place, HOSTILE_KINDS[kind]()))
        check_canonical(frozen)
        assert calls <= MOST_CALLS, place
        again = Freezer()
        assert again.freeze(frozen.thaw()).context_json == frozen.context_json
        assert not again.changes().keys() - {"clock_skew"}, place


@pytest.mark.parametrize("kind", HOSTILE_KINDS)
def test_a_hostile_value_in_place_of_an_event_is_one_or_is_refused_without_its_content(kind):
    message = ""
    try:
        check_canonical(Freezer().freeze(HOSTILE_KINDS[kind]()))
    except EventError as refused:
        message = str(refused)
    assert not message or "flag_key" in message
    assert CANARY not in message


def test_the_kinds_include_the_objects_of_libraries():
    for library in ("werkzeug", "wrapt", "lazy", "numpy", "pandas", "pydantic"):
        assert any(library in kind for kind in HOSTILE_KINDS)
