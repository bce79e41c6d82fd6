"""Streams of HTTP requests, right ones and nearly right ones. Pure: what chance begins with decides all of a stream.

`stream` has one to three requests of a grammar: what RFC 9112 allows, and values that it does not look into. Some of
them meet with accidents, to parts of the request or to its bytes.
"""

from __future__ import annotations

from itertools import pairwise
from random import Random

from attrs import define, field

from zpipeline.web.http.parser import ENDLESS, MAX_CHUNK_LINE, MAX_HEAD, MAX_HEADERS

CRLF = b"\r\n"

#: So many of a hundred requests meet with an accident.
ACCIDENTS = 45

#: So many of a thousand requests have a part that is about as long as it may be, or longer.
LONG_ONES = 12

METHODS = b"GET POST POST PUT HEAD DELETE OPTIONS CONNECT get !#$%&'*+-.^_`|~9z".split()
NO_METHODS = [b"", b"G(T", b"GET:", b"G\x00T", b"G\xc9T", b"\x16\x03\x01"]

PATHS = rb"""/ / /?a /batch /a%20b?x=1&y=/2? //b// /a;b,c /? /#x /"<>\^`{|} /%zz /http://a/""".split()
URIS = b"http://localhost/ HTTP://LocalHost:80/x?y https://[::1]:443 http://a?b http://a:/ http://a#b/c".split()
NO_URIS = b"ftp://a/ http:/a http:///a http://me@a/ http://a:b/ http://a:1:2 http://[::1/ http://a%/ http://?a".split()
NO_TARGETS = [b"", b"*", b"nothing", b"a:80", b"?a", b"/\xc3\xa9", b"/\x7f", b"/a b", b"/\x00", b"/\t"]
AUTHORITIES = b"localhost:443 [::1]:443 localhost : * / ftp://a".split()

OTHER_VERSIONS = b"HTTP/1.2 HTTP/2.0 HTTP/0.9 HTTP/3.7".split()
NO_VERSIONS = [*b"http/1.1 HTTP/11 HTTP/1.10 HTTP/1. HTTP/1 RTSP/1.0 HTTP/1.x".split(), b"", b"HTTP/1.\xb9"]

HOSTS = [
    *b"localhost LocalHost:8080 127.0.0.1 [::1]:80 [::ffff:1.2.3.4] [v1.a:b] [VfF.~]: localhost: 0".split(),
    *b"a.b-c_d~!$&'()*+,;= %41%5a".split(),
]
NO_HOSTS = [
    *b"""a/b me@a a:b a:1:2 [::1 [] ::1 a%z0 :80 "a" a? a# [:::] [vvv] [v.a] [1.2.3.4] [::1%eth0] [::1]a [a]""".split(),
    *[b"", b"", b"a b", b"\xff"],
]

NAMES = b"x-a X-A accept Cookie content-type x_!#$%&'*+.^`|~ TE Trailer 0".split()
VALUES = [
    *rb"""1 */* : "a\"b" chunked content-length:3 a, ,b \r\n""".split(),
    *[b"", b"a=b; c=d", b"text/plain; charset=utf-8", b"\xc3\xa9\xff", b"a\tb  c"],
]
OPTIONS = [
    *b"keep-alive close close,keep-alive upgrade te closed , ,close,".split(),
    *[b"", b"Keep-Alive, x", b"x, Close", b"Upgrade, HTTP2-Settings", b"keep-alive\t,\tx", b"close x"],
]
EXPECTATIONS = [b"100-continue", b"100-Continue", b"100-continue, x", b"x,100-continue", b"x", b"", b"100-continue,"]
UPGRADES = [b"h2c", b"websocket", b"", b"HTTP/2.0, SHTTP/1.3"]
SOME_FIELDS = [(b"Connection", OPTIONS, 0.25), (b"Expect", EXPECTATIONS, 0.1), (b"Upgrade", UPGRADES, 0.1)]
CODINGS = [
    *b"""identity gzip,chunked chunked,chunked chunked,gzip xchunked chunked, ,chunked "chunked" chunked;a=b""".split(),
    *[b"", b"chun ked", b"\x0bchunked", b"chunked\x00", b"gzip , chunked", b"gzip;q=1, chunked", b"chunked\x85"],
]
NO_LENGTHS = [*b"+%d -%d %d.0 0x%d %d_ %de1 %d; %d, ,%d".split(), b"", b"%d 3", b"%d\x00", b"\xb2"]

