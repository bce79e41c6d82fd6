"""How much peers have sent to a bound socket that is not read yet, and an end to it where that is too much.

libzmq bounds a frame, and how many whole messages it holds of a peer. It does not bound a message: the parts of one
that is never finished are held where no reader sees them (zmq_recv(3) gives whole messages), and no mark counts them.
Nor does it count in bytes. So the connections are looked at from outside: what the kernel has received on each (Linux
tells by TCP_INFO), less what was read of it here, is in libzmq. A connection of which that is too much is shut down;
libzmq finds it broken then, and lets go of what was not whole.

A thread looks, as a handler may block the reactor while peers go on sending: whenever this process has become larger
than it ever was, by `LARGER`, and each `LONGEST` seconds, since it looks at every descriptor. Where there is no such
count (on other systems than Linux) nothing is bounded but frames and messages.

What is counted is bytes on the wire. In memory a part takes 64 bytes at least, also one that is empty.
"""

from __future__ import annotations

import os
import socket
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fcntl import ioctl
from resource import RUSAGE_SELF, getrusage
from sys import platform
from termios import FIONREAD
from threading import Event, Thread
from time import monotonic

import zmq
from attrs import define

TICK = 0.25
LONGEST = 10.0

#: By so many bytes.
LARGER = 64 << 20

#: Of one connection, in bytes. More than a ventilator has in flight at one worker (`zpipeline.dispatch.WINDOW_BYTES`
#: and one body), and than a sink's high-water mark in messages with results.
MOST_UNREAD = 512 << 20
#: Of all of them: the connection with most is shut down first.
MOST_UNREAD_TOGETHER = 1 << 30

#: Bytes of heartbeats that a connection may bring in a second: they are never read here.
_HEARTBEATS = 64

_INFO_SIZE = 136
_WAITING = struct.Struct("=i")
_BYTES_RECEIVED = struct.Struct("=128xQ")  # of struct tcp_info, since Linux 4.1


@define
class _Connection:
    """One accepted connection.

    :ivar inode: of its socket, as its descriptor may be another's soon.
    :ivar read: what had been read by this descriptor when all that it had received was taken for read.
    """

    inode: int
    received: int
    read: int


class Unread:
    """The connections of one bound socket.

    :param port: where it is bound.
    :param has_cut: called, in another thread, when a connection was shut down: with its peer's host, and how many bytes
        of it were not read.
    """

    def __init__(self, port: int, has_cut: Callable[[str, int], None]) -> None:
        self._port = port
        self._has_cut = has_cut
        self._read: defaultdict[int, int] = defaultdict(int)  # bytes, by descriptor
        self._connections: dict[int, _Connection] = {}
        self._looked_at = monotonic()
        self._stop = Event()
        if platform == "linux":
            Thread(target=self._run, name="zpipeline unread watch", daemon=True).start()

    def was_read(self, frames: Sequence[bytes], first: zmq.Frame) -> None:
        """Count a message."""
        size = 0
        for frame in frames:
            length = len(frame)
            size += length + (2 if length < 256 else 9)  # ZMTP (RFC 37): flags, and one or eight bytes for the length
        self._read[first.get(zmq.SRCFD)] += size

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()

    def _run(self) -> None:
        size = _most_memory()
        while not self._stop.wait(TICK):
            now = _most_memory()
            if now > size + LARGER or monotonic() > self._looked_at + LONGEST:
                self.look()
                size = now

    def look(self) -> None:
        """Shut down what has sent too much."""
        unread = self._unread()
        together = sum(unread.values())
        for descriptor, size in sorted(unread.items(), key=lambda item: item[1], reverse=True):
            if size <= MOST_UNREAD and together <= MOST_UNREAD_TOGETHER:
                return
            host = self._cut(descriptor)
            together -= size
            if host is not None:
                self._has_cut(host, size)

    def _unread(self) -> dict[int, int]:
        """Bytes that are in libzmq, by descriptor."""
        now = monotonic()
        heartbeats = int((now - self._looked_at) * _HEARTBEATS)
        self._looked_at = now
        before, self._connections = self._connections, {}
        unread = {}
        # before anything is found received: what is read meanwhile must not be taken for read twice
        read_by = self._read.copy()
        for descriptor in _descriptors(before):
            found = self._received(descriptor)
            if found is None:
                continue
            inode, received = found
            read = read_by[descriptor]
            connection = before.get(descriptor)
            if connection is None or connection.inode != inode:
                connection = _Connection(inode, received, read)
            size = received - connection.received - (read - connection.read) - heartbeats
            if size <= 0:
                connection = _Connection(inode, received, read)
            else:
                connection.received += heartbeats
            self._connections[descriptor] = connection
            unread[descriptor] = max(0, size)
        return unread

    def _cut(self, descriptor: int) -> str | None:
        """Shut that connection down: its peer's host; None when it is gone."""
        with suppress(OSError), _borrowed(descriptor) as connection:
            host: str = connection.getpeername()[0]
            if os.fstat(descriptor).st_ino == self._connections[descriptor].inode:  # and not another by now
                connection.shutdown(socket.SHUT_RDWR)
                return host
        return None

    def _received(self, descriptor: int) -> tuple[int, int] | None:
        """The inode, and what was taken from the kernel, of a connection to the port; None of all else."""
        with suppress(OSError, struct.error, IndexError, TypeError), _borrowed(descriptor) as connection:
            if connection.getsockname()[1] == self._port:
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_SIZE)
                (waiting,) = _WAITING.unpack(ioctl(descriptor, FIONREAD, bytes(_WAITING.size)))
                return os.fstat(descriptor).st_ino, _BYTES_RECEIVED.unpack(info)[0] - waiting
        return None


def _most_memory() -> int:
    """The most bytes of this process that were in memory. To be asked without a descriptor, which may not be had."""
    return getrusage(RUSAGE_SELF).ru_maxrss << 10


def _descriptors(known: Iterable[int]) -> list[int]:
    """All that are open; those that are known where none is left to find out by, and none can come anew."""
    try:
        return list(map(int, os.listdir("/proc/self/fd")))
    except OSError:
        return list(known)


@contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket]:
    """Another's socket.

    :raises OSError: it is none.
    """
    same = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor)
    try:
        yield same
    finally:
        same.detach()
