"""Replaces methods by ones that also tell an adapter of the answer: for SDKs without a hook that says enough."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

__all__ = ["observe", "replace"]

_ORIGINAL = "__flag_analytics_original__"


def replace(owner: Any, name: str, replacement: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace a method of an object or class; one that was replaced before is replaced anew, and told of once.

    Args:
        owner: The object or class.
        name: The method's name.
        replacement: Returns the new method for the original one.
    """
    original = getattr(owner, name)
    original = getattr(original, _ORIGINAL, original)
    changed = functools.wraps(original)(replacement(original))
    setattr(changed, _ORIGINAL, original)
    setattr(owner, name, changed)


def observe(owner: Any, name: str, tell: Callable[..., None]) -> None:
    """Have ``tell(answer, error, started, *args, **kwargs)`` called after each call of a method.

    ``error`` is what the method raised, and is raised on; ``started`` is ``time.perf_counter_ns()`` before the call.
    """

    def observed(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter_ns()
            try:
                answer = original(*args, **kwargs)
            except Exception as error:
                tell(None, error, started, *args, **kwargs)
                raise
            tell(answer, None, started, *args, **kwargs)
            return answer

        return call

    replace(owner, name, observed)
