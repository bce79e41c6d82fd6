"""The other side, by hand: a ventilator and a worker of plain pyzmq, for tests in one process with what they test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, TypeVar

import zmq
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.trial import unittest

from zpipeline import protocol
from zpipeline.job import encode_headers
from zpipeline.protocol import Bye, Close, Done, Failed, Hello, Jobs, Ready, Returned, State

M = TypeVar("M", Hello, Jobs, Close, Ready, Done, Failed, Returned, State, Bye)

_incarnations = count(1, 1000)

ANY_PORT = "tcp://127.0.0.1:*"
LIMIT = 30.0  # seconds: a bound for failure, not what anything takes


async def until(condition: Callable[[], Any], what: str = "it happens") -> Any:
    """Serve the reactor until the condition holds: what it returned then."""
    deadline = reactor.seconds() + LIMIT
    while not (found := condition()):
        if reactor.seconds() > deadline:
            raise AssertionError(f"waited {LIMIT:.0f} seconds until {what}")
        await deferLater(reactor, 0.002)
    return found


async def turns(count: int = 20) -> None:
    """Let the reactor turn so many times."""
    for _ in range(count):
        await deferLater(reactor, 0)


async def a_while(seconds: float) -> None:
    """Serve the reactor for so long: to see that something does not happen in that time."""
    await deferLater(reactor, seconds)


class Case(unittest.TestCase):
    """What tests with sockets share."""

    timeout = 120

    def setUp(self) -> None:
        self.logged: list[str] = []
        self.events: list[LogEvent] = []

        def observe(event: LogEvent) -> None:
            self.events.append(event)
            self.logged.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        self.context = zmq.Context()
        self.addCleanup(self.context.destroy, 0)

    def log_lines(self, part: str) -> list[str]:
        """The events logged so far that have this in their text."""
        return [line for line in self.logged if part in line]

    async def fails_with(self, outcome: Deferred[Any], kind: type[BaseException], text: str) -> BaseException:
        """The Deferred fails so."""
        error: BaseException = await self.assertFailure(outcome, kind)
        self.assertIn(text, str(error))
        return error


class _Peer:
    """One PULL socket that is read by polling, and the messages that came."""

    def __init__(self, context: zmq.Context[Any], address: str = ANY_PORT) -> None:
        self.context = context
        self.frames: list[list[bytes]] = []
        self.messages: list[Any] = []
        self._pull: zmq.Socket[Any] | None = None
        self._bind(address)

    def _bind(self, address: str) -> None:
        pull = self.context.socket(zmq.PULL)
        pull.set(zmq.LINGER, 0)
        try:
            pull.bind(address)
        except zmq.ZMQError:
            pull.close()
            raise
        self.address = pull.get(zmq.LAST_ENDPOINT).decode()
        self._pull = pull

    def _connect(self, address: str) -> zmq.Socket[Any]:
        push: zmq.Socket[Any] = self.context.socket(zmq.PUSH)
        push.set(zmq.LINGER, 0)
        push.connect(address)
        return push

    def read(self) -> None:
        """Take what is there."""
        while self._pull is not None:
            try:
                frames = self._pull.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self.frames.append(frames)
            self.messages.append(self._decode(frames))

    def _decode(self, frames: list[bytes]) -> Any:
        raise NotImplementedError

    def have(self, kind: type[M]) -> list[M]:
        """The messages of this kind that have come so far."""
        self.read()
        return [message for message in self.messages if isinstance(message, kind)]

    async def gets(self, kind: type[M], count: int = 1) -> M:
        """Wait until so many of this kind have come: the last of them."""
        await until(lambda: len(self.have(kind)) >= count, f"{count} {kind.__name__} have come")
        return self.have(kind)[count - 1]

    def unbind(self) -> None:
        """Close the socket, and with it all connections to it."""
        assert self._pull is not None
        self.read()
        self._pull.close()
        self._pull = None

    async def bind_again(self) -> None:
        """On the same port."""

        def bound() -> bool:
            try:
                self._bind(self.address)
            except zmq.ZMQError:
                return False  # libzmq closes the old socket in its own time
            return True

        await until(bound, "the port is free again")


class HandVentilator(_Peer):
    """A ventilator: says only what a test tells it to.

    :param worker: the worker's address.
    """

    def __init__(self, context: zmq.Context[Any], worker: str, number: int = 7) -> None:
        super().__init__(context)
        self.number = number
        self._push = self._connect(worker)

    def _decode(self, frames: list[bytes]) -> Any:
        return protocol.decode_for_sink(frames)

    def send(self, frames: list[bytes]) -> None:
        self._push.send_multipart(frames)

    def hello(
        self,
        generation: int,
        session: int,
        *,
        window: int | None = None,
        timeout: float | None = None,
        sink: str | None = None,
    ) -> None:
        self.send(protocol.encode(Hello(self.number, generation, session, sink or self.address, window, timeout)))

    def jobs(
        self, session: int, bodies: Mapping[int, bytes], headers: Mapping[str, str] | None = None, attempt: int = 1
    ) -> None:
        n = len(bodies)
        packed = [encode_headers(headers)] * n
        self.send(protocol.encode_jobs(session, list(bodies), [attempt] * n, [1.5] * n, packed, list(bodies.values())))

    def close(self, session: int) -> None:
        self.send(protocol.encode(Close(session)))

    async def opens(
        self, generation: int, session: int, *, window: int | None = None, timeout: float | None = None
    ) -> Ready:
        """HELLO, and wait for its READY."""
        self.hello(generation, session, window=window, timeout=timeout)
        await until(lambda: [r for r in self.have(Ready) if r.session == session], f"session {session} is ready")
        return next(r for r in self.have(Ready) if r.session == session)

    @property
    def done(self) -> list[int]:
        """The sequence numbers that DONE has named, in order."""
        return [number for message in self.have(Done) for number in message.sequences]

    async def has_done(self, *numbers: int) -> None:
        """Wait until all these are done."""
        await until(lambda: set(numbers) <= set(self.done), f"{numbers} are done")


class HandWorker(_Peer):
    """A worker: says only what a test tells it to."""

    def __init__(self, context: zmq.Context[Any], address: str = ANY_PORT) -> None:
        super().__init__(context, address)
        self._pushes: dict[str, zmq.Socket[Any]] = {}
        self.incarnation = next(_incarnations)

    def _decode(self, frames: list[bytes]) -> Any:
        return protocol.decode_for_worker(frames)

    def push_to(self, sink: str) -> zmq.Socket[Any]:
        if sink not in self._pushes:
            self._pushes[sink] = self._connect(sink)
        return self._pushes[sink]

    def say(self, message: protocol.ToSink, sink: str | None = None) -> None:
        """Send this to the sink that the last HELLO named."""
        self.push_to(sink or self.have(Hello)[-1].sink).send_multipart(protocol.encode(message))

    def ready(self, session: int, concurrency: int = 1) -> None:
        self.say(Ready(session, self.incarnation, concurrency, "here", 1, "by hand", "0"))

    async def takes_part(self, count: int = 1, concurrency: int = 1) -> int:
        """Wait for that many HELLO, and say READY to the last: its session."""
        hello = await self.gets(Hello, count)
        self.ready(hello.session, concurrency)
        return hello.session

    def sequences(self, session: int | None = None) -> list[int]:
        """The jobs that came (in that session), in order."""
        return [
            number for message in self.have(Jobs) if session in (None, message.session) for number in message.sequences
        ]

    async def has(self, count: int, session: int | None = None) -> list[int]:
        """Wait until so many jobs have come (in that session): their numbers."""
        await until(lambda: len(self.sequences(session)) >= count, f"{count} jobs have come")
        return self.sequences(session)
