"""One request: its body stays in memory and below its limit, and its answers are JSON.

What is not asked of most requests is made when it is, and `answer` makes all of an answer at once.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import lru_cache
from http import HTTPStatus
from io import BytesIO
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.web.http import datetimeToString

from zpipeline.errors import TooLarge
from zpipeline.stats import Measures
from zpipeline.web.http.incoming import Incoming
from zpipeline.web.http.parser import Head
from zpipeline.web.problems import CONTENT_TYPE, NO_HEADERS, Problem, nothing_here, too_large, too_much_incoming

JSON = b"application/json"

BATCH_PATH = b"/batch"

#: A batch as a whole may be this many times what one job may be.
BATCH_BODIES = 64

#: Parts of a body that have fewer bytes are put together, into parts of about so many.
_SMALL_PART = 4096
_LARGE_PART = 1 << 16

#: Where jobs are pushed.
_PUSHING = (b"/", BATCH_PATH)

#: Headers that say what a body is: a job has them too.
_KEPT = (b"content-type", b"content-encoding")


class Pipeline(Protocol):
    """What a request needs of `zpipeline.pipeline.Pipeline`."""

    @property
    def measures(self) -> Measures: ...

    @property
    def draining(self) -> bool: ...


class Origins(Protocol):
    """What it needs of `zpipeline.web.origins.Origins`."""

    def refusal(self, request: Request) -> Problem | None: ...


class Resource(Protocol):
    """What it needs of `zpipeline.web.routes.Routes`."""

    def render(self, request: Request) -> object: ...


class Site(Protocol):
    """What it needs of `zpipeline.web.site.Site`."""

    incoming: Incoming
    max_body: int

    @property
    def pipeline(self) -> Pipeline: ...

    @property
    def resource(self) -> Resource: ...

    @property
    def origins(self) -> Origins: ...

    def log(self, request: Request) -> None: ...


class Channel(Protocol):
    """What it needs of its connection, `zpipeline.web.http.channel.Channel`."""

    transport: Any
    is_last: bool

    @property
    def is_behind(self) -> bool: ...

    def send(self, data: bytes) -> None: ...

    def answered(self) -> None: ...

    def end_after_answer(self) -> None: ...

    def keep_little(self) -> None: ...


class Request:
    """One request.

    :ivar method: as it was sent, like all that is bytes here.
    :ivar uri: the target.
    :ivar path: of the target.
    :ivar query: of the target.
    :ivar clientproto: the version; twisted.web calls it so, and logs it.
    :ivar headers: the values of each, in their order; names are in lower case.
    :ivar host: what the client takes this server for, in lower case; None when it has not said.
    :ivar length: of the body, in bytes, if a header says it; else 0.
    :ivar limit: of the body, in bytes.
    :ivar size: of what of the body has come, in bytes.
    :ivar held: of the bytes that all bodies may have together, those of this one.
    :ivar refusal: the answer, whatever was asked for.
    :ivar keeps_connection: whether another request may follow on the connection.
    :ivar wants_continue: whether the client waits for a word before it sends the body.
    :ivar client_is_gone: whether nobody waits for the answer.
    :ivar code: the status of the answer.
    :ivar sentLength: of the answer's content, in bytes.
    """

    limit = 0
    size = 0
    held = 0
    refusal: Problem | None = None
    client_is_gone = False
    code = 0
    sentLength = 0

    def __init__(self, channel: Channel, site: Site, head: Head) -> None:
        self.method = head.method
        self.uri = head.uri
        self.path = head.path
        self.query = head.query
        self.clientproto = head.version
        self.headers = head.headers
        self.host = head.host
        self.length = head.length or 0
        self.keeps_connection = head.keeps_connection
        self.wants_continue = head.wants_continue
        self._is_chunked = head.length is None
        self._channel = channel
        self._site = site
        self._parts: list[bytes | bytearray] = []
        self._outcome: Deferred[bytes] | None = None

    def getHeader(self, name: bytes) -> bytes | None:
        """The last value of a header; what a log asks for."""
        values = self.headers.get(name.lower())
        return values[-1] if values else None

    def getClientAddress(self) -> Any:
        """Of the other side; what a log asks for."""
        return self._channel.transport.getPeer()

    def values(self, name: bytes) -> list[bytes]:
        """All values of a header.

        :param name: in lower case.
        """
        return self.headers.get(name, _NO_VALUES)

    @property
    def content(self) -> BytesIO:
        """The body, as a file."""
        return BytesIO(self.body)

    # It comes

    def refusal_of_head(self) -> Problem | None:
        """The headers are here and the body is not: why it should not even come, if it should not."""
        if self.length == 0 and not self._is_chunked:
            return None
        site = self._site
        self.limit = site.max_body
        if self.path == BATCH_PATH and self.method == b"POST":
            self.limit *= BATCH_BODIES
        self.limit = min(self.limit, site.incoming.most)
        if self.length > self.limit:
            return too_large(self.limit, close=True)
        return self._hold(self.length)

    def _hold(self, size: int) -> Problem | None:
        """So many bytes of a body are to come, or have: why there is no room for them, beside all other bodies."""
        incoming = self._site.incoming
        if not incoming.take(size):
            return too_much_incoming(incoming.most)
        self.held += size
        return None

    def add_body(self, part: bytes) -> Problem | None:
        """A part of the body has come: why no more should, if that is so."""
        self.size += len(part)
        parts = self._parts
        if not parts or len(part) >= _SMALL_PART:
            parts.append(part)
        elif isinstance(parts[-1], bytearray) and len(parts[-1]) < _LARGE_PART:
            parts[-1] += part  # an object for each of many small ones would take more room than they do
        else:
            parts.append(bytearray(part))
        if self.size > self.limit:
            return too_large(self.limit, close=True)
        return self._hold(len(part)) if self._is_chunked else None

    @property
    def body(self) -> bytes:
        """All of it, until `forget_body`."""
        if not self._parts:
            return b""
        if len(self._parts) > 1:
            self._parts = [b"".join(self._parts)]
        return bytes(self._parts[0])

    def forget_body(self) -> None:
        """It is not needed any longer: another may take its room."""
        self._parts.clear()
        self._site.incoming.give_back(self.held)
        self.held = 0

    # It is answered

    def begin(self) -> None:
        """It is the request's turn."""
        if self.refusal is not None:
            self.note_refusal(self.refusal)
            self.end(self.answer_problem(self.refusal))
        else:
            self.process()

    def process(self) -> None:
        """Hand the request to its route.

        Routes are found by the path as it was sent. None has an escape in it, and what the router
        cannot decode never gets there.
        """
        path = self.path
        refusal = self._site.origins.refusal(self)
        if refusal is not None:
            self.end(self.answer_problem(refusal))
        elif path != b"/" and (
            not path.startswith(b"/") or path.startswith(b"//") or b"%" in path or not path.isascii()
        ):
            self.end(self.answer_problem(nothing_here()))
        else:
            self._site.resource.render(self)

    def waits_for(self, outcome: Deferred[bytes]) -> None:
        """The answer comes of this; it is cancelled when the client goes."""
        self._outcome = outcome

    def end(self, answer: bytes) -> None:
        """Write this, which is all of the answer."""
        if self.client_is_gone:
            return
        self._outcome = None
        channel = self._channel
        channel.send(answer)
        self._site.log(self)
        channel.answered()

    def connection_lost(self) -> None:
        """The client is gone."""
        self.client_is_gone = True
        self.forget_body()
        if self._outcome is not None:
            self._outcome.cancel()

    # What the answer is

    def answer(
        self, status: int, value: object, headers: Mapping[bytes, bytes] = NO_HEADERS, content_type: bytes = JSON
    ) -> bytes:
        """All of an answer.

        :param value: what JSON can hold.
        """
        return self.answer_bytes(status, json.dumps(value).encode("ascii"), headers, content_type)

    def answer_problem(self, problem: Problem) -> bytes:
        """All of an answer that says what went wrong."""
        if problem.close:
            self._channel.end_after_answer()
        return self.answer(problem.status, problem.members(), problem.headers, CONTENT_TYPE)

    def note_refusal(self, problem: Problem) -> None:
        """Have what is refused here counted where the pipeline counts its refusals: a body, or a batch, as one job."""
        if problem.status == 413 and self.path in _PUSHING:
            self._site.pipeline.measures.refuse(TooLarge(), 1)

    def answer_nothing(self) -> bytes:
        """All of an answer without content: it is done (204)."""
        return self.answer_bytes(204, b"")

    def answer_bytes(
        self, status: int, body: bytes, headers: Mapping[bytes, bytes] = NO_HEADERS, content_type: bytes = JSON
    ) -> bytes:
        """All of an answer.

        :param body: its content, ready to be sent.
        """
        if self.client_is_gone:
            return b""
        if self._site.pipeline.draining:
            self._channel.end_after_answer()
        lines = self._first_lines(status, headers)
        if status not in (204, 304):
            lines.append(b"Content-Type: %b\r\nContent-Length: %d\r\n" % (content_type, len(body)))
        lines.append(b"\r\n")
        self.code = status
        if self.method != b"HEAD":
            self.sentLength = len(body)
            lines.append(body)
        return b"".join(lines)

    def answer_head(self, status: int, headers: Mapping[bytes, bytes], content_type: bytes) -> bytes:
        """The beginning of an answer that goes on until its connection ends: `send_part` has more of it."""
        self._channel.end_after_answer()
        self._channel.keep_little()
        lines = [*self._first_lines(status, headers), b"Content-Type: %b\r\n\r\n" % content_type]
        self.code = status
        self.sentLength = 0
        return b"".join(lines)

    def send_part(self, data: bytes) -> None:
        """Write some of an answer that goes on. When it is over, `end` has the rest."""
        self.sentLength += len(data)
        self._channel.send(data)

    @property
    def reader_is_behind(self) -> bool:
        """Whether what has been written already waits to be read."""
        return self._channel.is_behind

    def _first_lines(self, status: int, headers: Mapping[bytes, bytes]) -> list[bytes]:
        lines = [_first_lines(status, int(time.time()))]
        if self._channel.is_last:
            lines.append(b"Connection: close\r\n")
        elif self.clientproto == b"HTTP/1.0":
            lines.append(b"Connection: keep-alive\r\n")
        return lines + [b"%b: %b\r\n" % header for header in headers.items()]

    def job_headers(self) -> dict[str, str]:
        """The headers of the job that this request pushes.

        They are the content-type and content-encoding, all that start with x- or zpipe-, and zpipe-method and
        zpipe-path, which are the request's own whatever was sent under these names. Values are ISO-8859-1, in
        which every byte is a character, so that a handler can have the bytes back.
        """
        kept: dict[str, str] = {}
        for name, values in self.headers.items():
            if name in _KEPT or name.startswith((b"x-", b"zpipe-")):
                kept[name.decode("ascii")] = b", ".join(values).decode("latin-1")
        kept["zpipe-method"] = self.method.decode("ascii")
        kept["zpipe-path"] = self.path.decode("ascii")
        return kept


_NO_VALUES: list[bytes] = []


@lru_cache(64)
def _first_lines(status: int, second: int) -> bytes:
    """What the answers of one second have in common, if they have the status in common."""
    phrase = HTTPStatus(status).phrase.encode("ascii")
    return b"HTTP/1.1 %d %b\r\nServer: zpipeline\r\nDate: %b\r\n" % (status, phrase, datetimeToString(second))


def unexpected() -> Problem:
    """An error of ours, of which the log says more than the answer."""
    return Problem(500, "an unexpected error; the server's log has it")
