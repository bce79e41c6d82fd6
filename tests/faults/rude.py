"""Rude clients of a web side, a class for each kind of them.

Each kind keeps to so many connections at a time, and goes on until it is told to stop. What is owed even to them is
checked, with AssertionError: who asks and reads is answered, and what is malformed is the client's fault.
"""

from __future__ import annotations

import random
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from threading import Event, Thread
from typing import ClassVar

GET = b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n\r\n"
CHUNKED = POST % (b"/", b"Transfer-Encoding: chunked")

#: What costs the web side the most bytes (some 950 kB), the most time, and the least of both.
LARGE = b"/ui/chart.js"
DEAR = b"/metrics"
CHEAP = b"/health/live"

#: How long a connection and an answer are waited for, in seconds.
PATIENCE = 60.0

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


class Crowd:
    """Clients of one kind.

    :param port: of the web side.
    :param chance: decides what they do at random.
    :ivar stop: set, to have them leave.
    :ivar done: how much they have done: each kind says what is counted.
    :ivar told: what each has read whose connection was ended by the web side, if it wanted to stay.
    """

    #: For who reads the figures.
    name: ClassVar[str]

    #: How many there are at once.
    clients: ClassVar[int]

    #: Between two rounds, in seconds.
    pause: ClassVar[float] = 0.1

    def __init__(self, port: int, chance: random.Random) -> None:
        self.stop = Event()
        self.done = 0
        self.told: list[bytes] = []
        self._port = port
        self._chance = chance
        self._kept = ExitStack()  # connections that outlive a round

    def run(self) -> None:
        """Be rude until `stop` is set; no connection is left then.

        :raises AssertionError: they did not get what is owed to them.
        """
        with self._kept:
            while not self.stop.is_set():
                try:
                    self.round()
                except TimeoutError:
                    raise AssertionError(f"{self.name}: nothing comes for {PATIENCE:g} seconds") from None
                self.stop.wait(self.pause)

    def round(self) -> None:
        """Each of them is rude once."""
        raise NotImplementedError


# Those who stay


class Client:
    """One that stays.

    :ivar received: what it has read.
    """

    def __init__(self, connection: socket.socket, begin: bytes) -> None:
        self.received = b""
        self._connection = connection
        connection.setblocking(False)
        self._send(begin)

    def _send(self, data: bytes) -> None:
        with suppress(BlockingIOError):
            self._connection.send(data)

    def goes_on(self) -> bool:
        """Be rude for another while: whether there still is a connection."""
        raise NotImplementedError

    def close(self) -> None:
        """Leave."""
        self._connection.close()


class Dribbler(Client):
    """It sends the beginning of a request, and then more of it bit by bit."""

    def __init__(self, connection: socket.socket, begin: bytes, more: bytes) -> None:
        super().__init__(connection, begin)
        self._more = more

    def goes_on(self) -> bool:
        """Send a bit, and read what has come: whether there still is a connection."""
        try:
            self._send(self._more)
            received = self._connection.recv(65_536)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.received += received
        return bool(received)


class NoReader(Client):
    """It does not read what it asks for."""

    def goes_on(self) -> bool:
        """Whether there still is a connection."""
        return self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


class Staying(Crowd):
    """Those who stay; one whose connection ends is followed by another. Clients are counted, in each round."""

    pause = 0.2

    def __init__(self, port: int, chance: random.Random) -> None:
        super().__init__(port, chance)
        self._clients: list[Client] = []

    def round(self) -> None:
        """Each goes on."""
        if not self._clients:
            self._clients += [self._next(number) for number in range(self.clients)]
        for number, client in enumerate(self._clients):
            if not client.goes_on():
                client.close()
                self.told.append(client.received)
                self._clients[number] = self._next(number)
        self.done += self.clients

    def _next(self, number: int) -> Client:
        client = self.come(number)
        self._kept.callback(client.close)
        return client

    def come(self, number: int) -> Client:
        """The client of this number, whether or not there was one before."""
        raise NotImplementedError


