"""What time it is, for a pipeline: by clocks that nobody sets, and for people by the one that somebody may have set."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

#: By less the system's clock is not said to have been set, in seconds.
LEAST_STEP = 0.1


class Times(Protocol):
    """The clocks of one pipeline.

    :ivar skew: how far the system's clock is ahead of `time`, in seconds; below `LEAST_STEP` it is 0.
    """

    @property
    def skew(self) -> float: ...

    def time(self) -> float:
        """Seconds since the epoch, by a clock that goes on steadily: what outlives the process is told by it."""

    def monotonic(self) -> float:
        """Seconds since some moment, by a clock that goes on steadily: for what ends with the process."""

    def wall(self) -> float:
        """Seconds since the epoch, as the system's clock shows them."""

    def shown(self, at: float) -> float:
        """A moment of `time`, as the system's clock would have shown it if it had always gone as it does now."""

    def look(self) -> float:
        """See whether the system's clock was set: how far forward since the last look, in seconds; 0 if it was not."""

    def go_on(self, skew: float, latest: float) -> None:
        """Go on where a journal ended.

        :param skew: what the skew was then.
        :param latest: a moment of `time` that was reached.
        """


def _since_boot() -> Callable[[], float]:
    """A clock that goes on while the machine is suspended, where there is one."""
    try:
        time.clock_gettime(time.CLOCK_BOOTTIME)
    except (AttributeError, OSError):
        return time.monotonic
    return partial(time.clock_gettime, time.CLOCK_BOOTTIME)


since_boot = _since_boot()


class SteadyTimes:
    """`Times` of this machine. `time` is what the system's clock showed when this was made, and goes on from there."""

    monotonic = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self.skew = 0.0
        self._began = time.time() - since_boot()

    def time(self) -> float:
        """See `Times.time`."""
        return self._began + since_boot()

    def wall(self) -> float:
        """See `Times.wall`."""
        return time.time()

    def shown(self, at: float) -> float:
        """See `Times.shown`."""
        return at + self.skew

    def look(self) -> float:
        """See `Times.look`."""
        while True:
            before, wall, now = since_boot(), time.time(), since_boot()
            if now - before < LEAST_STEP / 2:
                break  # else this process was stopped in between
        change = wall - now - self._began - self.skew
        if abs(change) < LEAST_STEP:
            return 0.0
        self.skew = round(self.skew + change, 3)
        return change

    def go_on(self, skew: float, latest: float) -> None:
        """See `Times.go_on`."""
        self.skew = skew
        self._began = max(time.time() - skew, latest) - since_boot()
