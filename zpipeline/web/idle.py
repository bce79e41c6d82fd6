"""Connections on which nothing comes are ended. There is one timer for all of them, for most end long before."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall


class Connection(Protocol):
    """One of them."""

    def timeoutConnection(self) -> None:
        """Nothing has come for a while."""


class Idle:
    """The connections that may be idle for no longer than so many seconds.

    :param reactor: IReactorTime.
    """

    def __init__(self, reactor: Any, seconds: float) -> None:
        self._reactor = reactor
        self._seconds = seconds
        self._seen: OrderedDict[Connection, float] = OrderedDict()  # the longest idle is the first
        self._next: IDelayedCall | None = None
        self._is_looking = False

    def seen(self, connection: Connection) -> None:
        """Something has come just now."""
        self._seen[connection] = self._reactor.seconds()
        self._seen.move_to_end(connection)
        if self._next is None and not self._is_looking:
            self._next = self._reactor.callLater(self._seconds, self._look)

    def forget(self, connection: Connection) -> None:
        """It is of no interest any more."""
        self._seen.pop(connection, None)
        if not self._seen and self._next is not None:
            self._next.cancel()
            self._next = None

    def _look(self) -> None:
        self._next = None
        self._is_looking = True  # who is seen meanwhile starts no timer of its own
        now = self._reactor.seconds()
        while self._seen:
            connection, since = next(iter(self._seen.items()))
            left = since + self._seconds - now
            if left > 0:
                self._next = self._reactor.callLater(left, self._look)
                break
            del self._seen[connection]
            connection.timeoutConnection()
        self._is_looking = False
