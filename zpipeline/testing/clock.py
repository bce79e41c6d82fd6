"""The time of a `zpipeline.testing.FakePipeline`: a clock that a test advances."""

from __future__ import annotations

import time
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock


class TimesOf:
    """The time, by a test's clock, which is all there is. It is `zpipeline.times.Times`."""

    skew = 0.0

    def __init__(self, clock: Clock) -> None:
        self.time: Callable[[], float] = clock.seconds
        self.monotonic: Callable[[], float] = clock.seconds
        self.wall: Callable[[], float] = clock.seconds

    def shown(self, at: float) -> float:
        """That moment."""
        return at

    def look(self) -> float:
        """It is never set."""
        return 0.0

    def go_on(self, skew: float, latest: float) -> None:
        """There is no journal."""


class Turns:
    """The reactor of a `FakePipeline`: its clock, but what is to be done in the next turn is done by `run`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next = Clock()

    def seconds(self) -> float:
        """What the clock says."""
        return self._clock.seconds()

    def callLater(self, delay: float, call: Callable[..., object], *args: object, **kwargs: object) -> IDelayedCall:
        """Have this called by `run`, or when so many seconds have passed."""
        later: IDelayedCall = (self._clock if delay else self._next).callLater(delay, call, *args, **kwargs)
        return later

    def run(self) -> None:
        """Have turns, until there is nothing to be done in another."""
        while self._next.getDelayedCalls():
            self._next.advance(0)


def clock_of_now() -> Clock:
    """A clock that starts at the present time, in whole seconds: sums of these are exact."""
    clock = Clock()
    clock.advance(int(time.time()))
    return clock
