"""The routes in somebody's own application, which twisted.web serves."""

# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from zpipeline.steady import steady
from zpipeline.web.answers import AnyAnswer, Stream
from zpipeline.web.app import App, Pipeline
from zpipeline.web.asked import path_of
from zpipeline.web.http.turns import Turns
from zpipeline.web.origins import Origins
from zpipeline.web.routes import Routes


class PipelineResource(Resource):
    """All paths of the HTTP interface below the one where this is.

    :param routes: of the pipeline.
    """

    isLeaf = True

    def __init__(self, routes: Routes) -> None:
        super().__init__()
        self._routes = routes

    def render(self, request: Any) -> int:
        """Answer, now or later."""
        served = _Served(request)
        outcome = self._routes.answer(request, path_of(request), served.respond)
        if outcome is not None:
            served.cancel = outcome.cancel
        return NOT_DONE_YET


@implementer(IPushProducer)
class _Served:
    """One request of twisted.web, and the answer to it.

    :ivar cancel: is called when the client goes before it is answered.
    """

    def __init__(self, request: Any) -> None:
        self.is_behind = False
        self.cancel: Any = _nothing
        self._request = request
        self._is_gone = False
        request.notifyFinish().addErrback(self._has_gone)

    def _has_gone(self, _: Failure) -> None:
        self._is_gone = True
        self.cancel()

    def respond(self, answer: AnyAnswer) -> None:
        """Send the answer, or begin to."""
        request = self._request
        if self._is_gone:
            return
        for name, value in answer.headers.items():
            request.setHeader(name, value)
        request.setHeader(b"content-type", answer.content_type)
        if isinstance(answer, Stream):
            self._stream(answer)
            return
        request.setResponseCode(answer.status)
        if answer.status in (204, 304):
            request.responseHeaders.removeHeader(b"content-type")
        else:
            request.setHeader(b"content-length", b"%d" % len(answer.content))
        if answer.closes:
            request.setHeader(b"connection", b"close")
        request.write(answer.content)
        request.finish()

    def _stream(self, stream: Stream) -> None:
        request = self._request
        if request.method == b"HEAD":
            request.finish()
            return
        request.registerProducer(self, True)
        self.cancel = stream.begin(self)

    # A stream is its answer

    def send(self, data: bytes) -> None:
        """Send some of it."""
        self._request.write(data)

    def end(self) -> None:
        """That was all of it."""
        self._request.unregisterProducer()
        self._request.finish()

    def pauseProducing(self) -> None:
        """The client does not read what was sent."""
        self.is_behind = True

    def resumeProducing(self) -> None:
        """It does again."""
        self.is_behind = False

    def stopProducing(self) -> None:
        """The connection is lost, as `_has_gone` is told."""


def make_resource(
    pipeline: Pipeline, *, max_body: int = 1 << 20, hosts: Iterable[str] = (), reactor: Any
) -> PipelineResource:
    """The HTTP interface of a pipeline as a resource of twisted.web: at any path, in a site of your own.

    The bounds of connections and of what they receive are that site's, and so are deadlines, TLS and the access log:
    twisted.web has read a request as a whole before it comes here.

    :param max_body: how large one job may be, in bytes; beyond, 413.
    :param hosts: names that lead here (`zpipeline.web.make_site`).
    :param reactor: IReactorTime.
    """
    reactor = steady(reactor)
    app = App(pipeline, max_body=max_body, reactor=reactor, turns=Turns(reactor))
    return PipelineResource(Routes(app.app, app.failed, Origins(hosts)))


def _nothing() -> None:
    """What is to be done when nothing waits for the client."""
