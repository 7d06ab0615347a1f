"""Faults to test a delivery with: a sink that fails as told, a TCP proxy that breaks connections, the smallest server.

::

    with TcpStore() as store, FaultProxy(store.address) as proxy:
        delivery = Delivery({"store": TcpSink(proxy.address)})
        proxy.cut_after(b"COMMIT")  # the next commit is made, but its answer is lost
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Self

from ..errors import CommitUnknown, SinkUnavailable
from ..frozen import FrozenEvent, decode_event, encode_event
from ..protocols import Batch
from ..reports import DeadLetter

__all__ = ["FaultProxy", "LostAnswer", "ScriptedSink", "TcpSink", "TcpStore", "wait_until"]

Address = tuple[str, int]


class LostAnswer(Exception):  # noqa: N818 - not an error of its own: it says when the other one is raised
    """In a script: the batch is stored first, and then ``error`` is raised."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


Step = BaseException | Callable[[Batch], Awaitable[Any]] | None


class ScriptedSink:
    """A sink that stores each event id once, and fails as its script says.

    Each write takes the next step of the script: None stores, an exception is raised instead of storing, a
    ``LostAnswer`` after it, and a coroutine function is awaited with the batch and stores only if it returns true. Then
    ``always`` is the step of every further write.

    Attributes:
        script: The steps of the next writes; may be added to at any time.
        always: The step of every write when the script is at its end.
        stored: Every event stored, by its id, in the order of the first time.
        writes: Every batch that was asked to be written.
        repeated: How many events were written again after they had been stored.
        letters: The dead letters this sink was given to keep.
        opened: How often ``open`` was called.
        closed: How often ``close`` was called.
        pings: How often ``ping`` was called.
        alive: Whether ``ping`` succeeds.
    """

    def __init__(self, script: Iterable[Step] = (), always: Step = None) -> None:
        self.script = list(script)
        self.always = always
        self.stored: dict[str, FrozenEvent] = {}
        self.writes: list[Batch] = []
        self.repeated = 0
        self.letters: list[DeadLetter] = []
        self.opened = 0
        self.closed = 0
        self.pings = 0
        self.alive = True
        self.changed = threading.Condition()

    async def open(self) -> None:
        self.opened += 1

    async def write(self, batch: Batch) -> None:
        step = self.script.pop(0) if self.script else self.always
        self.writes.append(batch)
        self._tell()
        if isinstance(step, LostAnswer):
            self._store(batch)
            raise step.error
        if isinstance(step, BaseException):
            raise step
        if step is None or await step(batch):
            self._store(batch)

    def _store(self, batch: Batch) -> None:
        for event in batch:
            if event.event_id in self.stored:
                self.repeated += 1
            self.stored[event.event_id] = event
        self._tell()

    def _tell(self) -> None:
        with self.changed:
            self.changed.notify_all()

    async def ping(self) -> None:
        self.pings += 1
        if not self.alive:
            raise SinkUnavailable(code="DOWN")

    async def write_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        self.letters.extend(letters)

    async def close(self) -> None:
        self.closed += 1
        self._tell()

    def wait_for(self, condition: Callable[[], Any], timeout: float = 10.0) -> bool:
        """Wait until something is so, looking again at each write; return whether it is."""
        with self.changed:
            return bool(self.changed.wait_for(condition, timeout))


def wait_until(condition: Callable[[], Any], timeout: float = 10.0) -> bool:
    """Wait until a condition holds that sends no notice, such as a ledger's figure; return whether it does."""
    pause = threading.Event()
    for _ in range(max(1, int(timeout / 0.005))):
        if condition():
            return True
        pause.wait(0.005)
    return bool(condition())


class _LoopThread:
    """A thread with an event loop, in which servers live that tests talk to from outside."""

    def __init__(self) -> None:
        self.address: Address = ("127.0.0.1", 0)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._reserved: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # the other side went away, or the test is over
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _listen(self) -> None:
        if self._reserved is None and hasattr(socket, "SO_REUSEPORT"):
            # Holds the port while no server listens: another program could get it, or a client be connected to itself.
            self._reserved = _bound(self.address)
            self.address = self._reserved.getsockname()[:2]
        self._server = await asyncio.start_server(self._accept, *self.address, reuse_port=self._reserved is not None)
        self.address = self._server.sockets[0].getsockname()[:2]

    async def _deafen(self) -> None:
        if self._server is not None:
            with contextlib.suppress(NotImplementedError):  # loops of other kinds stop listening at once
                for listener in self._server.sockets:
                    self._loop.remove_reader(listener.fileno())
            # What was accepted just now gets its task first: asyncio leaves it open where its server closes meanwhile.
            for _ in range(4):
                await asyncio.sleep(0)
            self._server.close()
            self._server = None
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _do(self, action: Awaitable[None]) -> None:
        asyncio.run_coroutine_threadsafe(_awaited(action), self._loop).result(10.0)

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._deafen())
        if self._reserved is not None:
            self._reserved.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)
        self._loop.close()


async def _awaited(action: Awaitable[None]) -> None:
    await action


def _bound(address: Address) -> socket.socket:
    reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind(address)
    return reserved


