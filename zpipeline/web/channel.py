"""Connections: bytes become requests, and each request's answer goes out before the next request is begun.

httptools (Node's llhttp) reads HTTP, strictly: whatever two readers might understand in two ways is refused. What it
lets through and RFC 9112 leaves to us is refused here: transfer codings but ``chunked``, versions but 1.0 and 1.1.

A body that is too large is refused before it is read, when its Content-Length says so (then there is no
"100 Continue" either), or as soon as it is over. The client may still be sending then; if the
connection were closed at once, its kernel would throw away the answer before the client could read it. So
only our half is closed, and what still comes is read and thrown away, within bounds (RFC 9112, section 9.6).
So it is with whatever else is refused before it is complete, and with a connection that ends because the pipeline is
draining: its client may have sent its next request.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserInvalidURLError,
    HttpParserUpgrade,
    HttpRequestParser,
)
from twisted.internet.interfaces import IDelayedCall, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel

from zpipeline.web.problems import Problem, too_large, too_much_incoming
from zpipeline.web.request import Request

if TYPE_CHECKING:
    from zpipeline.web.site import Site

#: Of a request line and its headers together, and of what comes after a body in chunks.
MAX_HEAD = 16_384
MAX_HEADERS = 500

#: How much is read beyond the request that is being answered: so much shows that a client is gone.
READ_AHEAD = 16_384

#: Of a long body, in one go: each costs a turn of its own.
READ_AT_ONCE = 1 << 20

#: How long, and for how many bytes, a client is listened to that was refused while it was sending.
LINGER_SECONDS = 10.0
LINGER_BYTES = 64 << 20


class _Refused(Exception):
    """Raised to the parser: nothing more of this connection is to be read."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem


