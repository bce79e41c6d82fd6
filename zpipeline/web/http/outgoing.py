"""What is written to a connection, no faster than its client reads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IPullProducer, IPushProducer
from twisted.internet.tcp import Connection
from zope.interface import implementer

#: So many bytes a transport is given at once: when they are sent, it gets more.
PIECE = 1 << 16


class Outgoing:
    """The bytes that wait to be sent, in order.

    :param transport: of the connection.
    :param progress: is called each time that some of what waited has been sent, and when something begins to wait;
        `waits` says whether something still does.
    :ivar waits: whether there is something that the client has to make room for, by reading.
    """

    def __init__(self, transport: Any, progress: Callable[[], None]) -> None:
        self.waits = False
        self._transport = transport
        self._progress = progress
        self._unsent: deque[memoryview] = deque()

    def write(self, data: bytes) -> None:
        """Send this after what was written before."""
        raise NotImplementedError

    def end(self) -> None:
        """Nothing more is to be written; nothing waits."""

    def stopProducing(self) -> None:
        """The connection is lost."""
        self._unsent.clear()

    def _next_piece(self) -> bytes:
        data = self._unsent.popleft()
        if len(data) > PIECE:
            self._unsent.appendleft(data[PIECE:])
        return bytes(data[:PIECE])


@implementer(IPullProducer)
class TCPOutgoing(Outgoing):
    """Of a TCP connection: what the kernel takes at once is sent at once, which spares the reactor a turn, and epoll
    two calls.
    """

    def write(self, data: bytes) -> None:
        """Send this after what was written before."""
        if self.waits:
            self._unsent.append(memoryview(data))
            return
        sent = self._transport.writeSomeData(data)
        if sent == len(data):
            return
        if not isinstance(sent, int):
            sent = 0  # the connection is lost, as the transport is about to find out
        self._unsent.append(memoryview(data)[sent:])
        self.waits = True
        self._transport.registerProducer(self, False)  # it asks for some at once

    def resumeProducing(self) -> None:
        """The transport has sent what it was given."""
        if self._unsent:
            self._transport.write(self._next_piece())
        else:
            self.waits = False
            self._transport.unregisterProducer()
        self._progress()


@implementer(IPushProducer)
class OtherOutgoing(Outgoing):
    """Of TLS, and whatever else says when it has enough."""

    def __init__(self, transport: Any, progress: Callable[[], None]) -> None:
        super().__init__(transport, progress)
        self._is_full = False
        transport.registerProducer(self, True)

    def write(self, data: bytes) -> None:
        """Send this after what was written before."""
        self._unsent.append(memoryview(data))
        self._send()

    def _send(self) -> None:
        while self._unsent and not self._is_full:
            self._transport.write(self._next_piece())
        self.waits = self._is_full

    def pauseProducing(self) -> None:
        """The transport has enough."""
        self._is_full = self.waits = True
        self._progress()

    def resumeProducing(self) -> None:
        """It has sent most of it."""
        self._is_full = False
        self._send()
        self._progress()

    def end(self) -> None:
        """Nothing more is to be written; nothing waits."""
        self._transport.unregisterProducer()


def outgoing(transport: Any, progress: Callable[[], None]) -> Outgoing:
    """What writes to this transport."""
    return (TCPOutgoing if isinstance(transport, Connection) else OtherOutgoing)(transport, progress)
