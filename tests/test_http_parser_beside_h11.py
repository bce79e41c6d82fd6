"""The parser beside h11, which is as strict: both accept the same, and understand the same, but for what is named here.

    python -m tests.test_http_parser_beside_h11 [--streams 1000000] [--seed N] [--jobs 1]

compares that many streams of `tests.http_grammar`, and prints how often each outcome and each difference was met.
Streams have numbers, from the seed on: chance begins with the number of the stream. At a difference that has no name
it stops, with the status 1. When it is interrupted, it prints what it has, and how to go on.

A difference is named by what is true of each request where they differ so, and of none where they agree. Each is a
rule of one of them, to the byte.
"""

from __future__ import annotations

import argparse
import random
import re
import secrets
import signal
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from enum import Enum
from functools import cached_property
from multiprocessing import Pool
from socket import AF_INET6, inet_pton
from typing import Any

import h11
from attrs import define, evolve, field, fields, frozen
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn
from twisted.trial.unittest import SynchronousTestCase

from tests.http_grammar import pieces, stream
from zpipeline.web.http.parser import ENDLESS, MAX_CHUNK_LINE, MAX_HEAD, MAX_HEADERS, Head, Malformed, Parser

#: How many streams are compared by the test, and in one go by the command.
STREAMS = 4000
AT_ONCE = 500

# What a reader has understood


class Verdict(Enum):
    """How a reader ends with a stream."""

    REFUSED = "it is refused"
    WAITING = "more of it has to come"
    CLOSED = "the connection is not kept after its last request"


@define
class Message:
    """A request.

    :ivar length: of the body, as a header says it; None when the body comes in chunks.
    :ivar awaits: whether the client waits for a word before it sends the body.
    :ivar body_begins: where in the stream, as is `ends`.
    :ivar keeps: whether another request may follow; None while this one is not complete, as is `ends`.
    """

    method: bytes
    target: bytes
    version: bytes
    headers: dict[bytes, list[bytes]]
    length: int | None
    awaits: bool
    body_begins: int
    body: bytes = b""
    keeps: bool | None = None
    ends: int | None = None


@define
class Reading:
    """What came of a stream.

    :ivar messages: the last one may be incomplete.
    """

    messages: list[Message] = field(factory=list)
    verdict: Verdict = Verdict.WAITING

    def message(self, number: int) -> Message | None:
        """The one of that number; None: there is none, or it was refused."""
        return self.messages[number] if number < len(self.messages) else None

    def then(self, rest: Reading) -> Reading:
        """This, and what came of what followed."""
        return Reading(self.messages + rest.messages, rest.verdict)

    def refused(self) -> Reading:
        """This, but that nothing more is read, and that what is not complete is no message."""
        self.verdict = Verdict.REFUSED
        if self.messages and self.messages[-1].ends is None:
            self.messages.pop()
        return self


def read_by_us(parts: Iterable[bytes]) -> Reading:
    """What our parser understands."""
    parser = Parser()
    reading = Reading()
    keeps = False
    came = 0
    for part in parts:
        parser.receive(part)
        came += len(part)
        while True:
            try:
                event = parser.next()
            except Malformed:
                return reading.refused()
            at = came - parser.waiting
            if event is None:
                break
            if isinstance(event, Head):
                check_parts(event)
                keeps = event.keeps_connection
                headers = {name: list(values) for name, values in event.headers.items()}
                known = event.method, event.uri, event.version, headers, event.length, event.wants_continue
                reading.messages.append(Message(*known, at))
            else:
                reading.messages[-1].body += event
            if parser.is_between:
                message = reading.messages[-1]
                message.keeps, message.ends = keeps, at
                if not keeps:
                    reading.verdict = Verdict.CLOSED
                    return reading
    return reading


def check_parts(head: Head) -> None:
    """The path, and the host of a URI, which h11 does not look for, are those that the target has."""
    path = head.uri.partition(b"?")[0]
    if path.lower().startswith((b"http://", b"https://")):
        host, *rest = re.split(rb"(?=[/#])", path.partition(b"://")[2], maxsplit=1)
        path = b"/" + b"".join(rest).removeprefix(b"/")
        if head.headers[b"host"] != (host,):
            raise Unnamed(f"the host is another: {head}")
    if head.path != path:
        raise Unnamed(f"the path is another: {head}")


