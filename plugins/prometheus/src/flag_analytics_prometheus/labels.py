"""Decides which texts become labels: clean ones, known reasons, bounded numbers; the rest is ``__other__``, counted."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

import attrs
from flag_analytics.canonical import canonical_key
from flag_analytics.events import EvaluationReason

__all__ = ["OTHER", "LabelCaps", "LabelGate", "label_text"]

OTHER = "__other__"
"""The value of a label whose own value there is no room for."""

# Control characters, line separators, surrogates, and characters that reverse the direction of text.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

MAX_LABEL_BYTES = 100
"""The longest a label may be as it is written in a scrape. With the default caps, a scrape stays below 5 MB."""

_at_least_one = attrs.validators.ge(1)


@attrs.frozen(kw_only=True)
class LabelCaps:
    """The most label values there can be; each further one becomes ``__other__``.

    Attributes:
        max_flag_keys: Flag keys, over the life of the process.
        max_variants: Variants of one flag.
        max_series: Combinations of flag key, reason and variant.
        extra_reasons: Reasons with a label of their own besides those of ``EvaluationReason``.
    """

    max_flag_keys: int = attrs.field(default=1_000, validator=_at_least_one)
    max_variants: int = attrs.field(default=50, validator=_at_least_one)
    max_series: int = attrs.field(default=5_000, validator=_at_least_one)
    extra_reasons: tuple[str, ...] = ()


def label_text(text: str) -> str:
    """Return ``text`` as a label: canonical, without characters that deceive a reader, and not too long.

    Longer text is cut, and ends on ``~`` and 16 hexadecimal digits of its SHA-256, as long keys do.
    """
    if len(text) <= MAX_LABEL_BYTES // 2 and text.isascii() and text.isprintable():
        return text
    return _fit(canonical_key(text))


@lru_cache(maxsize=2_048)
def _fit(key: str) -> str:
    clean = _UNFIT.sub("\ufffd", key)
    written = _written(clean)
    if len(written) <= MAX_LABEL_BYTES:
        return clean
    digest = hashlib.sha256(clean.encode()).hexdigest()[:16]
    room = MAX_LABEL_BYTES - len(digest) - 1
    start = clean.encode()[:room].decode(errors="ignore")
    while (excess := len(_written(start)) - room) > 0:
        start = start[: -max(1, excess // 2)]
    return f"{start}~{digest}"


def _written(text: str) -> bytes:
    return text.replace("\\", "\\\\").replace('"', '\\"').encode()


class LabelGate:
    """Admits label values up to their caps; a series that has started goes on. Its owner has the lock."""

    def __init__(self, caps: LabelCaps) -> None:
        self.caps = caps
        self.overflow: Counter[str] = Counter({"flag_key": 0, "variant": 0, "reason": 0, "series": 0})
        """How many events got ``__other__`` in this label; ``series``: because of ``max_series``."""
        self.sanitised = 0
        """How many events had a label that was not fit to be shown as it was."""
        self._reasons = frozenset(str(reason) for reason in EvaluationReason) | {
            label_text(reason) for reason in caps.extra_reasons
        }
        self._variants: dict[str, set[str]] = {}
        self._series: set[tuple[str, str, str]] = set()

    def clear(self) -> None:
        """Start anew, as the child of a fork does."""
        self.overflow = Counter(dict.fromkeys(self.overflow, 0))
        self.sanitised = 0
        self._variants.clear()
        self._series.clear()

    @property
    def flag_keys(self) -> Iterable[str]:
        return self._variants.keys()

    def admit(self, flag_key: str, reason: str, variant: str) -> tuple[str, str, str]:
        """Return the labels of an event with these texts."""
        key, clean_reason, clean_variant = label_text(flag_key), label_text(reason), label_text(variant)
        if key != flag_key or clean_variant != variant:
            self.sanitised += 1
        if clean_reason not in self._reasons:
            self.overflow["reason"] += 1
            clean_reason = OTHER
        key = self._admit_flag_key(key)
        if key == OTHER:
            clean_variant = OTHER
        variants = self._variants.setdefault(key, set())
        if clean_variant not in variants and clean_variant != OTHER:
            if len(variants) < self.caps.max_variants:
                variants.add(clean_variant)
            else:
                self.overflow["variant"] += 1
                clean_variant = OTHER
        return self._admit_series(key, clean_reason, clean_variant)

    def admit_flag_key(self, flag_key: str) -> str:
        """Return the label of a flag key that comes without an event."""
        key = self._admit_flag_key(label_text(flag_key))
        self._variants.setdefault(key, set())
        return key

    def _admit_flag_key(self, key: str) -> str:
        if key in self._variants or key == OTHER:
            return key
        if len(self._variants) - (OTHER in self._variants) < self.caps.max_flag_keys:
            return key
        self.overflow["flag_key"] += 1
        return OTHER

    def _admit_series(self, key: str, reason: str, variant: str) -> tuple[str, str, str]:
        labels = (key, reason, variant)
        if labels in self._series:
            return labels
        if len(self._series) < self.caps.max_series:
            self._series.add(labels)
            return labels
        self.overflow["series"] += 1
        # At most two more for each flag, so that the number stays bounded and errors stay visible.
        return (key, reason if reason == EvaluationReason.ERROR else OTHER, OTHER)
