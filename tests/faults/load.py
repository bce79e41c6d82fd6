"""An HTTP client for tests: many kept-alive connections, and every answer written down."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable


class Load:
    """Requests over kept-alive connections.

    :param port: of the web side.
    :param bodies: one POST each; several connections take from them in turn.
    :ivar accepted: ids of jobs that were answered 202, in the order of the answers.
    :ivar refused: the status of each other answer.
    :ivar broken: requests that got no answer.
    """

    def __init__(self, port: int, bodies: list[bytes]) -> None:
        self.port = port
        self.accepted: list[str] = []
        self.refused: list[int] = []
        self.broken = 0
        self._bodies = iter(bodies)
        self._at: dict[int, Callable[[], None]] = {}

    def at(self, answers: int, action: Callable[[], None]) -> None:
        """Do something when so many requests have been answered with 202."""
        self._at[answers] = action

    def run(self, connections: int = 20) -> Load:
        """Send all of them; returns when each is answered."""
        asyncio.run(self._run(connections))
        return self

    async def _run(self, connections: int) -> None:
        await asyncio.gather(*(self._connection() for _ in range(connections)))

    async def _connection(self) -> None:
        reader = writer = None
        for body in self._bodies:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
                status, answer = await _answer(reader)
            except (OSError, asyncio.IncompleteReadError):
                self.broken += 1
                writer = None
                continue
            self._answered(status, answer)
        if writer is not None:
            writer.close()

    def _answered(self, status: int, answer: bytes) -> None:
        if status != 202:
            self.refused.append(status)
            return
        self.accepted.append(json.loads(answer)["id"])
        action = self._at.pop(len(self.accepted), None)
        if action is not None:
            action()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:"))
    return int(lines[0].split()[1]), await reader.readexactly(length)


def get(port: int, path: str) -> tuple[int, dict[str, str], bytes]:
    """One GET: status, headers (names in lower case) and body."""
    return _once(port, b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path.encode())


def post(port: int, body: bytes) -> tuple[int, dict[str, str], bytes]:
    """One POST /."""
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    return _once(port, head + body)


def batch(port: int, lines: list[bytes]) -> list[str]:
    """One POST /batch, which must be accepted: the ids."""
    body = b"\n".join(lines)
    head = b"POST /batch HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/x-ndjson\r\n"
    status, _, answer = _once(port, head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
    assert status == 202, answer
    ids: list[str] = json.loads(answer)["ids"]
    return ids


def _once(port: int, request: bytes) -> tuple[int, dict[str, str], bytes]:
    import socket

    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    if not answer:
        raise ConnectionError("the connection ended without an answer")
    head, _, body = answer.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(status_line.split()[1]), headers, body
