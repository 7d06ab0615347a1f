"""Asks an aggregator for the values of the gauges: on request, or at each scrape, within a bounded time."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import time
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from flag_analytics.processes import new_event_loop, new_lock, start_thread, submit, wait

from .series import Gauges

__all__ = ["STALE_AFTER_SECONDS", "ScrapeQuery", "ask", "read_metrics"]

STALE_AFTER_SECONDS = 300.0
"""How long values outlive an aggregator that fails: as long as Prometheus itself looks back for a sample."""
_GIVE_UP_SECONDS = 60.0


def read_metrics(metrics: Any) -> tuple[float, float]:
    """Return the number of unique users and the error rate as a ratio, 0.0 to 1.0, of ``FlagMetrics`` or of its dict.

    Raises:
        ValueError: a value is not a finite number.
    """
    if isinstance(metrics, Mapping):
        users, percent = metrics.get("unique_users") or 0, metrics.get("error_rate") or 0.0
    else:
        users, percent = metrics.unique_users, metrics.error_rate
    unique_users, error_rate = float(users), float(percent) / 100.0
    if not (math.isfinite(unique_users) and math.isfinite(error_rate)):
        raise ValueError("unique_users or error_rate is not finite: expected a count and a percentage, 0 to 100")
    return unique_users, error_rate


async def ask(aggregator: Any, flag_keys: Sequence[str], window_seconds: float) -> Mapping[str, Any]:
    """Return the metrics of these flags in one call; flag by flag from an aggregator that has no ``get_metrics``."""
    if hasattr(aggregator, "get_metrics"):
        answer: Mapping[str, Any] = await _awaited(aggregator.get_metrics(flag_keys, window_seconds=window_seconds))
        return answer
    return {key: await _awaited(aggregator.get_flag_metrics(key, window_seconds=window_seconds)) for key in flag_keys}


async def _awaited(answer: Awaitable[Any] | Any) -> Any:
    return await answer if inspect.isawaitable(answer) else answer


class ScrapeQuery:
    """Reads the gauges from an aggregator while a scrape waits, in a thread and an event loop of its own.

    One question is under way at a time: scrapes that meet a slow one wait for the same answer, each no longer than
    ``timeout_seconds``. Without an answer the last values stand for ``STALE_AFTER_SECONDS``, then they are withdrawn.

    Args:
        aggregator: An ``AnalyticsAggregator``.
        flag_keys: The flags to ask for; None means those with the most evaluations in the window.
        window_seconds: The window of the metrics, up to now.
        timeout_seconds: The longest a scrape waits.
        max_flag_keys: The most flags to ask for.
    """

    def __init__(
        self,
        aggregator: Any,
        flag_keys: Sequence[str] | None,
        window_seconds: float,
        timeout_seconds: float,
        max_flag_keys: int,
    ) -> None:
        self.failures: Counter[str] = Counter({"error": 0, "timeout": 0})
        self.last_success: float | None = None
        """In seconds since the Unix epoch."""
        self._aggregator = aggregator
        self._flag_keys = None if flag_keys is None else list(flag_keys)[:max_flag_keys]
        self._window_seconds = window_seconds
        self._timeout_seconds = timeout_seconds
        self._max_flag_keys = max_flag_keys
        self._values = Gauges()
        self._answered_at = -math.inf
        self._renew()

    def _renew(self) -> None:
        self._lock = new_lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._question: Future[Gauges] | None = None

    def after_fork_in_child(self) -> None:
        """Forget the parent's thread: it does not exist here."""
        self._renew()

    def read(self) -> Gauges:
        """Return the values of now or, failing that, the last ones; never raises for an error of the aggregator."""
        question: Future[Gauges] | None = None
        try:
            question = self._ask_now()
            self._values = wait(question, self._timeout_seconds)
        except Exception:
            # The text of the error may quote a query or an address, so there is the count alone.
            timed_out = question is not None and not question.done()
            self.failures["timeout" if timed_out else "error"] += 1
        else:
            self._answered_at = time.monotonic()
            self.last_success = time.time()
        if time.monotonic() - self._answered_at > STALE_AFTER_SECONDS:
            self._values = Gauges()
        return self._values

    def close(self) -> None:
        """Stop the thread; a question that is under way is cancelled."""
        with self._lock:
            loop, self._loop = self._loop, None
            question, self._question = self._question, None
        if question is not None:
            question.cancel()
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)

    def _ask_now(self) -> Future[Gauges]:
        with self._lock:
            if self._question is not None and not self._question.done():
                return self._question
            if self._loop is None:
                self._loop = _start_loop()
            self._question = submit(self._answer(), self._loop)
            return self._question

    async def _answer(self) -> Gauges:
        async with asyncio.timeout(_GIVE_UP_SECONDS):
            flag_keys = self._flag_keys
            if flag_keys is None:
                active = await _awaited(self._aggregator.list_flags(window_seconds=self._window_seconds))
                busiest = sorted(active, key=lambda activity: -activity.count)
                flag_keys = [activity.flag_key for activity in busiest[: self._max_flag_keys]]
            gauges = Gauges()
            if flag_keys:
                answer = await ask(self._aggregator, flag_keys, self._window_seconds)
                for flag_key, metrics in answer.items():
                    gauges.unique_users[flag_key], gauges.error_rates[flag_key] = read_metrics(metrics)
            return gauges


def _start_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop that runs in a thread of its own.

    Raises:
        RuntimeError: no thread can be started.
    """
    loop = new_event_loop()
    if start_thread(_run, loop, name="prometheus-gauges") is None:
        loop.close()
        raise RuntimeError("no thread can be started to ask the aggregator")
    return loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        with contextlib.suppress(Exception):
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.close()
