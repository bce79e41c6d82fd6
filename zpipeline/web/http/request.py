"""One request: its body stays in memory and below its limit, and its answer is made at once."""

# mypy: allow-untyped-calls

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from http import HTTPStatus
from io import BytesIO
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.web.http import datetimeToString

from zpipeline.web.answers import AnyAnswer, Stream, problem_answer
from zpipeline.web.http.incoming import Incoming
from zpipeline.web.http.parser import Head
from zpipeline.web.problems import Problem, too_large, too_much_incoming

#: Parts of a body that have fewer bytes are put together, into parts of about so many.
_SMALL_PART = 4096
_LARGE_PART = 1 << 16

#: So many bytes of an answer are sent apart from its head.
_LARGE_CONTENT = 1 << 16


class Pipeline(Protocol):
    """What a request needs of `zpipeline.pipeline.Pipeline`."""

    @property
    def draining(self) -> bool: ...


class Site(Protocol):
    """What it needs of `zpipeline.web.site.Site`."""

    incoming: Incoming

    @property
    def pipeline(self) -> Pipeline: ...

    def limit_of(self, request: Request) -> int: ...

    def answer(self, request: Request) -> Deferred[Any] | None: ...

    def refused(self, request: Request, problem: Problem) -> None: ...

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
    """One request: for routes an IRequest, as far as they ask.

    :ivar method: as it was sent, like all that is bytes here.
    :ivar uri: the target.
    :ivar path: of the target.
    :ivar clientproto: the version; twisted.web calls it so, and logs it.
    :ivar requestHeaders: as they came.
    :ivar head: all of it but the body.
    :ivar limit: of the body, in bytes.
    :ivar size: of what of the body has come, in bytes.
    :ivar held: of the bytes that all bodies may have together, those of this one.
    :ivar client_is_gone: whether nobody waits for the answer.
    :ivar code: the status of the answer.
    :ivar sentLength: of the answer's content, in bytes.
    """

    prepath: tuple[bytes, ...] = ()
    limit = 0
    size = 0
    held = 0
    client_is_gone = False
    code = 0
    sentLength = 0
    _content: _Content | None = None  # until the answer is there, as it refers to us

    def __init__(self, channel: Channel, site: Site, head: Head) -> None:
        self.method = head.method
        self.uri = head.uri
        self.path = head.path
        self.clientproto = head.version
        self.requestHeaders = head.headers
        self.head = head
        self._channel = channel
        self._site = site
        self._parts: list[bytes | bytearray] = []
        self._outcome: Deferred[Any] | None = None
        self._stop: Callable[[], None] | None = None

    def getHeader(self, name: bytes) -> bytes | None:
        """The last value of a header; what a log asks for."""
        values = self.requestHeaders.getRawHeaders(name)
        return values[-1] if values else None

    def getClientAddress(self) -> Any:
        """Of the other side; what a log asks for."""
        return self._channel.transport.getPeer()

    # It comes

    def refusal_of_head(self) -> Problem | None:
        """The headers are here and the body is not: why it should not even come, if it should not."""
        length = self.head.length
        self.limit = min(self._site.limit_of(self), self._site.incoming.most)
        if length is None:
            return None
        return too_large(self.limit, close=True) if length > self.limit else self._hold(length)

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
        return self._hold(len(part)) if self.head.length is None else None

    @property
    def content(self) -> BytesIO:
        """The body, as a file. When it is closed, the body is forgotten: another may take its room."""
        if self._content is None:
            self._content = _Content(b"".join(self._parts))
            self._content.has_closed = self.forget_body
            self._parts.clear()
        return self._content

    def forget_body(self) -> None:
        """It is not needed any longer."""
        self._parts.clear()
        self._site.incoming.give_back(self.held)
        self.held = 0

    # It is answered

    def begin(self) -> None:
        """It is the request's turn."""
        self._outcome = self._site.answer(self)

    def refuse(self, problem: Problem) -> None:
        """Answer this, whatever was asked for."""
        self._site.refused(self, problem)
        self.respond(problem_answer(problem))

    def respond(self, answer: AnyAnswer) -> None:
        """Send the answer, or begin to."""
        if self.client_is_gone:
            return
        if isinstance(answer, Stream):
            self._respond_with_stream(answer)
            return
        channel = self._channel
        if answer.closes or self._site.pipeline.draining:
            channel.end_after_answer()
        self.code = status = answer.status
        content = answer.content
        head = self._first_lines(status, answer.headers)
        if status not in (204, 304):
            head += b"Content-Type: %b\r\nContent-Length: %d\r\n" % (answer.content_type, len(content))
        if self.method == b"HEAD":
            content = b""
        self.sentLength = len(content)
        if len(content) < _LARGE_CONTENT:
            channel.send(b"%b\r\n%b" % (head, content))
        else:  # while it waits to be read, it is not there twice
            channel.send(head + b"\r\n")
            channel.send(content)
        self._has_responded()

    def _respond_with_stream(self, stream: Stream) -> None:
        channel = self._channel
        channel.end_after_answer()
        channel.keep_little()
        self.code = 200
        channel.send(self._first_lines(200, stream.headers) + b"Content-Type: %b\r\n\r\n" % stream.content_type)
        if self.method == b"HEAD":
            self._has_responded()
        else:
            self._stop = stream.begin(self)

    def _has_responded(self) -> None:
        self._outcome = self._stop = self._content = None
        self._site.log(self)
        self._channel.answered()

    def _first_lines(self, status: int, headers: Mapping[bytes, bytes]) -> bytes:
        lines = _first_lines(status, int(time.time()))
        if self._channel.is_last:
            lines += b"Connection: close\r\n"
        elif self.clientproto == b"HTTP/1.0":
            lines += b"Connection: keep-alive\r\n"
        for header in headers.items():
            lines += b"%b: %b\r\n" % header
        return lines

    # A stream is its answer

    @property
    def is_behind(self) -> bool:
        """Whether what has been sent already waits to be read."""
        return self._channel.is_behind

    def send(self, data: bytes) -> None:
        """Send some of it."""
        self.sentLength += len(data)
        self._channel.send(data)

    def end(self) -> None:
        """That was all of it."""
        self._has_responded()

    # It is not answered any more

    def connection_lost(self) -> None:
        """The client is gone."""
        self.client_is_gone = True
        self.forget_body()
        self._content = None
        if self._outcome is not None:
            self._outcome.cancel()
        if self._stop is not None:
            self._stop()


class _Content(BytesIO):
    """A body, as a file.

    :ivar has_closed: is called when it is closed.
    """

    has_closed: Callable[[], None]

    def close(self) -> None:
        """It is not needed any longer."""
        super().close()
        self.has_closed()


@lru_cache(64)
def _first_lines(status: int, second: int) -> bytes:
    """What the answers of one second have in common, if they have the status in common."""
    phrase = HTTPStatus(status).phrase.encode("ascii")
    return b"HTTP/1.1 %d %b\r\nServer: zpipeline\r\nDate: %b\r\n" % (status, phrase, datetimeToString(second))