def read_by_h11(parts: Iterable[bytes], begins: int = 0) -> Reading:
    """What h11 understands. How much of a stream it holds is not bounded here, as that bound depends on the cuts.

    :param begins: where the parts do, in their stream.
    """
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 30)
    reading = Reading()
    came = begins
    for part in filter(None, parts):  # no bytes are the end of a connection
        connection.receive_data(part)
        came += len(part)
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError:
                return reading.refused()
            if event is h11.NEED_DATA:
                break
            at = came - len(connection.trailing_data[0])
            if isinstance(event, h11.Request):
                awaits = connection.they_are_waiting_for_100_continue
                reading.messages.append(message_of(event, awaits, at))
            elif isinstance(event, h11.Data):
                reading.messages[-1].body += event.data
            else:
                connection.send(h11.Response(status_code=404, headers=[(b"content-length", b"0")]))
                connection.send(h11.EndOfMessage())
                message = reading.messages[-1]
                message.keeps, message.ends = connection.our_state is h11.DONE, at
                if not message.keeps:
                    reading.verdict = Verdict.CLOSED
                    return reading
                connection.start_next_cycle()
    return reading


def message_of(request: h11.Request, awaits: bool, at: int) -> Message:
    """What h11 says of a request, and the length of its body, by the headers that h11 has left."""
    headers: dict[bytes, list[bytes]] = {}
    for name, value in request.headers:
        headers.setdefault(name, []).append(value)
    length = None if b"transfer-encoding" in headers else int(headers.get(b"content-length", [b"0"])[0])
    return Message(request.method, request.target, b"HTTP/" + request.http_version, headers, length, awaits, at)


# What a request is made of


class Text:
    """The bytes of one request, as a reader divides them that has taken them.

    :ivar message: None while the head is not complete.
    :ivar head: with the empty line.
    :ivar lines: of the head, without their ends: the request line, then the headers.
    :ivar lines_before_chunks: without their ends.
    :ivar late: the fields after the body, with the empty line.
    """

    def __init__(self, data: bytes, message: Message | None, begins: int) -> None:
        self.message = message
        self.head = data[begins : message.body_begins if message else None]
        self.lines = _lines(self.head)
        self.lines_before_chunks: list[bytes] = []
        self.late = b""
        if message is not None and message.length is None:
            self._divide(data[message.body_begins : message.ends])

    def _divide(self, body: bytes) -> None:
        while body:
            line, _, body = body.partition(b"\r\n")
            self.lines_before_chunks.append(line)
            digits = re.match(rb"[0-9A-Fa-f]+", line)
            size = int(digits[0], 16) if digits else 0
            if not size:
                self.late = body
                return
            body = body[size + 2 :]

    @cached_property
    def fields(self) -> list[bytes]:
        """The lines of the headers, and those after the body."""
        return [*self.lines[1:], *_lines(self.late)]

    @cached_property
    def words(self) -> list[bytes]:
        """A method, a target and a version."""
        words = self.lines[0].split(b" ")
        return words if len(words) == 3 else [b"", b"", b""]

    @cached_property
    def values(self) -> dict[bytes, list[bytes]]:
        """Of the headers, a line each, under the name in lower case."""
        values: dict[bytes, list[bytes]] = {}
        for line in self.lines[1:]:
            name, _, value = line.partition(b":")
            values.setdefault(name.lower(), []).append(value.strip(b" \t"))
        return values

    def members(self, name: bytes) -> list[bytes]:
        """Of a header that is a list, in lower case."""
        return [member.strip(b" \t") for member in b",".join(self.values.get(name, [])).lower().split(b",")]


def _lines(text: bytes) -> list[bytes]:
    """Without their ends, and without the empty one at the end of all."""
    return [line.removesuffix(b"\r") for line in re.sub(rb"\n\r?\n\Z", b"", text).split(b"\n")]


# The differences


class Kind(Enum):
    """Who differs."""

    STRICTER = "only we refuse it"
    LOOSER = "only h11 refuses it"
    OTHER = "both accept it, and understand something else"


@frozen
class Difference:
    """One that is known.

    :ivar name: a sentence.
    :ivar example: a stream that has this difference, and no other.
    :ivar holds: whether a request has it, whose text is divided as who takes it does.
    :ivar of: the name, in `Message`, of what is understood differently.
    """

    name: str
    kind: Kind
    example: bytes
    holds: Callable[[Text], bool]
    of: str = ""


