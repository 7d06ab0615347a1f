"""One evaluation, one event: hooks with the same destination agree on which of them records it."""

from __future__ import annotations

import logging
import threading
import weakref
from typing import Any

from flag_analytics.pipeline import Pipeline
from openfeature.flag_evaluation import FlagEvaluationDetails

__all__ = ["Once", "once_for"]

_logger = logging.getLogger("flag_analytics.openfeature")


class Once:
    """The evaluations that were recorded for one destination.

    The SDK hands the same details to all hooks of an evaluation, one hook after the other in one thread: to know the
    latest details of each thread is enough. They are held weakly.
    """

    def __init__(self) -> None:
        self._latest = threading.local()
        self._warned = False

    def recorded(self, details: FlagEvaluationDetails[Any]) -> bool:
        """Return whether another hook has recorded this evaluation; the first time that it has, log a warning."""
        latest = getattr(self._latest, "details", None)
        if latest is None or latest() is not details:
            return False
        if not self._warned:
            self._warned = True
            _logger.warning(
                "two hooks see the same evaluations for the same pipeline, or for pipelines of equal configuration: "
                "each evaluation is recorded once, by the hook that was added last; a client's hooks come before those "
                "of the API. Add one hook, once; in a notebook, call api.clear_hooks() and close the earlier pipeline"
            )
        return True

    def note(self, details: FlagEvaluationDetails[Any]) -> None:
        """Note that this evaluation has been recorded."""
        self._latest.details = weakref.ref(details)


def once_for(target: Any) -> Once:
    """Return what all hooks share whose events would arrive at the same place as those of ``target``."""
    alike = (once for known, once in list(_known.values()) if _same(known(), target))
    once = next(alike, None) or Once()
    key = id(target)
    try:
        # A dead target takes its entry along, before another object can have its id.
        reference = weakref.ref(target, lambda _: _known.pop(key, None))
    except TypeError:  # an object that cannot be referred to weakly: its hooks do not know of one another
        return once
    return _known.setdefault(key, (reference, once))[1]


_known: dict[int, tuple[weakref.ref[Any], Once]] = {}


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if not isinstance(one, Pipeline) or not isinstance(other, Pipeline) or one.plan is None:
        return False
    try:
        return one.plan == other.plan
    except Exception:  # the options of a plugin may compare as they like
        return False