class Dribblers(Staying):
    """Those whose requests never end."""

    clients = 100

    #: How one begins, and what it goes on with; each of them takes the next.
    manners: ClassVar[tuple[tuple[bytes, bytes], ...]]

    def come(self, number: int) -> Client:
        """The client of this number, whether or not there was one before."""
        return Dribbler(connect(self._port), *self.manners[number % len(self.manners)])


class SlowHeads(Dribblers):
    """A byte of a head now and then."""

    name = "slow heads"
    manners = (
        (b"G", b"E"),
        (b"GET /?", b"x"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"x"),
        (GET % CHEAP + b"GET / HTTP/1.1\r\n", b"x"),
    )


class SlowBodies(Dribblers):
    """Two bytes of a body now and then, or one of what is around it."""

    name = "slow bodies"
    manners = (
        (POST % (b"/", b"Content-Length: 200000"), b"xx"),
        (CHUNKED, b"2\r\nxx\r\n"),
        (CHUNKED + b"1;", b"x"),
        (CHUNKED + b"0\r\nX: ", b"x"),
    )


class UnreadAnswers(Staying):
    """Those who ask for something large many times, and read nothing."""

    name = "unread answers"
    clients = 40

    #: What each of them sends.
    asks: ClassVar[bytes] = (GET % LARGE) * 1200

    def come(self, number: int) -> Client:
        """The client of this number, whether or not there was one before."""
        return NoReader(connect(self._port, room=4096), self.asks)


class UnreadEvents(UnreadAnswers):
    """Those who ask for events, and do not read them."""

    name = "unread events"
    asks = GET % b"/events"


# Those who want much at once


class Pipeline(Crowd):
    """One who sends many requests at once, and reads the answers. Those are counted."""

    clients = 1

    path: ClassVar[bytes]
    requests: ClassVar[int]

    def round(self) -> None:
        """All of them: each has its answer, unless it has to leave before."""
        with connect(self._port) as connection:
            sender = Thread(target=_send, args=(connection, (GET % self.path) * self.requests))
            sender.start()
            left = self.requests
            for status in statuses(connection):
                assert status == 200, f"{self.path!r} is answered {status}, with {left} answers to come"
                self.done += 1
                left -= 1
                if not left or self.stop.is_set():
                    break
            else:
                raise AssertionError(f"a connection has ended with {left} answers to come")
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # ends the sender
            sender.join()


class DearPipeline(Pipeline):
    """5,000 requests that take their time."""

    name = "5,000 at once"
    path = DEAR
    requests = 5000


class CheapPipeline(Pipeline):
    """2 MB of requests that take next to none."""

    name = "40,000 at once"
    path = CHEAP
    requests = 40_000


class Rush(Crowd):
    """Those who come, and then ask for something dear at the same moment. Answers are counted."""

    name = "rush"
    clients = 30
    pause = 0.5

    def round(self) -> None:
        """One request of each."""
        with ExitStack() as stack:
            connections = [stack.enter_context(connect(self._port)) for _ in range(self.clients)]
            for connection in connections:
                connection.sendall(GET % DEAR)
            for connection in connections:
                assert status_of_answer(connection) == 200
                self.done += 1


class Bodies(Crowd):
    """Those who send something large, and stay. Bodies are counted."""

    pause = 0.5

    def __init__(self, port: int, chance: random.Random) -> None:
        super().__init__(port, chance)
        self._connections: list[socket.socket] = []

    def round(self) -> None:
        """A body of each."""
        if not self._connections:
            self._connections += [self._kept.enter_context(connect(self._port)) for _ in range(self.clients)]
        expected = []
        for number, connection in enumerate(self._connections):
            request, status = self.body(number)
            connection.sendall(request)
            expected.append(status)
        answered = [status_of_answer(connection) for connection in self._connections]
        assert answered == expected, f"{self.name} are answered {answered}"
        self.done += self.clients

    def body(self, number: int) -> tuple[bytes, int]:
        """What the client of this number sends, and the status that answers it."""
        raise NotImplementedError