_HOST = re.compile(rb"(\[(.*)\]|([\w.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+)(:[0-9]*)?")
_LATER_ADDRESS = re.compile(rb"v[0-9a-f]+\.[\w.~!$&'()*+,;=:-]+", re.IGNORECASE)
_URI = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)


def _ends_line_with_lf(text: Text) -> bool:
    return any(re.search(rb"(?<!\r)\n", lines) for lines in (text.head, text.late))


def _has_control(text: Text) -> bool:
    lines = b"\n".join([*text.lines, *text.lines_before_chunks, *_lines(text.late)])
    return re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", lines) is not None


def _has_other_target(text: Text) -> bool:
    method, target, _ = text.words
    is_right = method == b"CONNECT" or target.startswith(b"/") or _URI.match(target)
    return bool(target) and not is_right and (method, target) != (b"OPTIONS", b"*")


def _is_host(text: bytes) -> bool:
    found = _HOST.fullmatch(text)
    if found is None or found[2] is None or _LATER_ADDRESS.fullmatch(found[2]):
        return found is not None
    try:
        inet_pton(AF_INET6, found[2].decode("latin-1"))
    except (OSError, ValueError):
        return False
    return True


def _has_other_host_in_target(text: Text) -> bool:
    found = _URI.match(text.words[1])
    return found is not None and not _is_host(found[1])


def _has_host_beside_target(text: Text) -> bool:
    found = _URI.match(text.words[1])
    return found is not None and text.values.get(b"host") != [found[1]]


def _has_long_head(text: Text) -> bool:
    message = text.message
    parts = [(text.head, message is not None), (text.late, message is not None and message.ends is not None)]
    return any(len(part) > MAX_HEAD - (not is_complete) for part, is_complete in parts)


def _can_be_no_request(text: Text) -> bool:
    return text.message is None and read_by_h11([text.head + b"\r\n\r\n"]).verdict is Verdict.REFUSED


def _has_late_length(text: Text) -> bool:
    named = (b"content-length", b"transfer-encoding")
    late = [(name, value.strip()) for name, _, value in (line.partition(b":") for line in _lines(text.late))]
    try:
        h11.EndOfMessage(headers=[(name, value) for name, value in late if name.lower() in named])
    except h11.LocalProtocolError:
        return True
    return False


def _is_kept_by_1_0(text: Text) -> bool:
    options = text.members(b"connection")
    return text.words[2] == b"HTTP/1.0" and b"keep-alive" in options and b"close" not in options


_GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
_CHUNKS = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

