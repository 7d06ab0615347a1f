"""The processors against events that say the same twice: repeated exposures, and a second SDK over the first."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import attrs

from .canonical import canonical_key
from .events import FlagEvaluationEvent
from .processes import renew_after_fork
from .protocols import Processor

__all__ = ["DeduplicateExposures", "OnlyProviders", "deduplicate_exposures", "only_providers"]

_logger = logging.getLogger("flag_analytics.pipeline")
_KINDS = frozenset({"evaluation", "exposure"})
_DAY_SECONDS = 86_400.0


@attrs.frozen(kw_only=True)
class DeduplicateExposures:
    """Options of ``deduplicate_exposures``: of equal exposures within a time, the first is kept.

    Equal are exposures of one flag, with the same version, variant and targeting key. What passes always: errors
    (``ERROR``, or an ``error_type``), events without a targeting key, and outcomes. It knows the exposures of this
    process since its start: with several processes, or after a restart, each counts one.

    Attributes:
        seconds: The time from an exposure that was kept until an equal one is kept again.
        attributes: Names of context attributes in which equal exposures must agree, too.
        kinds: The kinds of events it is about: ``exposure``, ``evaluation``. Of evaluations, one for each user and
            variant is left: users stay exact, evaluations and their rates do not.
        max_keys: The most exposures remembered, about 200 bytes each. Beyond it, the oldest are forgotten one by one,
            so that an equal one may be kept before its time; the log says so once.
    """

    seconds: float = attrs.field(default=_DAY_SECONDS, validator=attrs.validators.gt(0))
    attributes: tuple[str, ...] = ()
    kinds: tuple[str, ...] = attrs.field(
        default=("exposure",),
        validator=attrs.validators.and_(
            attrs.validators.min_len(1), attrs.validators.deep_iterable(attrs.validators.in_(_KINDS))
        ),
    )
    max_keys: int = attrs.field(default=100_000, validator=attrs.validators.ge(1))


@attrs.frozen(kw_only=True)
class OnlyProviders:
    """Options of ``only_providers``: only events of the named providers are kept.

    For an application that evaluates through two SDKs, one over the other, and records both: this names the one that
    counts.

    Attributes:
        provider_names: The providers or SDKs to keep, by ``provider_name``; an empty text stands for events without
            one.
    """

    provider_names: tuple[str, ...] = attrs.field(validator=attrs.validators.min_len(1))


def deduplicate_exposures(options: DeduplicateExposures) -> Processor:
    """Return the processor that keeps the first of equal exposures."""
    return _Deduplication(options)


def only_providers(options: OnlyProviders) -> Processor:
    """Return the processor that keeps the events of some providers."""
    names = frozenset(map(canonical_key, options.provider_names))

    def process(event: FlagEvaluationEvent) -> FlagEvaluationEvent | None:
        return event if canonical_key(event.provider_name) in names else None

    return process


class _Deduplication:
    """Remembers the digests of kept exposures with their times, in the order in which they were kept."""

    def __init__(self, options: DeduplicateExposures) -> None:
        self._options = options
        self._kinds = frozenset(options.kinds)
        self._kept: OrderedDict[bytes, float] = OrderedDict()
        self._warned = False
        self._after_fork_in_child()
        renew_after_fork(self._after_fork_in_child)

    def __call__(self, event: FlagEvaluationEvent) -> FlagEvaluationEvent | None:
        user = canonical_key(event.targeting_key)
        if not user or canonical_key(event.kind) not in self._kinds:
            return event
        if canonical_key(event.reason) == "ERROR" or canonical_key(event.error_type):
            return event
        return event if self._is_first(self._digest(event, user)) else None

    def _digest(self, event: FlagEvaluationEvent, user: str) -> bytes:
        context: Any = event.context_attributes
        known = context if isinstance(context, Mapping) else {}
        fields = [event.flag_key, event.flag_set_id, event.flag_version, event.variant]
        texts = [user, *map(canonical_key, fields)]
        texts += [canonical_key(known.get(name)) for name in self._options.attributes]
        # The lengths keep ("ab", "c") apart from ("a", "bc").
        text = "".join(f"{len(text)}:{text}" for text in texts)
        return hashlib.blake2b(text.encode(), digest_size=16, person=b"exposure").digest()

    def _is_first(self, digest: bytes) -> bool:
        now = time.monotonic()
        ends = now - self._options.seconds
        with self._lock:
            if self._kept.get(digest, ends) > ends:
                return False
            self._kept[digest] = now
            self._kept.move_to_end(digest)
            early = len(self._kept) > self._options.max_keys and self._kept.popitem(last=False)[1] > ends
        if early and not self._warned:
            self._warned = True
            _logger.warning(
                "deduplicate_exposures forgets exposures before their time, and may keep equal ones: raise max_keys "
                "(now %d), or lower seconds",
                self._options.max_keys,
            )
        return True

    def _after_fork_in_child(self) -> None:
        # A signal handler that records may interrupt the thread that holds the lock.
        self._lock = threading.RLock()
