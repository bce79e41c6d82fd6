"""Turns of the reactor, shared by those who have much to do.

However many they are, together they have the reactor for `SHARE` seconds in each of its turns, one after the other, so
that everybody else waits no longer than that.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from twisted.internet.defer import Deferred

#: Of each turn of the reactor, in seconds.
SHARE = 0.005


class Turns:
    """What is left of this turn for all who share it.

    :param reactor: IReactorTime.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._ends: float | None = None  # None: nobody has done anything in this turn
        self._waiting: deque[Deferred[None]] = deque()

    @property
    def is_over(self) -> bool:
        """Whether who goes on has to `wait` first."""
        if self._ends is None:
            self._begin()
            return bool(self._waiting)
        return bool(self._reactor.seconds() > self._ends)

    def wait(self) -> Deferred[None]:
        """Fires when it is the turn of who waits, after those who waited before; whoever has gone cancels it."""
        waiter: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiter)
        return waiter

    def _begin(self) -> None:
        self._ends = self._reactor.seconds() + SHARE
        self._reactor.callLater(0, self._next)

    def _next(self) -> None:
        """The next turn of the reactor has come."""
        self._ends = None
        while self._waiting and (self._ends is None or self._reactor.seconds() <= self._ends):
            if self._ends is None:
                self._begin()
            self._waiting.popleft().callback(None)
