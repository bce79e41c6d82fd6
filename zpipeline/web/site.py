"""The site: all connections of a listening port."""

# mypy: allow-untyped-calls

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.web.http import combinedLogFormatter, datetimeToLogString

from zpipeline.steady import steady
from zpipeline.web.app import App, Pipeline
from zpipeline.web.http.channel import Channel, Deadlines
from zpipeline.web.http.connections import Connections
from zpipeline.web.http.incoming import Incoming
from zpipeline.web.http.request import Request
from zpipeline.web.http.turns import Turns
from zpipeline.web.origins import Origins
from zpipeline.web.problems import Problem
from zpipeline.web.routes import Routes

#: How many bytes all bodies may have together that are being received.
MAX_INCOMING = 512 << 20

#: A batch as a whole may be this many times what one job may be.
BATCH_BODIES = 64

#: For how long nothing may come on a connection that is kept, in seconds: longer than the usual proxies keep one that
#: nothing goes through, so that they do not send a request on one that is just ending.
KEEP_ALIVE = 75.0

log = Logger()


class Site(Factory):
    """All connections of one listening port.

    :ivar pipeline: whose interface this is.
    :ivar incoming: the bodies that are being received, or are not done with.
    :ivar connections: how many there are, and may be.
    :ivar deadlines: what each of them has to be done with in time.
    :ivar turns: of the reactor.
    :ivar reactor: IReactorTime.
    """

    noisy = False

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        max_body: int,
        max_incoming: int,
        max_connections: int | None,
        keep_alive: float,
        access_log: bool,
        hosts: Iterable[str],
        reactor: Any,
    ) -> None:
        self.reactor = reactor = steady(reactor)
        self.pipeline = pipeline
        self._max_body = max_body
        self.incoming = Incoming(max_incoming)
        self.connections = Connections(max_connections, reactor)
        self.deadlines = Deadlines(reactor, keep_alive)
        self.turns = Turns(reactor)
        self._app = App(pipeline, max_body=max_body, reactor=reactor, turns=self.turns, connections=self.connections)
        self._routes = Routes(self._app.app, self._app.failed, Origins(hosts))
        self._access_log = access_log

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        """What speaks on a new connection."""
        return self.connections.refuse() if self.connections.is_full else Channel(self)

    def limit_of(self, request: Request) -> int:
        """How many bytes the body of a request may have."""
        is_batch = request.path == b"/batch" and request.method == b"POST"
        return self._max_body * (BATCH_BODIES if is_batch else 1)

    def answer(self, request: Request) -> Deferred[Any] | None:
        """Answer a request, now or later: what it returns is cancelled when the client goes."""
        return self._routes.answer(request, request.path, request.respond)

    def refused(self, request: Request, problem: Problem) -> None:
        """A request gets no further than its connection."""
        self._app.refused(request.path, problem)

    def log(self, request: Request) -> None:
        """A request has been answered."""
        if self._access_log:
            log.info("{line}", line=combinedLogFormatter(datetimeToLogString(time.time()), request))

    def acceptableProtocols(self) -> list[bytes]:
        """Over TLS: what `Channel` speaks."""
        return [b"http/1.1"]


def make_site(
    pipeline: Pipeline,
    *,
    max_body: int = 1 << 20,
    max_incoming: int = MAX_INCOMING,
    max_connections: int | None = None,
    keep_alive: float = KEEP_ALIVE,
    access_log: bool = False,
    hosts: Iterable[str] = (),
    reactor: Any,
) -> Site:
    """The HTTP interface of a pipeline, to be given to a server endpoint's `listen`.

    :param max_body: how large one job may be, in bytes; a batch as a whole may be 64 times that.
    :param max_incoming: how many bytes all bodies may have together that are being received; beyond, 503.
    :param max_connections: how many there may be at once; beyond, a connection gets 503 and is closed. None for any
        number: then see to it that they do not take all file descriptors that the process may have.
    :param keep_alive: for how many seconds a connection is kept on which nothing comes.
    :param access_log: whether every request is logged, in the combined log format.
    :param hosts: names that lead here. Loopback names and IP addresses do anyway; requests that name another host get
        421, as a page of any site can have a name of its own lead here.
    :param reactor: IReactorTime.
    """
    return Site(
        pipeline,
        max_body=max_body,
        max_incoming=max_incoming,
        max_connections=max_connections,
        keep_alive=keep_alive,
        access_log=access_log,
        hosts=hosts,
        reactor=reactor,
    )
