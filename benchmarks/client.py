"""An HTTP client that costs little: kept-alive connections, requests made beforehand, answers hardly looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence


def post(path: str, body: bytes, content_type: str = "application/octet-stream") -> bytes:
    """A request, as it is sent."""
    headers = f"Host: localhost\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return f"POST {path} HTTP/1.1\r\n{headers}\r\n".encode() + body


class Connection:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def to(cls, port: int) -> Connection:
        """Connect to a web side of this machine."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 20))

    async def send(self, request: bytes) -> bytes:
        """One request, which must be accepted: the content of its answer."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        if b" 202 " not in head[:20]:
            raise SystemExit(f"not accepted: {head.decode()}")
        _, _, length = head.lower().partition(b"content-length: ")
        return await self._reader.readexactly(int(length.partition(b"\r")[0]))

    def close(self) -> None:
        """Close it."""
        self._writer.close()


async def send_all(port: int, requests: Sequence[bytes], connections: int) -> list[bytes]:
    """All of these, over so many connections: the last answer of each."""
    left = iter(requests)

    async def some() -> bytes:
        connection = await Connection.to(port)
        answer = b""
        for request in left:
            answer = await connection.send(request)
        connection.close()
        return answer

    return [answer for answer in await asyncio.gather(*(some() for _ in range(connections))) if answer]
