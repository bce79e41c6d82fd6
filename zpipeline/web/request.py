"""One request: its body stays in memory and below its limit, and its answers are JSON.

To twisted.web it is a request as any. What is not asked of most requests is made when it is (twisted.web would write
long and chunked bodies to temporary files, and parse cookies, query strings and forms: nothing here has a use for
that), and `answer` makes all of an answer at once.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import cached_property, lru_cache
from http import HTTPStatus
from io import BytesIO
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import datetimeToString
from twisted.web.http_headers import Headers

from zpipeline.errors import TooLarge
from zpipeline.web.problems import CONTENT_TYPE, NO_HEADERS, Problem, nothing_here, too_large, too_much_incoming

if TYPE_CHECKING:
    from zpipeline.web.channel import Channel
    from zpipeline.web.site import Site

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

_VERSIONS = {"1.1": b"HTTP/1.1", "1.0": b"HTTP/1.0"}
_DECIDE = frozenset(
    (
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"connection",
        b"expect",
        b"prefer",
        b"origin",
        b"sec-fetch-site",
    )
)


class Request(server.Request):
    """One request.

    :ivar headers: as they came, names in lower case.
    :ivar framing: the header that says how the body comes; empty when there is none.
    :ivar length: of the body, in bytes, if a header says it; else 0.
    :ivar limit: of the body, in bytes.
    :ivar size: of what of the body has come, in bytes.
    :ivar held: of the bytes that all bodies may have together, those of this one.
    :ivar query: the query string, as it was sent (bytes).
    :ivar named_host: what the client takes this server for, in lower case; None when it has not said.
    :ivar is_of_page: whether a browser has sent this for a page, of whatever site.
    :ivar prefer: what the client prefers (`zpipeline.web.prefer`); empty when it has not said.
    :ivar refusal: the answer, whatever was asked for.
    :ivar keeps_connection: whether another request may follow on the connection.
    :ivar wants_continue: whether the client waits for a word before it sends the body.
    """

    channel: Channel  # None when the client is gone
    site: Site
    transport: Any

    queued = False
    framing = b""
    length = 0
    limit = 0
    size = 0
    held = 0
    query = b""
    named_host: bytes | None = None
    is_of_page = False
    prefer = b""
    refusal: Problem | None = None
    keeps_connection = False
    wants_continue = False

    def __init__(self, channel: Channel) -> None:
        # All else that a request of twisted.web begins with is a property.
        self.channel = channel
        self.site = channel.site
        self.transport = channel.transport
        self.uri = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self._closes = False
        self._parts: list[bytes | bytearray] = []
        self._outcome: Deferred[bytes] | None = None

    # What twisted.web begins with

    @cached_property
    def requestHeaders(self) -> Headers:  # type: ignore[override]
        """The headers, as twisted.web has them."""
        headers = Headers()
        for name, value in self.headers:
            headers.addRawHeader(name, value)
        return headers

    @cached_property
    def responseHeaders(self) -> Headers:  # type: ignore[override]
        """Of an answer that `answer` does not make."""
        return Headers()

    @cached_property
    def notifications(self) -> list[Deferred[None]]:  # type: ignore[override]
        """Who waits for the end of the request."""
        return []

    @cached_property
    def cookies(self) -> list[bytes]:  # type: ignore[override]
        """Of the answer."""
        return []

    @cached_property
    def content(self) -> BytesIO:  # type: ignore[override]
        """The body, as a file."""
        return BytesIO(self.body)

    @property
    def client(self) -> Any:
        """The address of the other side."""
        return self.transport.getPeer()

    @property
    def host(self) -> Any:
        """Our address."""
        return self.transport.getHost()

    # It comes

    def add_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        name, value = name.lower(), value.strip(b" \t")
        self.headers.append((name, value))
        if name in _DECIDE:
            self._decide(name, value.lower())

    def _decide(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            self.named_host = value if self.named_host is None else b"%b, %b" % (self.named_host, value)
        elif name == b"content-length":
            self.length = int(value)  # the parser has seen to its being a number
            if self.length:
                self.framing = b"Content-Length: %d" % self.length
        elif name == b"transfer-encoding":
            self.framing = b"Transfer-Encoding: %b" % value
        elif name == b"connection":
            self._closes |= b"close" in [option.strip() for option in value.split(b",")]
        elif name == b"prefer":
            self.prefer = b"%b,%b" % (self.prefer, value) if self.prefer else value
        elif name == b"expect":
            self.wants_continue = value == b"100-continue"
        else:
            self.is_of_page = True

    def head_received(self, method: bytes, version: str) -> Problem | None:
        """The headers are here and the body is not: why it should not even come, if it should not."""
        self.method = method
        self.clientproto = _VERSIONS.get(version, b"")
        self.path, _, self.query = self.uri.partition(b"?")
        self.limit = self.site.max_body
        if self.path == BATCH_PATH and method == b"POST":
            self.limit *= BATCH_BODIES
        self.limit = min(self.limit, self.site.incoming.most)
        if not self.clientproto:
            return Problem(505, f"HTTP/{version} is not spoken here: use HTTP/1.1", close=True)
        is_new = version == "1.1"
        self.keeps_connection = is_new and not self._closes
        self.wants_continue &= is_new
        if self.length > self.limit:
            return too_large(self.limit, close=True)
        if self.framing.startswith(b"T") and self.framing != b"Transfer-Encoding: chunked":
            return Problem(501, "the only transfer coding that is understood is 'chunked'", close=True)
        if self.length and not self.hold(self.length):
            return too_much_incoming(self.site.incoming.most)
        return None

    def hold(self, size: int) -> bool:
        """So many bytes of a body are to come, or have: whether there is room for them beside all other bodies."""
        if not self.site.incoming.take(size):
            return False
        self.held += size
        return True

    def add_body(self, part: bytes) -> bool:
        """A part of the body: whether it is below its limit still."""
        self.size += len(part)
        parts = self._parts
        if not parts or len(part) >= _SMALL_PART:
            parts.append(part)
        elif isinstance(parts[-1], bytearray) and len(parts[-1]) < _LARGE_PART:
            parts[-1] += part  # an object for each of many small ones would take more room than they do
        else:
            parts.append(bytearray(part))
        return self.size <= self.limit

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
        self.__dict__.pop("content", None)
        self.site.incoming.give_back(self.held)
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
        refusal = self.site.origins.refusal(self)
        if refusal is not None:
            self.end(self.answer_problem(refusal))
        elif path != b"/" and (
            not path.startswith(b"/") or path.startswith(b"//") or b"%" in path or not path.isascii()
        ):
            self.end(self.answer_problem(nothing_here()))
        else:
            self.site.resource.render(self)

    def waits_for(self, outcome: Deferred[bytes]) -> None:
        """The answer comes of this; it is cancelled when the client goes."""
        self._outcome = outcome

    def end(self, answer: bytes) -> None:
        """Write this, which is all of the answer."""
        if self._disconnected:
            return
        self._outcome = None
        channel = self.channel
        channel.send(answer)
        self.startedWriting = self.finished = 1
        self.site.log(self)
        channel.requestDone(self)

    @property
    def client_is_gone(self) -> bool:
        """Whether nobody waits for the answer."""
        return self._disconnected

    def connectionLost(self, reason: Failure) -> None:
        """The client is gone."""
        super().connectionLost(reason)
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
            self.channel.end_after_answer()
        return self.answer(problem.status, problem.members(), problem.headers, CONTENT_TYPE)

    def note_refusal(self, problem: Problem) -> None:
        """Have what is refused here counted where the pipeline counts its refusals: a body, or a batch, as one job."""
        if problem.status == 413 and self.path in _PUSHING:
            self.site.pipeline.measures.refuse(TooLarge(), 1)

    def answer_nothing(self) -> bytes:
        """All of an answer without content: it is done (204)."""
        return self.answer_bytes(204, b"")

    def answer_bytes(
        self, status: int, body: bytes, headers: Mapping[bytes, bytes] = NO_HEADERS, content_type: bytes = JSON
    ) -> bytes:
        """All of an answer.

        :param body: its content, ready to be sent.
        """
        if self._disconnected:
            return b""
        if self.site.pipeline.draining:
            self.channel.end_after_answer()
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
        self.channel.end_after_answer()
        lines = [*self._first_lines(status, headers), b"Content-Type: %b\r\n\r\n" % content_type]
        self.code = status
        self.sentLength = 0
        return b"".join(lines)

    def send_part(self, data: bytes) -> None:
        """Write some of an answer that goes on. When it is over, `end` has the rest."""
        self.sentLength += len(data)
        self.channel.send(data)

    @property
    def reader_is_behind(self) -> bool:
        """Whether what has been written already waits to be read."""
        return self.channel.is_behind

    def _first_lines(self, status: int, headers: Mapping[bytes, bytes]) -> list[bytes]:
        lines = [_first_lines(status, int(time.time()))]
        if not self.channel.persistent:
            lines.append(b"Connection: close\r\n")
        return lines + [b"%b: %b\r\n" % header for header in headers.items()]

    def values(self, name: bytes) -> list[bytes]:
        """All values of a header.

        :param name: in lower case.
        """
        return [value for sent, value in self.headers if sent == name]

    def job_headers(self) -> dict[str, str]:
        """The headers of the job that this request pushes.

        They are the content-type and content-encoding, all that start with x- or zpipe-, and zpipe-method and
        zpipe-path, which are the request's own whatever was sent under these names. Values are ISO-8859-1, in
        which every byte is a character, so that a handler can have the bytes back.
        """
        kept: dict[str, str] = {}
        for name, value in self.headers:
            if name in _KEPT or name.startswith((b"x-", b"zpipe-")):
                key, text = name.decode("ascii"), value.decode("latin-1")
                kept[key] = f"{kept[key]}, {text}" if key in kept else text
        kept["zpipe-method"] = self.method.decode("ascii")
        kept["zpipe-path"] = self.path.decode("ascii")
        return kept


@lru_cache(64)
def _first_lines(status: int, second: int) -> bytes:
    """What the answers of one second have in common, if they have the status in common."""
    phrase = HTTPStatus(status).phrase.encode("ascii")
    return b"HTTP/1.1 %d %b\r\nServer: zpipeline\r\nDate: %b\r\n" % (status, phrase, datetimeToString(second))


def unexpected() -> Problem:
    """An error of ours, of which the log says more than the answer."""
    return Problem(500, "an unexpected error; the server's log has it")