BODIES = [
    *[b"", b"a", b"abc", b"x" * 20, b"x" * 300, b"\r\n", b"\n\r", b"0\r\n\r\n", bytes(range(256))],
    b"GET /?smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
]
EXTENSIONS = [b";", b";a", b";a=b", b';a="b;c"', b"; a = b", b" ;a=b", b"\t;a", b";a=b ", b";\xe9", b";=", b";a;b"]
NO_SIZES = [
    *b"0x%x +%x -%x %x_0 %xg %x, %017x %020x %021x".split(),
    *[b"", b" %x", b"\xb2", b"%x\x00", b"%x 0", b"%x ", b"%x\t", b"%x \t;a"],
]

LINE_ENDS = [b"\n", b"\n", b"\r", b"", b"\r\r\n", b"\n\r", b"\r\n\r\n", b"\n\n", b"\r\n ", b"\x0b", b"\r\n\n"]
WHITE = [b" ", b"\t", b"  ", b"\x0b", b"\x0c", b"\xa0", b"\r", b"\x00"]
CONTROLS = [bytes([n]) for n in (*range(0x20), 0x7F)]
PIECES = [
    *[b"\r\n", b"\n", b"\r", b" ", b"\t", b"\x00", b"\x7f", b"\x80", b"\xff", b"\r\n\r\n", b"\n\n"],
    *b": , ; 0 / a A 1 HTTP/1.1".split(),
    *[b"GET / HTTP/1.1\r\n", b"Host: a\r\n", b"Content-Length: 1\r\n", b"0\r\n\r\n"],
]


@define
class Field:
    """One line of headers, or after a body."""

    name: bytes
    value: bytes
    colon: bytes = b": "
    end: bytes = CRLF

    @property
    def text(self) -> bytes:
        return self.name + self.colon + self.value + self.end


@define
class Chunk:
    """One chunk.

    :ivar line: that comes before it, without its end.
    """

    line: bytes
    data: bytes
    end_of_line: bytes = CRLF
    end: bytes = CRLF

    @property
    def text(self) -> bytes:
        return self.line + self.end_of_line + self.data + self.end


@define
class Request:
    """One request, in parts that an accident can happen to.

    :ivar before: what comes before it.
    :ivar spaces: of the request line.
    :ivar chunks: of the body; the last one is empty, and is followed by `late`. If there is none, `body` is all of it.
    """

    method: bytes
    target: bytes
    version: bytes
    fields: list[Field]
    before: bytes = b""
    spaces: list[bytes] = field(factory=lambda: [b" ", b" "])
    end_of_line: bytes = CRLF
    blank: bytes = CRLF
    body: bytes = b""
    chunks: list[Chunk] = field(factory=list)
    late: list[Field] = field(factory=list)

    @property
    def text(self) -> bytes:
        one, two = self.spaces
        line = self.before + self.method + one + self.target + two + self.version + self.end_of_line
        head = line + b"".join([each.text for each in self.fields]) + self.blank
        if not self.chunks:
            return head + self.body
        *some, last = [each.text for each in self.chunks]
        fields = b"".join([each.text for each in self.late])
        return b"".join([head, *some, last.removesuffix(CRLF), fields, CRLF])

    def named(self, name: bytes) -> list[Field]:
        """The headers of that name, in lower case."""
        return [each for each in self.fields if each.name.lower() == name]

    def drop(self, name: bytes) -> None:
        """Have no header of that name."""
        self.fields = [each for each in self.fields if each.name.lower() != name]

    def add(self, chance: Random, name: bytes, value: bytes) -> None:
        """A header, at any place."""
        self.fields.insert(chance.randint(0, len(self.fields)), some_field(chance, name, value))


def stream(chance: Random) -> bytes:
    """Of one to three requests; some streams end early."""
    text = b"".join([some_request(chance) for _ in range(chance.choice((1, 1, 2, 2, 3)))])
    return text[: chance.randint(1, len(text))] if chance.random() < 0.03 else text


def pieces(chance: Random, text: bytes) -> list[bytes]:
    """It, cut at random places; none is empty."""
    if len(text) < 400 and chance.random() < 0.04:
        return [text[at : at + 1] for at in range(len(text))]
    cuts = {chance.randint(0, len(text)) for _ in range(chance.randint(1, 8))}
    if chance.random() < 0.5:
        cuts.add(text.find(b"\n", chance.randint(0, len(text))))  # between a CR and its LF
    ends = [0, *sorted(cuts - {-1, 0, len(text)}), len(text)]
    return [text[start:end] for start, end in pairwise(ends)]


