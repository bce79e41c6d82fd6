"""Connections: bytes become requests, and each request's answer goes out before the next request is begun.

No client has more than its share, whatever it sends and however it reads:

- While a request is being answered, or its client has answers to read, no other is begun, and what comes is read
  only as far as `READ_AHEAD`. The kernel holds back the rest.
- Of many requests that have come together, those are answered that there is time for; then others have their turn of
  the reactor (`zpipeline.web.http.turns`).
- A head, a body, an answer that is being read and a connection that is kept each have a deadline. Who misses one while
  sending is told so, with 408.

A body that is too large is refused before it is read, when its Content-Length says so (then there is no
"100 Continue" either), or as soon as it is over. The client may still be sending then; if the
connection were closed at once, its kernel would throw away the answer before the client could read it. So
only our half is closed, and what still comes is read and thrown away, within bounds (RFC 9112, section 9.6).
So it is with whatever else is refused before it is complete, and with a connection that ends because the pipeline is
draining: its client may have sent its next request.

A client may close its half when it has sent its last request: it gets its answer. One that has closed all of the
connection looks the same from here until it is sent something, so that answer has a deadline too.
"""

from __future__ import annotations

import typing
from socket import SO_SNDBUF, SOL_SOCKET
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, ISSLTransport, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure
from zope.interface import implementer

from zpipeline.web.http import request
from zpipeline.web.http.connections import Connections
from zpipeline.web.http.deadlines import Deadline
from zpipeline.web.http.outgoing import outgoing
from zpipeline.web.http.parser import Fields, Head, Malformed, Parser
from zpipeline.web.http.request import Request
from zpipeline.web.http.turns import Turns
from zpipeline.web.problems import Problem

#: How much is read beyond the request that is being answered: so much shows that a client is gone.
READ_AHEAD = 16_384

#: Of a long body, in one go: each costs a turn of its own.
READ_AT_ONCE = 1 << 20

#: How long, and for how many bytes, a client is listened to that was refused while it was sending.
LINGER_SECONDS = 10.0
LINGER_BYTES = 64 << 20

#: How long a head may take, in seconds.
HEAD_SECONDS = 30.0

#: So many bytes of a body have to come in so many seconds, unless it is complete; and no less than one of so many parts
#: of what its Content-Length has announced, for so long as it comes, others have no room for that.
BODY_SECONDS = 30.0
BODY_BYTES = 30 << 10
BODY_PARTS = 20

#: How many bytes of an answer that goes on the kernel may keep, about.
KEPT_OF_STREAM = 16_384

#: How long an answer may take whose client has closed its half, in seconds.
ANSWER_SECONDS = 30.0

#: How long a client may take to read `zpipeline.web.http.outgoing.PIECE` bytes, in seconds.
READING_SECONDS = 30.0


class Site(request.Site, typing.Protocol):
    """What a channel needs of `zpipeline.web.site.Site`."""

    connections: Connections
    turns: Turns
    deadlines: Deadlines
    reactor: Any


class Deadlines:
    """Of the connections of one site.

    :ivar idle: nothing has come since the last answer.
    :ivar head: a head has to be complete.
    :ivar body: more of a body has to come.
    :ivar answer: a client that may be gone has to be answered.
    :ivar reading: more of what was sent has to be read.
    :param keep_alive: for how many seconds a connection may be idle.
    """

    def __init__(self, reactor: Any, keep_alive: float) -> None:
        self.idle: Deadline[Channel] = Deadline(reactor, keep_alive, Channel.was_idle)
        self.head: Deadline[Channel] = Deadline(reactor, HEAD_SECONDS, Channel.head_is_late)
        self.body: Deadline[Channel] = Deadline(reactor, BODY_SECONDS, Channel.body_is_late)
        self.answer: Deadline[Channel] = Deadline(reactor, ANSWER_SECONDS, Channel.may_be_gone)
        self.reading: Deadline[Channel] = Deadline(reactor, READING_SECONDS, Channel.is_not_read)


