"""What is done to one worker, and when. Pure: the clock is a parameter."""

from __future__ import annotations

from enum import Enum
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM, Signals

from attrs import frozen

#: For how many seconds a frozen worker is left so, at the least: longer than its ventilator waits for a sign of life.
FROZEN = 3.0


class Fault(Enum):
    """What happens to one of the workers."""

    NONE = "none"
    STOP = "stop"
    KILL = "kill"
    FREEZE = "freeze"

    @property
    def ends_worker(self) -> bool:
        """Whether the worker is gone after it."""
        return self in (Fault.STOP, Fault.KILL)


@frozen
class _Step:
    answers: int
    delay: float
    signal: Signals


class Schedule:
    """Which signal the worker gets when.

    :param requests: how many there will be: half-way the fault happens, and at four fifths it may be undone.
    """

    def __init__(self, fault: Fault, requests: int) -> None:
        half = (requests + 1) // 2
        self._steps = {
            Fault.NONE: [],
            Fault.STOP: [_Step(half, 0.0, SIGTERM)],
            Fault.KILL: [_Step(half, 0.0, SIGKILL)],
            Fault.FREEZE: [_Step(half, 0.0, SIGSTOP), _Step((requests * 4 + 4) // 5, FROZEN, SIGCONT)],
        }[fault]
        self._last = float("-inf")

    @property
    def over(self) -> bool:
        """Whether all is done."""
        return not self._steps

    def due(self, answers: int, now: float) -> Signals | None:
        """What the worker is to get now, once.

        :param answers: how many requests have been answered.
        :param now: in seconds, of a clock that only goes forward.
        """
        if not self._steps:
            return None
        step = self._steps[0]
        if answers < step.answers or now < self._last + step.delay:
            return None
        self._last = now
        return self._steps.pop(0).signal