class LargeBodies(Bodies):
    """A megabyte where none is wanted."""

    name = "large bodies"
    clients = 30

    def body(self, number: int) -> tuple[bytes, int]:
        """It is refused when it is there."""
        return POST % (CHEAP, b"Content-Length: 1000000") + b"x" * 1_000_000, 405


class SmallChunks(Bodies):
    """40 kB in chunks of two bytes."""

    name = "chunks of 2 bytes"
    clients = 4

    def body(self, number: int) -> tuple[bytes, int]:
        """It is a job."""
        return CHUNKED + b"2\r\nxx\r\n" * 20_000 + b"0\r\n\r\n", 202


class LineFeeds(Bodies):
    """Batches of line feeds and nothing else: as many lines as a batch may have, or one more."""

    name = "line feeds"
    clients = 4

    def body(self, number: int) -> tuple[bytes, int]:
        """It is empty, or has too many lines."""
        lines = 1_000_000 + number % 2
        head = POST % (b"/batch", b"Content-Type: application/x-ndjson\r\nContent-Length: %d" % lines)
        return head + b"\n" * lines, 413 if number % 2 else 400


# Those who come and go


class Flood(Crowd):
    """Those who come together and leave at once, in one way or another. Clients are counted."""

    name = "flood"
    clients = 200

    def round(self) -> None:
        """All of them."""
        with ExitStack() as stack:
            connections = [stack.enter_context(connect(self._port)) for _ in range(self.clients)]
            for connection in connections:
                self._chance.choice(_WAYS_TO_LEAVE)(connection)
                self.done += 1


def _say_nothing(connection: socket.socket) -> None:
    connection.close()


def _say_half(connection: socket.socket) -> None:
    connection.sendall(POST % (b"/", b"Content-Length: 100") + b"half")
    connection.close()


def _close_half(connection: socket.socket) -> None:
    connection.sendall(GET % CHEAP)
    connection.shutdown(socket.SHUT_WR)
    answered = list(statuses(connection))
    assert answered == [200], f"who has closed its half is answered {answered}"


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _ask_and_reset(connection: socket.socket) -> None:
    connection.sendall((GET % CHEAP) * 20)
    _reset(connection)


def _ask_and_close(connection: socket.socket) -> None:
    connection.sendall((GET % LARGE) * 2)
    connection.close()


_WAYS_TO_LEAVE = (_say_nothing, _say_half, _close_half, _reset, _ask_and_reset, _ask_and_close)


# Those who speak something else


class Malformed(Crowd):
    """Requests that chance has made, most of them with something wrong. Connections are counted."""

    name = "malformed"
    clients = 1
    pause = 0.0

    def round(self) -> None:
        """Some of them: the connection ends, and nothing that was told is an error of the web side's."""
        sent = requests(self._chance)
        told = [int(status) for status in _STATUS.findall(self._received(sent))]
        assert all(status < 500 or status in (501, 505) for status in told), f"{sent[:1000]!r} is answered {told}"
        self.done += 1

    def _received(self, sent: bytes) -> bytes:
        received = b""
        try:
            with connect(self._port) as connection, suppress(ConnectionError):
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(65_536):
                    received += part
        except TimeoutError:
            raise AssertionError(f"the connection goes on after {sent[:1000]!r} and {received!r}") from None
        return received


#: A part of a request: what is right, and what is wrong, or may be. None makes a job whose body workers cannot write
#: down on one line, or take for what they have to do.
Part = tuple[tuple[bytes, ...], tuple[bytes, ...]]