LINE_FEED = Difference(
    "h11 takes an LF by itself for the end of a line",
    Kind.STRICTER,
    _GET + b"x: y\n\r\n",
    _ends_line_with_lf,
)
EMPTY_LINE = Difference(
    "h11 takes no empty line before a request",
    Kind.LOOSER,
    b"\r\n" + _GET + b"\r\n",
    lambda text: text.head.startswith(b"\r\n") or text.head == b"\r",
)
DIFFERENCES = [
    LINE_FEED,
    Difference(
        "h11 takes control characters in values, and any but an LF in the extensions of chunks",
        Kind.STRICTER,
        _GET + b"x: \x01\r\n\r\n",
        _has_control,
    ),
    Difference(
        "h11 takes any target of visible ASCII",
        Kind.STRICTER,
        b"GET nothing HTTP/1.1\r\nHost: a\r\n\r\n",
        _has_other_target,
    ),
    Difference(
        "h11 takes any host in a target that is all of a URI",
        Kind.STRICTER,
        b"GET http://me@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        _has_other_host_in_target,
    ),
    Difference(
        "h11 takes any version of HTTP",
        Kind.STRICTER,
        b"GET / HTTP/3.7\r\nHost: a\r\n\r\n",
        lambda text: re.fullmatch(rb"HTTP/(?!1\.[01])[0-9]\.[0-9]", text.words[2]) is not None,
    ),
    Difference(
        "h11 takes a value that goes on in the next line",
        Kind.STRICTER,
        _GET + b"x: y\r\n z\r\n\r\n",
        lambda text: any(line.startswith((b" ", b"\t")) for line in text.fields),
    ),
    Difference(
        "h11 takes an empty Host",
        Kind.STRICTER,
        b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
        lambda text: b"" in text.values.get(b"host", []),
    ),
    Difference(
        "h11 takes any value for a Host",
        Kind.STRICTER,
        b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        lambda text: any(host and not _is_host(host) for host in text.values.get(b"host", [])),
    ),
    Difference(
        "h11 takes several Content-Lengths that are equal, in one line or in several",
        Kind.STRICTER,
        _GET + b"Content-Length: 1, 1\r\nContent-Length: 1\r\n\r\na",
        lambda text: len(text.members(b"content-length")) > 1,
    ),
    Difference(
        "h11 takes a Transfer-Encoding with a Content-Length, which it passes over",
        Kind.STRICTER,
        _GET + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        lambda text: {b"content-length", b"transfer-encoding"} <= text.values.keys(),
    ),
    Difference(
        "h11 takes a Transfer-Encoding in HTTP/1.0",
        Kind.STRICTER,
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        lambda text: text.words[2] == b"HTTP/1.0" and b"transfer-encoding" in text.values,
    ),
    Difference(
        "h11 takes up to 20 digits for the size of a chunk",
        Kind.STRICTER,
        _CHUNKS + b"00000000000000000\r\n\r\n",
        lambda text: any(re.match(rb"[0-9A-Fa-f]{17}", line) for line in text.lines_before_chunks),
    ),
    Difference(
        "h11 takes spaces and tabs after the size of a chunk",
        Kind.STRICTER,
        _CHUNKS + b"0 \r\n\r\n",
        lambda text: any(re.fullmatch(rb"[^;]*[ \t]", line) for line in text.lines_before_chunks),
    ),
    Difference(
        "h11 has no bound for the line before a chunk",
        Kind.STRICTER,
        _CHUNKS + b"0;".ljust(MAX_CHUNK_LINE + 1, b"x") + b"\r\n\r\n",
        lambda text: any(len(line) > MAX_CHUNK_LINE for line in text.lines_before_chunks),
    ),
    Difference(
        "h11 has no bound for the bytes of a head, or of the fields after a body, that have come at once",
        Kind.STRICTER,
        (_GET + b"x: ").ljust(MAX_HEAD, b"y") + b"\r\n\r\n",
        _has_long_head,
    ),
    Difference(
        "h11 has no bound for the number of headers, or of the fields after a body",
        Kind.STRICTER,
        _GET + b"x: y\r\n" * MAX_HEADERS + b"\r\n",
        lambda text: len(text.lines) - 1 > MAX_HEADERS or len(_lines(text.late)) > MAX_HEADERS,
    ),
    Difference(
        "h11 refuses no line before a chunk until its end has come",
        Kind.STRICTER,
        _CHUNKS + b"5\n",
        lambda text: any(b"\n" in line for line in text.lines_before_chunks),
    ),
    Difference(
        "h11 refuses nothing before its head is complete, unless it begins with a control character or a space",
        Kind.STRICTER,
        b"GET /\r\n",
        _can_be_no_request,
    ),
    EMPTY_LINE,
    Difference(
        "h11 takes a Content-Length of 20 digits at most",
        Kind.LOOSER,
        _GET + b"Content-Length: 000000000000000000001\r\n\r\na",
        lambda text: any(len(length) > 20 for length in text.values.get(b"content-length", [])),
    ),
    Difference(
        "h11 takes no spaces or tabs between the size of a chunk and its extensions",
        Kind.LOOSER,
        _CHUNKS + b"0 ;a\r\n\r\n",
        lambda text: any(re.match(rb"[^; \t]+[ \t]+;", line) for line in text.lines_before_chunks),
    ),
    Difference(
        "h11 asks of a Content-Length and a Transfer-Encoding after a body what it asks of those before it",
        Kind.LOOSER,
        _CHUNKS + b"0\r\nContent-Length: x\r\n\r\n",
        _has_late_length,
    ),
    Difference(
        "h11 keeps no connection in HTTP/1.0",
        Kind.OTHER,
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        _is_kept_by_1_0,
        of="keeps",
    ),
    Difference(
        "h11 gives the value of Transfer-Encoding in lower case",
        Kind.OTHER,
        _CHUNKS.replace(b"chunked", b"Chunked") + b"0\r\n\r\n",
        lambda text: any(value != value.lower() for value in text.values.get(b"transfer-encoding", [])),
        of="headers",
    ),
    Difference(
        "h11 leaves Host as it is when the target is all of a URI",
        Kind.OTHER,
        b"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n",
        _has_host_beside_target,
        of="headers",
    ),
    Difference(
        f"h11 has no bound of {ENDLESS} for what a Content-Length says",
        Kind.OTHER,
        _GET + b"Content-Length: 10000000000000000000\r\n\r\n",
        lambda text: any(int(length) > ENDLESS for length in text.values.get(b"content-length", [])),
        of="length",
    ),
]