class FaultProxy(_LoopThread):
    """Forwards TCP to ``target`` and breaks it on demand. Its ``address`` stays the same all the time.

    Attributes:
        address: Where to connect instead of to the target.
        connections: How many connections were made, or tried while they were not refused.
        cuts: How many connections ``cut_after`` has cut.
    """

    def __init__(self, target: Address) -> None:
        super().__init__()
        self.target = target
        self.connections = 0
        self.cuts = 0
        self._way_is_free = asyncio.Event()
        self._way_is_free.set()
        self._delay = 0.0
        self._cut_after: list[bytes] = []
        self._skipped = 0

    def heal(self) -> None:
        """Forward everything again, at full speed."""
        self._loop.call_soon_threadsafe(self._way_is_free.set)
        self._delay = 0.0
        self._cut_after.clear()
        self._skipped = 0
        if self._server is None:
            self._do(self._listen())

    def refuse(self) -> None:
        """Cut all connections and refuse new ones, like a server that is not running."""
        self._do(self._deafen())

    def cut(self) -> None:
        """Cut all connections; new ones are welcome."""
        self.refuse()
        self.heal()

    def blackhole(self) -> None:
        """Keep connections open, accept new ones, and let nothing through in either direction."""
        self._loop.call_soon_threadsafe(self._way_is_free.clear)

    def delay(self, seconds: float) -> None:
        """Hold up every piece of data, in both directions, by so long."""
        self._delay = seconds

    def cut_after(self, marker: bytes, times: int = 1) -> None:
        """Let the next message that contains ``marker`` through to the target, and cut when it answers.

        With the marker of a commit the backend has stored the batch, and its client cannot know.
        """
        self._cut_after.extend([marker] * times)

    def cut_answer(self, number: int) -> None:
        """Cut the connection in place of one answer: that of the next message, or of one of the following ones."""
        self._skipped = number
        self.cut_after(b"")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await self._way_is_free.wait()
        far_reader, far_writer = await asyncio.open_connection(*self.target)
        armed = asyncio.Event()
        ways = [
            asyncio.ensure_future(self._forward(reader, far_writer, armed, to_target=True)),
            asyncio.ensure_future(self._forward(far_reader, writer, armed, to_target=False)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            far_writer.transport.abort()  # first: what follows can be cancelled
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _forward(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, armed: asyncio.Event, *, to_target: bool
    ) -> None:
        while data := await source.read(65_536):
            if self._delay:
                await asyncio.sleep(self._delay)
            await self._way_is_free.wait()
            if to_target and self._cut_after and self._cut_after[0] in data:
                if self._skipped:
                    self._skipped -= 1
                else:
                    self._cut_after.pop(0)
                    armed.set()
            elif armed.is_set():  # the answer: it ends here
                self.cuts += 1
                return
            sink.write(data)
            await sink.drain()


def proxy_faults(proxy: FaultProxy) -> dict[str, Callable[[], contextlib.AbstractContextManager[None]]]:
    """Return the ways in which a proxy breaks the connection to a server, by what happens."""

    @contextlib.contextmanager
    def broken(break_it: Callable[[], None]) -> Iterator[None]:
        break_it()
        try:
            yield
        finally:
            proxy.heal()

    ways: dict[str, Callable[[], None]] = {
        "the server is not there": proxy.refuse,
        "the connections were cut": proxy.cut,
        "no answer comes": proxy.blackhole,
        **{f"answer {number} is cut": partial(proxy.cut_answer, number) for number in range(4)},
    }
    return {what: partial(broken, way) for what, way in ways.items()}


class TcpStore(_LoopThread):
    """The smallest server worth the name: a batch is lines of JSON, then ``COMMIT``; it answers ``OK``.

    Attributes:
        stored: Every event stored, by its id, in the order of the first time.
        repeated: How many events came again after they had been stored.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stored: dict[str, FrozenEvent] = {}
        self.repeated = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        batch: list[FrozenEvent] = []
        while line := await reader.readline():
            if line == b"PING\n":
                writer.write(b"OK\n")
            elif line != b"COMMIT\n":
                batch.append(decode_event(line))
            else:
                self.repeated += sum(event.event_id in self.stored for event in batch)
                self.stored.update({event.event_id: self.stored.get(event.event_id, event) for event in batch})
                batch = []
                writer.write(b"OK\n")
            await writer.drain()


class TcpSink:
    """Writes to a ``TcpStore``; a connection that breaks after ``COMMIT`` was sent is a ``CommitUnknown``."""

    def __init__(self, address: Address, *, connect_seconds: float = 1.0) -> None:
        self._address = address
        self._connect_seconds = connect_seconds
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def write(self, batch: Batch) -> None:
        try:
            reader, writer = self._streams or await self._connect()
            writer.write(b"".join(encode_event(event) + b"\n" for event in batch))
            await writer.drain()
        except (OSError, TimeoutError):
            self._disconnect()
            raise SinkUnavailable(code="CONNECTION") from None
        try:
            writer.write(b"COMMIT\n")
            await writer.drain()
            answer = await reader.readline()
        except OSError:
            answer = b""
        except BaseException:
            self._disconnect()
            raise
        if answer != b"OK\n":
            self._disconnect()
            raise CommitUnknown(code="ANSWER")

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        opening = asyncio.open_connection(*self._address)
        self._streams = await asyncio.wait_for(opening, self._connect_seconds)
        return self._streams

    def _disconnect(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    def after_fork_in_child(self) -> None:
        self._streams = None

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            with contextlib.suppress(OSError):
                await self._streams[1].wait_closed()
            self._streams = None
