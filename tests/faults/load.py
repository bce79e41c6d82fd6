"""An HTTP client for tests: many kept-alive connections, and every answer written down."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterable
from threading import Thread
from typing import Any


class Load:
    """Requests over kept-alive connections, which are made anew when they end.

    :param port: of the web side.
    :param bodies: one POST each; several connections take from them in turn.
    :ivar accepted: ids of jobs that were answered 202, in the order of the answers.
    :ivar refused: the status of each other answer.
    :ivar broken: requests that got no answer.
    """

    #: How long a web side that does not listen is waited for, in seconds.
    PATIENCE = 60.0

    def __init__(self, port: int, bodies: Iterable[bytes]) -> None:
        self.port = port
        self.accepted: list[str] = []
        self.refused: list[int] = []
        self.broken = 0
        self._bodies = iter(bodies)
        self._at: dict[int, Callable[[], None]] = {}
        self._thread: Thread | None = None

    def at(self, answers: int, action: Callable[[], None]) -> None:
        """Do something when so many requests have been answered with 202."""
        self._at[answers] = action

    def run(self, connections: int = 20) -> Load:
        """Send all of them; returns when each is answered."""
        asyncio.run(self._run(connections))
        return self

    def start(self, connections: int = 20) -> Load:
        """As `run`, in a thread; `join` waits for its end."""
        self._thread = Thread(target=self.run, args=(connections,), daemon=True)
        self._thread.start()
        return self

    def join(self, seconds: float = 240) -> Load:
        """Wait until each is answered."""
        assert self._thread is not None
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"not all was answered within {seconds} seconds"
        return self

    async def _run(self, connections: int) -> None:
        await asyncio.gather(*(self._connection() for _ in range(connections)))

    async def _connection(self) -> None:
        reader = writer = None
        for body in self._bodies:
            if writer is None:
                reader, writer = await self._connect()
            try:
                writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
                status, answer, is_last = await _answer(reader)
            except (OSError, asyncio.IncompleteReadError):
                self.broken += 1
                is_last = True
            else:
                self._answered(status, answer)
            if is_last:
                writer.close()
                writer = None
        if writer is not None:
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        deadline = time.monotonic() + self.PATIENCE
        while True:
            try:
                return await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.02)

    def _answered(self, status: int, answer: bytes) -> None:
        if status != 202:
            self.refused.append(status)
            return
        self.accepted.append(json.loads(answer)["id"])
        action = self._at.pop(len(self.accepted), None)
        if action is not None:
            action()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Status, body, and whether the connection ends with it."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    lines = head.split(b"\r\n")
    length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:"))
    return int(lines[0].split()[1]), await reader.readexactly(length), b"\r\nconnection: close\r\n" in head


Answer = tuple[int, dict[str, str], bytes]


def get(port: int, path: str) -> Answer:
    """One GET: status, headers (names in lower case) and body."""
    return request(port, "GET", path)


def post(port: int, body: bytes) -> Answer:
    """One POST /."""
    return request(port, "POST", "/", body)


def pushed(port: int, body: bytes, headers: str = "") -> str:
    """One POST /, which must be accepted: the id.

    :param headers: a line each.
    """
    status, _, answer = request(port, "POST", "/", body, headers)
    assert status == 202, answer
    job_id: str = json.loads(answer)["id"]
    return job_id


def batch(port: int, lines: list[bytes]) -> list[str]:
    """One POST /batch, which must be accepted: the ids."""
    status, _, answer = request(port, "POST", "/batch", b"\n".join(lines), "Content-Type: application/x-ndjson\r\n")
    assert status == 202, answer
    ids: list[str] = json.loads(answer)["ids"]
    return ids


def status_of(port: int, job_id: str) -> dict[str, Any]:
    """What GET /jobs/ID says."""
    status, _, answer = get(port, f"/jobs/{job_id}")
    assert status == 200, answer
    members: dict[str, Any] = json.loads(answer)
    return members


def dead_letters(port: int) -> dict[str, dict[str, Any]]:
    """All that GET /dead has, by id."""
    dead = {}
    path: str | None = "/dead?limit=1000"
    while path is not None:
        status, _, answer = get(port, path)
        assert status == 200, answer
        page = json.loads(answer)
        dead.update({letter["id"]: letter for letter in page["dead"]})
        path = page["next"]
    return dead


def request(port: int, method: str, path: str, body: bytes = b"", headers: str = "", *, seconds: float = 30) -> Answer:
    """One request: status, headers (names in lower case) and body of the answer."""
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{length}{headers}\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    if not answer:
        raise ConnectionError("the connection ended without an answer")
    answer_head, _, content = answer.partition(b"\r\n\r\n")
    status_line, *lines = answer_head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(status_line.split()[1]), fields, content
