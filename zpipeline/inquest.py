"""Finds out whether the process behind an address that has gone silent is dead.

It is, if its port refuses connections: nobody listens there any more. libzmq's own events do not tell a refusal from an
unreachable network. A process that is ending may accept for a moment still, hence more than one try; and what
neither refuses nor goes away within `PATIENCE` seconds may well be alive, frozen, or behind a broken network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IConnector, IDelayedCall
from twisted.internet.protocol import ClientFactory, Protocol, connectionDone
from twisted.python.failure import Failure

PATIENCE = 0.25
INTERVAL = 0.02


class Inquest:
    """One inquiry, which ends with its verdict, or when it is closed.

    :param peer: the IP address and port.
    :param verdict: called once: whether the process is proven dead.
    """

    def __init__(self, reactor: Any, peer: tuple[str, str], verdict: Callable[[bool], None]) -> None:
        self._reactor = reactor
        self._peer = peer
        self._verdict = verdict
        self._connector: IConnector | None = None
        self._next: IDelayedCall | None = None
        self._end: IDelayedCall = reactor.callLater(PATIENCE, self._conclude, False)
        self._try()

    def close(self) -> None:
        """There will be no verdict."""
        for call in (self._end, self._next):
            if call is not None and call.active():
                call.cancel()
        self._next = None
        connector, self._connector = self._connector, None
        if connector is not None:
            connector.disconnect()

    def _try(self) -> None:
        host, port = self._peer
        self._connector = self._reactor.connectTCP(host, int(port), _Prober(self), timeout=PATIENCE)

    def _conclude(self, is_dead: bool) -> None:
        self.close()
        self._verdict(is_dead)

    def failed(self, reason: Failure) -> None:
        """A try has ended: no connection, or not any more."""
        if self._connector is None:
            return
        self._connector = None
        if reason.check(ConnectionRefusedError):
            self._conclude(True)
        else:
            self._next = self._reactor.callLater(INTERVAL, self._try)


class _Prober(ClientFactory):
    """Connects, and says nothing."""

    noisy = False

    def __init__(self, inquest: Inquest) -> None:
        self._inquest = inquest

    def buildProtocol(self, addr: object) -> Protocol:
        return _Listener(self._inquest)

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:
        self._inquest.failed(reason)


class _Listener(Protocol):
    def __init__(self, inquest: Inquest) -> None:
        self._inquest = inquest

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._inquest.failed(reason)
