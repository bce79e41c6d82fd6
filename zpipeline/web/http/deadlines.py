"""Deadlines of connections. There is one timer for all that have the same, for most are met long before."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from twisted.internet.interfaces import IDelayedCall

T = TypeVar("T", bound=Hashable)


class Deadline(Generic[T]):
    """Those that have so many seconds for the same thing.

    :param reactor: IReactorTime.
    :param missed: is called with each whose time is over; it is forgotten by then, and may begin anew.
    """

    def __init__(self, reactor: Any, seconds: float, missed: Callable[[T], None]) -> None:
        self._reactor = reactor
        self._seconds = seconds
        self._missed = missed
        self._begun: OrderedDict[T, float] = OrderedDict()  # the first to be over is the first
        self._next: IDelayedCall | None = None
        self._is_looking = False

    def begin(self, one: T) -> None:
        """The time of this one begins, perhaps anew."""
        self._begun[one] = self._reactor.seconds()
        self._begun.move_to_end(one)
        if self._next is None and not self._is_looking:
            self._next = self._reactor.callLater(self._seconds, self._look)

    def end(self, one: T) -> None:
        """It has no deadline any more, if it had one."""
        self._begun.pop(one, None)
        if not self._begun and self._next is not None:
            self._next.cancel()
            self._next = None

    def _look(self) -> None:
        self._next = None
        self._is_looking = True  # who begins meanwhile starts no timer of its own
        now = self._reactor.seconds()
        try:
            while self._begun:
                one, since = next(iter(self._begun.items()))
                if since + self._seconds > now:
                    break
                del self._begun[one]
                self._missed(one)
        finally:
            self._is_looking = False
            if self._begun:
                since = next(iter(self._begun.values()))
                self._next = self._reactor.callLater(max(0.0, since + self._seconds - now), self._look)