class Channel(HTTPChannel):
    """One connection, HTTP/1.1 and 1.0.

    What requests need of it is twisted.web's; the reading is not.
    """

    site: Site
    transport: Any
    requests: list[Request]
    _networkProducer: Any

    def __init__(self) -> None:
        super().__init__()
        self._parser: Any = HttpRequestParser(self)
        self._coming: Request | None = None  # a part of it is here
        self._complete: deque[Request] = deque()  # they are to be answered, in order
        self._head_is_read = False
        self._head_size = 0
        self._head_comes_again = False
        self._without_progress = 0
        self._unread: list[bytes] = []
        self._can_send = False
        self._is_going_on = False
        self._is_paused = False
        self._is_deaf = False
        self._is_kept = False  # for another request
        self._ends_after_answer = False
        self._lingering = False
        self._patience = LINGER_BYTES
        self._end_of_lingering: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """The connection is there."""
        transport = self._networkProducer = self.transport
        self._can_send = isinstance(transport, Connection)  # not so with TLS
        self.site.connections.opened()
        self.site.idle.seen(self)
        transport.registerProducer(self, True)

    # What comes

    def dataReceived(self, data: bytes) -> None:
        """Some bytes."""
        if self._is_deaf:
            self._patience -= len(data)
            if self._patience < 0:
                self.transport.abortConnection()
            return
        self._unread.append(data)
        if self._handlingRequest:
            self._breathe()
        else:
            self._go_on()

    def _go_on(self) -> None:
        """Answer what is complete, one after the other, and read on."""
        self._is_going_on = True
        while not self._handlingRequest and self.persistent:
            if self._complete:
                request = self._complete.popleft()
                self._handlingRequest = True
                self.requests.append(request)
                self.persistent = request.keeps_connection
                request.begin()
            elif self._unread:
                data = self._unread.pop() if len(self._unread) == 1 else b"".join(self._unread)
                self._unread.clear()
                self._read(data)
            else:
                break
        self._is_going_on = False
        coming = self._coming
        if coming is not None:
            self.site.idle.seen(self)
            if coming.wants_continue and not self._handlingRequest:
                coming.wants_continue = False
                self._send100Continue()
        self._breathe()

    def _read(self, data: bytes) -> None:
        before = None if self._coming is None else self._progress()
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self._decline_upgrade()
            self._unread.append(data[upgrade.args[0] :])
        except HttpParserCallbackError as error:
            if not isinstance(error.__context__, _Refused):
                raise
            self._refuse(error.__context__.problem)
        except HttpParserError as error:
            if not self._is_deaf:  # what follows the last request is of no interest
                self._refuse(_not_http(error))
        if before is None or self._progress() != before:
            self._without_progress = 0
        else:
            self._without_progress += len(data)
            if self._without_progress > MAX_HEAD:
                self._refuse(_head_too_large())

    def _progress(self) -> tuple[Request | None, int, int]:
        return self._coming, self._head_size, 0 if self._coming is None else self._coming.size

    def _decline_upgrade(self) -> None:
        """Answer as if it had not been asked for. The parser takes it for granted, and looks for no body."""
        self._parser = HttpRequestParser(self)
        if self._coming is not None:
            self._head_comes_again = True
            self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % self._coming.framing)

    def _refuse(self, problem: Problem) -> None:
        """Answer with this when what came before is answered, and read nothing more."""
        request = self._coming or Request(self)
        request.refusal = problem
        self._coming = None
        self._complete.append(request)
        self._unread.clear()
        self._is_deaf = True

    # What the parser says

    def on_message_begin(self) -> None:
        """A request begins."""
        if not self._head_comes_again:
            self._coming = Request(self)
            self._head_is_read = False
            self._head_size = 0

    def on_url(self, part: bytes) -> None:
        """Of the request's target."""
        assert self._coming is not None
        if not self._head_is_read:
            self._grow(len(part))
            self._coming.uri += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a field after a body in chunks, which is of no use."""
        assert self._coming is not None
        self._grow(len(name) + len(value) + 4)  # with colon, space and the line's end
        if not self._head_is_read:
            self._coming.add_header(name, value)
            if len(self._coming.headers) > MAX_HEADERS:
                raise _Refused(_head_too_large())

    def on_headers_complete(self) -> None:
        """The body is next."""
        assert self._coming is not None
        if self._head_comes_again:
            self._head_comes_again = False
            return
        self._head_is_read = True
        problem = self._coming.head_received(self._parser.get_method(), self._parser.get_http_version())
        if problem is not None:
            raise _Refused(problem)
        if self._can_send and self._coming.length > self.transport.bufferSize:
            self.transport.bufferSize = READ_AT_ONCE

    def on_body(self, part: bytes) -> None:
        """Of the request's body."""
        coming = self._coming
        assert coming is not None
        if not coming.add_body(part):
            raise _Refused(too_large(coming.limit, close=True))
        if not coming.length and not coming.hold(len(part)):  # in chunks
            raise _Refused(too_much_incoming(self.site.incoming.most))

    def on_message_complete(self) -> None:
        """All of the request is here."""
        request = self._coming
        assert request is not None
        if request.framing and self._parser.should_upgrade():
            return  # but for its body: see _decline_upgrade
        self._coming = None
        self._complete.append(request)
        if not request.keeps_connection:
            self._is_deaf = True
        if self._can_send:
            self.transport.bufferSize = Connection.bufferSize

    def _grow(self, size: int) -> None:
        self._head_size += size
        if self._head_size > MAX_HEAD:
            raise _Refused(_head_too_large())

    # Answers

    def send(self, data: bytes) -> None:
        """Write, and at once if nothing waits to be written: that spares the reactor a turn, and epoll two calls."""
        transport = self.transport
        if self._all_is_sent:
            sent = transport.writeSomeData(data)
            if sent == len(data):
                return
            if isinstance(sent, int):
                data = data[sent:]
        transport.write(data)

    @property
    def _all_is_sent(self) -> bool:
        """Whether the kernel has all that was written, and would be given more at once."""
        return self._can_send and not (self.transport.dataBuffer or self.transport._tempDataBuffer)

    def requestDone(self, request: Any) -> None:
        """A request has been answered."""
        self.requests.remove(request)
        if request.held:
            request.forget_body()
        self._handlingRequest = False
        if not self.persistent:
            self.loseConnection()
            return
        self.site.idle.seen(self)
        if not self._is_kept:
            self._is_kept = True
            if ITCPTransport.providedBy(self.transport):
                self.transport.setTcpNoDelay(True)
        if not self._is_going_on:
            self._go_on()

    def end_after_answer(self) -> None:
        """The answer that is about to be written is the last one, and its client may not know."""
        self.persistent = False
        self._is_deaf = self._ends_after_answer = True

    @property
    def is_behind(self) -> bool:
        """Whether the client does not read what was sent to it."""
        return bool(self._waitingForTransport)

    def loseConnection(self) -> None:
        """End the connection: now, or when the client has been listened to for long enough."""
        if self._lingering:
            return
        if self._ends_after_answer:
            self._linger()
        elif self._all_is_sent:
            # as the reactor would find out a turn later
            self._networkProducer.unregisterProducer()
            self.transport.connectionLost(connectionDone)
        else:
            super().loseConnection()

    def _linger(self) -> None:
        self._lingering = True
        self.site.idle.forget(self)
        self._networkProducer.unregisterProducer()
        self._networkProducer.resumeProducing()
        if not self.isSecure():  # TLS has no half to close
            self.transport.loseWriteConnection()
        self._end_of_lingering = self.callLater(LINGER_SECONDS, self.transport.abortConnection)

    # The connection

    def timeoutConnection(self) -> None:
        """Nothing has come for a while."""
        if self._handlingRequest:
            self.site.idle.seen(self)
        else:
            super().timeoutConnection()

    def pauseProducing(self) -> None:
        """The client does not read its answers."""
        self._waitingForTransport = True
        if self._requestProducer is not None:
            self._requestProducer.pauseProducing()
        self._breathe()

    def resumeProducing(self) -> None:
        """It does again."""
        self._waitingForTransport = False
        if self._requestProducer is not None:
            self._requestProducer.resumeProducing()
        self._breathe()

    def _breathe(self) -> None:
        """Read from the connection only while there is room."""
        is_full = sum(map(len, self._unread)) > READ_AHEAD if self._handlingRequest else self._waitingForTransport
        if is_full is self._is_paused or self._lingering:
            return
        self._is_paused = is_full
        if is_full:
            self._networkProducer.pauseProducing()
        else:
            self._networkProducer.resumeProducing()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is no more."""
        self.site.connections.closed()
        self.site.idle.forget(self)
        if self._end_of_lingering is not None and self._end_of_lingering.active():
            self._end_of_lingering.cancel()
        self._is_deaf = True
        for request in (*self.requests, *self._complete, *([] if self._coming is None else [self._coming])):
            request.forget_body()
        self._parser = self._coming = None  # it refers to us
        self._complete.clear()
        self._unread.clear()
        super().connectionLost(reason)


def _not_http(error: HttpParserError) -> Problem:
    if isinstance(error, HttpParserInvalidURLError):
        detail = "the request's target has a character that has to be escaped (RFC 3986), as %20 is a space"
    else:
        detail = f"this is not HTTP/1.1 as it has to be: {error}"
    return Problem(400, detail, close=True)


def _head_too_large() -> Problem:
    return Problem(431, f"the request line and the headers are over {MAX_HEAD} bytes or {MAX_HEADERS}", close=True)
