"""A bound on the attribute sets of metrics: flag keys, variants and reasons are hostile input."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from flag_analytics.events import EvaluationReason
from flag_analytics.frozen import FrozenEvent

from .attributes import error_type, reason_code
from .tally import Tally

__all__ = ["OTHER", "OVERFLOW", "AttributeSets", "Labels"]

OTHER = "__other__"
OVERFLOW: dict[str, Any] = {"otel.metric.overflow": True}
"""The attribute set beyond the limit (OpenTelemetry metrics SDK specification, "Overflow attribute")."""

_REASONS = frozenset(reason_code(reason) for reason in EvaluationReason)
_ERROR_TYPES = frozenset(
    {
        "flag_not_found",
        "general",
        "invalid_context",
        "parse_error",
        "provider_fatal",
        "provider_not_ready",
        "targeting_key_missing",
        "type_mismatch",
    }
)


class Labels:
    """Bounds each label by itself, so that one hostile flag cannot take the place of all the others.

    The first ``max_flags`` flag keys and the first ``max_variants`` variants of each are kept; the rest, and reasons
    and error types outside the known ones, become ``__other__``. No lock is taken: n threads at once may pass a limit
    by n.
    """

    def __init__(self, max_flags: int, max_variants: int, tally: Tally) -> None:
        self._max_flags = max_flags
        self._max_variants = max_variants
        self._tally = tally
        self._variants: dict[str, set[str]] = {}

    def of(self, event: FrozenEvent) -> tuple[str, str, str, str]:
        """Return (flag key, variant or "", reason code, error type or "")."""
        flag_key = event.flag_key
        variant = event.variant or ""
        known = self._variants.get(flag_key)
        if known is None:
            if len(self._variants) >= self._max_flags:
                self._tally.add("flag_key_over_limit")
                flag_key, known = OTHER, set[str]()
                variant = OTHER if variant else ""
            else:
                known = self._variants[flag_key] = set()
        if variant and variant is not OTHER and variant not in known:
            if len(known) >= self._max_variants:
                self._tally.add("variant_over_limit")
                variant = OTHER
            else:
                known.add(variant)
        reason = reason_code(event.reason)
        error = error_type(event) or ""
        return (
            flag_key,
            variant,
            reason if reason in _REASONS else OTHER,
            error if not error or error in _ERROR_TYPES else OTHER,
        )


class AttributeSets:
    """The attribute sets of one instrument: at most ``limit``, the one that takes the overflow among them.

    Each is made once and handed out again as the same dict, which must not be changed. Labels that differ only in an
    excluded attribute share one.
    """

    def __init__(self, limit: int, exclude: frozenset[str], tally: Tally) -> None:
        self._limit = limit
        self._exclude = exclude
        self._tally = tally
        self._sets: dict[Hashable, dict[str, Any]] = {}
        self._by_labels: dict[Hashable, dict[str, Any]] = {}

    def get(self, labels: Hashable, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the set of these labels; ``make`` is called for labels not met before."""
        return self._by_labels.get(labels) or self._meet(labels, make())

    def _meet(self, labels: Hashable, made: dict[str, Any]) -> dict[str, Any]:
        attributes = {name: value for name, value in made.items() if name not in self._exclude}
        identity = tuple(attributes.items())
        known = self._sets.get(identity)
        if known is None:
            if len(self._sets) >= self._limit - 1:
                self._tally.add("attribute_set_over_limit")
                return OVERFLOW
            known = self._sets[identity] = attributes
        if len(self._by_labels) < 4 * self._limit:  # only a cache: beyond it, labels are looked up anew each time
            self._by_labels[labels] = known
        return known
