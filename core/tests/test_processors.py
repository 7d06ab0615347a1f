"""The built-in processors: redaction and sampling."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum, StrEnum
from functools import partial

import pytest
from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.freezer import Freezer
from flag_analytics.processors import BUILT_IN, Redact, Sample, redact, sample
from flag_analytics.pseudonyms import HashTargetingKey, hash_targeting_key
from flag_analytics.testing.samples import plain_event
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


event = partial(
    plain_event,
    timestamp=NOW,
    flag_key="checkout",
    value=True,
    variant="on",
    targeting_key="user-1",
    context_attributes={"plan": "pro"},
    evaluation_duration_ms=0.0,
)


# --- redact


def context_after(context, *attributes, **options):
    return redact(Redact(attributes=attributes, **options))(event(context_attributes=context)).context_attributes


@pytest.mark.parametrize(
    ("context", "attributes", "expected"),
    [
        ({"email": "a@b", "plan": "pro"}, ["email"], {"plan": "pro"}),
        ({"plan": "pro"}, ["email"], {"plan": "pro"}),
        ({"address": {"street": "x", "city": "y"}}, ["address.street"], {"address": {"city": "y"}}),
        ({"address": {"street": "x", "city": "y"}}, ["address"], {}),
        ({"a": {"b": {"c": 1, "d": 2}}}, ["a.b.c", "a.b.d"], {"a": {"b": {}}}),
        ({"a.b": 1, "a": {"b": 2, "c": 3}}, ["a.b"], {"a": {"c": 3}}),
        ({"users": [{"email": 1, "id": 2}, {"email": 3}, 5]}, ["users.email"], {"users": [{"id": 2}, {}, 5]}),
        ({"users": ({"email": 1},)}, ["users.email"], {"users": [{}]}),
        ({"a": "text"}, ["a.b"], {"a": "text"}),
        ({"Email": 1}, ["email"], {"Email": 1}),
        ({1: "x", 2: "y"}, ["1"], {2: "y"}),
        ({}, ["email"], {}),
        (None, ["email"], None),
    ],
)
def test_attributes_are_removed_by_name_and_by_path(context, attributes, expected):
    assert context_after(context, *attributes) == expected


def test_a_replacement_takes_the_place_of_a_removed_value():
    context = {"email": "a@b", "address": {"street": "x"}}
    after = context_after(context, "email", "address.street", "missing", replacement="gone")
    assert after == {"email": "gone", "address": {"street": "gone"}}


def test_the_value_is_removed_only_when_asked_for():
    assert redact(Redact(attributes=("email",)))(event(value="secret")).value == "secret"
    assert redact(Redact(value=True))(event(value="secret")).value is None
    assert redact(Redact(value=True, replacement="x"))(event(value="secret")).value == "x"


def test_a_redaction_that_removes_nothing_is_refused():
    with pytest.raises(ValueError, match="would remove nothing"):
        Redact()


def test_the_callers_own_context_is_not_changed():
    context = {"address": {"street": "x", "list": [{"street": "y"}]}}
    context_after(context, "address.street", "address.list.street")
    assert context == {"address": {"street": "x", "list": [{"street": "y"}]}}


def test_an_event_without_the_attributes_is_passed_on_unchanged():
    before = event()
    assert redact(Redact(attributes=("email",)))(before) is before


class Attribute(StrEnum):
    EMAIL = "email"


class Frozen(Mapping):
    def __getitem__(self, key):
        return {"email": 1, "plan": 2}[key]

    def __iter__(self):
        return iter(["email", "plan"])

    def __len__(self):
        return 2


def test_keys_and_mappings_of_other_classes_are_redacted_too():
    assert context_after({Attribute.EMAIL: 1}, "email") == {}
    assert context_after({"user": Frozen()}, "user.email") == {"user": {"plan": 2}}
    assert context_after(Frozen(), "email") == {"plan": 2}


class Kind(Enum):
    EMAIL = "email"
    NUMBER = 7
    TABLE = {"email": "a@b"}  # noqa: RUF012


class Disguised(str):
    """Text whose own methods lie about it."""

    __slots__ = ()

    def __eq__(self, other):
        return False

    def __ne__(self, other):
        return True

    def __hash__(self):
        return 1

    def __str__(self):
        return "plan"

    __repr__ = __str__


keys = (
    st.text(st.characters(codec=None), max_size=5)
    | st.text(max_size=5).map(Disguised)
    | st.sampled_from([*Kind, Attribute.EMAIL, "e\0", "\ud800", None, 2**70, 1e300])
    | st.integers()
    | st.floats()
)


@given(keys, st.dictionaries(keys, st.integers(), max_size=3))
def test_every_key_that_is_stored_under_a_redacted_name_is_removed(key, others):
    frozen = Freezer().freeze(event(context_attributes={**others, key: "secret", "in": {key: "secret"}}))
    for name in frozen.context_attributes:
        if not name or "." in name:
            continue
        redacted = redact(Redact(attributes=(name, f"in.{name}")))(
            event(context_attributes={**others, key: "secret", "in": {key: "secret"}})
        )
        stored = Freezer().freeze(redacted).context_attributes
        assert name not in stored
        assert name not in stored.get("in", {})


def test_the_value_of_an_enumeration_member_is_redacted_too():
    assert context_after({"user": Kind.TABLE}, "user.email") == {"user": {}}


def test_a_context_that_contains_itself_ends():
    loop: list = [{"email": 1}]
    loop.append(loop)
    assert "email" not in repr(context_after({"a": loop}, "a.email"))


def test_an_empty_attribute_name_is_refused():
    with pytest.raises(ValueError, match="empty"):
        Redact(attributes=("",))


names = st.sampled_from(["a", "b", "a.b", "c"])
nested = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(names, inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=12,
)


@given(st.dictionaries(names, nested, max_size=3), st.sampled_from(["a", "a.b", "b.a.c"]))
def test_redaction_empties_a_path_and_is_idempotent(context, path):
    once = context_after(context, path)
    assert not list(found_at(once, path))
    assert context_after(once, path) == once


def found_at(node, path):
    if isinstance(node, list):
        for item in node:
            yield from found_at(item, path)
    elif isinstance(node, dict):
        if path in node:
            yield node[path]
        first, _, rest = path.partition(".")
        if rest and first in node:
            yield from found_at(node[first], rest)


# --- sample


def kept(rate, events, **options):
    process = sample(Sample(rate=rate, **options))
    return [after for after in map(process, events) if after is not None]


def test_a_rate_of_one_keeps_every_event():
    events = [event(targeting_key=f"user-{i}") for i in range(200)]
    assert kept(1.0, events) == events


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_the_share_that_is_kept_is_the_rate(rate):
    count = 20_000
    share = len(kept(rate, [event(targeting_key=f"user-{i}") for i in range(count)])) / count
    assert abs(share - rate) < 4 * (rate * (1 - rate) / count) ** 0.5


def test_a_user_is_always_in_or_always_out_for_one_flag():
    for i in range(100):
        assert len({bool(kept(0.5, [event(targeting_key=f"user-{i}", variant=str(j))])) for j in range(5)}) == 1


def test_users_are_drawn_anew_for_each_flag():
    users = [f"user-{i}" for i in range(2_000)]
    one = {after.targeting_key for after in kept(0.5, [event(targeting_key=user) for user in users])}
    two = {after.targeting_key for after in kept(0.5, [event(targeting_key=user, flag_key="b") for user in users])}
    assert 400 < len(one & two) < 600


def test_a_smaller_rate_keeps_a_subset_of_a_larger_one():
    events = [event(targeting_key=f"user-{i}") for i in range(500)]
    few = {after.targeting_key for after in kept(0.1, events)}
    many = {after.targeting_key for after in kept(0.6, events)}
    assert few < many


def test_events_without_a_targeting_key_are_drawn_one_by_one():
    anonymous = [
        FlagEvaluationEvent(NOW, "checkout", True, "SPLIT", targeting_key=key) for key in ("", None) for _ in range(500)
    ]
    assert 350 < len(kept(0.5, anonymous)) < 650
    assert kept(0.5, anonymous) == kept(0.5, anonymous)


def test_a_kept_event_carries_the_rate():
    (after,) = kept(0.999999, [event()])
    assert after.sample_rate == 0.999999
    (again,) = kept(0.999999, [event(sample_rate=0.5)])
    assert again.sample_rate == 0.999999 * 0.5
    (odd,) = kept(0.999999, [event(sample_rate="often")])
    assert odd.sample_rate == 0.999999


def test_errors_are_always_kept():
    errors = [event(targeting_key=f"user-{i}", reason="ERROR") for i in range(50)]
    errors += [event(targeting_key=f"user-{i}", error_type="PARSE_ERROR") for i in range(50)]
    assert kept(0.01, errors) == errors


def test_an_event_that_was_sampled_before_is_drawn_anew():
    events = [event(targeting_key=f"user-{i}") for i in range(4_000)]
    twice = kept(0.5, kept(0.5, events))
    assert 850 < len(twice) < 1_150
    assert {after.sample_rate for after in twice} == {0.25}


def test_sampling_may_be_limited_to_some_flags():
    events = [event(flag_key=key, targeting_key=f"user-{i}") for key in ("busy", "quiet") for i in range(100)]
    left = kept(0.0001, events, flag_keys=("busy",))
    assert [after.flag_key for after in left if after.flag_key == "quiet"] == ["quiet"] * 100
    assert all(after.sample_rate == 1.0 for after in left if after.flag_key == "quiet")
    assert len(left) < 105


@pytest.mark.parametrize("rate", [0, -1, 1.01, float("nan"), float("inf")])
def test_a_rate_outside_its_range_is_refused(rate):
    with pytest.raises(ValueError, match="rate"):
        Sample(rate=rate)


def test_the_draw_is_the_same_in_another_process():
    program = (
        "from flag_analytics.processors import Sample, sample\n"
        "from flag_analytics.events import FlagEvaluationEvent as E\n"
        "process = sample(Sample(rate=0.5))\n"
        "print(''.join(str(int(process(E(None, 'checkout', 1, 'SPLIT', targeting_key=f'user-{i}')) is not None))"
        " for i in range(64)))"
    )
    here = "".join(str(len(kept(0.5, [event(targeting_key=f"user-{i}")]))) for i in range(64))
    for seed in ("1", "2"):
        environ = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == here


# --- all of them


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_processor_has_its_own_name(name):
    assert BUILT_IN[name].name == name


scalars = st.none() | st.integers() | st.floats() | st.text() | st.binary()
hostile = scalars | st.lists(scalars, max_size=2) | st.dictionaries(scalars, scalars, max_size=3)


@given(flag_key=hostile, targeting_key=hostile, context=hostile)
def test_no_field_of_an_event_can_break_a_built_in_processor(flag_key, targeting_key, context):
    odd = event(flag_key=flag_key, targeting_key=targeting_key, context_attributes=context)
    for process in (
        hash_targeting_key(HashTargetingKey(key="k" * 16)),
        redact(Redact(attributes=("a.b", "c"), value=True)),
        sample(Sample(rate=0.5)),
    ):
        process(odd)
