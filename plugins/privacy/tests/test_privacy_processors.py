"""What each processor does to an event."""

from __future__ import annotations

from enum import Enum
from types import MappingProxyType

import pytest
from flag_analytics import FlagEvaluationEvent, open_pipeline
from flag_analytics.freezer import Freezer
from flag_analytics_privacy import (
    AllowAttributes,
    Bucket,
    DropValue,
    RedactAttributes,
    SetAttributes,
    Truncate,
    allow_attributes,
    bucket,
    drop_value,
    redact_attributes,
    set_attributes,
    truncate,
)
from hypothesis import given
from hypothesis import strategies as st

KEY = "a-key-of-thirty-two-characters-00"
names = st.sampled_from(["email", "a", "b", "address"])
trees = st.recursive(
    st.none() | st.integers() | st.just("secret"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=12,
)


class Name(Enum):
    EMAIL = "email"


class Text(str):
    __slots__ = ()


class Sly(str):
    """Is called as another name is, and says that it is none."""

    __slots__ = ()

    def __hash__(self):
        return 1

    def __eq__(self, other):
        return False


def event(context=None, **fields):
    return FlagEvaluationEvent.now(
        "f", fields.pop("value", True), "STATIC", targeting_key="user-1", context_attributes=context, **fields
    )


def stored(processor, context):
    """Return the attributes as a sink gets them."""
    return Freezer().freeze(processor(event(context))).context_attributes


def redacted(paths, context, **options):
    return stored(redact_attributes(RedactAttributes(attributes=tuple(paths), **options)), context)


# -- redaction ---------------------------------------------------------------------------------------------------------


def test_what_was_redacted_is_listed_on_the_event():
    context = {"email": "a@example.com", "plan": "team", "address": {"street": "x", "city": "Graz"}}
    assert redacted(["email", "address.street", "missing"], context) == {
        "plan": "team",
        "address": {"city": "Graz"},
        "_redacted": ["email", "address.street"],
    }


def test_an_event_without_such_attributes_is_the_same_object():
    before = event({"plan": "team"})
    assert redact_attributes(RedactAttributes(attributes=("email",)))(before) is before


def test_a_list_is_entered_and_a_star_is_every_name():
    context = {
        "friends": [{"email": 1, "name": "B"}, {"email": 2}],
        "kin": {"a": {"email": 3}, "b": {"email": 4, "c": 5}},
    }
    assert redacted(["friends.email", "kin.*.email"], context, listed_as="") == {
        "friends": [{"name": "B"}, {}],
        "kin": {"a": {}, "b": {"c": 5}},
    }


def test_a_replacement_stands_in_the_place():
    assert redacted(["email"], {"email": "a@example.com"}, replacement="-") == {"email": "-", "_redacted": ["email"]}


def test_a_name_may_have_dots_of_its_own():
    assert redacted(["user.email"], {"user.email": "a@example.com"}, listed_as="") == {}


@pytest.mark.parametrize(
    "context",
    [
        {Name.EMAIL: "secret"},
        {Text("email"): "secret"},
        {Sly("email"): "secret"},
        {"em\0ail": "secret"},
        MappingProxyType({"email": "secret"}),
        {"a": MappingProxyType({"email": "secret"})},
        {"a": [[[{"email": "secret"}]]]},
        {"a": ({"email": "secret"},)},
    ],
    ids=str,
)
def test_no_spelling_of_a_name_escapes(context):
    plain = Freezer().freeze(event(context)).context_attributes
    assert "secret" in str(plain)
    paths = ["email", "a.email", "a.street", *(name for name in plain if "ail" in name)]
    assert "secret" not in str(redacted(paths, context, listed_as=""))


@given(trees)
def test_nothing_is_left_at_a_redacted_path(tree):
    context = {"a": tree, "email": "secret"}
    after = redacted(["email", "*.email", "*.*.email"], context, listed_as="")

    def look(node, depth):
        if isinstance(node, list):
            return all(look(item, depth) for item in node)
        if isinstance(node, dict):
            return (depth > 2 or "email" not in node) and all(look(item, depth + 1) for item in node.values())
        return True

    assert look(after, 0)


@given(trees)
def test_redacted_or_allowed_everything_else_stays(tree):
    context = {"keep": tree}
    plain = Freezer().freeze(event(context)).context_attributes
    assert redacted(["no.such.path"], context) == plain
    assert stored(allow_attributes(AllowAttributes(attributes=("keep",))), context) == plain


def test_lists_that_contain_one_another_have_an_end():
    loop = [{"email": "secret"}]
    loop.append(loop)
    loop.append(loop)
    assert "secret" not in str(redacted(["a.email"], {"a": loop}))
    assert "secret" not in str(stored(allow_attributes(AllowAttributes(attributes=("a.plan",))), {"a": loop}))
    assert truncate(Truncate(max_chars=2))(event({"a": loop})) is not None


def test_only_the_allowed_attributes_are_kept():
    context = {"plan": "team", "email": "a", "address": {"street": "x", "city": "Graz"}, "friends": [{"a": 1, "b": 2}]}
    allowed = allow_attributes(AllowAttributes(attributes=("plan", "address.city", "friends.b")))
    assert stored(allowed, context) == {"plan": "team", "address": {"city": "Graz"}, "friends": [{"b": 2}]}
    assert stored(allow_attributes(AllowAttributes(attributes=())), context) == {}


def test_an_empty_name_in_a_path_is_refused():
    with pytest.raises(ValueError, match="empty name"):
        RedactAttributes(attributes=("address..street",))


# -- values ------------------------------------------------------------------------------------------------------------


def test_a_value_is_dropped_of_all_flags_or_of_some():
    assert drop_value(DropValue())(event()).value is None
    assert drop_value(DropValue(flag_keys=("f",)))(event()).value is None
    assert drop_value(DropValue(flag_keys=("g",)))(event()).value is True


def test_texts_are_cut_wherever_people_write_them():
    after = truncate(Truncate(max_chars=3))(event({"a": ["abcdef", 5]}, value={"b": "abcdef"}, error_message="abcdef"))
    assert (after.context_attributes, after.value, after.error_message) == ({"a": ["abc", 5]}, {"b": "abc"}, "abc")


def test_attributes_are_set():
    options = {"attributes": {"region": "eu", "tier": 1}}
    assert stored(set_attributes(SetAttributes(**options)), {"region": "us"}) == {"region": "eu", "tier": 1}
    kept = set_attributes(SetAttributes(**options, overwrite=False))
    assert stored(kept, {"region": "us"}) == {"region": "us", "tier": 1}
    assert stored(kept, None) == {"region": "eu", "tier": 1}


@pytest.mark.parametrize(
    ("value", "coarse"), [(34, 30), (-1, -10), (39.9, 30), (0, 0), ("34", None), (True, None), (float("inf"), None)]
)
def test_a_number_becomes_the_lower_end_of_its_range(value, coarse):
    after = stored(bucket(Bucket(attribute="age")), {"age": value, "plan": "team"})
    assert after == {"plan": "team"} | ({} if coarse is None else {"age": coarse})


@pytest.mark.parametrize(
    ("value", "coarse"),
    [("192.0.2.77", "192.0.2.0/24"), ("2001:db8:1:2::9", "2001:db8:1::/48"), ("unknown", None), (5, None)],
)
def test_an_address_becomes_its_network(value, coarse):
    after = stored(bucket(Bucket(attribute="ip", kind="ip")), {"ip": value})
    assert after == ({} if coarse is None else {"ip": coarse})


async def test_a_configuration_uses_them_by_their_type():
    config = {
        "plugins": ["privacy"],
        "collectors": {"memory": {}},
        "processors": [
            {"type": "hash_targeting_key", "key": KEY, "key_id": "1"},
            {"type": "redact_attributes", "attributes": ["email"]},
            {"type": "bucket", "attribute": "age"},
            {"type": "set_attributes", "attributes": {"region": "eu"}},
            {"type": "truncate", "max_chars": 10},
            {"type": "drop_value"},
            {"type": "allow_attributes", "attributes": ["age", "region"]},
        ],
    }
    async with open_pipeline(config) as pipeline:
        pipeline.record_nowait(event({"email": "a@example.com", "age": 34}))
        (found,) = await pipeline.collectors["memory"].get_events()
    assert found.targeting_key.startswith("1:")
    assert found.value is None
    assert found.context_attributes == {"age": 30, "region": "eu"}