def some_request(chance: Random) -> bytes:
    """One, perhaps after an accident."""
    request = a_right_one(chance)
    if chance.randrange(1000) < LONG_ONES:
        chance.choice(LONG)(chance, request)
    if chance.randrange(100) >= ACCIDENTS:
        return request.text
    for _ in range(chance.choice((0, 1, 1, 1, 2))):
        chance.choice(TO_PARTS)(chance, request)
    text = request.text
    if chance.random() < 0.3:
        for _ in range(chance.choice((1, 1, 2))):
            text = chance.choice(TO_BYTES)(chance, text)
    return text


# What is right


def a_right_one(chance: Random) -> Request:
    """A request as RFC 9112 has it, but for some odd values that it has no use for."""
    method = chance.choice(METHODS)
    version = b"HTTP/1.0" if chance.random() < 0.12 else b"HTTP/1.1"
    request = Request(method, some_target(chance, method), version, [])
    if version == b"HTTP/1.1" or chance.random() < 0.5:
        request.add(chance, b"Host", chance.choice(HOSTS))
    for _ in range(chance.choice((0, 0, 1, 2, 4))):
        request.add(chance, chance.choice(NAMES), chance.choice(VALUES))
    for name, values, share in SOME_FIELDS:
        if chance.random() < share:
            for _ in range(chance.choice((1, 1, 1, 2))):
                request.add(chance, name, chance.choice(values))
    if chance.random() < 0.04:
        request.before = CRLF
    has_body = chance.random()
    if has_body < 0.3:
        request.body = chance.choice(BODIES)
        zeros = b"0" * (chance.choice((1, 20)) if chance.random() < 0.05 else 0)
        request.add(chance, b"Content-Length", zeros + b"%d" % len(request.body))
    elif has_body < 0.65 and version == b"HTTP/1.1":
        request.add(chance, b"Transfer-Encoding", chance.choice((b"chunked", b"chunked", b"Chunked")))
        add_chunks(chance, request)
    return request


def some_target(chance: Random, method: bytes) -> bytes:
    """One that the method may have."""
    if method == b"CONNECT":
        return chance.choice(AUTHORITIES)
    if method == b"OPTIONS" and chance.random() < 0.5:
        return b"*"
    return chance.choice(URIS if chance.random() < 0.15 else PATHS)


def some_field(chance: Random, name: bytes, value: bytes) -> Field:
    """One header, in one of the ways to write it."""
    spelled = chance.choice((name, name, name.lower(), name.upper()))
    return Field(spelled, value + chance.choice((b"", b"", b"", b" \t")), chance.choice((b": ", b": ", b":", b":\t ")))


def add_chunks(chance: Random, request: Request) -> None:
    """A body in chunks."""
    datas = [chance.choice(BODIES) for _ in range(chance.choice((0, 1, 1, 2, 4)))]
    for data in [*filter(None, datas), b""]:
        size = chance.choice((b"%x", b"%x", b"%X", b"0%x", b"%016x")) % len(data)
        extension = chance.choice(EXTENSIONS) if chance.random() < 0.15 else b""
        request.chunks.append(Chunk(size[-16:] + extension, data))
    if chance.random() < 0.25:
        for _ in range(chance.choice((1, 1, 2))):
            request.late.append(some_field(chance, chance.choice(NAMES), chance.choice(VALUES)))


# What is about as long as it may be


def long_head(chance: Random, request: Request) -> None:
    """The request line and the headers have about as many bytes as they may."""
    rest = MAX_HEAD - len(request.text) + len(request.body)
    if rest > 100 and not request.chunks:
        request.add(chance, b"x-long", b"v" * (rest - len(b"x-long: \r\n") + chance.randint(-3, 3)))


def many_fields(chance: Random, request: Request) -> None:
    """There are about as many headers, or fields after the body, as there may be."""
    fields = request.late if request.chunks and chance.random() < 0.5 else request.fields
    number = MAX_HEADERS - len(fields) + chance.randint(-1, 1)
    fields += [Field(b"x", b"y") for _ in range(number)]


def long_late(chance: Random, request: Request) -> None:
    """The fields after the body have about as many bytes as they may."""
    rest = MAX_HEAD - sum([len(each.text) for each in request.late]) - len(b"x: \r\n\r\n")
    request.late.append(Field(b"x", b"v" * (rest + chance.randint(-3, 3))))


