"""The pytest plugin of the conformance kit: fixtures for tests of plugins, and an end to what hangs.

It is loaded wherever core is installed, so it imports nothing of the kit until a fixture is used.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs
import pytest

if TYPE_CHECKING:
    from ..pipeline import Pipeline
    from .clock import ManualClock
    from .faults import FaultProxy

__all__ = ["clock", "events", "fault_proxy", "pipeline"]

MADE = pytest.StashKey["Made"]()
"""In the stash of a test of a contract: how its backend was made."""
_spent = pytest.StashKey[dict[object, "_Spent"]]()
_BACKENDS = frozenset({"collector", "exporter", "source", "processor"})
_PARAMETERS_OF_THE_KIT = frozenset({"fault", "group_by", "sample", "size", "step_seconds", "where", "window"})


# -- fixtures ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> ManualClock:
    """Time that passes when the test says so."""
    from .clock import ManualClock

    return ManualClock()


@pytest.fixture
def events() -> Callable[..., list[Any]]:
    """Make events: ``events(3, flag_key="checkout")`` returns three that differ in every field that is not given."""
    from .samples import plain_events

    return plain_events


@pytest.fixture
def pipeline() -> Iterator[Callable[[Mapping[str, Any]], Pipeline]]:
    """Open pipelines: ``pipeline({"collectors": {"jsonl": {…}}})`` returns one, which is closed after the test."""
    from ..pipeline import open_pipeline

    opened: list[Pipeline] = []

    def open_one(config: Mapping[str, Any], **options: Any) -> Pipeline:
        opened.append(open_pipeline(config, **options))
        return opened[-1]

    yield open_one
    for one in reversed(opened):
        one.close_sync()


@pytest.fixture
def fault_proxy(request: pytest.FixtureRequest) -> Iterator[FaultProxy]:
    """A proxy in front of the server whose (host, port) the fixture ``server_address`` returns; it breaks on demand."""
    from .faults import FaultProxy

    with FaultProxy(request.getfixturevalue("server_address")) as proxy:
        yield proxy


@pytest.fixture
def server_address() -> tuple[str, int]:
    """Where the server is that ``fault_proxy`` stands before: for a test module or class to say."""
    pytest.fail("fault_proxy needs a fixture `server_address` that returns the (host, port) of your server")


# -- how a backend was made --------------------------------------------------------------------------------------------


@attrs.define
class Made:
    """How the fixture of a contract made its backend, so that the kit can have a second one from it.

    Attributes:
        function: The fixture's own function, bound to the test's instance.
        arguments: The values of the fixtures that it asked for.
        descriptors: The file descriptors that were open before.
        threads: The threads that were alive before.
    """

    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    descriptors: frozenset[int]
    threads: frozenset[threading.Thread]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(fixturedef: Any, request: Any) -> Iterator[Any]:
    if fixturedef.argname in _BACKENDS and _is_contract(request.cls):
        from .resources import open_descriptors

        function = fixturedef.func
        if request.instance is not None and hasattr(function, "__func__"):
            function = function.__func__
        if request.instance is not None and "self" in function.__code__.co_varnames[:1]:
            function = function.__get__(request.instance)
        arguments = {name: request.getfixturevalue(name) for name in fixturedef.argnames}
        request.node.stash[MADE] = Made(function, arguments, open_descriptors(), frozenset(threading.enumerate()))
    return (yield)


def _is_contract(cls: Any) -> bool:
    return getattr(cls, "is_contract", False) is True


# -- an end to what hangs ----------------------------------------------------------------------------------------------


@attrs.define
class _Spent:
    """What the tests of one class took so far."""

    seconds: float = 0.0
    hangs: int = 0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[Any]:
    with _deadline(item, "setup"):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[Any]:
    with _deadline(item, "call"):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[Any]:
    with _deadline(item, "teardown"):
        return (yield)


@contextmanager
def _deadline(item: pytest.Item, phase: str) -> Iterator[None]:
    """Fail a test of a contract that does not end, so that a whole class ends within a minute whatever is broken."""
    cls = getattr(item, "cls", None)
    if not _is_contract(cls) or not _can_interrupt():
        yield
        return
    assert cls is not None
    spent = item.config.stash.setdefault(_spent, {}).setdefault(_backend_of(item), _Spent())
    limit = _limit(spent, cls.max_seconds, cls.patience_seconds if phase != "teardown" else cls.patience_seconds / 2)
    if phase == "setup" and spent.hangs and spent.seconds > cls.max_seconds:
        pytest.fail(
            f"not tried: the tests of this class took {spent.seconds:.0f} seconds, and {spent.hangs} of them hung",
            pytrace=False,
        )
    if phase == "setup":  # pytest-asyncio does not recover from being stopped while it sets up a loop
        limit = max(0.3, limit)

    def stop(*_: object) -> None:
        spent.hangs += 1
        pytest.fail(f"the {phase} of this test did not end within {limit:g} seconds: the backend hangs", pytrace=False)

    started = time.monotonic()
    handler = signal.signal(signal.SIGALRM, stop)
    # Again and again: a backend may catch the first one.
    others = signal.setitimer(signal.ITIMER_REAL, limit, min(1.0, 2 * limit))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, handler)
        took = time.monotonic() - started
        spent.seconds += took
        if others[0]:
            signal.setitimer(signal.ITIMER_REAL, max(0.01, others[0] - took), others[1])


def _backend_of(item: pytest.Item) -> object:
    """Return what tells the backend of a test from others: its class, and the parameters of the plugin's fixtures."""
    parameters = getattr(getattr(item, "callspec", None), "indices", {})
    own = tuple(sorted(pair for pair in parameters.items() if pair[0] not in _PARAMETERS_OF_THE_KIT))
    return (getattr(item, "cls", None), own)


def _limit(spent: _Spent, max_seconds: float, patience_seconds: float) -> float:
    if spent.hangs > 10:
        return 0.1
    if spent.hangs > 2 or spent.seconds > max_seconds:
        return 0.5
    return min(2.0, patience_seconds) if spent.hangs else patience_seconds


def _can_interrupt() -> bool:
    return hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
