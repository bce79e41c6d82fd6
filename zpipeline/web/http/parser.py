"""HTTP/1.1 and 1.0 as a server reads it, without I/O: bytes in, heads, parts of bodies and refusals out.

What two readers might take for two things is refused, as one of them may stand before us: a proxy that lets a request
through sees where it ends as we do. The rules are those of RFC 9112, and where it leaves a choice, these:

- A line ends with CR LF. A CR or an LF by itself is refused, and so is any other control character but a tab in the
  value of a header.
- One empty line may come before a request, and no more.
- The request line is three words with one space between each. Any token is a method. The target is visible ASCII: a
  path, all of a URI with ``http`` or ``https``, ``*`` with OPTIONS, or whatever CONNECT has.
- The version is ``HTTP/1.1`` or ``HTTP/1.0``; others are refused with 505, other protocols with 400.
- A header is a name, which is a token, a colon and a value, on one line: a value that goes on in the next is refused.
- HTTP/1.1 has one Host, and 1.0 may have one. It is a host, perhaps with a port, and never empty; between brackets is
  an IPv6 address, or one of a later version. The host of a target that is all of a URI takes its place.
- Content-Length is digits, zeros before them or not, and there is one at most, even if two say the same.
- Transfer-Encoding is ``chunked``, once, in HTTP/1.1, and without a Content-Length. Codings before it are refused with
  501.
- The size of a chunk is 1 to 16 hexadecimal digits. Spaces and tabs may stand between it and extensions, and not before
  the end of the line. Fields after the last chunk have to be well-formed; they, and extensions, which are text, are of
  no use, whatever they say.
- A connection is kept in HTTP/1.1 unless Connection says ``close``, and in 1.0 if it says ``keep-alive``.
- A client waits for a word if Expect says ``100-continue`` in HTTP/1.1. What else it says is of no use.

A head is at most `MAX_HEAD` bytes and `MAX_HEADERS` headers, and so are the fields after a body; the line before a
chunk is at most `MAX_CHUNK_LINE` bytes. How long a body may be is for the caller to say.

It works by asking: `Parser.receive` only keeps what has come, and each `Parser.next` reads as little as it can, so that
who asks decides how much is read. What is no HTTP is refused as soon as it is seen: that may be before a head is
complete.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address
from typing import TypeAlias

from attrs import define

#: Of a request line and its headers together, and of the fields after a body in chunks.
MAX_HEAD = 16_384
MAX_HEADERS = 500

#: Of the line that comes before a chunk, in bytes.
MAX_CHUNK_LINE = 1024

#: So many chunks are read at once.
CHUNKS_AT_ONCE = 256

#: No body is this long; what says that it is longer has this length. Its digits are counted before they are read.
ENDLESS = 10**18
_DIGITS = len(str(ENDLESS))

#: So many of the last lines of headers are remembered, unless they come with others that have more bytes than that
#: together. From clients of one kind, and on a connection that is kept, nearly the same ones come again and again.
_REMEMBERED = 1024
_SHORT = 2048

_TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_VISIBLE = bytes(range(0x21, 0x7F))
_TEXT = b"\t " + _VISIBLE + bytes(range(0x80, 0x100))

_END = b"\r\n\r\n"
_NO_VALUES: tuple[bytes, ...] = ()

_LINE_ENDS = "a line ends with a carriage return and a line feed, and not with one of them"

_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]")
_HOST = re.compile(rb"(?:\[([^\]]*)\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+)(?::[0-9]*)?")
_LATER_ADDRESS = re.compile(rb"[vV][0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+")
_URI = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE)
_CODINGS = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:[ \t]*,[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")


class Malformed(Exception):
    """What came is not read on: where it ends is not known.

    :ivar status: of the answer, 400 to 599.
    :ivar detail: what is wrong, for who sent it.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class Fields(dict[bytes, tuple[bytes, ...]]):
    """Headers: the values of each, in their order, under its name in lower case.

    They can be read as those of twisted.web can be, by names in lower case.
    """

    __slots__ = ()

    getRawHeaders = dict.get
    getAllRawHeaders = dict.items