def held(kind: Kind, text: Text) -> list[Difference]:
    """Those of a kind that a request has."""
    return [difference for difference in DIFFERENCES if difference.kind is kind and difference.holds(text)]


# They are compared


class Unnamed(AssertionError):
    """They differ, and no name says so; or they do not, and one says that they do."""


class Outcome(Enum):
    """What became of a stream, in the end."""

    ACCEPTED = "accepted by both"
    INCOMPLETE = "accepted by both as far as it goes"
    REFUSED = "refused by both"
    STRICTER = "accepted by h11 alone"
    LOOSER = "accepted by us alone"


def compare(data: bytes, ours: Reading, theirs: Reading) -> tuple[Outcome, list[Difference]]:
    """What became of a stream, and all differences.

    Where we read on and h11 does not, after an empty line or in HTTP/1.0, another h11 goes on.

    :raises Unnamed: of what is not known.
    """
    found: list[Difference] = []
    begins = 0
    has_skipped = False
    number = 0
    while True:
        our, their = ours.message(number), theirs.message(number)
        we_refuse = our is None and ours.verdict is Verdict.REFUSED
        h11_refuses = their is None and theirs.verdict is Verdict.REFUSED
        our_text, their_text = Text(data, our, begins), Text(data, their, begins)
        if h11_refuses and data.startswith(b"\r\n", begins) and not has_skipped:
            found += [] if we_refuse else [EMPTY_LINE]
            has_skipped = True
            begins += 2
            theirs = theirs.then(read_by_h11([data[begins:]], begins))
            continue
        if we_refuse and h11_refuses:
            return Outcome.REFUSED, found
        if we_refuse:
            return Outcome.STRICTER, found + _known(held(Kind.STRICTER, their_text), Kind.STRICTER.value)
        if h11_refuses:
            named = held(Kind.LOOSER, our_text) or _waits_for_cr(our, our_text)
            return Outcome.LOOSER, found + _known(named, Kind.LOOSER.value)
        if our is None and their is None:
            return Outcome.ACCEPTED if begins == len(data) else Outcome.INCOMPLETE, found
        if our is None or their is None or (our.ends is None) is not (their.ends is None):
            named = _waits_for_cr(our, their_text)
            return Outcome.STRICTER, found + _known(named, "one of them waits, and the other does not")
        found += _understood_differently(our, their, their_text)
        if our.ends is None:
            return Outcome.INCOMPLETE, found
        for difference in held(Kind.STRICTER, their_text) + held(Kind.LOOSER, our_text):
            raise Unnamed(f"both accept it, and yet: {difference.name}")
        if not our.keeps:
            return Outcome.ACCEPTED, found
        begins = our.ends
        has_skipped = False
        number += 1
        if not their.keeps:
            theirs = theirs.then(read_by_h11([data[begins:]], begins))


def _waits_for_cr(our: Message | None, text: Text) -> list[Difference]:
    """Where h11 has seen the last line of a head, or of the fields after a body, we may wait for one with a CR."""
    is_complete = our is not None and our.ends is not None
    return [LINE_FEED] if LINE_FEED.holds(text) and not is_complete else []


def _known(found: list[Difference], what: str) -> list[Difference]:
    if not found:
        raise Unnamed(what)
    return found


def _understood_differently(our: Message, their: Message, text: Text) -> list[Difference]:
    found = held(Kind.OTHER, text)
    if our.ends is None:
        found = [difference for difference in found if difference.of != "keeps"]  # not known yet
    differ = {each.name for each in fields(Message) if getattr(our, each.name) != getattr(their, each.name)}
    named = {difference.of for difference in found}
    if differ != named:
        raise Unnamed(f"understood differently: {differ or 'nothing'}; by name: {named or 'nothing'}")
    return found


def compare_stream(number: int) -> list[str]:
    """The outcome, and the names of all differences, of the stream of that number.

    :raises Unnamed: of what is not known, whatever it is.
    """
    chance = random.Random(number)
    data = stream(chance)
    cut = pieces(chance, data)
    try:
        ours, theirs = read_by_us([data]), read_by_h11([data])
        for reader, reading in ((read_by_us, ours), (read_by_h11, theirs)):
            if reader(cut) != reading:
                raise Unnamed(f"{reader.__name__}: it matters where the stream is cut: {cut}")
        outcome, found = compare(data, ours, theirs)
    except Exception as error:
        raise Unnamed(f"{error!r}\nof stream {number} (--seed {number} --streams 1):\n{data!r}") from error
    return [outcome.value, *sorted({difference.name for difference in found})]


