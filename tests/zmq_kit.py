"""What the tests of sockets and links listen with. It imports no reactor: `tests.reactor_scenario` installs its own."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import zmq
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHostnameResolver, IHostResolution, IResolutionReceiver
from twisted.internet.protocol import Protocol
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import TestCase
from zope.interface import implementer

Act = Callable[[], None]


class Happenings:
    """Something that happens, and those who wait for it.

    :param reactor: whoever waits goes on in a turn of their own, never inside of what happened.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._waiting: list[tuple[Callable[[], object], Deferred[None]]] = []

    def until(self, condition: Callable[[], object]) -> Deferred[None]:
        """Fires once that holds."""
        done: Deferred[None] = Deferred()
        self._waiting.append((condition, done))
        self.happened()
        return done

    def happened(self) -> None:
        """Look again at what is waited for."""
        due = [entry for entry in self._waiting if entry[0]()]
        for entry in due:
            self._waiting.remove(entry)
            self._reactor.callLater(0, entry[1].callback, None)


class Recorder(Happenings):
    """A ConnectionListener that writes down what it hears.

    :ivar heard: "connected", "failed: REASON", "disconnected", "writable", in order.
    :ivar acts: what it does on hearing the first word of one of these.
    """

    def __init__(self, reactor: Any, **acts: Act) -> None:
        super().__init__(reactor)
        self.heard: list[str] = []
        self.acts = acts

    def connected(self) -> None:
        self._hears("connected")

    def failed(self, reason: str) -> None:
        self._hears("failed", f": {reason}")

    def disconnected(self) -> None:
        self._hears("disconnected")

    def writable(self) -> None:
        self._hears("writable")

    def until_heard(self, *words: str) -> Deferred[None]:
        """Fires once each of these was heard."""
        return self.until(lambda: all(any(heard.startswith(word) for heard in self.heard) for word in words))

    def _hears(self, word: str, more: str = "") -> None:
        self.heard.append(word + more)
        self.happened()
        self.acts.get(word, lambda: None)()


class Inbox(Happenings):
    """What a Pull calls with each message.

    :ivar act: what it does with a message.
    """

    def __init__(self, reactor: Any, act: Callable[[list[bytes]], None] = lambda frames: None) -> None:
        super().__init__(reactor)
        self.messages: list[list[bytes]] = []
        self.hosts: set[str | None] = set()
        self.act = act

    def __call__(self, frames: list[bytes], host: Callable[[], str | None]) -> None:
        self.messages.append(frames)
        if len(self.messages) == 1:
            self.hosts.add(host())
        self.happened()
        self.act(frames)

    def until_count(self, count: int) -> Deferred[None]:
        """Fires once so many messages have arrived."""
        return self.until(lambda: len(self.messages) >= count)


class LogTestCase(TestCase):
    """Writes down what is logged."""

    def setUp(self) -> None:
        self.logged: list[LogEvent] = []
        globalLogPublisher.addObserver(self.logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.logged.append)

    def lines(self, namespace: str) -> list[str]:
        """What that module has logged."""
        return [formatEvent(event) for event in self.logged if event.get("log_namespace") == namespace]


class FakePull(Protocol):
    """The least of a PULL socket (ZMTP 3.0, mechanism NULL): whoever connects is connected, until it is cut off."""

    GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
    READY = b"\x05READY" + b"\x0bSocket-Type" + b"\0\0\0\x04PULL"

    def connectionMade(self) -> None:
        self.factory.connections.append(self)
        self.transport.write(self.GREETING + bytes([4, len(self.READY)]) + self.READY)

    def cut(self) -> None:
        """Break the connection."""
        self.transport.abortConnection()


class RawPush:
    """A PUSH socket of bytes (ZMTP 3.0, mechanism NULL), connected: what libzmq keeps to itself, this one sends.

    :param address: of a PULL socket.
    """

    READY = b"\x05READY" + b"\x0bSocket-Type" + b"\0\0\0\x04PUSH"

    def __init__(self, address: str) -> None:
        host, port = address.removeprefix("tcp://").split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=40)
        self.socket.sendall(FakePull.GREETING)
        with self.socket.makefile("rb") as said:
            said.read(64)  # its greeting
            self.socket.sendall(bytes([4, len(self.READY)]) + self.READY)
            said.read(said.read(2)[1])  # its READY

    def part(self, body: bytes, *, is_last: bool = False) -> None:
        """Send one frame, after which others of its message come."""
        flags = (0 if is_last else 1) | (2 if len(body) > 255 else 0)
        length = struct.pack("!Q" if len(body) > 255 else "!B", len(body))
        self.socket.sendall(bytes([flags]) + length + body)

    def until_cut(self) -> None:
        """Wait until the other side has ended the connection."""
        with suppress(ConnectionError):
            while self.socket.recv(1000):
                pass

    def close(self) -> None:
        """End it."""
        self.socket.close()


def plain_socket(kind: int, *, high_water_mark: int = 0) -> zmq.Socket[bytes]:
    """A socket of pyzmq, with a context of its own that ends with it."""
    socket = zmq.Context().socket(kind)
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.RCVTIMEO, 40_000)  # a thread that waits for ever would outlive its test
    socket.set_hwm(high_water_mark)
    return socket


def close_plain(socket: zmq.Socket[bytes]) -> None:
    """Close it, and its context."""
    socket.close()
    socket.context.term()


@implementer(IHostnameResolver)
class Names:
    """A resolver that finds these addresses.

    :ivar asked: the names that it was asked for.
    :ivar receivers: whom it has yet to answer; with `held`, it answers nobody by itself.
    """

    def __init__(self, found: Sequence[Any] = (), *, held: bool = False) -> None:
        self.found = found
        self.held = held
        self.asked: list[str] = []
        self.receivers: list[IResolutionReceiver] = []

    def resolveHostName(self, receiver: IResolutionReceiver, name: str, *args: Any, **kwargs: Any) -> object:
        self.asked.append(name)
        self.receivers.append(receiver)
        resolution = _Resolution(name)
        receiver.resolutionBegan(resolution)
        if not self.held:
            self.answer()
        return resolution

    def answer(self) -> None:
        """Answer everybody."""
        while self.receivers:
            receiver = self.receivers.pop(0)
            for address in self.found:
                receiver.addressResolved(address)
            receiver.resolutionComplete()


@implementer(IHostResolution)
class _Resolution:
    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        raise NotImplementedError
