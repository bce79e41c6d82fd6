"""A PUSH connection that is made again when it breaks: a ventilator's to a worker, a worker's to a sink.

Rule 1 of docs/protocol.rst: connecting is ours, with a new socket for each try. A link is in one of the states of
`State`. From the beginning of a try it has `DEADLINE` seconds until its owner calls `meets_deadline`; libzmq
reports some troubles by no event at all, and all of them end there.

Every trouble is logged when it is first met, and not again while it stays the same.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Protocol

import zmq
from attrs import define, field
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from zpipeline.addresses import make_address, parse_address, resolve
from zpipeline.backoff import Backoff
from zpipeline.sockets import HIGH_WATER_MARK, Factory, Push, why_no_socket

DEADLINE = 10.0
FIRST_BACKOFF = 0.05
LONGEST_BACKOFF = 1.0

log = Logger()


class State(Enum):
    """What a link is about; the value says what it would mean to be stuck there."""

    STOPPED = "stopped"
    WAITING = "waiting for the next try"
    RESOLVING = "its host name is not resolved"
    CONNECTING = "no answer: unreachable, frozen, or not ZeroMQ"
    CONNECTED = "connected"


class LinkOwner(Protocol):
    """Who uses a link. What it is told is always of `link`'s newest connection."""

    def link_opened(self, link: Link) -> None:
        """A socket is there and connects: what is sent now goes out first."""

    def link_connected(self, link: Link) -> None:
        """The handshake is through."""

    def link_lost(self, link: Link) -> None:
        """There is no connection any more, or none came about. Another will be tried."""

    def link_writable(self, link: Link) -> None:
        """The socket takes messages again."""


@define(eq=False)
class Link:
    """The way to one address.

    :ivar heartbeats: find out by heartbeats when the other side is gone without a word.
    :ivar high_water_mark: how many messages are queued here.
    :ivar silence: why a connection may be there and the deadline not met, for the log.
    :ivar session: the owner's: the number of the session on this connection.
    :ivar generation: the owner's: of that session.
    :ivar trouble: why there is no connection that is of use; None where nothing is known to be wrong.
    :ivar peer: the address and port of the newest try, the host name resolved; None before the first.
    """

    reactor: Any
    factory: Factory
    address: str
    owner: LinkOwner
    heartbeats: bool = False
    high_water_mark: int = HIGH_WATER_MARK
    silence: str = ""
    session: int = 0
    generation: int = 0
    peer: tuple[str, str] | None = None
    state: State = State.STOPPED
    trouble: str | None = None
    _socket: Push | None = None
    _timer: IDelayedCall | None = None
    _tries: int = 0
    _backoff: Backoff = field(factory=lambda: Backoff(FIRST_BACKOFF, LONGEST_BACKOFF))

    def start(self) -> None:
        """Connect, and go on connecting."""
        self.state = State.RESOLVING
        self._timer = self.reactor.callLater(DEADLINE, self._late)
        host, _ = parse_address(self.address)
        resolve(self.reactor.nameResolver, host).addCallback(self._connect, self._timer)

    def stop(self, linger_ms: int) -> None:
        """Close the connection for good; what it holds is sent for up to `linger_ms` milliseconds."""
        self.state = State.STOPPED
        self._close(linger_ms)

    def send(self, frames: list[bytes]) -> bool:
        """Send one message; False when there is no socket, or it takes nothing now."""
        return self._socket is not None and self._socket.push(frames)

    def meets_deadline(self) -> None:
        """This connection is of use."""
        self._cancel()
        self._backoff.reset()
        self.trouble = None

    def give_up(self, reason: str) -> None:
        """End this connection, if there is one, and try another after a while.

        What the owner does when it hears of it may lead here again: that is ignored.
        """
        if self.state in (State.STOPPED, State.WAITING):
            return
        self.state = State.WAITING
        self._close(0)
        if reason != self.trouble:
            self.trouble = reason
            log.warn("{address}: {reason}; trying again", address=self.address, reason=reason)
        self.owner.link_lost(self)
        if self.state is State.WAITING:
            self._timer = self.reactor.callLater(self._backoff.next(), self.start)

    # ConnectionListener

    def connected(self) -> None:
        """The handshake is through."""
        self.state = State.CONNECTED
        self.owner.link_connected(self)

    def failed(self, reason: str) -> None:
        """No connection."""
        self.give_up(reason)

    def disconnected(self) -> None:
        """The connection is gone."""
        self.give_up("disconnected")

    def writable(self) -> None:
        """The socket takes messages again."""
        self.owner.link_writable(self)

    # Connecting

    def _connect(self, hosts: list[str], timer: IDelayedCall) -> None:
        if self._timer is not timer or self.state is not State.RESOLVING:
            return  # stopped, or too late
        host, port = parse_address(self.address)
        if not hosts:
            self.give_up(f"the host name {host!r} does not resolve")
            return
        self.state = State.CONNECTING
        self.peer = hosts[self._tries % len(hosts)], port
        self._tries += 1
        try:
            self._socket = Push(
                self.factory,
                make_address(*self.peer),
                self,
                heartbeats=self.heartbeats,
                high_water_mark=self.high_water_mark,
            )
        except zmq.ZMQError as error:
            self.give_up(why_no_socket(error))
            return
        self.owner.link_opened(self)

    def _late(self) -> None:
        is_silent = self.state is State.CONNECTED
        self.give_up(self.silence if is_silent else f"{self.state.value} (for {DEADLINE:.0f} seconds)")

    def _close(self, linger_ms: int) -> None:
        self._cancel()
        if self._socket is not None:
            self._socket.close(linger_ms)
            self._socket = None

    def _cancel(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