def count_streams(numbers: range) -> Counter[str]:
    """How often each outcome and each difference was met in the streams of these numbers."""
    return Counter(name for number in numbers for name in compare_stream(number))


class BesideH11Tests(SynchronousTestCase):
    def test_all_differences_have_names(self) -> None:
        first = secrets.randbits(32)
        counts = count_streams(range(first, first + STREAMS))
        accepted = counts[Outcome.ACCEPTED.value] / STREAMS
        self.assertTrue(0.3 < accepted < 0.7, f"{accepted} of the streams from {first} on are accepted")
        self.assertGreater(counts[Outcome.REFUSED.value] / STREAMS, 0.1)

    def test_each_name_has_an_example(self) -> None:
        for difference in DIFFERENCES:
            data = difference.example
            _, found = compare(data, read_by_us([data]), read_by_h11([data]))
            self.assertEqual([each.name for each in found], [difference.name])

    def test_whatever_else_differs_has_no_name(self) -> None:
        for data in (_GET + b"\r\n", _GET + b"Content-Length: 1\r\n\r\na", _CHUNKS + b"1\r\na\r\n0\r\n\r\n"):
            ours = read_by_us([data])
            self.assertEqual(compare(data, ours, read_by_h11([data])), (Outcome.ACCEPTED, []))
            (message,) = ours.messages
            changes: list[dict[str, Any]] = [
                {"body": b"b"},
                {"ends": len(data) - 1},
                {"ends": None, "keeps": None},
                {"keeps": False},
                {"target": b"/a"},
                {"version": b"HTTP/1.0"},
                {"headers": {}},
            ]
            others = [Reading([evolve(message, **change)]) for change in changes]
            others += [Reading([], Verdict.REFUSED), Reading([], Verdict.WAITING)]
            for other in others:
                self.assertRaises(Unnamed, compare, data, ours, other)
                self.assertRaises(Unnamed, compare, data, other, ours)


# The command


class Counting:
    """How often each outcome and each difference was met, stream by stream.

    :ivar done: so many streams were compared.
    """

    def __init__(self, first: int, streams: int, jobs: int) -> None:
        self.counts: Counter[str] = Counter()
        self.done = 0
        self._streams = range(first, first + streams)
        self._jobs = jobs

    def run(self, console: Console) -> None:
        """Compare them.

        :raises Unnamed: of what is not known.
        """
        parts = [self._streams[at : at + AT_ONCE] for at in range(0, len(self._streams), AT_ONCE)]
        columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
        with (
            Progress(*columns, console=console, disable=not console.is_terminal) as progress,
            closing(self._counts_of(parts)) as counts_of_parts,
        ):
            task = progress.add_task("", total=len(self._streams))
            for part, counts in zip(parts, counts_of_parts, strict=True):
                self.counts += counts
                self.done += len(part)
                progress.advance(task, len(part))

    def _counts_of(self, parts: list[range]) -> Generator[Counter[str], None, None]:
        if self._jobs == 1:
            yield from map(count_streams, parts)
        else:
            with Pool(self._jobs, _leave_signals_to_parent) as pool:
                yield from pool.imap(count_streams, parts)

    def table(self) -> str:
        """What was counted, a line each."""
        names = [*[outcome.value for outcome in Outcome], *[difference.name for difference in DIFFERENCES]]
        return "\n".join(f"{self.counts[name]:>9,}  {name}" for name in names)


def _leave_signals_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1_000_000, help="so many (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="the number of the first stream (default: by chance)")
    parser.add_argument("--jobs", type=int, default=1, help="so many processes (default: %(default)s)")
    given = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    first = secrets.randbits(32) if given.seed is None else given.seed
    counting = Counting(first, given.streams, given.jobs)
    why = None
    try:
        counting.run(Console())
    except KeyboardInterrupt:
        why = f"interrupted: --seed {first + counting.done} --streams {given.streams - counting.done} goes on"
    except Unnamed as error:
        why = str(error)
    print(f"{counting.done:,} of {given.streams:,} streams, from {first} on:\n{counting.table()}")
    sys.exit(why)


if __name__ == "__main__":
    main()