def long_line_before_chunk(chance: Random, request: Request) -> None:
    """A chunk's extensions have about as many bytes as they may."""
    if request.chunks:
        chunk = chance.choice(request.chunks)
        chunk.line = (chunk.line + b";").ljust(MAX_CHUNK_LINE + chance.randint(-2, 2), b"x")


def long_length(chance: Random, request: Request) -> None:
    """No body has this length."""
    for each in request.named(b"content-length"):
        each.value = b"%d" % (ENDLESS * chance.choice((1, 1, 10, 100, 10**80)) + chance.randint(-1, 1))


LONG = [long_head, many_fields, long_late, long_line_before_chunk, long_length]

# Accidents


def other_line_end(chance: Random, request: Request) -> None:
    """A line ends in another way."""
    end = chance.choice(LINE_ENDS)
    where = chance.randint(0, 5)
    if where == 0:
        request.end_of_line = end
    elif where == 1:
        request.blank = end
    elif where == 2 and request.chunks:
        chance.choice(request.chunks).end = end
    elif where == 3 and request.chunks:
        chance.choice(request.chunks).end_of_line = end
    elif where == 4 and request.late:
        chance.choice(request.late).end = end
    elif request.fields:
        chance.choice(request.fields).end = end


def only_line_feeds(chance: Random, request: Request) -> None:
    """All lines of the head end with an LF."""
    request.end_of_line = request.blank = b"\n"
    for each in request.fields:
        each.end = b"\n"


def white_around_colon(chance: Random, request: Request) -> None:
    """And there may be no colon."""
    fields = request.fields + request.late
    if fields:
        white = chance.choice(WHITE)
        chance.choice(fields).colon = chance.choice((white + b":", b":" + white, b"", white, b"::", b": \t "))


def white_in_request_line(chance: Random, request: Request) -> None:
    """One space more, less, or another."""
    request.spaces[chance.randint(0, 1)] = chance.choice((*WHITE, b""))


def white_around_request_line(chance: Random, request: Request) -> None:
    """Before or after it."""
    if chance.random() < 0.5:
        request.method = chance.choice(WHITE) + request.method
    else:
        request.version += chance.choice(WHITE)


def doubled_field(chance: Random, request: Request) -> None:
    """A header comes again, perhaps with another value."""
    if request.fields:
        again = chance.choice(request.fields)
        value = again.value + chance.choice((b"", b"", b"0", b" x"))
        request.fields.insert(chance.randint(0, len(request.fields)), Field(again.name, value))


def lost_field(chance: Random, request: Request) -> None:
    """A header is not there."""
    if request.fields:
        del request.fields[chance.randrange(len(request.fields))]


def folded_field(chance: Random, request: Request) -> None:
    """A value goes on in the next line."""
    fields = request.fields + request.late
    if fields:
        folded = chance.choice(fields)
        at = chance.randint(0, len(folded.value))
        fold = chance.choice((b"\r\n ", b"\r\n\t  ", b"\n "))
        folded.value = folded.value[:at] + fold + folded.value[at:]


def control_character(chance: Random, request: Request) -> None:
    """In a name, or in a value."""
    fields = request.fields + request.late
    if fields:
        hit = chance.choice(fields)
        control = chance.choice(CONTROLS)
        if chance.random() < 0.7:
            at = chance.randint(0, len(hit.value))
            hit.value = hit.value[:at] + control + hit.value[at:]
        else:
            hit.name += control


def other_method(chance: Random, request: Request) -> None:
    """One that is none, or another that the target may not suit."""
    request.method = chance.choice(chance.choice((METHODS, NO_METHODS)))


def other_target(chance: Random, request: Request) -> None:
    """One that is none, or that another method has."""
    request.target = chance.choice(chance.choice((NO_TARGETS, NO_URIS)))


def other_version(chance: Random, request: Request) -> None:
    """One that is not spoken here, that is none, or that the headers may not suit."""
    request.version = chance.choice(chance.choice((OTHER_VERSIONS, NO_VERSIONS, [b"HTTP/1.0", b"HTTP/1.1"])))


def other_host(chance: Random, request: Request) -> None:
    """One that is none, or a second one, or none at all."""
    if chance.random() < 0.7:
        request.drop(b"host")
    if chance.random() < 0.8:
        request.add(chance, b"Host", chance.choice(NO_HOSTS))


def lines_before(chance: Random, request: Request) -> None:
    """Empty ones, mostly."""
    request.before = chance.choice((b"\r\n\r\n", b"\n", b"\r", b" \r\n", b"\r\n\n", b"\x00", b"\r\n"))


