"""What the processors of flag-analytics-privacy cost, beside the least that could do the same."""

from __future__ import annotations

import hmac
from typing import Any

from flag_analytics.events import FlagEvaluationEvent
from flag_analytics.freezer import Freezer
from flag_analytics.pseudonyms import HashTargetingKey, hash_targeting_key
from flag_analytics_privacy import RedactAttributes, redact_attributes

from ._harness import Contender, Limit, Table, calls, compare

_CONTEXT: dict[str, Any] = {
    "plan": "premium",
    "country": "GB",
    "email": "ada@example.org",
    "address": {"street": "St James's Square", "city": "London"},
    "friends": [{"email": "b@example.org", "name": "B"}],
}
_EVENT = FlagEvaluationEvent.now("checkout_redesign", True, "SPLIT", "b", "user-12345", _CONTEXT)
_KEY = "a-key-of-thirty-two-characters-00"


def pseudonyms() -> Table:
    """Time the pseudonym of one event, beside the hash alone."""
    key, text = _KEY.encode(), b"user-12345"
    ours, least = "hash_targeting_key", "hmac.digest(…).hex()"
    return compare(
        "The pseudonym of one event",
        [
            Contender(least, calls(lambda: hmac.digest(key, text, "sha256").hex())),
            Contender(ours, calls(hash_targeting_key(HashTargetingKey(key=_KEY)), _EVENT)),
        ],
        limits=[Limit(ours, at_most=1.5, times=least)],
    )


def redaction() -> Table:
    """Time the redaction of three paths, beside bringing the event into its canonical form."""
    ours, least = "redact_attributes, three paths", "the event's canonical form"
    redact = redact_attributes(RedactAttributes(attributes=("email", "address.street", "friends.email")))
    return compare(
        "The redaction of one event",
        [
            Contender(least, calls(Freezer().freeze, _EVENT)),
            Contender(ours, calls(redact, _EVENT)),
        ],
        limits=[Limit(ours, at_most=1.0, times=least)],
    )


BENCHMARKS = (pseudonyms, redaction)
