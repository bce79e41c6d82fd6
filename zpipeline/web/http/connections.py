"""How many connections there are, and what becomes of those that are too many.

Each takes a descriptor of the process, and the process has only so many: without any it can reach no worker either. So
one that is too many gets an answer that was made before it came, whatever it asks, and is closed. As nothing of its
request is read for that, closing it at once would throw the answer away (RFC 9112, section 9.6): only our half is
closed, for as long as `PATIENCE`, unless too many of them wait for that already.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.tcp import Connection as TCPConnection
from twisted.logger import Logger
from twisted.python.failure import Failure

from zpipeline.web.problems import CONTENT_TYPE, Problem

#: For how long a connection that was refused is kept for its client to read why, in seconds, and how many are.
PATIENCE = 1.0
MOST_REFUSED = 100

#: When a client that was refused is to come again, in seconds.
RETRY_AFTER = 5

#: When so much of the connections that there may be is left, refusing is over: not when one place is free for a moment.
_RELIEF = 0.9

log = Logger()


class Connections:
    """The connections of one site.

    :param most: how many there may be; None for any number.
    :param reactor: IReactorTime.
    :ivar open: how many there are.
    :ivar refused: how many were refused.
    """

    def __init__(self, most: int | None, reactor: Any) -> None:
        self.open = 0
        self.refused = 0
        self._most = most
        self._reactor = reactor
        self._reading: set[Protocol] = set()  # those that were refused, and may be reading why
        self._refused_before: int | None = None  # when it began to refuse; None while it does not

    @property
    def is_full(self) -> bool:
        """Whether one more is too many."""
        return self._most is not None and self.open >= self._most

    def opened(self) -> None:
        """There is one more."""
        self.open += 1

    def closed(self) -> None:
        """There is one less."""
        self.open -= 1
        if self._refused_before is not None and self._most is not None and self.open <= self._most * _RELIEF:
            refused, self._refused_before = self.refused - self._refused_before, None
            log.info("connections are taken again: {refused} were refused", refused=refused)

    def refuse(self) -> Protocol:
        """What speaks on a connection that is one too many."""
        if self._refused_before is None:
            self._refused_before = self.refused
            log.warn("{most} connections are open, and more are refused (--max-connections)", most=self._most)
        self.refused += 1
        return _Refused(self._reading, self._reactor)


class _Refused(Protocol):
    """One that is too many.

    :param reading: it is among these while its client may read the answer.
    """

    transport: Any

    def __init__(self, reading: set[Protocol], reactor: Any) -> None:
        self._reading = reading
        self._reactor = reactor
        self._end: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """Answer, whatever is asked."""
        transport = self.transport
        transport.write(_ANSWER)
        self._end = self._reactor.callLater(PATIENCE, transport.abortConnection)
        if len(self._reading) < MOST_REFUSED:
            self._reading.add(self)
            if isinstance(transport, TCPConnection):  # TLS has no half to close
                transport.loseWriteConnection()
                return
        transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        """It is thrown away."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The client has read its answer, or had the time to."""
        self._reading.discard(self)
        if self._end is not None and self._end.active():
            self._end.cancel()


def _answer() -> bytes:
    problem = Problem(503, "too many connections are open: try again later")
    body = json.dumps(problem.members()).encode("ascii")
    return (
        b"HTTP/1.1 503 Service Unavailable\r\n"
        b"Server: zpipeline\r\n"
        b"Connection: close\r\n"
        b"Retry-After: %d\r\n"
        b"Content-Type: %b\r\n"
        b"Content-Length: %d\r\n"
        b"\r\n%b" % (RETRY_AFTER, CONTENT_TYPE, len(body), body)
    )


_ANSWER = _answer()
