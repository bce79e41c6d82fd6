"""txZMQ on the reactor: what zpipeline needs of ZeroMQ sockets, as method calls.

These are txZMQ's connections with five things mended or added:

- A drain is bounded in each turn of the reactor (`DRAIN_MESSAGES`, `DRAIN_SECONDS`): a flood on one socket
  does not starve HTTP, timers or other sockets.
- ZMQ_FD is edge-triggered (zmq_getsockopt(3)): EVENTS is read again after every drain, and after a send that was not
  taken, and what it says is acted on in the next turn. (After others a PUSH socket has nothing to say.)
- A socket that took nothing says when it takes something again (`ConnectionListener.writable`).
- Connecting is the caller's: no socket reconnects by itself (RECONNECT_IVL -1). What becomes of a connection is told
  by a monitor (zmq_socket_monitor(3)) as method calls.
- A socket is made as a whole or not at all: whatever fails on the way (too many open files, say), what was made by then
  is closed.

Only sockets that connect are monitored: a monitor that is not read in time stalls its whole context, and on a bound
socket strangers could see to that.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from time import monotonic
from typing import Any, Protocol, TypeAlias

import zmq
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from txzmq import ZmqConnection, ZmqEndpoint, ZmqEndpointType, ZmqFactory, ZmqPullConnection, ZmqPushConnection
from zmq.utils.monitor import parse_monitor_message

from zpipeline.addresses import parse_address
from zpipeline.closing import Closing
from zpipeline.errors import ProtocolError, UsageError
from zpipeline.unread import Unread
from zpipeline.window import MAX_WINDOW

DRAIN_MESSAGES = 200
DRAIN_SECONDS = 0.005

#: Above what a window holds in messages, so that no mark is reached by our own doing: a socket at its
#: mark stops reading, heartbeats included, and looks frozen.
HIGH_WATER_MARK = 2 * MAX_WINDOW

MAX_SOCKETS = 16_384
MAX_FRAME = 256 << 20

HEARTBEAT_MS = 500
HEARTBEAT_TIMEOUT_MS = 1500

#: More descriptors than libzmq needs to find an interface by its name, and to listen there.
_OPENED_BY_BINDING = 4

#: How long a closed socket goes on sending what it holds.
LINGER_MS = 2000

# As numbers: to join two of zmq's flags takes as long as to send a frame.
_AT_ONCE = int(zmq.NOBLOCK)
_MORE_TO_COME = int(zmq.NOBLOCK | zmq.SNDMORE)

#: Takes the frames of a message, and a function that tells its peer's host (None where there is none).
Receive: TypeAlias = Callable[[list[bytes], Callable[[], str | None]], None]

log = Logger()
_monitor_numbers = count()


class ConnectionListener(Protocol):
    """Who is told what becomes of a connection. Exactly one of `failed` and `disconnected` ends it."""

    def connected(self) -> None:
        """The handshake of ZMTP is through."""

    def failed(self, reason: str) -> None:
        """There was no handshake, and there will be none."""

    def disconnected(self) -> None:
        """The connection is gone."""

    def writable(self) -> None:
        """The socket takes messages again, after `Push.push` returned False."""


class Factory(ZmqFactory):  # type: ignore[misc]
    """One ZeroMQ context on one reactor.

    :raises UsageError: it cannot be made.
    """

    lingerPeriod = 0

    def __init__(self, reactor: Any) -> None:
        try:
            super().__init__()
        except zmq.ZMQError as error:
            raise UsageError(why_no_socket(error)) from None
        self.reactor = reactor
        self.context.set(zmq.MAX_SOCKETS, MAX_SOCKETS)

    def close(self) -> Deferred[None]:
        """Close all sockets, and wait until those that linger have sent what they hold.

        :raises NotClosed: (by the Deferred) one of them failed to; all are closed nevertheless.
        """
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        closing = Closing()
        for connection in list(self.connections):
            await closing.close("a socket", connection.close)
        for connection in list(self.connections):  # those that failed
            await closing.close("the reader of a socket", self.reactor.removeReader, connection)
            await closing.close("a socket of libzmq", connection.socket.close, 0)
        # It blocks while sockets linger, and for ever while one is open.
        end = self.context.term
        await closing.close("ZeroMQ's context", deferToThreadPool, self.reactor, self.reactor.getThreadPool(), end)
        closing.check()


class _Bounded(ZmqConnection):  # type: ignore[misc]
    """A txZMQ connection with bounded drains.

    :raises zmq.ZMQError: it cannot be made.
    """

    highWaterMark = HIGH_WATER_MARK
    reconnectInterval = -1
    fd = -1  # as long as there is no socket
    socket: Any = None
    read_scheduled: IDelayedCall | None = None

    def __init__(self, factory: Factory, endpoint: ZmqEndpoint | None = None) -> None:
        with self._whole():
            super().__init__(factory, endpoint)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """What is made here is closed if that fails half-way."""
        try:
            yield
        except BaseException:
            self.shutdown()
            raise

    def doRead(self) -> None:
        """Read what is there, but no longer than a turn of the reactor may take."""
        if self.read_scheduled is not None:
            if self.read_scheduled.active():
                self.read_scheduled.cancel()
            self.read_scheduled = None
        self._drain(DRAIN_MESSAGES, DRAIN_SECONDS)

    def _drain(self, messages: int, seconds: float) -> None:
        deadline = monotonic() + seconds
        for _ in range(messages):
            if self.socket is None or not self._read_one() or monotonic() > deadline:
                break
        self._look_again()

    def _read_one(self) -> bool:
        try:
            first = frame = self.socket.recv(_AT_ONCE, copy=False)
            frames = [first.bytes]
            while frame.more:
                frame = self.socket.recv(_AT_ONCE, copy=False)
                frames.append(frame.bytes)
        except zmq.Again:
            return False
        try:
            self.messageReceived(frames, first)
        except Exception:
            # a reader that raises is taken out of the reactor for good
            log.failure("a message was not handled")
        return True

    def _look_again(self) -> None:
        """Act on EVENTS in the next turn: its edge may have come and gone in a call to libzmq."""
        if self.socket is None:
            return
        if self.read_scheduled is None and self._has_work(self.socket.get(zmq.EVENTS)):
            self.read_scheduled = self.factory.reactor.callLater(0, self.doRead)

    def _has_work(self, events: int) -> bool:
        return bool(events & zmq.POLLIN)

    def close(self, linger_ms: int = 0) -> None:
        """Close the socket; what it holds is sent for up to `linger_ms` milliseconds. Closing twice is harmless."""
        if self.socket is not None:
            self.socket.set(zmq.LINGER, linger_ms)
            self.shutdown()

    def shutdown(self) -> None:
        """Close the socket, if there is one."""
        if self.socket is not None:
            super().shutdown()


class Pull(_Bounded, ZmqPullConnection):  # type: ignore[misc]
    """A bound PULL socket. A peer of which too much is here that is not read is cut off (`zpipeline.unread`).

    :param address: where it is bound, ``tcp://HOST:PORT``; a port of ``*`` takes a free one.
    :param received: called with each message.
    :param has_cut: called when a peer was cut off: with why, and its host.
    :param high_water_mark: how many messages of each peer it holds.
    :raises UsageError: the address cannot be bound.
    """

    def __init__(
        self,
        factory: Factory,
        address: str,
        received: Receive,
        has_cut: Callable[[ProtocolError, str], None] | None = None,
        *,
        high_water_mark: int = HIGH_WATER_MARK,
    ):
        self.highWaterMark = high_water_mark
        self._received = received
        self._has_cut = has_cut
        self._is_held = False
        self._unread: Unread | None = None
        try:
            super().__init__(factory)
            with self._whole():
                _need_descriptors()
                self.socket.set(zmq.MAXMSGSIZE, MAX_FRAME)
                self.socket.set(zmq.IPV6, int("[" in address))
                self.addEndpoints([ZmqEndpoint(ZmqEndpointType.bind, address)])
        except zmq.ZMQError as error:
            raise UsageError(f"{address} cannot be bound: {zmq.strerror(error.errno or 0).lower()}") from None
        self.address: str = self.socket.get(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()
        if self.address.startswith("tcp:"):
            self._unread = Unread(int(parse_address(self.address, bound=True)[1]), self._cut)

    def messageReceived(self, frames: list[bytes], first: zmq.Frame) -> None:
        """Hand the message on."""
        if self._unread is not None:
            self._unread.was_read(frames, first)
        self._received(frames, lambda: _peer(first))

    def drain(self, seconds: float) -> None:
        """Read all that is there now, in one go, for as long as this many seconds."""
        self._drain(1_000_000, seconds)

    def hold(self, is_held: bool) -> None:
        """Read nothing, or go on reading."""
        self._is_held = is_held
        self._look_again()

    def _read_one(self) -> bool:
        return not self._is_held and super()._read_one()

    def _has_work(self, events: int) -> bool:
        return not self._is_held and super()._has_work(events)

    def _cut(self, host: str, size: int) -> None:
        """In the thread that has cut it off."""
        if self._has_cut is None:
            return
        why = f"it is cut off: {size} bytes are here of it that cannot be read: a message without an end, or too many"
        self.factory.reactor.callFromThread(self._has_cut, ProtocolError(why), host)

    def shutdown(self) -> None:
        """Close the socket, if there is one."""
        if self._unread is not None:
            self._unread.stop()
        super().shutdown()


class Push(_Bounded, ZmqPushConnection):  # type: ignore[misc]
    """A PUSH socket with one connection, watched by a monitor.

    :param address: ``tcp://HOST:PORT``, with an IP address for a host.
    :param listener: who is told what becomes of the connection.
    :param heartbeats: whether ZMTP heartbeats find out a peer that is gone without a word.
    :param high_water_mark: how many messages it holds.
    :raises zmq.ZMQError: it cannot be made; `why_no_socket` says why.
    """

    def __init__(
        self,
        factory: Factory,
        address: str,
        listener: ConnectionListener,
        *,
        heartbeats: bool = False,
        high_water_mark: int = HIGH_WATER_MARK,
    ) -> None:
        self.highWaterMark = high_water_mark
        self._blocked = False
        self._listener = listener
        self._monitor: _Monitor | None = None
        super().__init__(factory)
        with self._whole():
            self.socket.set(zmq.IPV6, int("[" in address))
            if heartbeats:
                self.socket.set(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
                self.socket.set(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
            self._monitor = _Monitor(factory, self.socket, listener)
            self.addEndpoints([ZmqEndpoint(ZmqEndpointType.connect, address)])

    def push(self, frames: list[bytes]) -> bool:
        """Send one message of these frames; False when the socket takes nothing now.

        A message that broke off in the middle counts as sent: the connection is dying, and its listener will hear.
        """
        send = self.socket.send
        try:
            send(frames[0], _MORE_TO_COME if len(frames) > 1 else _AT_ONCE)
        except zmq.Again:
            self._blocked = True
            self._look_again()
            return False
        try:
            for frame in frames[1:-1]:
                send(frame, _MORE_TO_COME)
            if len(frames) > 1:
                send(frames[-1], _AT_ONCE)
        except zmq.Again:
            pass
        if self._blocked:
            self._look_again()  # or what this push took would be all that is heard of its being writable
        return True

    def _drain(self, messages: int, seconds: float) -> None:
        if self.socket is None:
            return
        # Read whether it is blocked or not: what ZMQ_FD tells would wake the reactor until someone has looked.
        events = self.socket.get(zmq.EVENTS)
        if self._blocked and events & zmq.POLLOUT:
            self._blocked = False
            try:
                self._listener.writable()
            except Exception:
                # as in _read_one
                log.failure("a socket that takes messages again was not handled")

    def _has_work(self, events: int) -> bool:
        return self._blocked and bool(events & zmq.POLLOUT)

    def shutdown(self) -> None:
        """Close the socket and its monitor; its listener hears nothing more."""
        try:
            if self._monitor is not None:
                self._monitor.close()
        finally:
            super().shutdown()


class _Monitor(_Bounded):
    """Reads the monitor of one socket."""

    socketType = zmq.PAIR

    _EVENTS = (
        zmq.EVENT_CONNECTED
        | zmq.EVENT_CLOSED
        | zmq.EVENT_DISCONNECTED
        | zmq.EVENT_HANDSHAKE_SUCCEEDED
        | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    )

    def __init__(self, factory: Factory, monitored: zmq.Socket[bytes], listener: ConnectionListener) -> None:
        self._monitored = monitored
        self._listener = listener
        self._reached = "connection refused, or no way there"
        self._is_connected = False
        self._is_over = False
        address = f"inproc://zpipeline-monitor-{next(_monitor_numbers)}"
        monitored.monitor(address, self._EVENTS)
        super().__init__(factory, ZmqEndpoint(ZmqEndpointType.connect, address))

    def shutdown(self) -> None:
        """End the monitoring, then close: whoever closes it, a factory that closes all in no order included."""
        # In this order: libzmq's thread, with an event for a monitor that is closed but not disabled, waits for ever,
        # and holds the lock that disabling takes.
        try:
            self._monitored.disable_monitor()
        finally:
            super().shutdown()

    def messageReceived(self, frames: list[bytes], first: zmq.Frame) -> None:
        event = parse_monitor_message(frames)["event"]
        if self._is_over:
            return
        if event == zmq.EVENT_CONNECTED:
            self._reached = "connected, but the other side does not speak ZeroMQ"
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._is_connected = True
            self._listener.connected()
        elif self._is_connected:
            self._is_over = True
            self._listener.disconnected()
        else:
            self._is_over = True
            self._listener.failed(self._reached)


def _need_descriptors() -> None:
    """There are descriptors for what binding opens: libzmq ends the process (an assertion of its own) if there are not.

    :raises zmq.ZMQError: there are not.
    """
    with ExitStack() as opened:
        try:
            for _ in range(_OPENED_BY_BINDING):
                opened.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise zmq.ZMQError(error.errno) from None


def why_no_socket(error: zmq.ZMQError) -> str:
    """Why a socket cannot be made, and what to do about it."""
    why = zmq.strerror(error.errno or 0).lower()
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{why}: no socket can be made; raise the limit on them (ulimit -n, systemd's LimitNOFILE)"
    return f"{why}: no socket can be made"


def _peer(first: zmq.Frame) -> str | None:
    try:
        return str(first.get("Peer-Address"))
    except zmq.ZMQError:
        return None
