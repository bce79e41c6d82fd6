"""One request: its body stays in memory and below its limit, and its answers are JSON.

twisted.web would write long and chunked bodies to temporary files, and parse cookies, query strings
and forms: nothing here has a use for that.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from io import BytesIO
from typing import TYPE_CHECKING

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import datetimeToString

from zpipeline.web.problems import CONTENT_TYPE, NO_HEADERS, Problem, nothing_here

if TYPE_CHECKING:
    from zpipeline.web.site import Channel

JSON = b"application/json"

BATCH_PATH = b"/batch"

#: A batch as a whole may be this many times what one job may be.
BATCH_BODIES = 64

log = Logger()


class BodyTooLarge(Exception):
    """More of a body has come than its limit allows."""


class Request(server.Request):
    """One request.

    :ivar limit: of its body, in bytes; known from `begin` on.
    :ivar query: the query string, as it was sent (bytes).
    """

    channel: Channel  # None when the client is gone
    content: BytesIO
    limit: int
    query: bytes

    def begin(self, method: bytes, target: bytes, version: bytes) -> None:
        """The headers are here and the body is not: what is asked for, and how large it may be."""
        self.method = method
        self.uri = target
        self.clientproto = version
        self.path, _, self.query = target.partition(b"?")
        self.limit = self.channel.site.max_body
        if self.path == BATCH_PATH and method == b"POST":
            self.limit *= BATCH_BODIES

    def parseCookies(self) -> None:
        """There is nothing to do with cookies."""

    def gotLength(self, length: int | None) -> None:
        """The body is next, of this many bytes; None when it comes in chunks."""
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        """A part of the body.

        :raises BodyTooLarge: with it the body is over its limit.
        """
        if self.content.tell() + len(data) > self.limit:
            raise BodyTooLarge
        self.content.write(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """All of the request is here."""
        self.content.seek(0)
        self.process()

    def process(self) -> None:
        """Hand the request to its route.

        Routes are found by the path as it was sent. None has an escape in it, and what the router
        cannot decode never gets there.
        """
        path = self.path
        if path != b"/" and (not path.startswith(b"/") or path.startswith(b"//") or b"%" in path or not path.isascii()):
            self.refuse(nothing_here())
        else:
            super().process()

    def getRequestHostname(self) -> bytes:
        """A name that the router can work with: routes do not depend on the one that was sent."""
        return b"localhost"

    def processingFailed(self, reason: Failure) -> Failure:
        """Something failed before a route was found."""
        log.failure("{method} {path} failed", reason, method=self.method, path=self.path)
        self.refuse(unexpected())
        return reason

    def refuse(self, problem: Problem) -> None:
        """Answer with a problem and finish; for requests that no route has seen."""
        self.setHeader(b"Date", datetimeToString())
        self.write(self.answer_problem(problem))
        self.finish()

    def answer(
        self, status: int, value: object, headers: Mapping[bytes, bytes] = NO_HEADERS, content_type: bytes = JSON
    ) -> bytes:
        """The body of the answer, whose status and headers this sets.

        :param value: what JSON can hold.
        """
        body = json.dumps(value).encode("ascii")
        self._begin_answer(status)
        set_header = self.responseHeaders.setRawHeaders
        set_header(b"Content-Type", (content_type,))
        set_header(b"Content-Length", (b"%d" % len(body),))
        for name, header in headers.items():
            set_header(name, (header,))
        return body

    def answer_nothing(self) -> bytes:
        """The body of an answer that has none: it is done (204)."""
        self._begin_answer(204)
        return b""

    def answer_problem(self, problem: Problem) -> bytes:
        """The body of the answer that says what went wrong."""
        if problem.close:
            self._end_connection()
        return self.answer(problem.status, problem.members(), problem.headers, CONTENT_TYPE)

    def _begin_answer(self, status: int) -> None:
        self.setResponseCode(status, HTTPStatus(status).phrase.encode("ascii"))
        if self.channel is not None and self.channel.site.pipeline.draining:  # there is none when the client is gone
            self._end_connection()

    def _end_connection(self) -> None:
        if self.channel is not None:
            self.channel.end_after_answer()
            self.setHeader(b"Connection", b"close")

    def job_headers(self) -> dict[str, str]:
        """The headers of the job that this request pushes.

        They are the content-type, all that start with x- or zpipe-, and zpipe-method and zpipe-path,
        which are the request's own whatever was sent under these names. Values are ISO-8859-1, in
        which every byte is a character, so that a handler can have the bytes back.
        """
        kept = {}
        for name, values in self.requestHeaders.getAllRawHeaders():  # names are capitalized, Like-This
            if name == b"Content-Type" or name.startswith((b"X-", b"Zpipe-")):
                kept[name.decode("ascii").lower()] = b", ".join(values).decode("latin-1")
        kept["zpipe-method"] = self.method.decode("ascii")
        kept["zpipe-path"] = self.path.decode("ascii")
        return kept


def unexpected() -> Problem:
    """An error of ours, of which the log says more than the answer."""
    return Problem(500, "an unexpected error; the server's log has it")
