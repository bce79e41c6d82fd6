"""The site: all connections of a listening port."""

# mypy: allow-untyped-calls

from __future__ import annotations

import time
from typing import Any

from twisted.logger import Logger
from twisted.web import server
from twisted.web.http import combinedLogFormatter, datetimeToLogString

from zpipeline.steady import steady
from zpipeline.web.app import App, Pipeline
from zpipeline.web.channel import Channel
from zpipeline.web.connections import Connections
from zpipeline.web.idle import Idle
from zpipeline.web.routes import Routes

#: For how long nothing may come on a connection that is kept.
IDLE_SECONDS = 60.0

log = Logger()


class Site(server.Site):
    """All connections of one listening port.

    :ivar pipeline: whose interface this is.
    :ivar max_body: of one job, in bytes.
    :ivar connections: how many there are, and may be.
    :ivar idle: its connections that wait for something to come.
    """

    protocol = Channel  # type: ignore[assignment]

    def __init__(
        self, pipeline: Pipeline, *, max_body: int, max_connections: int | None, access_log: bool, reactor: Any
    ) -> None:
        reactor = steady(reactor)
        self.connections = Connections(max_connections, reactor)
        app = App(pipeline, max_body=max_body, reactor=reactor, connections=self.connections)
        super().__init__(Routes(app.app, app.failed), reactor=reactor)
        self.pipeline = pipeline
        self.max_body = max_body
        self.idle = Idle(reactor, IDLE_SECONDS)
        self._access_log = access_log

    def buildProtocol(self, addr: Any) -> Any:
        """What speaks on a new connection."""
        return self.connections.refuse() if self.connections.is_full else super().buildProtocol(addr)

    def log(self, request: Any) -> None:
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
    max_connections: int | None = None,
    access_log: bool = False,
    reactor: Any,
) -> Site:
    """The HTTP interface of a pipeline, to be given to a server endpoint's `listen`.

    :param max_body: how large one job may be, in bytes; a batch as a whole may be 64 times that.
    :param max_connections: how many there may be at once; beyond, a connection gets 503 and is closed. None for any
        number: then see to it that they do not take all file descriptors that the process may have.
    :param access_log: whether every request is logged, in the combined log format.
    :param reactor: IReactorTime.
    """
    return Site(pipeline, max_body=max_body, max_connections=max_connections, access_log=access_log, reactor=reactor)