_METHOD: Part = (b"GET", b"PUT", b"OPTIONS"), (b"", b"get", b"G T", b"G\0T", b"CONNECT", b"\xff", b"M" * 17_000)
_SPACE: Part = (b" ",), (b"", b"  ", b"\t", b"\x0b", b"\r")
_TARGET: Part = (
    (CHEAP, b"/?xx", b"/stats", b"/jobs/1-2", b"/dead?limit=2", b"http://localhost/stats"),
    (b"", b"*", b"x", b"//", b"/%00", b"/\xff", b"/ /", b"http:///", b"ftp://x/", b"/a" * 8000, b"/dead?limit=\xb2"),
)
_VERSION: Part = (b"HTTP/1.1", b"HTTP/1.0"), (b"", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/11", b"http/1.1", b"RTSP/1.0")
_END: Part = (b"\r\n",), (b"\n", b"\r", b"", b"\r\n\r\n", b"\r\n ", b"\n\r", b"\0\r\n")
_HOST: Part = (b"Host: localhost", b"host:127.0.0.1:80"), (b"Host:", b"Host: a b", b"Host : x", b"Host: [::1", b"Host")
_FIELD: Part = (
    (b"Content-Length: 3", b"Transfer-Encoding: chunked", b"Connection: close", b"Expect: 100-continue", b"X: y"),
    (
        *(b"Content-Length: " + length for length in (b"", b"-1", b"3, 3", b"9" * 30, b"\xb2", b"0x3")),
        *(b"Transfer-Encoding: " + coding for coding in (b"", b"gzip", b"gzip, chunked", b"chunked, chunked")),
        *(b"X: " + value for value in (b"\0", b"y" * 17_000, b"y\r\nX: " * 501)),
        *(b" folded", b"no colon", b": no name", b"X\0: y", b"Connection: ,,close", b"Prefer: wait=x"),
    ),
)
_BODY: Part = (
    (b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n"),
    (b"ab", b"3\nabc\n0\n\n", b"-3\r\n", b"3\r\nabcd\r\n", b"f" * 20 + b"\r\n", b"1;" + b"x" * 2000, b"0\r\nX\r\n\r\n"),
)

#: How often a part is right.
_RIGHT = 0.85


def requests(chance: random.Random) -> bytes:
    """Some requests, one after the other. A byte of them may be another, and the end may be missing."""
    sent = b"".join(_request(chance) for _ in range(chance.randint(1, 3)))
    if chance.random() < 0.3:
        at = chance.randrange(len(sent))
        sent = sent[:at] + chance.randbytes(1) + sent[at + 1 :]
    if chance.random() < 0.2:
        sent = sent[: chance.randrange(len(sent))]
    return sent


def _request(chance: random.Random) -> bytes:
    def one(part: Part) -> bytes:
        right, wrong = part
        return chance.choice(right if chance.random() < _RIGHT else wrong)

    line = b"".join(one(part) for part in (_METHOD, _SPACE, _TARGET, _SPACE, _VERSION))
    lines = [line, one(_HOST), *(one(_FIELD) for _ in range(chance.randrange(3)))]
    return b"".join(line + one(_END) for line in lines) + one(_END) + one(_BODY)


#: All kinds.
CROWDS: tuple[type[Crowd], ...] = (
    SlowHeads,
    SlowBodies,
    UnreadAnswers,
    UnreadEvents,
    DearPipeline,
    CheapPipeline,
    Rush,
    LargeBodies,
    SmallChunks,
    LineFeeds,
    Flood,
    Malformed,
)


# How they talk


def connect(port: int, room: int | None = None) -> socket.socket:
    """A connection.

    :param room: for what has come and was not read, in bytes; None: as the system has it.
    """
    connection = socket.socket()
    connection.settimeout(PATIENCE)
    if room is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    connection.connect(("127.0.0.1", port))
    return connection


def _send(connection: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        connection.sendall(data)


def statuses(connection: socket.socket) -> Iterator[int]:
    """Of each answer, until the connection ends."""
    with connection.makefile("rb") as file:
        while line := file.readline():
            length = 0
            while (header := file.readline().lower()) not in (b"\r\n", b""):
                if header.startswith(b"content-length:"):
                    length = int(header.split(b":")[1])
            file.read(length)
            yield int(line.split()[1])


def status_of_answer(connection: socket.socket) -> int:
    """Of the next answer, before more is asked."""
    status = next(statuses(connection), None)
    assert status is not None, "a connection has ended without an answer"
    return status
