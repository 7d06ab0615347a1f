"""Every processor of the plugin passes the conformance kit of processors."""

from __future__ import annotations

import pytest
from flag_analytics.pseudonyms import HashTargetingKey, hash_targeting_key
from flag_analytics.testing import ProcessorContract
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

ATTRIBUTES = frozenset({"context_attributes"})


class TestHashTargetingKey(ProcessorContract):
    changes = frozenset({"targeting_key"})

    @pytest.fixture
    def processor(self):
        return hash_targeting_key(HashTargetingKey(key="k" * 32, key_id="1"))


class TestRedactAttributes(ProcessorContract):
    changes = ATTRIBUTES

    @pytest.fixture
    def processor(self):
        return redact_attributes(RedactAttributes(attributes=("email", "plan.*", "list.token", "*.x")))


class TestAllowAttributes(ProcessorContract):
    changes = ATTRIBUTES

    @pytest.fixture
    def processor(self):
        return allow_attributes(AllowAttributes(attributes=("a", "plan.names")))


class TestDropValue(ProcessorContract):
    changes = frozenset({"value"})

    @pytest.fixture
    def processor(self):
        return drop_value(DropValue())


class TestTruncate(ProcessorContract):
    changes = frozenset({"value", "context_attributes", "error_message"})

    @pytest.fixture
    def processor(self):
        return truncate(Truncate(max_chars=3))


class TestSetAttributes(ProcessorContract):
    changes = ATTRIBUTES

    @pytest.fixture
    def processor(self):
        return set_attributes(SetAttributes(attributes={"region": "eu"}))


class TestBucket(ProcessorContract):
    changes = ATTRIBUTES

    @pytest.fixture
    def processor(self):
        return bucket(Bucket(attribute="a"))