def other_length(chance: Random, request: Request) -> None:
    """A Content-Length that is none, or is of another body, or a list, or comes again."""
    if not request.named(b"content-length"):
        request.add(chance, b"Content-Length", b"%d" % chance.choice((0, 1, 3, len(request.body))))
    length = chance.choice(request.named(b"content-length"))
    number = len(request.body)
    match chance.randint(0, 4):
        case 0:
            form = chance.choice(NO_LENGTHS)
            length.value = form % number if b"%" in form else form
        case 1:
            length.value = b"%d" % max(0, number + chance.choice((-1, 1, 2)))
        case 2:
            length.value = chance.choice((b"%d, %d", b"%d,%d", b"%d ,\t%d")) % (number, number)
        case 3:
            request.add(chance, b"content-length", chance.choice((length.value, b"%d" % number, b"0%d" % number)))
        case 4:
            length.value = length.value.rjust(chance.choice((19, 20, 21)), b"0")


def other_coding(chance: Random, request: Request) -> None:
    """A Transfer-Encoding that is not understood, or where none should be, or that comes again."""
    if chance.random() < 0.5:
        request.drop(b"transfer-encoding")
    request.add(chance, b"transfer-encoding", chance.choice(chance.choice((CODINGS, [b"chunked"]))))


def no_size(chance: Random, request: Request) -> None:
    """What comes before a chunk is no size, or has too many digits."""
    if request.chunks:
        chunk = chance.choice(request.chunks)
        size = len(chunk.data)
        form = chance.choice((*NO_SIZES, b"%017x", b"%020x", b"%021x", b"%x ", b"%x\t", b"%x \t;a"))
        chunk.line = form % size if b"%" in form else form


def control_before_chunk(chance: Random, request: Request) -> None:
    """In what comes after the size."""
    if request.chunks:
        chunk = chance.choice(request.chunks)
        chunk.line += b";a" + chance.choice(CONTROLS)


def other_size(chance: Random, request: Request) -> None:
    """A chunk is not as long as its size says."""
    if request.chunks:
        chunk = chance.choice(request.chunks)
        chunk.line = b"%x" % max(0, len(chunk.data) + chance.choice((-1, 1, 2, 16**15)))


def late_length(chance: Random, request: Request) -> None:
    """After the body comes what says where it ends."""
    name, value = chance.choice(
        (
            (b"Content-Length", b"3"),
            (b"Content-Length", b"x"),
            (b"Transfer-Encoding", b"chunked"),
            (b"Transfer-Encoding", b"gzip"),
            (b"Host", b"a b"),
        )
    )
    request.late.append(some_field(chance, name, value))


TO_PARTS = [
    other_line_end,
    only_line_feeds,
    white_around_colon,
    white_in_request_line,
    white_around_request_line,
    doubled_field,
    lost_field,
    folded_field,
    control_character,
    other_method,
    other_target,
    other_version,
    other_host,
    lines_before,
    other_length,
    other_coding,
    no_size,
    control_before_chunk,
    other_size,
    late_length,
]


def insert(chance: Random, text: bytes) -> bytes:
    """Some bytes too many."""
    at = chance.randint(0, len(text))
    return text[:at] + chance.choice(PIECES) + text[at:]


def remove(chance: Random, text: bytes) -> bytes:
    """Some bytes too few."""
    at = chance.randint(0, len(text))
    return text[:at] + text[at + chance.choice((1, 1, 2, 5, 20)) :]


def replace(chance: Random, text: bytes) -> bytes:
    """Another byte, or some."""
    at = chance.randint(0, len(text))
    other = chance.choice(PIECES) if chance.random() < 0.5 else bytes([chance.randrange(256)])
    return text[:at] + other + text[at + len(other) :]


def flip(chance: Random, text: bytes) -> bytes:
    """One bit."""
    at = chance.randrange(len(text)) if text else 0
    return text[:at] + bytes([byte ^ 1 << chance.randrange(8) for byte in text[at : at + 1]]) + text[at + 1 :]


def repeat(chance: Random, text: bytes) -> bytes:
    """Some bytes again."""
    at = chance.randint(0, len(text))
    end = at + chance.choice((1, 2, 10, 30))
    return text[:end] + text[at:]


def swap(chance: Random, text: bytes) -> bytes:
    """Two neighbours."""
    at = chance.randint(0, len(text))
    return text[:at] + text[at : at + 2][::-1] + text[at + 2 :]


TO_BYTES = [insert, insert, remove, replace, flip, repeat, swap]