@define(eq=False)
class Head:
    """All of a request but its body.

    :ivar uri: the target, as it was sent.
    :ivar path: of the target; ``*`` and what CONNECT asks for are paths too.
    :ivar version: ``HTTP/1.1`` or ``HTTP/1.0``.
    :ivar headers: as they came; Host is what the client takes this server for, wherever it has said that.
    :ivar length: of the body, in bytes; 0 when there is none; None when it comes in chunks.
    :ivar keeps_connection: whether the client may send another request on the connection.
    :ivar wants_continue: whether it waits for a word before it sends the body.
    """

    method: bytes
    uri: bytes
    path: bytes
    version: bytes
    headers: Fields
    length: int | None
    keeps_connection: bool
    wants_continue: bool


#: A head, or a part of a body; None when more bytes have to come first.
Event: TypeAlias = Head | bytes | None


class Parser:
    """Reads one connection.

    After `Malformed` it reads nothing more.

    :ivar waiting: so many bytes have come that are not read.
    :ivar is_between: whether what was read last was the end of a request: a head without a body, or the last part of a
        body, which may be empty.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self.is_between = True
        self._data = b""
        self._at = 0  # what comes before is done with
        self._read: Callable[[], Event] = self._read_head
        self._has_skipped = False  # the empty line that may come before a request
        self._left = 0  # of a body, or of a chunk

    def receive(self, data: bytes) -> None:
        """Some bytes have come."""
        self._data = self._data[self._at :] + data if self.waiting else data
        self._at = 0
        self.waiting = len(self._data)

    def next(self) -> Event:
        """What is next; nothing, when no bytes are `waiting`.

        :raises Malformed: it is no HTTP, or is too large.
        """
        try:
            return self._read()
        except Malformed:
            self._has_read(len(self._data))
            self._read = _nothing
            raise

    def _read_head(self) -> Head | None:
        data, at = self._data, self._at
        if not self._has_skipped and data.startswith(b"\r\n", at):
            at += 2
            self._has_read(at)
            data, at = self._data, self._at
            self._has_skipped = True
        end = data.find(_END, at, at + MAX_HEAD)
        if end < 0:
            if at < len(data):
                self._look_at_size()
                _look_at_start(data[at:])
            return None
        self._has_skipped = False
        head = head_of(data[at:end])
        self._has_read(end + len(_END))
        if head.length != 0:
            self.is_between = False
            self._left = head.length or 0
            self._read = self._read_chunks if head.length is None else self._read_body
        return head

    def _has_read(self, to: int) -> None:
        """What comes before this is done with: nothing of it is kept, when nothing follows."""
        self.waiting = len(self._data) - to
        if self.waiting:
            self._at = to
        else:
            self._data, self._at = b"", 0

    def _look_at_size(self) -> None:
        """Of lines whose end is not here."""
        if self.waiting >= MAX_HEAD:
            raise Malformed(431, f"the request line and the headers are over {MAX_HEAD} bytes")

    def _read_body(self) -> Event:
        part = self._take()
        return (part or None) if self._left else self._last(part)

    def _last(self, part: bytes) -> bytes:
        """The last part of a body."""
        self.is_between = True
        self._read = self._read_head
        return part

    def _take(self) -> bytes:
        """What has come of the body, or of the chunk."""
        at = self._at
        part = self._data[at : at + self._left] if at else self._data[: self._left]
        self._left -= len(part)
        self._has_read(at + len(part))
        return part

    def _read_chunks(self) -> Event:
        parts = []
        for _ in range(CHUNKS_AT_ONCE):
            if not self._left:
                line = self._line_before_chunk()
                if line is None:
                    break
                size = _CHUNK.fullmatch(line)
                if size is None:
                    raise Malformed(400, "the line before a chunk is not its size, in hexadecimal digits")
                self._left = int(size[1], 16)
                if not self._left:
                    self._read = self._read_fields
                    break
            part = self._take()
            if part:
                parts.append(part)
            if self._left:
                break
            self._read = self._read_end_of_chunk
            if not self._ends_chunk():
                break
        if parts:
            return b"".join(parts)
        return self._read() if self._read == self._read_fields else None

    def _line_before_chunk(self) -> bytes | None:
        data, at = self._data, self._at
        end = data.find(b"\r\n", at, at + MAX_CHUNK_LINE + 2)
        if end < 0:
            if len(data) - at > MAX_CHUNK_LINE + 1:
                raise Malformed(400, f"the line before a chunk is over {MAX_CHUNK_LINE} bytes")
            _look_at_line_ends(data[at:])
            return None
        self._has_read(end + 2)
        return data[at:end]

    def _ends_chunk(self) -> bool:
        """Whether the end of a chunk is here."""
        found = self._data[self._at : self._at + 2]
        if found == b"\r\n":
            self._has_read(self._at + 2)
            self._read = self._read_chunks
            return True
        if not b"\r\n".startswith(found):
            raise Malformed(400, "a chunk does not end where its size says")
        return False

    def _read_end_of_chunk(self) -> Event:
        return self._read_chunks() if self._ends_chunk() else None

    def _read_fields(self) -> Event:
        """Those that come after a body in chunks."""
        data, at = self._data, self._at
        if data.startswith(b"\r\n", at):
            self._has_read(at + 2)
            return self._last(b"")
        end = data.find(_END, at, at + MAX_HEAD)
        if end < 0:
            self._look_at_size()
            _look_at_line_ends(data[at:])
            return None
        _headers(data[at:end])
        self._has_read(end + len(_END))
        return self._last(b"")


def head_of(text: bytes) -> Head:
    """A request line and headers, but for the last line's end and the empty line.

    :raises Malformed: it is none.
    """
    line, _, fields = text.partition(b"\r\n")
    method, uri, version = _request_line(line)
    is_new = version == b"HTTP/1.1"
    headers = _headers(fields) if fields else Fields()
    _look_at_host(headers, is_new)
    path = uri
    if not uri.startswith(b"/"):
        found = _URI.fullmatch(uri)
        if found is not None:
            headers[b"host"] = (_checked_host(found[1]),)
            path = found[2]
            if not path.startswith(b"/"):
                path = b"/" + path
        elif method != b"CONNECT" and (uri != b"*" or method != b"OPTIONS"):
            raise Malformed(400, "the target of a request is a path, beginning with /, or all of a URI")
    keeps_connection = is_new
    if b"connection" in headers:
        options = _options(headers[b"connection"])
        keeps_connection = b"close" not in options and (is_new or b"keep-alive" in options)
    return Head(
        method,
        uri,
        path.partition(b"?")[0],
        version,
        headers,
        _length(headers, is_new) if b"content-length" in headers or b"transfer-encoding" in headers else 0,
        keeps_connection,
        is_new and b"expect" in headers and b"100-continue" in _options(headers[b"expect"]),
    )


def _request_line(line: bytes) -> tuple[bytes, bytes, bytes]:
    method, _, rest = line.partition(b" ")
    uri, _, version = rest.rpartition(b" ")
    if not uri or uri.translate(None, _VISIBLE) or version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise _no_request_line(line)
    _token(method)
    return method, uri, version


def _no_request_line(line: bytes) -> Malformed:
    """What is wrong with it, if not its method."""
    if b"\r" in line or b"\n" in line:
        return Malformed(400, _LINE_ENDS)
    words = line.split(b" ")
    if len(words) != 3 or not words[1]:
        return Malformed(400, "a request line is a method, a target and a version, with one space between each")
    if words[1].translate(None, _VISIBLE):
        what = "the request's target has a character that has to be escaped (RFC 3986), as %20 is a space"
        return Malformed(400, what)
    if _VERSION.fullmatch(words[2]):
        return Malformed(505, f"{words[2].decode('ascii')} is not spoken here: use HTTP/1.1")
    return Malformed(400, "the request line does not end with HTTP/1.1")


def _headers(fields: bytes) -> Fields:
    lines = fields.split(b"\r\n")
    if len(lines) > MAX_HEADERS:
        raise Malformed(431, f"there are over {MAX_HEADERS} headers")
    read = _field if len(fields) <= _SHORT else _field.__wrapped__
    headers = Fields(map(read, lines))
    if len(headers) < len(lines):  # one has come more than once
        headers.clear()
        for name, value in map(read, lines):
            headers[name] = headers.get(name, ()) + value
    return headers


@lru_cache(_REMEMBERED)
def _field(line: bytes) -> tuple[bytes, tuple[bytes]]:
    """The name of a header, and its value."""
    if line.translate(None, _TEXT):
        if line.translate(None, _TEXT + b"\r\n"):
            raise Malformed(400, "a control character is in the head of the request")
        raise Malformed(400, _LINE_ENDS)
    name, colon, value = line.partition(b":")
    if not colon:
        raise Malformed(400, "a header has no colon")
    return _token(name), (value.strip(b" \t"),)


@lru_cache(256)
def _token(name: bytes) -> bytes:
    """In lower case. The same ones come again and again."""
    if not name or name.translate(None, _TOKEN):
        what = "a method or the name of a header has another character than letters, digits and !#$%&'*+-.^_`|~"
        raise Malformed(400, what)
    return name.lower()


def _look_at_host(headers: Fields, is_new: bool) -> None:
    values = headers.get(b"host")
    if values is None:
        if is_new:
            raise Malformed(400, "HTTP/1.1 asks for a Host header")
        return
    if len(values) > 1:
        raise Malformed(400, "Host was sent more than once")
    _checked_host(values[0])


@lru_cache(256)
def _checked_host(host: bytes) -> bytes:
    found = _HOST.fullmatch(host)
    if found is None or not (found[1] is None or _is_address(found[1])):
        raise Malformed(400, "Host is not the name or the address of a host, perhaps with a port")
    return host


def _is_address(text: bytes) -> bool:
    """Between brackets."""
    try:
        address = IPv6Address(text.decode("ascii"))
    except (UnicodeDecodeError, AddressValueError):
        return _LATER_ADDRESS.fullmatch(text) is not None
    return address.scope_id is None  # it says nothing to another machine, and RFC 3986 has no place for it


def _length(headers: Fields, is_new: bool) -> int | None:
    """Of a body of which something is said."""
    lengths = headers.get(b"content-length", _NO_VALUES)
    codings = headers.get(b"transfer-encoding", _NO_VALUES)
    if not codings:
        if len(lengths) > 1 or not lengths[0].isdigit():
            raise Malformed(400, "Content-Length is one number, in digits")
        digits = lengths[0] if len(lengths[0]) < _DIGITS else lengths[0].lstrip(b"0") or b"0"
        return int(digits) if len(digits) < _DIGITS else ENDLESS
    if lengths:
        raise Malformed(400, "a body has a Content-Length or a Transfer-Encoding, and not both")
    if not is_new:
        raise Malformed(400, "HTTP/1.0 has no Transfer-Encoding")
    (coding, *others) = [value.lower() for value in codings]
    if coding == b"chunked" and not others:
        return None
    if others or not _CODINGS.fullmatch(coding):
        raise Malformed(400, "Transfer-Encoding is not one list of codings")
    *before, last = [each.strip(b" \t") for each in coding.split(b",")]
    if last != b"chunked" or b"chunked" in before:
        raise Malformed(400, "where the body ends is not known: the last transfer coding, and no other, is 'chunked'")
    raise Malformed(501, "the only transfer coding that is understood is 'chunked'")


@lru_cache(256)
def _options(values: tuple[bytes, ...]) -> list[bytes]:
    """The members of a list, in lower case."""
    return [option.strip(b" \t") for option in b",".join(values).lower().split(b",")]


def _look_at_start(text: bytes) -> None:
    """Refuse at once what can be no request, of which a part is here."""
    _look_at_line_ends(text)
    line, end, _ = text.partition(b"\r\n")
    if end:
        _request_line(line)
    elif text != b"\r":
        method, space, _ = text.partition(b" ")
        if method or space:
            _token(method)


def _look_at_line_ends(text: bytes) -> None:
    """Of lines of which the last one may not be complete."""
    if text.count(b"\n") != text.count(b"\r\n"):
        raise Malformed(400, _LINE_ENDS)


def _nothing() -> None:
    """What is read after what was refused."""