@implementer(IHalfCloseableProtocol)
class Channel(Protocol):
    """One connection, HTTP/1.1 and 1.0.

    :ivar is_last: whether no request is begun after the one that is being answered.
    """

    transport: Any

    def __init__(self, site: Site) -> None:
        self.is_last = False
        self._site = site
        self._parser = Parser()
        self._coming: Request | None = None  # its head is here, and its body is not
        self._body_before = 0  # so much of it had come at the last look
        self._has_to_continue = False  # its client waits for a word
        self._reads_much = False  # at once
        self._answering: Request | None = None
        self._is_going_on = False
        self._turn: Deferred[None] | None = None  # that is waited for
        self._is_paused = False
        self._is_deaf = False  # what comes is thrown away
        self._is_kept = False  # for another request
        self._is_over = False  # it ends, or lingers before its end
        self._lingers = False  # after the last answer
        self._client_is_done = False  # it has closed its half
        self._patience = LINGER_BYTES
        self._end_of_lingering: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """The connection is there."""
        self._out = outgoing(self.transport, self._has_sent)
        self._is_plain = isinstance(self.transport, Connection)  # TLS is no such connection
        self._site.connections.opened()
        self._deadline = self._site.deadlines.idle
        self._deadline.begin(self)

    # What comes

    def dataReceived(self, data: bytes) -> None:
        """Some bytes."""
        if self._is_deaf:
            self._patience -= len(data)
            if self._patience < 0:
                self.transport.abortConnection()
            return
        self._parser.receive(data)
        self._go_on()

    def readConnectionLost(self) -> None:
        """The client has closed its half."""
        self._client_is_done = True
        if self._end_of_lingering is None:
            self._go_on()
        else:
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """We have closed ours."""

    def _go_on(self) -> None:
        """Read on, and answer what is complete."""
        if self._is_going_on:
            return
        self._is_going_on = True
        parser, out = self._parser, self._out
        has_worked = False  # so that others may wait for their turn
        while parser.waiting and self._answering is None:
            if self._is_deaf or out.waits or self._turn is not None:
                break
            if has_worked and self._site.turns.is_over:
                self._wait_for_turn()
                break
            try:
                event = parser.next()
            except Malformed as error:
                self._refuse(Problem(error.status, error.detail, close=True))
                break
            if event is None:
                break
            if isinstance(event, Head):
                request = Request(self, self._site, event)
                if not parser.is_between:
                    self._head_received(request)
                    continue
                self._begin(request)
            else:
                self._body_received(event)
            has_worked = True
        self._is_going_on = False
        self._look()

    def _head_received(self, request: Request) -> None:
        """Its body is to come."""
        self._coming = request
        self._body_before = 0
        self._has_to_continue = request.head.wants_continue
        problem = request.refusal_of_head()
        length = request.head.length
        if problem is not None:
            self._refuse(problem)
        elif self._is_plain and length is not None and length > Connection.bufferSize:
            self.transport.bufferSize = READ_AT_ONCE
            self._reads_much = True

    def _body_received(self, part: bytes) -> None:
        coming = self._coming
        assert coming is not None
        problem = coming.add_body(part)
        if problem is not None:
            self._refuse(problem)
        elif self._parser.is_between:
            self._coming = None
            self._begin(coming)

    def _begin(self, request: Request, problem: Problem | None = None) -> None:
        """It is this one's turn to be answered, perhaps with a problem."""
        if self._reads_much:
            self.transport.bufferSize = Connection.bufferSize
            self._reads_much = False
        idle = self._site.deadlines.idle
        if self._deadline is not idle:
            self._watch(idle)
        self._answering = request
        self._has_to_continue = False
        if not request.head.keeps_connection:
            self.is_last = self._is_deaf = True
        if problem is None:
            request.begin()
        else:
            request.refuse(problem)

    def _refuse(self, problem: Problem) -> None:
        """Answer with this, and read nothing more."""
        request = self._coming or Request(self, self._site, _NO_HEAD)
        self._coming = None
        self._begin(request, problem)

    def _wait_for_turn(self) -> None:
        self._turn = self._site.turns.wait()
        self._turn.addCallbacks(self._has_turn, lambda failure: failure.trap(CancelledError))

    def _has_turn(self, _: None) -> None:
        self._turn = None
        self._go_on()

    def _look(self) -> None:
        """What the connection waits for now."""
        if self._is_over:
            return
        deadlines = self._site.deadlines
        deadline = deadlines.idle
        waiting = self._parser.waiting
        if self._has_to_continue and not waiting:
            self._has_to_continue = False
            self._out.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._out.waits:
            deadline = deadlines.reading
        elif self._answering is not None:
            if self._client_is_done:
                deadline = deadlines.answer
        elif self._turn is None:
            if self._client_is_done:
                self._end()
                return
            if self._coming is not None:
                deadline = deadlines.body
            elif waiting:
                deadline = deadlines.head
        if deadline is not self._deadline:
            self._watch(deadline)
        if self._is_paused or waiting > READ_AHEAD:
            self._breathe()

    def _watch(self, deadline: Deadline[Channel]) -> None:
        self._deadline.end(self)
        self._deadline = deadline
        deadline.begin(self)

    def _breathe(self) -> None:
        """Read from the connection only while there is room."""
        is_full = not self._is_deaf and self._parser.waiting > READ_AHEAD
        if is_full is self._is_paused or self._client_is_done:
            return
        self._is_paused = is_full
        if is_full:
            self.transport.pauseProducing()
        else:
            self.transport.resumeProducing()

    # Answers

    def send(self, data: bytes) -> None:
        """Write some of an answer."""
        self._out.write(data)

    def answered(self) -> None:
        """All of an answer is written."""
        assert self._answering is not None
        if self._answering.held:
            self._answering.forget_body()
        self._answering = None
        if self.is_last:
            self._end()
            return
        idle = self._site.deadlines.idle
        if self._deadline is idle:
            idle.begin(self)
        if not self._is_kept:
            self._is_kept = True
            if ITCPTransport.providedBy(self.transport):
                self.transport.setTcpNoDelay(True)
        if not self._is_going_on:
            self._go_on()

    def end_after_answer(self) -> None:
        """The answer that is about to be written is the last one, and its client may not know."""
        self.is_last = self._is_deaf = self._lingers = True

    def keep_little(self) -> None:
        """Have the kernel keep little of what is sent, so that it shows soon when the client does not read."""
        if self._is_plain:
            self.transport.getHandle().setsockopt(SOL_SOCKET, SO_SNDBUF, KEPT_OF_STREAM)

    @property
    def is_behind(self) -> bool:
        """Whether the client has not read what was sent to it."""
        return self._out.waits

    def _has_sent(self) -> None:
        """Some of what waited, or all of it."""
        if self._out.waits:
            self._watch(self._site.deadlines.reading)
        elif self.is_last and self._answering is None:
            self._end()
        else:
            self._go_on()

    def _end(self) -> None:
        """End the connection: now, or when the client has been listened to for long enough."""
        if self._out.waits:
            return  # until it has been read
        if self._is_over:
            return
        self._is_over = self._is_deaf = True
        self._out.end()
        if self._lingers and not self._client_is_done:
            self._linger()
        elif self._is_plain:
            # as the reactor would find out a turn later
            self.transport.connectionLost(connectionDone)
        else:
            self.transport.loseConnection()
            self._end_soon()

    def _linger(self) -> None:
        self._deadline.end(self)
        self._breathe()
        if not ISSLTransport.providedBy(self.transport):  # TLS has no half to close
            self.transport.loseWriteConnection()
        self._end_soon()

    def _end_soon(self) -> None:
        """Whatever the client does: one that speaks TLS may not answer that we want to end."""
        self._end_of_lingering = self._site.reactor.callLater(LINGER_SECONDS, self.transport.abortConnection)

    # Deadlines

    def was_idle(self) -> None:
        """Nothing has come for a while."""
        if self._answering is None and self._turn is None:
            self._end()
        else:
            self._deadline.begin(self)

    def head_is_late(self) -> None:
        """Its beginning has been here for a while."""
        self._refuse(Problem(408, f"the head of a request takes {HEAD_SECONDS:g} seconds at most", close=True))

    def body_is_late(self) -> None:
        """It has been coming for a while."""
        assert self._coming is not None
        least = max(BODY_BYTES, (self._coming.head.length or 0) // BODY_PARTS)
        if self._coming.size >= self._body_before + least:
            self._body_before = self._coming.size
            self._deadline.begin(self)
            return
        rate = f"{least} bytes each {BODY_SECONDS:g} seconds"
        self._refuse(Problem(408, f"the body comes too slowly: the least is {rate}", close=True))

    def may_be_gone(self) -> None:
        """It has closed its half, and waits for an answer, or for nothing."""
        self.transport.abortConnection()

    def is_not_read(self) -> None:
        """Nothing of what was sent has been read for a while."""
        self.transport.abortConnection()

    # The connection

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It is no more."""
        self._site.connections.closed()
        self._deadline.end(self)
        self._is_deaf = self._is_over = True
        if self._end_of_lingering is not None and self._end_of_lingering.active():
            self._end_of_lingering.cancel()
        if self._turn is not None:
            self._turn.cancel()
        for each in (self._answering, self._coming):
            if each is not None:
                each.connection_lost()
        self._coming = None


#: Of a request whose head is not known.
_NO_HEAD = Head(b"-", b"-", b"-", b"-", Fields(), 0, False, False)
