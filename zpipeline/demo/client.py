"""The load: GET requests over connections that are kept alive, each with one request at a time.

It shares the machine with what it measures, and so does no more than it must: a protocol on a bare transport.
"""

from __future__ import annotations

import asyncio
import re
from asyncio import BaseTransport, Future, Protocol, Transport
from collections.abc import Callable
from itertools import count
from time import perf_counter

from attrs import frozen

from zpipeline.demo.errors import DemoError

#: How often `progress` is called at the least, in seconds.
TICK = 0.1

#: After how many seconds without an answer there will be none.
STALLED = 30.0

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_ID = re.compile(rb'"id": ?"([^"]+)"')
_ACCEPTED = b"202"


@frozen
class Load:
    """What the requests came to.

    :ivar accepted: the job's id in each answer that accepted one.
    :ivar seconds: from the first request to the last answer.
    """

    accepted: list[str]
    seconds: float


async def drive(port: int, requests: int, connections: int, progress: Callable[[int], None]) -> Load:
    """Send requests ``GET /?N``, N from 1, and read all answers.

    :param port: of the server, on the loopback interface.
    :param connections: how many requests are under way at once.
    :param progress: called with the number of answers, at each and each `TICK`; what it raises ends the load.
    :raises DemoError: the server cannot be reached, ends a connection, does not speak HTTP or does not answer.
    """
    loop = asyncio.get_running_loop()
    run = _Run(requests, progress, loop.create_future())
    open_connections: list[_Connection] = []
    try:
        for _ in range(min(connections, requests)):
            # one after the other: a server's backlog is short
            open_connections.append((await loop.create_connection(lambda: _Connection(run), "127.0.0.1", port))[1])
        start = perf_counter()
        for connection in open_connections:
            connection.send_next()
        await run.finish()
        return Load(run.accepted, perf_counter() - start)
    except OSError as error:
        raise DemoError(f"connection {len(open_connections) + 1} to the web process failed: {error}") from None
    finally:
        run.close()
        for connection in open_connections:
            connection.close()


class _Run:
    """What the connections share."""

    def __init__(self, requests: int, progress: Callable[[int], None], done: Future[None]) -> None:
        self.requests = requests
        self.numbers = count(1)
        self.accepted: list[str] = []
        self._answers = 0
        self._progress = progress
        self._done = done

    async def finish(self) -> None:
        """Wait for the last answer."""
        last, since = 0, perf_counter()
        while not (await asyncio.wait([self._done], timeout=TICK))[0]:
            self._progress(self._answers)
            if self._answers > last:
                last, since = self._answers, perf_counter()
            elif perf_counter() > since + STALLED:
                raise DemoError(f"no answer for {STALLED:.0f} seconds, after {self._answers} of {self.requests}")
        self._done.result()

    def answered(self, status: bytes, body: bytes) -> None:
        """A whole answer is here."""
        self._answers += 1
        if status == _ACCEPTED:
            found = _ID.search(body)
            if found is None:
                raise DemoError(f"an answer of 202 names no job: {body!r}")
            self.accepted.append(found[1].decode("ascii"))
        self._progress(self._answers)
        if self._answers == self.requests and not self._done.done():
            self._done.set_result(None)

    def failed(self, error: Exception) -> None:
        """There is no going on."""
        if not self._done.done():
            self._done.set_exception(error)

    def close(self) -> None:
        """What still happens is of no interest."""
        self._done.cancel()


class _Connection(Protocol):
    def __init__(self, run: _Run) -> None:
        self._run = run
        self._transport: Transport | None = None
        self._buffer = b""

    def connection_made(self, transport: BaseTransport) -> None:
        assert isinstance(transport, Transport)
        self._transport = transport

    def send_next(self) -> None:
        number = next(self._run.numbers)
        if number <= self._run.requests:
            assert self._transport is not None
            self._transport.write(b"GET /?%d HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % number)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        try:
            status = _STATUS.match(self._buffer)
            length = _LENGTH.search(self._buffer, 0, end)
            if status is None or length is None:
                raise DemoError(f"this is no answer that can be read: {self._buffer[:200]!r}")
            if len(self._buffer) < end + int(length[1]):
                return
            body, self._buffer = self._buffer[end:], b""
            self._run.answered(status[1], body)
        except Exception as error:
            self._run.failed(error)
        else:
            self.send_next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._run.failed(DemoError(f"the web process ended a connection{f': {exc}' if exc else ''}"))

    def close(self) -> None:
        assert self._transport is not None
        self._transport.abort()
