"""Connections and the site.

A body that is too large is refused before it is read, when its Content-Length says so (then there is no
"100 Continue" either), or as soon as it is over. The client may still be sending then; if the
connection were closed at once, its kernel would throw away the answer before the client could read it. So
only our half is closed, and what still comes is read and thrown away, within bounds (RFC 9112, section 9.6).
So it is with a connection that ends because the pipeline is draining: its client may have sent its next request.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import json
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import HTTPChannel, combinedLogFormatter, datetimeToLogString

from zpipeline.web.app import App, Pipeline
from zpipeline.web.problems import CONTENT_TYPE, Problem, too_large
from zpipeline.web.request import BodyTooLarge, Request

#: How long, and for how many bytes, a client is listened to that was refused while it was sending.
LINGER_SECONDS = 10.0
LINGER_BYTES = 64 << 20

log = Logger()


class Channel(HTTPChannel):
    """One connection, HTTP/1.1 and 1.0."""

    site: Site
    transport: Any
    requests: list[Request]
    _networkProducer: Any

    _ends_after_answer = False
    _lingering = False
    _unread = LINGER_BYTES
    _end_of_lingering: IDelayedCall | None = None

    def allHeadersReceived(self) -> None:
        """The headers of a request are complete, and nothing of its body is read."""
        request = self.requests[-1]
        request.begin(self._command, self._path, self._version)
        if self.length is not None and self.length > request.limit:
            self._refuse(request)
        else:
            super().allHeadersReceived()

    def rawDataReceived(self, data: bytes) -> None:
        """A part of a body, or of what follows the request that is being answered."""
        if self._lingering:
            self._unread -= len(data)
            if self._unread < 0:
                self.transport.abortConnection()
            return
        try:
            super().rawDataReceived(data)
        except BodyTooLarge:
            self._refuse(self.requests[-1])

    def lineLengthExceeded(self, line: bytes) -> None:
        """The request line or a header line is too long: say so, where twisted.web would only hang up."""
        what = "a header line" if self.requests else "the request line"
        members = Problem(400, f"{what} is over {self.MAX_LENGTH} bytes").members()
        body = json.dumps(members).encode("ascii")
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (CONTENT_TYPE, len(body), body)
        )
        self._linger()

    def end_after_answer(self) -> None:
        """The answer that is about to be written is the last one."""
        self.persistent = False
        self._ends_after_answer = True

    def loseConnection(self) -> None:
        """End the connection: now, or when the client has been listened to for long enough."""
        if self._ends_after_answer and not self._lingering:
            self._linger()
        elif not self._lingering:
            super().loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is no more."""
        if self._end_of_lingering is not None and self._end_of_lingering.active():
            self._end_of_lingering.cancel()
        super().connectionLost(reason)

    def _refuse(self, request: Request) -> None:
        self._lingering = True  # so that the end of the request is not that of the connection
        request.refuse(too_large(request.limit, close=True))
        self._linger()

    def _linger(self) -> None:
        self._lingering = True
        self.setRawMode()
        self.setTimeout(None)
        self._networkProducer.unregisterProducer()
        self._networkProducer.resumeProducing()
        if not self.isSecure():  # TLS has no half to close
            self.transport.loseWriteConnection()
        self._end_of_lingering = self.callLater(LINGER_SECONDS, self.transport.abortConnection)


class Site(server.Site):
    """All connections of one listening port.

    :ivar pipeline: whose interface this is.
    :ivar max_body: of one job, in bytes.
    """

    protocol = Channel  # type: ignore[assignment]
    requestFactory = Request

    def __init__(self, pipeline: Pipeline, *, max_body: int, access_log: bool, reactor: Any) -> None:
        app = App(pipeline, max_body=max_body, reactor=reactor)
        super().__init__(app.app.resource(), reactor=reactor)
        self.pipeline = pipeline
        self.max_body = max_body
        self._access_log = access_log

    def log(self, request: Any) -> None:
        """A request has been answered."""
        if self._access_log:
            log.info("{line}", line=combinedLogFormatter(datetimeToLogString(self.reactor.seconds()), request))

    def acceptableProtocols(self) -> list[bytes]:
        """Over TLS: what `Channel` speaks."""
        return [b"http/1.1"]


def make_site(pipeline: Pipeline, *, max_body: int = 1 << 20, access_log: bool = False, reactor: Any) -> Site:
    """The HTTP interface of a pipeline, to be given to a server endpoint's `listen`.

    :param max_body: how large one job may be, in bytes; a batch as a whole may be 64 times that.
    :param access_log: whether every request is logged, in the combined log format.
    :param reactor: IReactorTime.
    """
    return Site(pipeline, max_body=max_body, access_log=access_log, reactor=reactor)
